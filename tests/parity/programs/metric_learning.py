"""Embeddings by triplets: the hardest positives and negatives of each batch, then the layer's loss on sampled triplets."""

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F


class Embedder(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(10, 24), nn.PReLU(), nn.BatchNorm1d(24), nn.Linear(24, 5))

    def forward(self, x):
        return F.normalize(self.body(x), p=2, dim=1)


def hard_triplets(z, labels, margin=0.2):
    distance = torch.cdist(z, z)
    same = labels.unsqueeze(0) == labels.unsqueeze(1)
    positive = (distance * same).max(dim=1)[0]
    negative = distance.masked_fill(same, float("inf")).min(dim=1)[0]
    return F.relu(positive - negative + margin).mean()


def build():
    return Embedder()


def train(model):
    rng = np.random.default_rng(16)
    dtype = torch.get_default_dtype()
    centres = rng.standard_normal((4, 10))
    optimizer = torch.optim.NAdam(model.parameters(), lr=5e-3)
    triplet = nn.TripletMarginLoss(margin=0.5, swap=True)
    losses = []
    for step in range(16):
        labels = np.repeat(np.arange(4), 6)
        x = torch.as_tensor(centres[labels] + rng.standard_normal((24, 10)), dtype=dtype)
        labels = torch.as_tensor(labels)
        z = model(x)
        if step % 2:
            loss = hard_triplets(z, labels)
        else:
            loss = triplet(z, z[torch.arange(24) ^ 1], z.roll(6, dims=0))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
