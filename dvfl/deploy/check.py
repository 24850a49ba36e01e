"""Does an exported network still say what the original says? Compared clip by clip, in every runtime."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dvfl.deploy.onnx_file import Precision
from dvfl.deploy.packages import ExportError
from dvfl.deploy.runtimes import Network

# Largest difference of a logit, as a share of the largest logit, that two orders of the same float32 sums may make.
FLOAT32_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Agreement:
    """How far an exported network is from its original on some clips.

    relative_error: largest difference of any logit over the largest magnitude of the original's. top1_differs: clips
    whose most probable class is another; share of them with its 95 % interval (Wilson's, clips taken as independent).
    """

    clips: int
    relative_error: float
    top1_differs: int
    share: float
    ci_low: float
    ci_high: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"logits within {self.relative_error:.2g} of the original's, top-1 differs on {self.top1_differs} of "
            f"{self.clips} clips, {self.share:.1%} [{self.ci_low:.1%}, {self.ci_high:.1%}]"
        )


def agreement(logits: NDArray[np.floating], original: NDArray[np.floating]) -> Agreement:
    """Compares logits (N, C) with the original's of the same clips."""
    from scipy.stats import binomtest

    clips = len(original)
    error = float(np.abs(logits - original).max() / np.abs(original).max())
    differs = int((logits.argmax(1) != original.argmax(1)).sum())
    interval = binomtest(differs, clips).proportion_ci(method="wilson")
    return Agreement(clips, error, differs, differs / clips, float(interval.low), float(interval.high))


def logits_of(networks: Mapping[str, Network], batches: Iterable[NDArray[np.float32]]) -> dict[str, NDArray]:
    """Logits (N, C) of each network for the same clips, which are read once and held one batch at a time."""
    found: dict[str, list[NDArray]] = {name: [] for name in networks}
    for batch in batches:
        for name, network in networks.items():
            found[name].append(network(batch))
    return {name: np.concatenate(logits) for name, logits in found.items()}


def check_logits(found: Mapping[str, Agreement], precision: Precision, bfloat16_tolerance: float) -> None:
    """Raises ExportError where a runtime's logits are too far from the original's; int8 is judged by its classes."""
    if precision == "int8":
        return
    limit = FLOAT32_TOLERANCE if precision == "float32" else bfloat16_tolerance
    for runtime, compared in found.items():
        if compared.relative_error <= limit:  # a NaN is not
            continue
        remedy = (
            "this version of the runtime, or of the exporter, is at fault: take those of envs/requirements.txt"
            if precision == "float32"
            else "raise export.bfloat16_tolerance if the classes are what matters, or take float32"
        )
        raise ExportError(
            f"{precision} in {runtime}: {compared}; {limit:g} is allowed, so nothing was written; {remedy}"
        )


def check_accuracy(top1: Mapping[str, float], original: float, clips: int, allowed: float) -> None:
    """Raises ExportError where a runtime's accuracy (fraction) on validation clips is lower by more than `allowed`."""
    runtime = min(top1, key=lambda name: top1[name])
    if original - top1[runtime] > allowed:
        raise ExportError(
            f"int8 in {runtime}: top-1 on {clips} validation clips falls from {original:.1%} to {top1[runtime]:.1%}, "
            f"by more than export.max_accuracy_drop ({allowed:.1%}; one clip is {1 / clips:.1%}), so nothing was "
            f"written; take bfloat16, more export.calibration_clips, or allow more"
        )
