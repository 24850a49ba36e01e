"""Colour jitter of clips: torchvision's, draw for draw and level for level but for the rounding of a hue, in place.

torchvision goes from uint8 to float32 and back at every change, in the layout in which it finds the frame, and turns a
hue case by case. Here a frame stays in float32 planes from its first change to its last, and all frames of a clip share
them. What each of these gains is in `dvfl/bench/README.md`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2

CHANNELS, SPARE = 3, 8  # planes of a frame, and those that its changes may use
LEVELS = 255


class ColorJitter(v2.ColorJitter):
    """uint8 (T, 3, H, W) -> the same, planar; the four changes' order and factors are drawn anew for every frame."""

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        draw = super().make_params
        return {"frames": [draw([frame]) for clip in flat_inputs for frame in clip]}

    def transform(self, inpt: Tensor, params: dict[str, Any]) -> Tensor:
        planes = torch.empty(CHANNELS + SPARE, *inpt.shape[-2:])
        image, spare = planes[:CHANNELS], planes[CHANNELS:]
        jittered = torch.empty(inpt.shape, dtype=torch.uint8)
        for frame, drawn, result in zip(inpt, params["frames"], jittered, strict=True):
            image.copy_(frame)
            for number in drawn["fn_idx"].tolist():
                factor, change = CHANGES[number]
                if drawn[factor] is not None:
                    change(image, drawn[factor], spare)
            result.copy_(image)
        return jittered


def scale_brightness(image: Tensor, factor: float, spare: Tensor) -> None:
    """image: whole levels as float32 (3, H, W), changed in place, here and below; spare: float32 (8, H, W)."""
    _whole_levels(image.mul_(factor))


def scale_contrast(image: Tensor, factor: float, spare: Tensor) -> None:
    """Differences from the frame's mean grey."""
    mean = _grey(image, spare[0]).mean()
    _whole_levels(image.mul_(factor).add_(mean, alpha=1 - factor))


def scale_saturation(image: Tensor, factor: float, spare: Tensor) -> None:
    """Differences of each pixel from its grey."""
    grey = _grey(image, spare[0])
    _whole_levels(image.mul_(factor).add_(grey, alpha=1 - factor))


def turn_hue(image: Tensor, turns: float, spare: Tensor) -> None:
    """The hue of every pixel turned by a part of the circle, -0.5 to 0.5; HSV's value and chroma stay.

    With v the largest channel, m the least and c = v - m, a turn by s sixths of the circle, 0 to 1, towards green makes
    red clamp(red - green + (v + m) / 2 + (1/2 - s) c sign(green - blue), m, v): each of HSV's six cases is a part of
    it. Green and blue go likewise, each with the channels that follow it on the circle, and turned the other way, the
    circle runs backwards. Thirds of the circle are a change of places.
    """
    thirds = round(3 * turns)
    if thirds:
        image.copy_(image.roll(thirds, dims=0))
    sixths = 6 * (turns - thirds / 3)
    red, green, blue = image
    value, least, chroma, middle, side, *differences = spare
    torch.maximum(torch.maximum(red, green, out=value), blue, out=value)
    torch.minimum(torch.minimum(red, green, out=least), blue, out=least)
    torch.sub(value, least, out=chroma)
    torch.add(value, least, out=middle).add_(1).mul_(0.5)  # and half a level, to round
    circle = (red, green, blue) if sixths > 0 else (blue, green, red)
    for channel, following, difference in zip(circle, _rotated(circle), differences, strict=True):
        torch.sub(channel, following, out=difference)
    for channel, difference, following in zip(circle, differences, _rotated(differences), strict=True):
        torch.copysign(chroma, following, out=side)
        torch.add(difference, side, alpha=0.5 - abs(sixths), out=channel).add_(middle).clamp_(least, value).floor_()


CHANGES = {
    0: ("brightness_factor", scale_brightness),
    1: ("contrast_factor", scale_contrast),
    2: ("saturation_factor", scale_saturation),
    3: ("hue_factor", turn_hue),
}  # by torchvision's numbers


def _grey(image: Tensor, out: Tensor) -> Tensor:
    """Luminance in whole levels, (H, W), in `out`."""
    red, green, blue = image
    return torch.mul(red, 0.2989, out=out).add_(green, alpha=0.587).add_(blue, alpha=0.114).floor_()


def _whole_levels(image: Tensor) -> None:
    """As a conversion to uint8 and back, which is what torchvision does after each change."""
    image.clamp_(0, LEVELS).floor_()


def _rotated(items: Sequence[Tensor]) -> list[Tensor]:
    """Each one's follower on a circle."""
    return [*items[1:], items[0]]
