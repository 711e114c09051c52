"""The heat equation learned from its residual: first and second derivatives of the net by its inputs, LBFGS with a line search."""

import numpy as np
import torch
from torch import nn
from torch.autograd import grad


def build():
    return nn.Sequential(nn.Linear(2, 12), nn.Tanh(), nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 1))


def residual(net, x, t):
    u = net(torch.cat([x, t], dim=1))
    ones = torch.ones_like(u)
    u_x = grad(u, x, ones, create_graph=True)[0]
    u_t = grad(u, t, ones, create_graph=True)[0]
    u_xx = grad(u_x, x, ones, create_graph=True)[0]
    return u_t - 0.1 * u_xx


def train(net):
    rng = np.random.default_rng(18)
    dtype = torch.get_default_dtype()
    x = torch.as_tensor(rng.random((40, 1)), dtype=dtype).requires_grad_()
    t = torch.as_tensor(rng.random((40, 1)), dtype=dtype).requires_grad_()
    at_start = torch.cat([x.detach(), torch.zeros_like(t)], dim=1)
    expected = torch.sin(np.pi * x.detach())
    optimizer = torch.optim.LBFGS(net.parameters(), lr=1.0, max_iter=6, history_size=5, line_search_fn="strong_wolfe")
    losses = []

    def closure():
        optimizer.zero_grad()
        loss = residual(net, x, t).pow(2).mean() + (net(at_start) - expected).pow(2).mean()
        loss.backward()
        return loss

    for _ in range(4):
        losses.append(optimizer.step(closure).item())
    return losses
