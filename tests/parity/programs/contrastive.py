"""Two noisy views of each sample pulled together, all others pushed away (normalised temperature-scaled cross entropy)."""

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F


def build():
    encoder = nn.Sequential(
        nn.Conv1d(1, 8, 5, stride=2), nn.GroupNorm(2, 8), nn.SiLU(), nn.AdaptiveMaxPool1d(3), nn.Flatten()
    )
    head = nn.Sequential(nn.Linear(24, 16), nn.ReLU(inplace=True), nn.Linear(16, 8, bias=False))
    return encoder, head


def info_nce(z, temperature=0.3):
    z = F.normalize(z, dim=-1)
    n = z.shape[0] // 2
    similarity = z @ z.T / temperature
    similarity = similarity.masked_fill(torch.eye(2 * n, dtype=torch.bool), float("-inf"))
    target = torch.cat([torch.arange(n, 2 * n), torch.arange(n)])
    return F.cross_entropy(similarity, target)


def train(encoder, head):
    rng = np.random.default_rng(17)
    dtype = torch.get_default_dtype()
    data = np.cumsum(rng.standard_normal((20, 1, 32)), axis=-1)
    optimizer = torch.optim.SGD([*encoder.parameters(), *head.parameters()], lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.SequentialLR(
        optimizer,
        [
            torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=4),
            torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.9),
        ],
        milestones=[4],
    )
    losses = []
    for _ in range(15):
        views = [torch.as_tensor(data + 0.3 * rng.standard_normal(data.shape), dtype=dtype) for _ in range(2)]
        loss = info_nce(head(encoder(torch.cat(views))))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        losses += [loss.item(), scheduler.get_last_lr()[0]]
    return losses
