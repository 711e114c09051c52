"""A small net taught by a large one: divergence of softened scores, a frozen teacher, a forward hook for features."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


def build():
    teacher = nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 5))
    student = nn.Sequential(nn.Linear(8, 6), nn.Hardswish(), nn.Linear(6, 5))
    return teacher, student


def train(teacher, student):
    rng = np.random.default_rng(29)
    dtype = torch.get_default_dtype()
    seen = {}
    handle = student[1].register_forward_hook(lambda module, args, output: seen.update(features=output))
    for p in teacher.parameters():
        p.requires_grad = False
    teacher.eval()
    match = nn.Linear(6, 32, bias=False)
    nn.init.eye_(match.weight)
    optimizer = torch.optim.Rprop([*student.parameters(), *match.parameters()], lr=1e-2)
    divergence, cosine = nn.KLDivLoss(reduction="batchmean"), nn.CosineEmbeddingLoss()
    x = torch.as_tensor(rng.standard_normal((60, 8)), dtype=dtype)
    labels = torch.as_tensor(rng.integers(0, 5, 60))
    losses = []
    for _ in range(20):
        with torch.no_grad():
            wide = teacher[1](teacher[0](x))
            soft = F.softmax(teacher[2](wide) / 2.0, dim=-1)
        scores = student(x)
        loss = divergence(F.log_softmax(scores / 2.0, dim=-1), soft) * 4 + 0.3 * F.cross_entropy(scores, labels)
        loss = loss + 0.1 * cosine(match(seen["features"]), wide, torch.ones(60))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    handle.remove()
    return losses
