"""What the released loss is worth: its value and its gradient beside those of KL, over temperatures.

Measured on our own code with logits that are drawn at random, so that nobody has to train anything to check it.
"""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd
import torch
from torch import Tensor

from dvfl.distill.divergences import DIVERGENCES

CLASSES, CLIPS, STD, SEED = 101, 256, 2.0, 0
TEMPERATURES = tuple(range(1, 21))
COMPARED = ("forward_kl", "released_code")
COLUMNS = ("loss", "temperature", "value", "gradient")


def released_loss(temperatures: Iterable[float] = TEMPERATURES, classes: int = CLASSES) -> pd.DataFrame:
    """One row a loss and temperature: the mean over clips of its value, times T^2, and of its gradient's norm.

    The gradient is that of a clip's loss by the student's logits, (C,). Student and teacher logits are independent
    normal draws (`CLIPS` rows, standard deviation `STD`, `SEED`), the same for every temperature; float64.
    """
    draw = torch.Generator().manual_seed(SEED)
    student, teacher = (STD * torch.randn(CLIPS, classes, generator=draw, dtype=torch.float64) for _ in range(2))
    rows = [
        (name, temperature, *_value_and_gradient(name, student, teacher, temperature))
        for name in COMPARED
        for temperature in temperatures
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def _value_and_gradient(name: str, student: Tensor, teacher: Tensor, temperature: float) -> tuple[float, float]:
    logits = student.clone().requires_grad_()
    loss = DIVERGENCES[name](logits, teacher, temperature)
    (gradient,) = torch.autograd.grad(loss * len(logits), logits)  # the loss is a mean over clips
    return loss.item(), gradient.norm(dim=1).mean().item()
