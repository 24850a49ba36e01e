"""Is the class in the motion? What a network of the embedded data set answers when the motion is taken away."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dvfl.data.clips import ClipDataset, iterate_test
from dvfl.data.motions import MIRROR
from dvfl.evaluate.predict import view_probabilities
from dvfl.evaluate.statistics import seed_interval
from dvfl.randomness import generator


def motion_check(model: nn.Module, dataset: ClipDataset, device: torch.device, batch_size: int = 32) -> dict[str, Any]:
    """Top-1 on test clips as they are, on one repeated frame, on shuffled frames, and backwards.

    Backwards the right answer is the mirror class: left for right, clockwise for anticlockwise. Fractions, each with
    its 95 % interval over groups; `chance` is one over the number of classes.
    """
    model.eval()
    mirror = np.array([dataset.classes.index(MIRROR[name]) for name in dataset.classes])
    changes = {
        "as_is": lambda views: views,
        "repeated_frame": _repeat_frame,
        "shuffled_frames": _shuffle_frames,
        "reversed": lambda views: views.flip(1),
    }
    correct: dict[str, list[np.ndarray]] = {name: [] for name in [*changes, "reversed_mirror"]}
    for positions, views in iterate_test(dataset, 1, 1, batch_size=batch_size):
        clips, labels = views.flatten(0, 1), dataset.labels[positions]
        for name, change in changes.items():
            answers = view_probabilities(model, change(clips), dataset.input, device).argmax(1).numpy()
            correct[name].append(answers == labels)
            if name == "reversed":
                correct["reversed_mirror"].append(answers == mirror[labels])
    flat = {name: np.concatenate(parts) for name, parts in correct.items()}
    return {
        "clips": len(dataset),
        "chance": 1 / len(dataset.classes),
        "groups": len(set(dataset.groups)),
        "top1": {name: _with_interval(hits, dataset.groups) for name, hits in flat.items()},
    }


def _with_interval(hits: np.ndarray, groups: np.ndarray) -> dict[str, float]:
    interval = seed_interval(hits.astype(float), groups)
    return {"value": interval.estimate, "ci_low": interval.low, "ci_high": interval.high}


def _repeat_frame(clips: Tensor) -> Tensor:
    """(B, T, 3, H, W) with the middle frame everywhere."""
    middle = clips.shape[1] // 2
    return clips[:, middle : middle + 1].expand_as(clips)


def _shuffle_frames(clips: Tensor) -> Tensor:
    """(B, T, 3, H, W) with the frames of all clips in one other order."""
    order = generator("motion check", "shuffle").permutation(clips.shape[1])
    return clips[:, torch.as_tensor(order)]
