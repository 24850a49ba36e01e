"""Optimiser and learning-rate schedule of the released recipe (FACTS: SGD or AdamW, warm-up, per-step cosine)."""

from __future__ import annotations

import math

import torch
from torch import nn

from dvfl.config import TrainConfig


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Weight decay reaches matrices and kernels; biases, norms and other 1-D parameters go without."""
    decayed = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    exempt = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": exempt, "weight_decay": 0.0}]


def build_optimizer(model: nn.Module, train: TrainConfig) -> torch.optim.Optimizer:
    """The optimiser that `train` names; its learning rate is set anew at every step."""
    groups = parameter_groups(model, train.weight_decay)
    if train.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=train.lr, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, lr=train.lr, fused=True)


def learning_rate(step: int, total_steps: int, train: TrainConfig) -> float:
    """Learning rate of a step (from 0): linear from lr * lr_floor up to lr, then a cosine back down to it."""
    floor = train.lr * train.lr_floor
    warmup_steps = round(train.warmup * total_steps)
    if step < warmup_steps:
        return floor + (train.lr - floor) * step / warmup_steps
    done = (step - warmup_steps) / max(1, total_steps - 1 - warmup_steps)
    return floor + (train.lr - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
