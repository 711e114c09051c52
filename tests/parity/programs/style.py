"""The image is what is trained: Gram matrices of frozen convolutions, total variation, clamping in place."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


def build():
    return nn.Sequential(nn.Conv2d(3, 6, 3, padding=1, padding_mode="reflect"), nn.ReLU(), nn.Conv2d(6, 8, 3, stride=2))


def gram(features):
    batch, channels, height, width = features.shape
    flat = features.view(batch * channels, height * width)
    return torch.mm(flat, flat.t()).div(batch * channels * height * width)


def train(net):
    rng = np.random.default_rng(19)
    dtype = torch.get_default_dtype()
    net.eval().requires_grad_(False)
    content = torch.as_tensor(rng.random((1, 3, 16, 16)), dtype=dtype)
    style = torch.as_tensor(rng.random((1, 3, 16, 16)) ** 3, dtype=dtype)
    content_target, style_target = net(content).detach(), gram(net(style)).detach()
    image = content.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([image], lr=0.02)
    losses = []
    for _ in range(20):
        with torch.no_grad():
            image.clamp_(0, 1)
        optimizer.zero_grad()
        features = net(image)
        variation = (image[..., 1:, :] - image[..., :-1, :]).abs().mean() + image.diff(dim=-1).abs().mean()
        loss = F.mse_loss(features, content_target) + 1e3 * F.mse_loss(gram(features), style_target) + 0.1 * variation
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
