"""Models by name. Importing this module does not import torch, so configs can be checked quickly.

There are the VideoFocalNets below; torchvision's video models by torchvision's names (`r3d_18`); timm's image models by
timm's names after `timm/` (`timm/resnet18`), each frame by itself and the logits averaged over frames. A model of your
own takes one line, in a file or module that the config names under `plugins`, and can then be named like the others:

    @register_model
    def my_net(*, num_classes, num_frames, img_size, **overrides): ...

All are given the same input, (B, T, 3, H, W) normalised by `input.mean` and `input.std` (ImageNet's by default),
whatever a model's own weights were trained with.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

Builder = Callable[..., "nn.Module"]
Check = Callable[..., None]

TIMM = "timm/"

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

# What each of them takes but for what the data set and the input say; kept here for checks without torch.
VIDEO_FOCALNET_ARGUMENTS = (
    "embed_dim",
    "depths",
    "focal_levels",
    "focal_windows",
    "focal_factor",
    "mlp_ratio",
    "drop_path_rate",
    "tubelet_size",
    "use_conv_embed",
    "use_layerscale",
    "layerscale_value",
    "use_postln",
    "use_postln_in_modulation",
    "normalize_modulator",
    "in_chans",
    "init",
)

TORCHVISION = (
    "r3d_18",
    "mc3_18",
    "r2plus1d_18",
    "s3d",
    "mvit_v1_b",
    "mvit_v2_s",
    "swin3d_t",
    "swin3d_s",
    "swin3d_b",
)

_builders: dict[str, Builder] = {}
_checks: dict[str, Check] = {}


def register_model(builder: Builder, name: str | None = None, check: Check | None = None) -> Builder:
    """Make a model known by name; usable as a decorator.

    Args:
        builder: called with ``num_classes``, ``num_frames``, ``img_size`` and any overrides, by
            keyword. Returns a module that maps (B, T, 3, H, W) to logits (B, num_classes).
        name: the builder's own name unless given.
        check: called as the builder is, without ``num_classes``, as soon as a config names the
            model; raises ValueError for what the model cannot take. It should not import torch.

    Returns:
        The builder, unchanged.

    Raises:
        ValueError: if the name is taken.
    """
    name = name or builder.__name__
    if name in _builders:
        raise ValueError(f"a model named {name!r} is registered already; choose another name")
    _builders[name] = builder
    if check is not None:
        _checks[name] = check
    return builder


def model_names() -> list[str]:
    """Names that are registered, in the order of registration; ``create_model`` knows timm's as well."""
    return list(_builders)


def check_name(name: str) -> None:
    """Raises ValueError, with the nearest known name, for a name that ``create_model`` does not know.

    A name of timm's is looked up in timm, which imports torch.
    """
    if name.startswith(TIMM):
        from dvfl.models.per_frame import check_timm_name

        check_timm_name(name.removeprefix(TIMM))
    elif name not in _builders:
        nearest = difflib.get_close_matches(name, _builders, n=1, cutoff=0.0)[0]
        raise ValueError(
            f"is not a registered model; did you mean {nearest!r}? There are {', '.join(_builders)} and "
            f"{TIMM}<any image model of timm>; one of your own is registered by a file or module under `plugins`"
        )


def check_model(name: str, *, num_frames: int, img_size: int, **overrides: Any) -> None:
    """Raises ValueError for clips or overrides that a model is known not to take, without building it."""
    if name.startswith(TIMM):
        _without_weights(**overrides)
    elif name in _checks:
        _checks[name](num_frames=num_frames, img_size=img_size, **overrides)


def builder_of(name: str) -> Builder:
    """What builds the model of a known name."""
    return _builders[name] if name in _builders else partial(_timm, name.removeprefix(TIMM))


def create_model(
    name: str, *, num_classes: int, num_frames: int = 8, img_size: int = 224, **overrides: Any
) -> nn.Module:
    """Build a model with initial weights.

    Args:
        name: one of ``model_names()``, or of timm's image models after ``timm/``.
        num_classes: number of logits.
        num_frames: frames of a clip.
        img_size: height and width of a frame.
        overrides: arguments of the model that replace those of its size.

    Raises:
        ValueError: if the name is unknown, or the model is known not to take such clips.
    """
    try:
        check_name(name)
    except ValueError as error:
        raise ValueError(f"{name!r} {error}") from error
    check_model(name, num_frames=num_frames, img_size=img_size, **overrides)
    return builder_of(name)(num_classes=num_classes, num_frames=num_frames, img_size=img_size, **overrides)


def _video_focalnet(size: dict[str, Any], **arguments: Any) -> nn.Module:
    from dvfl.models.video_focalnet import VideoFocalNet  # imports torch, hence late

    return VideoFocalNet(**{**size, **arguments})


def _torchvision(name: str, **arguments: Any) -> nn.Module:
    from dvfl.models.torchvision_video import torchvision_video_model

    return torchvision_video_model(name, **arguments)


def _timm(name: str, **arguments: Any) -> nn.Module:
    from dvfl.models.per_frame import timm_per_frame

    return timm_per_frame(name, **arguments)


def _without_weights(**overrides: Any) -> None:
    """A network is built with initial weights; others are a file, so that what made a result can be told."""
    fetched = {"weights", "pretrained", "checkpoint_path"} & overrides.keys()
    if fetched:
        raise ValueError(f"model_overrides fetch no weights; leave out {', '.join(sorted(fetched))}")


def _torchvision_takes(name: str, *, num_frames: int, img_size: int, **overrides: Any) -> None:
    """What torchvision's models take: any clip but for S3D, which halves often, and MViT, which cuts without a rest."""
    _without_weights(**overrides)
    given = f"not {num_frames} of {img_size} x {img_size}"
    if name == "s3d" and (num_frames < 5 or img_size < 17):
        raise ValueError(f"s3d takes 5 frames or more of 17 x 17 pixels or more, {given}")
    if name.startswith("mvit") and (num_frames % 2 or img_size % 4):
        raise ValueError(f"{name} takes an even number of frames, of sides that 4 divides, {given}")


for _name, _size in VIDEO_FOCALNETS.items():
    register_model(partial(_video_focalnet, _size), name=_name)

for _name in TORCHVISION:
    register_model(partial(_torchvision, _name), name=_name, check=partial(_torchvision_takes, _name))
