"""The teacher's logits for what the student is shown.

With a fixed number of augmented views and no mixing, the inputs of a whole training are known before it starts: the
teacher looks at each once. Otherwise it looks at every batch. Logits are kept, not probabilities, so that every
temperature can be tried on them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

import torch
from torch import Tensor, nn

from dvfl.errors import UserError


class TeacherTargets(Protocol):
    def __call__(self, inputs: Tensor, positions: Tensor, epoch: int) -> Tensor:
        """Teacher logits (B, C) for inputs (B, T, 3, H, W), clips `positions` in `epoch` (from 0)."""


class OnlineTargets:
    """The teacher in the loop."""

    def __init__(self, teacher: nn.Module):
        self.teacher = teacher

    def __call__(self, inputs: Tensor, positions: Tensor, epoch: int) -> Tensor:
        with torch.no_grad():
            return self.teacher(inputs).float()


class CachedTargets:
    """The teacher's logits for all views of all clips, (views, clips, C), computed once."""

    def __init__(self, logits: Tensor):
        self.logits = logits

    @classmethod
    def compute(
        cls,
        teacher: nn.Module,
        views: Iterable[Iterable[Tensor]],
        device: torch.device,
        gathered: Callable[[list[Tensor]], list[Tensor]] = list,
    ) -> CachedTargets:
        """`views` yields, for each view, the normalised inputs of all clips in order, batch by batch.

        The batches are always the same, so a resumed training gets the same logits to the last bit. Several processes
        yield a share of the batches each; `gathered` makes the whole of their logits.
        """
        with torch.inference_mode():
            shares = ([teacher(inputs.to(device)).float().cpu() for inputs in view] for view in views)
            rows = [torch.cat(gathered(share)) for share in shares]
        return cls(torch.stack(rows).clone())

    def __call__(self, inputs: Tensor, positions: Tensor, epoch: int) -> Tensor:
        logits = self.logits[epoch % len(self.logits), positions.to(self.logits.device)]
        return logits.to(inputs.device)


AT_CHANCE = 0.05


class TeacherAtChance(UserError):
    """The teacher knows nothing about the training clips: there is nothing to distil."""


def check_teacher(logits: Tensor, labels: Tensor, name: str, required: bool = True) -> float:
    """Accuracy of teacher logits (N, C) on the labels (N,) of training clips.

    With `required`, raises TeacherAtChance where guessing would do as well in one case of twenty or more: a head that
    was lost or labels that were shifted show here at once, whatever the student's loss does.
    """
    from scipy.stats import binom

    count, num_classes = logits.shape
    correct = int((logits.argmax(1) == labels).sum())
    by_guessing = binom.sf(correct - 1, count, 1 / num_classes)
    if required and by_guessing >= AT_CHANCE:
        raise TeacherAtChance(
            f"{name}: the teacher is right on {correct / count:.1%} of the training clips, chance being "
            f"{1 / num_classes:.1%} (guessing would do as well with probability {by_guessing:.2f}); check its weights, "
            f"its head and the order of its classes, or train it longer"
        )
    return correct / count
