"""A classifier of two layers: cross entropy, SGD with Nesterov momentum and weight decay, minibatches in shuffled order."""

import numpy as np
import torch
from torch import nn


def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def train(model):
    rng = np.random.default_rng(0)
    labels = torch.tensor(rng.integers(0, 10, 256))
    centres = rng.standard_normal((10, 8, 8))
    images = torch.as_tensor(
        centres[labels.numpy()] + rng.standard_normal((256, 8, 8)), dtype=torch.get_default_dtype()
    )
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3)
    losses = []
    for _ in range(5):
        for chosen in torch.tensor(rng.permutation(256)).split(64):
            optimizer.zero_grad()
            loss = criterion(model(images[chosen]), labels[chosen])
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    model.eval()
    with torch.no_grad():
        correct = (model(images).argmax(dim=1) == labels).float().mean()
    return [*losses, correct.item()]
