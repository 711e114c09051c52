"""Learning to learn sines: an inner step of gradient descent that the outer gradient goes through."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call


def build():
    return nn.Sequential(nn.Linear(1, 16), nn.Softplus(beta=2), nn.Linear(16, 1))


def train(model):
    rng = np.random.default_rng(24)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(10):
        total = 0.0
        for _ in range(3):
            amplitude, phase = rng.random() * 3, rng.random() * np.pi
            x = torch.as_tensor(rng.random((20, 1)) * 6 - 3, dtype=torch.get_default_dtype())
            y = amplitude * torch.sin(x + phase)
            params = dict(model.named_parameters())
            for _ in range(2):
                inner = F.mse_loss(functional_call(model, params, (x[:10],)), y[:10])
                grads = torch.autograd.grad(inner, tuple(params.values()), create_graph=True)
                params = {name: p - 0.05 * g for (name, p), g in zip(params.items(), grads)}
            total = total + F.mse_loss(functional_call(model, params, (x[10:],)), y[10:])
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        losses.append(total.item())
    return losses
