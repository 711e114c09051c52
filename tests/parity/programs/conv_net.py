"""A convolutional classifier: batch norm, pooling, Adam with a step schedule, and an evaluation between epochs."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 16, 3, bias=False)
        self.norm2 = nn.BatchNorm2d(16, momentum=0.3)
        self.fc = nn.Linear(16 * 2 * 2, 4)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.norm1(self.conv1(x))), 2)
        x = F.avg_pool2d(F.relu(self.norm2(self.conv2(x))), 2)
        return F.log_softmax(self.fc(torch.flatten(x, 1)), dim=1)


def build():
    return Net()


def train(model):
    rng = np.random.default_rng(1)
    labels = torch.from_numpy(rng.integers(0, 4, 96))
    images = rng.standard_normal((96, 1, 12, 12))
    images[np.arange(96), 0, labels.numpy() * 3] += 2  # a bright row tells the class
    images = torch.as_tensor(images, dtype=torch.get_default_dtype())
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.7)
    losses = []
    for _ in range(4):
        model.train()
        for start in range(0, 96, 24):
            x, y = images[start : start + 24], labels[start : start + 24]
            optimizer.zero_grad()
            loss = F.nll_loss(model(x), y)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        scheduler.step()
        model.eval()
        with torch.no_grad():
            losses.append(F.nll_loss(model(images), labels, reduction="sum").item() / 96)
    return losses
