"""Whether a model takes the arguments that a config changes: told before any work, by the names alone."""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Mapping
from typing import Any

from dvfl.models.registry import TIMM, TORCHVISION, VIDEO_FOCALNET_ARGUMENTS, VIDEO_FOCALNETS, builder_of

ELSEWHERE = {
    "num_classes": "is how many classes the data set has; leave it out",
    "num_frames": "is set by input.frames; leave it out here",
    "img_size": "is set by input.img_size; leave it out here",
}


_answered: dict[str, str | None] = {}


def unknown_override(name: str, overrides: Mapping[str, Any], **clips: int) -> tuple[str, list[str]] | None:
    """The first override that the model has no argument for, and the arguments that it has, as far as they are known.

    `clips` are num_frames and img_size. Imports torch, unless the model is a VideoFocalNet.
    """
    if name in VIDEO_FOCALNETS:
        known = list(VIDEO_FOCALNET_ARGUMENTS)
        return next(((key, known) for key in overrides if key not in known), None)
    if name.startswith(TIMM) or name in TORCHVISION:  # hand on whatever they are given
        asked = f"{name} {sorted(overrides.items())} {sorted(clips.items())}"  # arms and trials ask alike, in seconds
        if asked not in _answered:
            _answered[asked] = _refused(name, overrides, **clips)
        refused = _answered[asked]
        return None if refused is None else (refused, [])
    try:
        arguments = inspect.signature(builder_of(name)).parameters
    except ValueError:  # of a builder that is no Python
        return None
    if any(argument.kind is argument.VAR_KEYWORD for argument in arguments.values()):
        return None
    known = [argument for argument in arguments if argument not in ELSEWHERE]
    return next(((key, known) for key in overrides if key not in known), None)


def _refused(name: str, overrides: Mapping[str, Any], **clips: int) -> str | None:
    """The override that building the network, without memory for its weights, stumbles over."""
    import torch

    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            builder_of(name)(num_classes=2, **clips, **overrides)
    except TypeError as error:
        found = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        return found[1] if found and found[1] in overrides else None
    except Exception:  # a value, or a network that cannot be built so: the training says
        return None
    return None
