"""An encoder-decoder Transformer that reverses strings: causal mask, teacher forcing, ignored padding, greedy decoding."""

import numpy as np
import torch
from torch import nn


class Translator(nn.Module):
    def __init__(self, vocabulary=12, width=16):
        super().__init__()
        self.source = nn.Embedding(vocabulary, width)
        self.target = nn.Embedding(vocabulary, width)
        self.where = nn.Parameter(torch.zeros(1, 16, width))
        self.transformer = nn.Transformer(
            d_model=width, nhead=2, num_encoder_layers=1, num_decoder_layers=2, dim_feedforward=24, dropout=0.0,
            batch_first=True,
        )  # fmt: skip
        self.out = nn.Linear(width, vocabulary)
        nn.init.normal_(self.where, std=0.1)

    def forward(self, src, tgt):
        mask = nn.Transformer.generate_square_subsequent_mask(tgt.size(1))
        src = self.source(src) + self.where[:, : src.size(1)]
        tgt = self.target(tgt) + self.where[:, : tgt.size(1)]
        return self.out(self.transformer(src, tgt, tgt_mask=mask, tgt_is_causal=True))


def build():
    return Translator()


def train(model):
    rng = np.random.default_rng(8)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3, betas=(0.9, 0.98), eps=1e-9)
    criterion = nn.CrossEntropyLoss(ignore_index=0)
    losses = []
    for _ in range(12):
        src = rng.integers(3, 12, (16, 6))
        tgt = np.concatenate([np.full((16, 1), 1), src[:, ::-1], np.full((16, 1), 2)], 1)
        tgt[:4, -2:] = 0
        src, tgt = torch.as_tensor(src), torch.as_tensor(tgt)
        logits = model(src, tgt[:, :-1])
        loss = criterion(logits.reshape(-1, logits.size(-1)), tgt[:, 1:].reshape(-1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    model.eval()
    written = torch.ones(16, 1, dtype=torch.long)
    with torch.no_grad():
        for _ in range(4):
            score = model(src, written)[:, -1]
            losses.append(score.max().item())
            written = torch.cat([written, score.argmax(-1, keepdim=True)], dim=1)
    return losses
