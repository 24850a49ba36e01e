"""The jitter against torchvision's own: each change to the level, a hue within one, the same draws for each frame."""

from __future__ import annotations

import pytest
import torch
from torchvision.transforms import v2

from dvfl.data.jitter import SPARE, ColorJitter, scale_brightness, scale_contrast, scale_saturation, turn_hue

STRENGTHS = (0.4, 0.4, 0.2, 0.1)


def clip(frames=4):
    """uint8 (T, 3, H, W), channels last, as a crop leaves it."""
    draws = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (frames, 48, 64, 3), generator=draws, dtype=torch.uint8).permute(0, 3, 1, 2)


def corners():
    """Every colour of six levels a channel: among them grey ones, and ones with two equal channels."""
    return torch.cartesian_prod(*[torch.tensor([0, 1, 100, 127, 254, 255])] * 3).T.reshape(3, 6, 36).byte()


def changed(change, image, factor):
    planes = image.float().contiguous()
    change(planes, factor, torch.full((SPARE, *planes.shape[1:]), torch.nan))
    return planes


@pytest.mark.parametrize("factor", [0.0, 0.6, 0.83, 1.0, 1.17, 1.4])
@pytest.mark.parametrize(
    ("change", "theirs"),
    [
        (scale_brightness, v2.functional.adjust_brightness),
        (scale_contrast, v2.functional.adjust_contrast),
        (scale_saturation, v2.functional.adjust_saturation),
    ],
)
def test_a_change_is_torchvisions(change, theirs, factor):
    for image in (clip()[0], corners()):
        assert torch.equal(changed(change, image, factor), theirs(image, factor).float())


@pytest.mark.parametrize("turns", [-0.5, -1 / 3, -0.25, -0.1, -0.03, 0.0, 0.07, 0.1, 1 / 6, 0.2, 0.42, 0.5])
def test_hue_is_torchvisions_to_a_level(turns):
    for image in (clip()[0], corners()):
        off = changed(turn_hue, image, turns) - v2.functional.adjust_hue(image, turns).float()
        assert off.abs().max() <= 1
        assert off.mean().abs() < 0.3  # rounding, which torchvision does its own way


def test_jitter_draws_what_torchvision_draws_for_each_frame():
    ours, theirs = ColorJitter(*STRENGTHS), v2.ColorJitter(*STRENGTHS)
    off, moments = [], []
    for seed in range(15):
        torch.manual_seed(seed)
        own = ours(clip()).float()
        torch.manual_seed(seed)
        wanted = torch.stack([theirs(frame) for frame in clip()]).float()
        off.append((own - wanted).abs().max())
        moments.append([torch.stack([view.mean((2, 3)), view.std((2, 3))]) for view in (own, wanted)])
    assert max(off) <= 5  # levels: a difference of one, stretched by brightness, contrast and saturation
    own, wanted = [torch.stack(side) for side in zip(*moments, strict=True)]
    torch.testing.assert_close(own, wanted, atol=0.6, rtol=0)


def test_the_clip_stays_as_it_was():
    before = clip()
    view = ColorJitter(*STRENGTHS)(before)
    assert torch.equal(before, clip())
    assert view.shape == before.shape
    assert view.dtype == torch.uint8


def test_no_jitter_of_strength_zero():
    assert torch.equal(ColorJitter(0, 0, 0, 0)(clip()), clip())
