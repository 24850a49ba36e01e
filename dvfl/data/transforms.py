"""From frames to views: resizing, crops, flips, colours; then, per batch, normalising and mixing.

Views are uint8 until they are normalised: a quarter of the memory to keep and to send.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torchvision.transforms import v2

from dvfl.config import InputConfig
from dvfl.data.jitter import ColorJitter
from dvfl.randomness import numpy_seeded, torch_seeded


class TrainTransform:
    """Random view of a clip, as in FACTS of the released recipe: a crop, flip and colours.

    The crop box, the flip, and whether colours change, are drawn once for the clip; the jitter's
    strengths are drawn again for every frame.
    """

    def __init__(self, input: InputConfig, allow_flip: bool) -> None:
        size = (input.img_size, input.img_size)
        jitter = v2.Identity()
        if input.color_jitter:  # its code is compiled, which a run without it is spared
            jitter = ColorJitter(input.brightness, input.contrast, input.saturation, input.hue)
        self.short_side, self.interpolation = input.short_side, v2.InterpolationMode(input.interpolation)
        crop = {"scale": input.crop_area, "ratio": input.crop_aspect}
        self._random = v2.Compose(
            [
                v2.RandomResizedCrop(size, **crop, interpolation=self.interpolation, antialias=True),
                v2.RandomHorizontalFlip(input.flip if allow_flip else 0.0),
                v2.RandomApply([jitter], p=input.color_jitter),
                v2.RandomGrayscale(input.greyscale),
            ]
        )

    def __call__(self, frames: np.ndarray, address: tuple[str | int, ...]) -> Tensor:
        """uint8 frames (T, H, W, 3) -> uint8 (T, 3, S, S), drawn for `address` alone."""
        clip = resize_short_side(frames, self.short_side, self.interpolation)
        with torch_seeded(*address):
            return self._random(clip).contiguous()


class TestTransform:
    """Test crops of a clip: its centre, or three along its longer side.

    One crop is the centre of the clip resized to `short_side` (256 -> 224 in the paper); three
    crops span the clip resized to `img_size`.
    """

    __test__ = False  # no test, whatever its name says

    def __init__(self, input: InputConfig, crops: int = 1) -> None:
        if crops not in (1, 3):
            raise ValueError(f"crops: 1 or 3, not {crops}")
        self.crops, self.size, self.interpolation = crops, input.img_size, v2.InterpolationMode(input.interpolation)
        self.short_side = input.short_side if crops == 1 else input.img_size

    def __call__(self, frames: np.ndarray) -> Tensor:
        """uint8 frames (T, H, W, 3) -> uint8 (crops, T, 3, S, S)."""
        clip = resize_short_side(frames, self.short_side, self.interpolation)
        spare_height, spare_width = clip.shape[-2] - self.size, clip.shape[-1] - self.size
        shares = (1,) if self.crops == 1 else (0, 1, 2)  # halves of the spare pixels
        corners = [(spare_height * share // 2, spare_width * share // 2) for share in shares]
        return torch.stack([clip[:, :, top : top + self.size, left : left + self.size] for top, left in corners])


def resize_short_side(frames: np.ndarray, short_side: int, interpolation: v2.InterpolationMode) -> Tensor:
    """uint8 frames (T, H, W, 3) -> uint8 (T, 3, H', W') whose short side is `short_side`."""
    clip = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)
    if min(clip.shape[-2:]) == short_side:
        return clip
    return v2.functional.resize(clip, [short_side], interpolation=interpolation, antialias=True)


def normalise(views: Tensor, input: InputConfig) -> Tensor:
    """uint8 (..., 3, H, W) -> float32, (views / 255 - mean) / std as the input says, same device."""
    mean = torch.tensor(input.mean, device=views.device).view(3, 1, 1)
    std = torch.tensor(input.std, device=views.device).view(3, 1, 1)
    return (views / 255).sub_(mean).div_(std)  # in place: two copies of the batch fewer


def mix_batch(
    views: Tensor,
    labels: Tensor,
    *,
    num_classes: int,
    mixup: float,
    cutmix: float,
    probability: float,
    label_smoothing: float,
    cutmix_share: float = 0.5,
    address: tuple[str | int, ...],
) -> tuple[Tensor, Tensor]:
    """Mixup or CutMix of a micro-batch; where both are on, CutMix with chance `cutmix_share`.

    Float views (B, T, 3, H, W) and integer labels (B,) -> mixed views of the same shape and soft
    targets (B, num_classes), smoothed whether or not this batch is mixed. One lambda and one
    pairing (first with last) for the batch. Mixing needs an even batch; an odd one, which only an
    epoch's remainder can be, is smoothed and not mixed.
    """
    if len(views) % 2 or not (mixup or cutmix):
        hard = functional.one_hot(labels, num_classes).float()
        return views, hard * (1 - label_smoothing) + label_smoothing / num_classes
    from timm.data.mixup import Mixup  # heavy, and most runs do not mix

    mix = Mixup(
        mixup_alpha=mixup,
        cutmix_alpha=cutmix,
        prob=probability,
        switch_prob=cutmix_share,
        label_smoothing=label_smoothing,
        num_classes=num_classes,
    )
    # timm mixes images in place: time joins the channels, so that all frames share one box.
    images = views.flatten(1, 2).clone()
    with numpy_seeded(*address):
        images, targets = mix(images, labels)
    return images.unflatten(1, views.shape[1:3]), targets
