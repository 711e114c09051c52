"""Proximal policy optimisation of a Gaussian policy: clipped ratios, a learned standard deviation, several epochs."""

import math

import numpy as np
import torch
from torch import nn


class ActorCritic(nn.Module):
    def __init__(self):
        super().__init__()
        self.actor = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 2))
        self.critic = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 1))
        self.log_std = nn.Parameter(torch.zeros(2))
        for layer in (self.actor[0], self.critic[0]):
            nn.init.orthogonal_(layer.weight, math.sqrt(2))

    def log_prob(self, observations, actions):
        mean = self.actor(observations)
        z = (actions - mean) / self.log_std.exp()
        return (-0.5 * z**2 - self.log_std - 0.5 * math.log(2 * math.pi)).sum(-1)


def build():
    return ActorCritic()


def train(model):
    rng = np.random.default_rng(14)
    dtype = torch.get_default_dtype()

    def normal(*shape):
        return torch.as_tensor(rng.standard_normal(shape), dtype=dtype)

    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, eps=1e-5)
    losses = []
    for _ in range(4):
        observations = normal(64, 3)
        with torch.no_grad():
            actions = model.actor(observations) + model.log_std.exp() * normal(64, 2)
            old = model.log_prob(observations, actions)
            rewards = -(actions - observations[:, :2]).abs().sum(dim=1)
            advantages = rewards - model.critic(observations).flatten()
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        for _ in range(3):
            for chosen in torch.as_tensor(rng.permutation(64)).chunk(2):
                ratio = (model.log_prob(observations[chosen], actions[chosen]) - old[chosen]).exp()
                a = advantages[chosen]
                surrogate = torch.min(ratio * a, torch.clamp(ratio, 0.8, 1.2) * a).mean()
                value_loss = 0.5 * ((model.critic(observations[chosen]).squeeze(-1) - rewards[chosen]) ** 2).mean()
                loss = -surrogate + 0.5 * value_loss - 0.01 * model.log_std.sum()
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 0.5)
                optimizer.step()
                losses.append(loss.item())
    return losses
