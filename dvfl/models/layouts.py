"""The names that weights of focal modulation networks bear in others' files, and what we call them.

focalnet   image FocalNets as their owners released them: our names, and no temporal branch
timm       the same in timm: other names, linear maps as 1x1 convolutions, downsampling before a stage, not after
video      our names: released Video-FocalNet and DVFL-Net checkpoints, files of dvfl, and models of other families
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Literal

from torch import Tensor

Layout = Literal["focalnet", "timm", "video"]
IMAGE_LAYOUTS: tuple[Layout, ...] = ("focalnet", "timm")

_TIMM = {
    r"^stem\.": "patch_embed.",
    r"^head\.fc\.": "head.",
    r"\.norm([12])_post\.": r".norm\1.",
    r"\.modulation\.norm\.": ".modulation.ln.",
    r"\.ls([12])\.gamma$": r".gamma_\1",
}
_TIMM_LINEAR = re.compile(r"\.(modulation\.(f|proj)|mlp\.fc[12])\.weight$")
_TIMM_DOWNSAMPLE = re.compile(r"^layers\.(\d+)\.downsample\.")


def is_temporal(name: str) -> bool:
    """Whether a weight belongs to the temporal branch, which image models do not have."""
    return "_temporal." in name


def layout_of(names: Collection[str], expected: Collection[str]) -> Layout:
    """Layout of a file that holds weights of these names, for a model that expects those."""
    if "stem.proj.weight" in names and "stem.proj.weight" not in expected:
        return "timm"
    image = "patch_embed.proj.weight" in names and not any(map(is_temporal, names))
    return "focalnet" if image and any(map(is_temporal, expected)) else "video"


def in_our_names(tensors: Mapping[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """The weights as VideoFocalNet names and shapes them."""
    if layout != "timm":
        return dict(tensors)
    return {
        _from_timm(name): tensor.flatten(1) if _TIMM_LINEAR.search(name) else tensor for name, tensor in tensors.items()
    }


def _from_timm(name: str) -> str:
    name = _TIMM_DOWNSAMPLE.sub(lambda stage: f"layers.{int(stage[1]) - 1}.downsample.", name)
    for pattern, replacement in _TIMM.items():
        name = re.sub(pattern, replacement, name)
    return name
