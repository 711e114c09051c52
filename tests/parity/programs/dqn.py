"""Deep Q-learning on a short corridor: replay, a target network with soft updates, Huber loss, clipped gradients."""

import copy

import numpy as np
import torch
from torch import nn


def build():
    return nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 2))


def train(policy):
    rng = np.random.default_rng(12)
    dtype = torch.get_default_dtype()
    target = copy.deepcopy(policy)
    target.load_state_dict(policy.state_dict())
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-2, amsgrad=True)
    criterion = nn.SmoothL1Loss()
    eye, memory, losses, state = torch.eye(6, dtype=dtype), [], [], 0
    for step in range(120):
        with torch.no_grad():
            greedy = policy(eye[state].unsqueeze(0)).max(1).indices.item()
        action = greedy if rng.random() > 0.5 else int(rng.integers(2))
        after = min(max(state + (1 if action else -1), 0), 5)
        memory.append((state, action, after, float(after == 5)))
        state = 0 if after == 5 else after
        if len(memory) < 32 or step % 4:
            continue
        batch = [memory[i] for i in rng.integers(0, len(memory), 16)]
        states, actions, nexts, rewards = zip(*batch)
        states, nexts = eye[list(states)], eye[list(nexts)]
        actions, rewards = torch.tensor(actions).unsqueeze(1), torch.tensor(rewards, dtype=dtype)
        values = policy(states).gather(1, actions).squeeze(1)
        with torch.no_grad():
            expected = rewards + 0.9 * (1 - rewards) * target(nexts).max(1).values
        loss = criterion(values, expected)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_value_(policy.parameters(), 0.1)
        optimizer.step()
        state_of_target, state_of_policy = target.state_dict(), policy.state_dict()
        for key in state_of_policy:
            state_of_target[key] = state_of_policy[key] * 0.05 + state_of_target[key] * 0.95
        target.load_state_dict(state_of_target)
        losses.append(loss.item())
    return losses
