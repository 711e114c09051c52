"""Patches mixed along tokens and along channels, mixup of images and labels, AdamW under two schedules at once."""

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.optim.lr_scheduler import ChainedScheduler, ConstantLR, MultiStepLR


class Mixer(nn.Module):
    def __init__(self, tokens=16, width=12):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.token_mix = nn.Sequential(nn.Linear(tokens, 20), nn.GELU(), nn.Linear(20, tokens))
        self.channel_mix = nn.Sequential(nn.Linear(width, 24), nn.GELU(), nn.Linear(24, width))

    def forward(self, x):
        x = x + self.token_mix(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channel_mix(self.norm2(x))


def build():
    stem = nn.Conv2d(3, 12, 4, stride=4)
    return stem, nn.Sequential(Mixer(), Mixer(), nn.LayerNorm(12)), nn.Linear(12, 4)


def train(stem, body, head):
    rng = np.random.default_rng(32)
    dtype = torch.get_default_dtype()
    images = torch.as_tensor(rng.standard_normal((32, 3, 16, 16)), dtype=dtype)
    labels = F.one_hot(torch.as_tensor(rng.integers(0, 4, 32)), num_classes=4).to(dtype)
    optimizer = torch.optim.AdamW([p for m in (stem, body, head) for p in m.parameters()], lr=5e-3)
    scheduler = ChainedScheduler([ConstantLR(optimizer, 0.5, 3), MultiStepLR(optimizer, [6, 9], gamma=0.3)])
    losses = []
    for _ in range(12):
        share, order = float(rng.beta(0.4, 0.4)), torch.as_tensor(rng.permutation(32))
        x = share * images + (1 - share) * images[order]
        y = share * labels + (1 - share) * labels[order]
        logits = head(body(stem(x).flatten(2).transpose(1, 2)).mean(dim=1))
        loss = torch.mean(torch.sum(-y * F.log_softmax(logits, dim=-1), dim=-1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        losses += [loss.item(), scheduler.get_last_lr()[0]]
    return losses
