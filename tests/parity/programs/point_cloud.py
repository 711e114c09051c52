"""Sets of points: shared maps as convolutions of one, a maximum over points, a learned transform kept near orthogonal."""

import numpy as np
import torch
from torch import nn


class PointNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.turn = nn.Sequential(nn.Conv1d(3, 8, 1), nn.BatchNorm1d(8), nn.ReLU(), nn.AdaptiveMaxPool1d(1))
        self.matrix = nn.Linear(8, 9)
        self.features = nn.Sequential(nn.Conv1d(3, 12, 1), nn.BatchNorm1d(12), nn.ReLU(), nn.Conv1d(12, 16, 1))
        self.head = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, x):
        turn = self.matrix(self.turn(x).squeeze(-1)).view(-1, 3, 3) + torch.eye(3)
        x, _ = torch.max(self.features(torch.bmm(turn, x)), 2)
        return self.head(x), turn


def build():
    return PointNet()


def train(model):
    rng = np.random.default_rng(28)
    labels = torch.as_tensor(rng.integers(0, 3, 24))
    points = rng.standard_normal((24, 3, 30))
    points[np.arange(24), labels.numpy()] *= 3
    points = torch.as_tensor(points, dtype=torch.get_default_dtype())
    criterion = nn.MultiMarginLoss(margin=0.5)
    optimizer = torch.optim.ASGD(model.parameters(), lr=5e-2, t0=5)
    losses = []
    for _ in range(14):
        scores, turn = model(points)
        gram = torch.bmm(turn, turn.transpose(2, 1)) - torch.eye(3)
        loss = criterion(scores, labels) + 1e-2 * torch.norm(gram, dim=(1, 2)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
