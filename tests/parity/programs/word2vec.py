"""Skip-grams with negative sampling: sparse gradients of two embeddings, SparseAdam."""

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F


class SkipGram(nn.Module):
    def __init__(self, vocabulary=50, width=8):
        super().__init__()
        self.inside = nn.Embedding(vocabulary, width, sparse=True)
        self.outside = nn.Embedding(vocabulary, width, sparse=True)

    def forward(self, centre, context, negative):
        v = self.inside(centre)
        score = torch.sum(v * self.outside(context), dim=1)
        noise = torch.bmm(self.outside(negative), v.unsqueeze(2)).squeeze(2)
        return -(F.logsigmoid(score) + F.logsigmoid(-noise).sum(1)).mean()


def build():
    return SkipGram()


def train(model):
    rng = np.random.default_rng(20)
    text = np.cumsum(rng.integers(-2, 3, 300)) % 50
    optimizer = torch.optim.SparseAdam(list(model.parameters()), lr=1e-2)
    losses = []
    for _ in range(20):
        at = rng.integers(2, 298, 16)
        centre, context = torch.as_tensor(text[at]), torch.as_tensor(text[at + rng.choice([-2, -1, 1, 2], 16)])
        negative = torch.as_tensor(rng.integers(0, 50, (16, 4)))
        optimizer.zero_grad()
        loss = model(centre, context, negative)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
