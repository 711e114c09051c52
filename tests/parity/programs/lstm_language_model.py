"""A language model of two LSTM layers: truncated backpropagation, tied weights, plain SGD, a rate cut on a plateau."""

import math

import numpy as np
import torch
from torch import nn


class RNNModel(nn.Module):
    def __init__(self, vocabulary=14, width=20):
        super().__init__()
        self.encoder = nn.Embedding(vocabulary, width)
        self.rnn = nn.LSTM(width, width, num_layers=2)
        self.decoder = nn.Linear(width, vocabulary)
        self.decoder.weight = self.encoder.weight

    def forward(self, x, hidden):
        output, hidden = self.rnn(self.encoder(x), hidden)
        return self.decoder(output), hidden

    def init_hidden(self, batch):
        weight = next(self.parameters())
        return weight.new_zeros(2, batch, 20), weight.new_zeros(2, batch, 20)


def build():
    return RNNModel()


def train(model):
    rng = np.random.default_rng(10)
    text = torch.tensor(np.cumsum(rng.integers(0, 3, 6 * 70)) % 14).view(6, -1).t().contiguous()
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.25, patience=0, threshold=0.2)
    losses = []
    for _ in range(3):
        hidden, total = model.init_hidden(6), 0.0
        for start in range(0, 63, 9):
            hidden = tuple(h.detach() for h in hidden)
            output, hidden = model(text[start : start + 9], hidden)
            loss = criterion(output.view(-1, 14), text[start + 1 : start + 10].view(-1))
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.25)
            optimizer.step()
            total += loss.item()
            losses.append(loss.item())
        scheduler.step(total)
        losses += [math.exp(total / 7), optimizer.param_groups[0]["lr"]]
    return losses
