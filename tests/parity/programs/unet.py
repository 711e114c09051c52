"""Segmentation: down, up and across, class weights, an ignored border, dice beside cross entropy, polynomial decay."""

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F


def double(inside, outside):
    return nn.Sequential(
        nn.Conv2d(inside, outside, 3, padding=1), nn.InstanceNorm2d(outside), nn.LeakyReLU(inplace=True),
        nn.Conv2d(outside, outside, 3, padding=1), nn.InstanceNorm2d(outside), nn.LeakyReLU(inplace=True),
    )  # fmt: skip


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down1, self.down2 = double(1, 6), double(6, 10)
        self.pool = nn.MaxPool2d(2)
        self.up = nn.ConvTranspose2d(10, 6, 2, stride=2)
        self.smooth = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        self.side = nn.Conv2d(10, 6, 1)
        self.last = nn.Sequential(double(18, 6), nn.Conv2d(6, 3, 1))

    def forward(self, x):
        a = self.down1(x)
        b = self.down2(self.pool(a))
        return self.last(torch.cat([a, self.up(b), self.side(self.smooth(b))], dim=1))


def build():
    return UNet()


def train(model):
    rng = np.random.default_rng(26)
    dtype = torch.get_default_dtype()
    truth = torch.as_tensor(np.kron(rng.integers(0, 3, (4, 4, 4)), np.ones((1, 4, 4), dtype=np.int64)))
    x = truth.unsqueeze(1).to(dtype) + torch.as_tensor(rng.standard_normal((4, 1, 16, 16)), dtype=dtype)
    labels = F.pad(truth[:, 1:-1, 1:-1], (1, 1, 1, 1), value=255)
    weight = torch.tensor([1.0, 2.0, 0.5], dtype=dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=14, power=0.9)
    losses = []
    for _ in range(10):
        logits = model(x)
        probability = logits.softmax(dim=1)
        hot = F.one_hot(truth, 3).permute(0, 3, 1, 2).to(dtype)
        dice = 1 - (2 * (probability * hot).sum((0, 2, 3)) / (probability + hot).sum((0, 2, 3))).mean()
        loss = F.cross_entropy(logits, labels, weight, ignore_index=255) + dice
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        losses += [loss.item(), (logits.argmax(1) == truth).sum().item()]
    return losses
