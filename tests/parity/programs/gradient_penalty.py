"""A Wasserstein critic with gradient penalty: the norm of a gradient is itself differentiated."""

import numpy as np
import torch
from torch import autograd, nn


def build():
    generator = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 2))
    critic = nn.Sequential(nn.Linear(2, 16), nn.Softplus(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 1))
    return generator, critic


def penalty(critic, real, fake, mix):
    between = (mix * real + (1 - mix) * fake).requires_grad_(True)
    score = critic(between)
    (slope,) = autograd.grad(score, between, grad_outputs=torch.ones_like(score), create_graph=True)
    return ((slope.norm(2, dim=1) - 1) ** 2).mean()


def train(generator, critic):
    rng = np.random.default_rng(6)
    dtype = torch.get_default_dtype()

    def normal(*shape):
        return torch.as_tensor(rng.standard_normal(shape), dtype=dtype)

    opt_g = torch.optim.RMSprop(generator.parameters(), lr=1e-3)
    opt_c = torch.optim.Adam(critic.parameters(), lr=2e-3, betas=(0.0, 0.9))
    losses = []
    for _ in range(8):
        for _ in range(3):
            real = normal(24, 2) * 0.3 + 1
            with torch.no_grad():
                fake = generator(normal(24, 3))
            mix = torch.as_tensor(rng.random((24, 1)), dtype=dtype)
            loss = critic(fake).mean() - critic(real).mean() + 10 * penalty(critic, real, fake, mix)
            opt_c.zero_grad()
            loss.backward()
            opt_c.step()
            losses.append(loss.item())
        loss = -critic(generator(normal(24, 3))).mean()
        opt_g.zero_grad()
        loss.backward()
        opt_g.step()
        losses.append(loss.item())
    return losses
