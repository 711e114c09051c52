"""Convolutions over time, a bidirectional GRU and connectionist temporal classification, with lengths per utterance."""

import numpy as np
import torch
import torch.nn as nn


class Recogniser(nn.Module):
    def __init__(self, classes=6):
        super().__init__()
        self.conv = nn.Conv1d(8, 16, 3, stride=2, padding=1, bias=False)
        self.norm = nn.InstanceNorm1d(16, affine=True)
        self.rnn = nn.GRU(16, 12, bidirectional=True)
        self.fc = nn.Linear(24, classes)

    def forward(self, x):
        x = nn.functional.hardtanh(self.norm(self.conv(x)), 0, 5).permute(2, 0, 1)
        return self.fc(self.rnn(x)[0]).log_softmax(2)


def build():
    return Recogniser()


def train(model):
    rng = np.random.default_rng(25)
    x = torch.as_tensor(rng.standard_normal((6, 8, 40)), dtype=torch.get_default_dtype())
    target_lengths = torch.as_tensor(rng.integers(1, 7, 6))
    targets = torch.as_tensor(rng.integers(1, 6, int(target_lengths.sum())))
    input_lengths = torch.full((6,), 20, dtype=torch.long)
    criterion = nn.CTCLoss(blank=0, zero_infinity=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = criterion(model(x), targets, input_lengths, target_lengths)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
