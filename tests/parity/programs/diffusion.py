"""Denoising diffusion of points in the plane: sinusoidal times, a cumulative product of betas, averaged weights."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class Denoiser(nn.Module):
    def __init__(self, width=24):
        super().__init__()
        self.time = nn.Sequential(nn.Linear(width, width), nn.Mish())
        self.first, self.norm, self.last = nn.Linear(2, width), nn.RMSNorm(width), nn.Linear(width, 2)
        betas = torch.linspace(1e-3, 0.1, 20)
        self.register_buffer("alphas_cumprod", torch.cumprod(1 - betas, dim=0))
        self.register_buffer("rates", torch.exp(-torch.arange(width // 2) / 3), persistent=False)

    def forward(self, x, t):
        angle = t[:, None] * self.rates[None]
        t = self.time(torch.cat((angle.sin(), angle.cos()), dim=-1))
        return self.last(F.silu(self.norm(self.first(x) + t)))

    def loss(self, x, t, noise):
        a = self.alphas_cumprod.gather(0, t).reshape(-1, 1)
        return F.mse_loss(self(a.sqrt() * x + (1 - a).sqrt() * noise, t), noise)


def build():
    return Denoiser()


def train(model):
    rng = np.random.default_rng(23)
    dtype = torch.get_default_dtype()
    ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    optimizer = torch.optim.RAdam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(20):
        angle = rng.random(48) * 6
        x = torch.as_tensor(np.stack([np.cos(angle) * angle, np.sin(angle) * angle], 1) / 3, dtype=dtype)
        t = torch.as_tensor(rng.integers(0, 20, 48))
        noise = torch.as_tensor(rng.standard_normal((48, 2)), dtype=dtype)
        loss = model.loss(x, t, noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        ema.update_parameters(model)
        with torch.no_grad():
            losses += [loss.item(), ema.module.loss(x, t, noise).item()]
    return losses
