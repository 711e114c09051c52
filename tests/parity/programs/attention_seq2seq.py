"""An encoder and a decoder of GRU cells with additive attention, teacher forcing, and a mask over padding."""

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F


class Seq2Seq(nn.Module):
    def __init__(self, vocabulary=10, width=12):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.encoder = nn.GRU(width, width, batch_first=True)
        self.query, self.key, self.energy = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, 1)
        self.decoder = nn.GRUCell(2 * width, width)
        self.out = nn.Linear(width, vocabulary)

    def forward(self, source, mask, target):
        memory, h = self.encoder(self.embedding(source))
        h = h.squeeze(0)
        keys = self.key(memory)
        total = 0
        for t in range(target.size(1) - 1):
            score = self.energy(torch.tanh(self.query(h).unsqueeze(1) + keys)).squeeze(-1)
            weights = F.softmax(score.masked_fill(~mask, -1e9), dim=-1)
            context = torch.bmm(weights.unsqueeze(1), memory).squeeze(1)
            h = self.decoder(torch.cat([self.embedding(target[:, t]), context], dim=-1), h)
            total = total + F.cross_entropy(self.out(h), target[:, t + 1], ignore_index=0)
        return total / (target.size(1) - 1)


def build():
    return Seq2Seq()


def train(model):
    rng = np.random.default_rng(30)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(10):
        source = rng.integers(1, 10, (8, 7))
        mask = np.arange(7) < rng.integers(3, 8, (8, 1))
        target = np.concatenate([np.ones((8, 1), dtype=np.int64), np.sort(source * mask, axis=1)], 1)
        inputs = (torch.as_tensor(a) for a in (source * mask, mask, target))
        optimizer.zero_grad()
        loss = model(*inputs)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses
