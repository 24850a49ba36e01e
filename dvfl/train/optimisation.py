"""Optimiser and learning-rate schedule of the released recipe (FACTS: SGD or AdamW, warm-up, per-step cosine)."""

from __future__ import annotations

import math

import torch
from torch import nn

from dvfl.config import TrainConfig


def parameter_groups(model: nn.Module, weight_decay: float, applies_to: str = "matrices") -> list[dict]:
    """Weight decay reaches matrices and kernels; biases, norms and other 1-D parameters go without.

    With `applies_to` "none" all of them go without, as in the released code.
    """
    decayed = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    exempt = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    decay = weight_decay if applies_to == "matrices" else 0.0
    return [{"params": decayed, "weight_decay": decay}, {"params": exempt, "weight_decay": 0.0}]


def build_optimizer(model: nn.Module, train: TrainConfig) -> torch.optim.Optimizer:
    """The optimiser that `train` names; its learning rate is set anew at every step."""
    groups = parameter_groups(model, train.weight_decay, train.decay_applies_to)
    if train.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=train.peak_lr, momentum=train.momentum, nesterov=train.momentum > 0)
    return torch.optim.AdamW(groups, lr=train.peak_lr, fused=True)


def learning_rate(step: int, total_steps: int, train: TrainConfig) -> float:
    """Learning rate of a step (from 0): linear from the peak * lr_floor up to the peak, then a cosine back down."""
    peak = train.peak_lr
    floor = peak * train.lr_floor
    warmup_steps = round(train.warmup * total_steps)
    if step < warmup_steps:
        return floor + (peak - floor) * step / warmup_steps
    done = (step - warmup_steps) / max(1, total_steps - 1 - warmup_steps)
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
