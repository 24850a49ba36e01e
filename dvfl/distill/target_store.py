"""Stored teacher logits: a folder with a file for each pass of the teacher over the clips.

A file is an array of NumPy's, (clips, classes): row i is clip i of the data set, whatever the order in which it was
shown, so a clip's logits are one seek. It appears whole or not at all, and one that is there is done: what a kill left
is what is missing. The folder's name is the digest of all that decides the logits, so those of another teacher, split,
seed or augmentation are never found.
"""

from __future__ import annotations

import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dvfl.errors import UserError
from dvfl.files import MissingInput, atomic

RECIPE = 2  # raise it when the same settings and files come to give other inputs or logits
UNMIXED = "unmixed"  # a pass over the clips themselves, in order, where those of the training are mixed or shuffled
HEADER = 128  # bytes of a file before its logits
ROUNDING = {"float32": 0.0, "float16": 2**-11}  # of a logit, at most; the networks' own precision is float32


class TargetsError(UserError):
    """Stored targets cannot be written, or are not what they should be."""


@dataclass(frozen=True)
class TargetStore:
    """The targets of a training that shows `clips` clips in each of some passes, which `shown` names in their order."""

    folder: Path
    shown: tuple[str, ...]
    clips: int
    classes: int
    precision: str  # float32, float16

    @property
    def passes(self) -> tuple[str, ...]:
        """Names of all files. Fixed views are the clips themselves; elsewhere those are looked at first."""
        return self.shown if self.shown[0].startswith("view") else (UNMIXED, *self.shown)

    @property
    def bytes_of_pass(self) -> int:
        return HEADER + self.clips * self.classes * np.dtype(self.precision).itemsize

    def path(self, name: str) -> Path:
        return self.folder / f"{name}.npy"

    def missing(self) -> list[str]:
        """Names of the passes that are still to be written."""
        return [name for name in self.passes if not self.path(name).is_file()]

    def write(self, name: str, logits: Tensor) -> None:
        """Keeps the logits (clips, C) of a pass, NaN where a clip was not shown.

        Raises TargetsError where they are too large for the precision, OutputError where the disk is full.
        """
        rounded = logits.to(getattr(torch, self.precision))
        if rounded.isinf().any():
            raise TargetsError(
                f"{self.folder}: the teacher's logits are not finite in {self.precision} (their largest is "
                f"{logits[~logits.isnan()].abs().max():.3g}); set distill.targets_precision: float32"
            )
        with atomic(self.path(name)) as partial:
            np.save(partial, rounded.numpy())

    def read(self, name: str) -> Tensor:
        """Logits (clips, C) of a pass in their precision; only what is looked at is read.

        Raises MissingInput or TargetsError.
        """
        path = self.path(name)
        try:
            rows = np.load(path, mmap_mode="r")
        except FileNotFoundError:
            raise MissingInput(f"{path}: not there; {self.remedy}") from None
        except (ValueError, EOFError, OSError) as error:
            raise TargetsError(f"{path}: is damaged ({error}); delete it, then {self.remedy}") from None
        if rows.shape != (self.clips, self.classes) or rows.dtype != self.precision:
            raise TargetsError(
                f"{path}: holds {rows.shape} {rows.dtype} and not {(self.clips, self.classes)} {self.precision}; "
                f"delete it, then {self.remedy}"
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of torch, that it may not be written; nobody does
            return torch.from_numpy(rows)

    @property
    def remedy(self) -> str:
        return f"write the targets with `dvfl targets {self.folder.parent}`, or set distill.targets: online"

    def of_clips(self) -> Tensor:
        """Logits (V, clips, C) of the clips themselves, unmixed: what the teacher's accuracy is told by."""
        names = [name for name in self.passes if name == UNMIXED or name.startswith("view")]
        return torch.stack([self.read(name).float() for name in names])

    def largest_logit(self) -> float:
        """The largest absolute value in the store."""
        return max(float(self.read(name).float().nan_to_num().abs().max()) for name in self.passes)

    def make_room(self) -> None:
        """Removes logits of former settings, teachers or clips, and what a kill left.

        Raises TargetsError where the disk cannot hold what is missing.
        """
        for other in self.folder.parent.glob("*/"):
            if other != self.folder:
                shutil.rmtree(other)
        for partial in self.folder.glob(".*.npy"):
            partial.unlink()
        self.folder.mkdir(parents=True, exist_ok=True)
        wanted, free = len(self.missing()) * self.bytes_of_pass, shutil.disk_usage(self.folder).free
        if wanted > free:
            raise TargetsError(
                f"{self.folder}: the targets take {wanted / 1e6:,.4g} MB and the disk has {free / 1e6:,.4g} MB free; "
                f"nothing was written; free some space, set distill.targets_precision: float16, or distill.targets: "
                f"online"
            )
