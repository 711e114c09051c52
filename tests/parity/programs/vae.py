"""A variational autoencoder: two heads, the reparameterisation trick, binary cross entropy plus a divergence."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F


class VAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(40, 24)
        self.fc21 = nn.Linear(24, 4)
        self.fc22 = nn.Linear(24, 4)
        self.fc3 = nn.Linear(4, 24)
        self.fc4 = nn.Linear(24, 40)

    def encode(self, x):
        h1 = F.relu(self.fc1(x))
        return self.fc21(h1), self.fc22(h1)

    def decode(self, z):
        return torch.sigmoid(self.fc4(F.relu(self.fc3(z))))

    def forward(self, x, noise):
        mu, logvar = self.encode(x.view(-1, 40))
        z = mu + noise * torch.exp(0.5 * logvar)
        return self.decode(z), mu, logvar


def build():
    return VAE()


def train(model):
    rng = np.random.default_rng(4)
    dtype = torch.get_default_dtype()
    data = torch.as_tensor((rng.random((100, 5, 8)) < rng.random((1, 5, 8))).astype(float), dtype=dtype)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(20):
        noise = torch.as_tensor(rng.standard_normal((100, 4)), dtype=dtype)
        recon, mu, logvar = model(data, noise)
        bce = F.binary_cross_entropy(recon, data.view(-1, 40), reduction="sum")
        kld = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
        loss = (bce + kld) / len(data)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
