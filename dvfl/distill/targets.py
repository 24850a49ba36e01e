"""The teacher's logits for what the student is shown.

The inputs of a whole training are known before it starts, since every draw is a function of (seed, epoch, clip). So the
teacher may be asked in the loop, or beforehand: for a few fixed views that are not mixed it looks at each clip once a
view; else once an epoch, at the very micro-batches of the training. Logits are kept, not probabilities, so that every
temperature can be tried on them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

import torch
from torch import Tensor, nn

from dvfl.distill.target_store import TargetStore
from dvfl.errors import UserError


class TeacherTargets(Protocol):
    kind: str  # where the logits come from, in a word or two

    def __call__(self, inputs: Tensor, positions: Tensor, epoch: int) -> Tensor:
        """Teacher logits (B, C) for inputs (B, T, 3, H, W), clips `positions` in `epoch` (from 0)."""


class OnlineTargets:
    """The teacher in the loop; its logits are rounded to `precision`, as they would be in a store."""

    kind = "online"

    def __init__(self, teacher: nn.Module, precision: torch.dtype = torch.float32):
        self.teacher, self.precision = teacher, precision

    def __call__(self, inputs: Tensor, positions: Tensor, epoch: int) -> Tensor:
        with torch.no_grad():
            return self.teacher(inputs).to(self.precision).float()


class CachedTargets:
    """The teacher's logits for all views of all clips, (views, clips, C), in memory."""

    kind = "in memory"

    def __init__(self, logits: Tensor):
        self.logits = logits

    @classmethod
    def compute(
        cls,
        teacher: nn.Module,
        views: Iterable[Iterable[Tensor]],
        device: torch.device,
        gathered: Callable[[list[Tensor]], list[Tensor]] = list,
        precision: torch.dtype = torch.float32,
    ) -> CachedTargets:
        """`views` yields, for each view, the normalised inputs of all clips in order, batch by batch.

        The batches are always the same, so a resumed training gets the same logits to the last bit. Several processes
        yield a share of the batches each; `gathered` makes the whole of their logits.
        """
        ask, nobody = OnlineTargets(teacher, precision), torch.empty(0)
        shares = ([ask(inputs.to(device), nobody, 0).cpu() for inputs in view] for view in views)
        return cls(torch.stack([torch.cat(gathered(share)) for share in shares]))

    def __call__(self, inputs: Tensor, positions: Tensor, epoch: int) -> Tensor:
        logits = self.logits[epoch % len(self.logits), positions.to(self.logits.device)]
        return logits.to(inputs.device)


class StoredTargets:
    """The teacher's logits from a store: one seek for each clip of a batch."""

    kind = "stored"

    def __init__(self, store: TargetStore):
        self.store = store
        self._open: tuple[str, Tensor] | None = None

    def __call__(self, inputs: Tensor, positions: Tensor, epoch: int) -> Tensor:
        name = self.store.shown[epoch % len(self.store.shown)]
        if self._open is None or self._open[0] != name:
            self._open = name, self.store.read(name)
        return self._open[1][positions.cpu()].float().to(inputs.device)


AT_CHANCE = 0.05


class TeacherAtChance(UserError):
    """The teacher knows nothing about the training clips: there is nothing to distil."""


def check_teacher(logits: Tensor, labels: Tensor, name: str, required: bool = True) -> float:
    """Accuracy of teacher logits, of one or more views, (V, N, C), on the labels (N,) of training clips.

    With `required`, raises TeacherAtChance where guessing would do as well in one case of twenty or more: a head that
    was lost or labels that were shifted show here at once, whatever the student's loss does.
    """
    from scipy.stats import binom

    num_classes, count = logits.shape[-1], logits[..., 0].numel()
    correct = int((logits.argmax(-1) == labels).sum())
    by_guessing = binom.sf(correct - 1, count, 1 / num_classes)
    if required and by_guessing >= AT_CHANCE:
        raise TeacherAtChance(
            f"{name}: the teacher is right on {correct / count:.1%} of the training clips, chance being "
            f"{1 / num_classes:.1%} (guessing would do as well with probability {by_guessing:.2f}); check its weights, "
            f"its head and the order of its classes, or train it longer"
        )
    return correct / count
