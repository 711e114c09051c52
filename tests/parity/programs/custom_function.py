"""A rounded (straight-through) layer and a hand-written derivative, saved tensors, hooks on tensors, a state put away and restored."""

import copy

import numpy as np
import torch
from torch import nn
from torch.autograd import Function


class RoundThrough(Function):
    @staticmethod
    def forward(ctx, x, levels):
        ctx.save_for_backward(x)
        return torch.round(x * levels) / levels

    @staticmethod
    def backward(ctx, grad_output):
        (x,) = ctx.saved_tensors
        return grad_output * (x.abs() <= 1), None


class Quantised(nn.Module):
    def __init__(self):
        super().__init__()
        self.inside = nn.Linear(6, 16)
        self.outside = nn.utils.parametrizations.weight_norm(nn.Linear(16, 1))

    def forward(self, x):
        return self.outside(RoundThrough.apply(torch.tanh(self.inside(x)), 4))


def build():
    return Quantised()


def train(model):
    rng = np.random.default_rng(31)
    dtype = torch.get_default_dtype()
    x = torch.as_tensor(rng.standard_normal((50, 6)), dtype=dtype)
    y = torch.sin(x).sum(dim=1, keepdim=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    best, kept, losses = float("inf"), None, []
    for step in range(20):
        output = model(x)
        output.register_hook(lambda g: g.clamp(-0.01, 0.01))
        loss = nn.functional.l1_loss(output, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if loss.item() < best:
            best, kept = loss.item(), (copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict()))
        if step == 12:
            model.load_state_dict(kept[0])
            optimizer.load_state_dict(kept[1])
            optimizer.param_groups[0]["lr"] /= 2
    return losses
