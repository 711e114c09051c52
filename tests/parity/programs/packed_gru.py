"""A classifier over sentences of different lengths: packed, unsorted, both directions, max over time."""

import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(30, 12)
        self.gru = nn.GRU(12, 10, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(40, 2)

    def forward(self, tokens, lengths):
        packed = pack_padded_sequence(self.embed(tokens), lengths, batch_first=True, enforce_sorted=False)
        output, last = self.gru(packed)
        padded, _ = pad_packed_sequence(output, batch_first=True, padding_value=float("-inf"))
        return self.head(torch.cat([padded.max(dim=1).values, last[-2], last[-1]], dim=1))


def build():
    return Classifier()


def train(model):
    rng = np.random.default_rng(11)
    sentences = [torch.as_tensor(rng.integers(0, 30, n)) for n in rng.integers(1, 12, 24)]
    labels = torch.tensor([int((s > 15).sum() * 2 > len(s)) for s in sentences])
    lengths = torch.tensor([len(s) for s in sentences])
    tokens = pad_sequence(sentences, batch_first=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(15):
        loss = nn.functional.cross_entropy(model(tokens, lengths), labels, weight=torch.tensor([0.4, 0.6]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
