"""A denoising autoencoder with tied sizes: ModuleList, masks, mean squared error, RMSprop."""

import numpy as np
import torch
from torch import nn


class Autoencoder(nn.Module):
    def __init__(self, sizes=(30, 16, 6)):
        super().__init__()
        self.encoder = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes, sizes[1:]))
        self.decoder = nn.ModuleList(nn.Linear(b, a) for a, b in zip(sizes[-2::-1], sizes[:0:-1]))

    def forward(self, x):
        for layer in self.encoder:
            x = torch.tanh(layer(x))
        for layer in self.decoder[:-1]:
            x = torch.tanh(layer(x))
        return torch.sigmoid(self.decoder[-1](x))


def build():
    return Autoencoder()


def train(model):
    rng = np.random.default_rng(3)
    dtype = torch.get_default_dtype()
    clean = torch.as_tensor((rng.random((128, 6)) @ rng.random((6, 30)) / 6), dtype=dtype)
    optimizer = torch.optim.RMSprop(model.parameters(), lr=2e-3, alpha=0.9, momentum=0.5, centered=True)
    loss_fn = nn.MSELoss()
    losses = []
    for _ in range(25):
        mask = torch.as_tensor(rng.random((128, 30)) > 0.2)
        noisy = torch.where(mask, clean, torch.zeros_like(clean))
        loss = loss_fn(model(noisy), clean)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
