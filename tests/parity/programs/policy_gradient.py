"""REINFORCE with a baseline on a two-armed choice by context: log-probabilities of sampled actions, normalised returns."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


class Policy(nn.Module):
    def __init__(self):
        super().__init__()
        self.affine1 = nn.Linear(4, 16)
        self.action_head = nn.Linear(16, 3)
        self.value_head = nn.Linear(16, 1)

    def forward(self, x):
        x = F.relu(self.affine1(x))
        return F.softmax(self.action_head(x), dim=-1), self.value_head(x)


def build():
    return Policy()


def train(model):
    rng = np.random.default_rng(13)
    dtype = torch.get_default_dtype()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-2)
    losses = []
    for _ in range(12):
        log_probs, values, rewards, entropies = [], [], [], []
        for _ in range(10):
            context = rng.standard_normal(4)
            probs, value = model(torch.as_tensor(context, dtype=dtype))
            action = int(np.searchsorted(np.cumsum(probs.detach().numpy()), rng.random() * 0.999))
            log_probs.append(torch.log(probs[action]))
            entropies.append(-(probs * probs.log()).sum())
            values.append(value)
            rewards.append(float(action == np.argmax(context[:3])))
        returns, total = [], 0.0
        for r in rewards[::-1]:
            total = r + 0.5 * total
            returns.insert(0, total)
        returns = torch.tensor(returns, dtype=dtype)
        returns = (returns - returns.mean()) / (returns.std() + 1e-5)
        values = torch.cat(values)
        advantage = returns - values.detach()
        loss = (-torch.stack(log_probs) * advantage).sum() + F.smooth_l1_loss(values, returns, reduction="sum")
        loss = loss - 0.01 * torch.stack(entropies).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
