"""A dataset class of its own, split, weighted classes, and the loader's collating: one pass for each way to set a DataLoader up."""

import numpy as np
import torch
import torch.utils.data as loading
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torch.utils.data.sampler import BatchSampler, SequentialSampler


class Waves(Dataset):
    def __init__(self, transform=None):
        rng = np.random.default_rng(0)
        self.phases, self.labels = rng.uniform(0, 3, 90), rng.integers(0, 3, 90)
        self.transform = transform

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        wave = np.sin(self.phases[i] + (1 + self.labels[i]) * np.linspace(0, 6, 16))
        return {"wave": wave if self.transform is None else self.transform(wave), "label": int(self.labels[i])}


def collate(examples):
    waves = torch.stack([torch.as_tensor(e["wave"]) for e in examples])
    return {"wave": waves, "label": torch.tensor([e["label"] for e in examples])}


def build():
    return nn.Sequential(nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3))


def train(model):
    waves = Waves(lambda w: w * 0.5)
    whole = next(iter(DataLoader(waves, batch_size=len(waves))))
    in_memory = TensorDataset(whole["wave"], whole["label"])
    order = BatchSampler(SequentialSampler(waves), batch_size=30, drop_last=False)
    loaders = [
        DataLoader(waves, 16),
        DataLoader(waves, batch_size=16, drop_last=True, collate_fn=collate),
        DataLoader(waves, batch_sampler=order, num_workers=0),
        DataLoader(loading.Subset(waves, range(0, 90, 2)), batch_size=16, sampler=[5, 3, 30, 44, 2]),
        DataLoader(loading.ConcatDataset([waves, waves]), batch_size=60, timeout=0),
        DataLoader(in_memory, batch_size=25),
    ]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for loader in loaders:
        losses.append(len(loader))
        for batch in loader:
            wave, label = (batch["wave"], batch["label"]) if isinstance(batch, dict) else batch
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(wave.to(model[0].weight.dtype)), label)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses
