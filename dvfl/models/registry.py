"""Models by name. Importing this module does not import torch, so configs can be checked quickly.

A model of your own takes one line, and can then be named wherever the sizes below can:

    @register_model
    def my_net(*, num_classes, num_frames, img_size, **overrides): ...
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

Builder = Callable[..., "nn.Module"]

# What sets the sizes apart; everything else is VideoFocalNet's default. For vfl_net the released
# files disagree about stochastic depth (0.2 alone, 0.1 distilled): distilled is the paper's model.
VIDEO_FOCALNETS: dict[str, dict[str, Any]] = {
    "video_focalnet_base": {"depths": (2, 2, 18, 2), "embed_dim": 128, "drop_path_rate": 0.5},
    "video_focalnet_small": {"depths": (2, 2, 18, 2), "embed_dim": 96, "drop_path_rate": 0.3},
    "video_focalnet_tiny": {"depths": (2, 2, 6, 2), "embed_dim": 96, "drop_path_rate": 0.2},
    "vfl_net": {"depths": (1, 1, 2, 1), "embed_dim": 96, "drop_path_rate": 0.1},
    # Reduced teacher and student, to demonstrate the method on CPUs. No size of the paper.
    "video_focalnet_w24_d1121": {
        "depths": (1, 1, 2, 1),
        "embed_dim": 24,
        "drop_path_rate": 0.0,
        "init": "narrow",
    },
    "video_focalnet_w12_d1121": {
        "depths": (1, 1, 2, 1),
        "embed_dim": 12,
        "drop_path_rate": 0.0,
        "init": "narrow",
    },
}

_builders: dict[str, Builder] = {}


def register_model(builder: Builder, name: str | None = None) -> Builder:
    """Make a model known by name; usable as a decorator.

    Args:
        builder: called with ``num_classes``, ``num_frames``, ``img_size`` and any overrides, by
            keyword. Returns a module that maps (B, T, 3, H, W) to logits (B, num_classes).
        name: the builder's own name unless given.

    Returns:
        The builder, unchanged.

    Raises:
        ValueError: if the name is taken.
    """
    name = name or builder.__name__
    if name in _builders:
        raise ValueError(f"a model named {name!r} is registered already; choose another name")
    _builders[name] = builder
    return builder


def model_names() -> list[str]:
    """Names that ``create_model`` knows, in the order of registration."""
    return list(_builders)


def create_model(
    name: str, *, num_classes: int, num_frames: int = 8, img_size: int = 224, **overrides: Any
) -> nn.Module:
    """Build a registered model with initial weights.

    Args:
        name: one of ``model_names()``.
        num_classes: number of logits.
        num_frames: frames of a clip.
        img_size: height and width of a frame.
        overrides: arguments of the model that replace those of its size.

    Raises:
        ValueError: if the name is unknown.
    """
    if name not in _builders:
        nearest = difflib.get_close_matches(name, _builders, n=1, cutoff=0.0)[0]
        raise ValueError(f"unknown model {name!r}; did you mean {nearest!r}? Known: {', '.join(_builders)}")
    return _builders[name](num_classes=num_classes, num_frames=num_frames, img_size=img_size, **overrides)


def _video_focalnet(size: dict[str, Any], **arguments: Any) -> nn.Module:
    from dvfl.models.video_focalnet import VideoFocalNet  # imports torch, hence late

    return VideoFocalNet(**{**size, **arguments})


for _name, _size in VIDEO_FOCALNETS.items():
    register_model(partial(_video_focalnet, _size), name=_name)
