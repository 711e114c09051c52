"""A generative adversarial pair on a ring of points: two optimizers, detach, logits."""

import numpy as np
import torch
import torch.nn as nn


def build():
    generator = nn.Sequential(nn.Linear(4, 16), nn.LeakyReLU(0.2), nn.Linear(16, 2))
    discriminator = nn.Sequential(nn.Linear(2, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1))
    return generator, discriminator


def train(generator, discriminator):
    rng = np.random.default_rng(5)
    dtype = torch.get_default_dtype()
    bce = nn.BCEWithLogitsLoss()
    opt_g = torch.optim.Adam(generator.parameters(), lr=2e-3, betas=(0.5, 0.999))
    opt_d = torch.optim.Adam(discriminator.parameters(), lr=2e-3, betas=(0.5, 0.999))
    ones, zeros = torch.ones(32, 1), torch.zeros(32, 1)
    losses = []
    for _ in range(20):
        angle = rng.random(32) * 2 * np.pi
        real = torch.as_tensor(np.stack([np.cos(angle), np.sin(angle)], 1), dtype=dtype)
        fake = generator(torch.as_tensor(rng.standard_normal((32, 4)), dtype=dtype))
        loss_d = bce(discriminator(real), ones) + bce(discriminator(fake.detach()), zeros)
        opt_d.zero_grad()
        loss_d.backward()
        opt_d.step()
        loss_g = bce(discriminator(fake), ones)
        opt_g.zero_grad()
        loss_g.backward()
        opt_g.step()
        losses += [loss_d.item(), loss_g.item()]
    return losses
