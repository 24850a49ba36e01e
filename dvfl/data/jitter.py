"""Colour jitter of clips: torchvision's, draw for draw and level for level but for the rounding of a hue.

torchvision goes over a frame dozens of times, and turns a hue case by case. Here the drawn changes go to compiled code,
which makes one pass, or two where it needs a mean: what that gains is in `dvfl/bench/README.md`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2

FACTORS = ("brightness_factor", "contrast_factor", "saturation_factor", "hue_factor")  # by torchvision's numbers


class ColorJitter(v2.ColorJitter):
    """uint8 (T, 3, H, W) -> the same, planar; the four changes' order and factors are drawn anew for every frame.

    A hue, which is torchvision's within a level, goes without HSV's cases. With v a pixel's largest channel, m its
    least and c = v - m, a turn by s sixths of the circle, 0 to 1, towards green makes red
    clamp(red - green + (v + m) / 2 + (1/2 - s) c sign(green - blue), m, v): each of the six cases is a part of it.
    Green and blue go likewise, each with the channels that follow it on the circle, and turned the other way, the
    circle runs backwards. Thirds of the circle are a change of places.
    """

    def __init__(self, *strengths: float) -> None:
        super().__init__(*strengths)
        _compiled()  # here, so that processes forked to make views have it

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        draw = super().make_params
        return {"frames": [draw([frame]) for clip in flat_inputs for frame in clip]}

    def transform(self, inpt: Tensor, params: dict[str, Any]) -> Tensor:
        frames = params["frames"]
        orders = [[k for k in drawn["fn_idx"].tolist() if drawn[FACTORS[k]] is not None] for drawn in frames]
        factors = [[drawn[FACTORS[k]] for k in order] for drawn, order in zip(frames, orders, strict=True)]
        return change_colours(inpt, np.array(orders, np.int64), np.array(factors, np.float64))


def change_colours(clip: Tensor, numbers: np.ndarray, factors: np.ndarray) -> Tensor:
    """uint8 (T, 3, H, W) of any strides -> the same, planar; fastest from channels-last, as a crop leaves it.

    A frame's changes in their order are a row of `numbers`, int64 (T, K), torchvision's: 0 to 3 for brightness,
    contrast, which comes once at most, saturation and hue; and of `factors`, float64 (T, K).
    """
    changed = torch.empty(clip.shape, dtype=torch.uint8)
    pixels = clip.permute(0, 2, 3, 1).contiguous().flatten(1)
    _compiled()(pixels.numpy(), changed.flatten(2).numpy(), numbers, factors)
    return changed


def _compiled():
    from dvfl.data.jitter_kernel import jitter  # numba is heavy, and most runs do not jitter

    return jitter
