"""Matrix factorisation with biases and a bag of tags per item: embedding bags, Adadelta, an evaluation in inference mode."""

import numpy as np
import torch
from torch import nn


class Recommender(nn.Module):
    def __init__(self):
        super().__init__()
        self.users, self.items = nn.Embedding(30, 6), nn.Embedding(40, 6, max_norm=1.5)
        self.tags = nn.EmbeddingBag(12, 6, mode="mean")
        self.user_bias, self.item_bias = nn.Embedding(30, 1), nn.Embedding(40, 1)
        nn.init.zeros_(self.user_bias.weight)
        nn.init.zeros_(self.item_bias.weight)

    def forward(self, user, item, tags, offsets):
        described = self.items(item) + self.tags(tags, offsets)
        score = (self.users(user) * described).sum(-1, keepdim=True)
        return (score + self.user_bias(user) + self.item_bias(item)).squeeze(-1)


def build():
    return Recommender()


def train(model):
    rng = np.random.default_rng(21)
    dtype = torch.get_default_dtype()
    true = rng.standard_normal((30, 3)) @ rng.standard_normal((3, 40))
    tags_of = [rng.integers(0, 12, n) for n in rng.integers(0, 4, 40)]
    optimizer = torch.optim.Adadelta(model.parameters(), lr=1.0, rho=0.9)
    criterion = nn.HuberLoss(delta=0.8)
    losses = []
    for _ in range(16):
        user, item = rng.integers(0, 30, 48), rng.integers(0, 40, 48)
        tags = [tags_of[i] for i in item]
        offsets = torch.as_tensor(np.cumsum([0, *map(len, tags[:-1])]))
        rating = torch.as_tensor(true[user, item], dtype=dtype)
        inputs = torch.as_tensor(user), torch.as_tensor(item), torch.as_tensor(np.concatenate(tags)), offsets
        optimizer.zero_grad()
        loss = criterion(model(*inputs), rating)
        loss.backward()
        optimizer.step()
        with torch.inference_mode():
            losses += [loss.item(), (model(*inputs) - rating).pow(2).mean().sqrt().item()]
    return losses
