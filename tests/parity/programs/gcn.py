"""A graph convolutional network on a dense normalised adjacency: half of the nodes labelled, Adagrad."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn import Module
from torch.nn.parameter import Parameter


class GraphConvolution(Module):
    def __init__(self, in_features, out_features, bias=True):
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight = Parameter(torch.empty(in_features, out_features))
        if bias:
            self.bias = Parameter(torch.empty(out_features))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self):
        bound = 1.0 / math.sqrt(self.weight.size(1))
        self.weight.data.uniform_(-bound, bound)
        if self.bias is not None:
            self.bias.data.uniform_(-bound, bound)

    def forward(self, x, adjacency):
        out = torch.mm(adjacency, torch.mm(x, self.weight))
        return out if self.bias is None else out + self.bias


class GCN(Module):
    def __init__(self):
        super().__init__()
        self.gc1 = GraphConvolution(8, 12)
        self.gc2 = GraphConvolution(12, 3, bias=False)

    def forward(self, x, adjacency):
        return F.log_softmax(self.gc2(F.elu(self.gc1(x, adjacency)), adjacency), dim=1)


def build():
    return GCN()


def train(model):
    rng = np.random.default_rng(15)
    dtype = torch.get_default_dtype()
    labels = rng.integers(0, 3, 40)
    edges = (rng.random((40, 40)) < np.where(labels[:, None] == labels, 0.3, 0.05)).astype(float)
    edges = np.maximum(np.maximum(edges, edges.T), np.eye(40))
    adjacency = torch.as_tensor(edges / edges.sum(1, keepdims=True), dtype=dtype)
    features = torch.as_tensor(np.eye(8)[labels] + rng.standard_normal((40, 8)), dtype=dtype)
    labels, train_ids = torch.as_tensor(labels), torch.arange(0, 40, 2)
    optimizer = torch.optim.Adagrad(model.parameters(), lr=0.05, lr_decay=1e-2, weight_decay=5e-4)
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        loss = F.nll_loss(model(features, adjacency)[train_ids], labels[train_ids])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
