"""A Transformer encoder that classifies padded sequences: key padding masks, warmup, clipping, AdamW."""

import math

import numpy as np
import torch
from torch import nn


class PositionalEncoding(nn.Module):
    def __init__(self, width, longest=32):
        super().__init__()
        position = torch.arange(longest).unsqueeze(1)
        rate = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
        pe = torch.zeros(longest, width)
        pe[:, 0::2] = torch.sin(position * rate)
        pe[:, 1::2] = torch.cos(position * rate)
        self.register_buffer("pe", pe)

    def forward(self, x):
        return x + self.pe[: x.size(1)]


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 16, padding_idx=0)
        self.position = PositionalEncoding(16)
        layer = nn.TransformerEncoderLayer(16, 4, dim_feedforward=32, dropout=0.0, activation="gelu", batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, num_layers=2, enable_nested_tensor=False)
        self.head = nn.Linear(16, 3)

    def forward(self, tokens):
        padding = tokens == 0
        x = self.encoder(self.position(self.embedding(tokens)), src_key_padding_mask=padding)
        kept = (~padding).unsqueeze(-1)
        return self.head((x * kept).sum(1) / kept.sum(1))


def build():
    return Classifier()


def train(model):
    rng = np.random.default_rng(7)
    tokens = rng.integers(1, 20, (32, 10))
    for row, length in zip(tokens, rng.integers(3, 11, 32)):
        row[length:] = 0
    labels = torch.from_numpy((tokens[:, :3].sum(1) % 3).astype(np.int64))
    tokens = torch.from_numpy(tokens)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 8))
    criterion = nn.CrossEntropyLoss()
    losses = []
    for _ in range(16):
        optimizer.zero_grad()
        loss = criterion(model(tokens), labels)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        scheduler.step()
        losses += [loss.item(), norm.item()]
    return losses
