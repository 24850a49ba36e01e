"""The jitter against torchvision's own: each change to the level, a hue within one, the same draws for each frame."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from dvfl.data.jitter import ColorJitter, change_colours

STRENGTHS = (0.4, 0.4, 0.2, 0.1)
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
THEIRS = {
    BRIGHTNESS: v2.functional.adjust_brightness,
    CONTRAST: v2.functional.adjust_contrast,
    SATURATION: v2.functional.adjust_saturation,
    HUE: v2.functional.adjust_hue,
}


def clip(frames=4, height=48, width=64):
    """uint8 (T, 3, H, W), channels last, as a crop leaves it."""
    draws = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (frames, height, width, 3), generator=draws, dtype=torch.uint8).permute(0, 3, 1, 2)


def corners():
    """Every colour of six levels a channel: among them grey ones, and ones with two equal channels."""
    return torch.cartesian_prod(*[torch.tensor([0, 1, 100, 127, 254, 255])] * 3).T.reshape(3, 6, 36).byte()


def changed(image, *changes):
    """Changes, pairs of number and factor, of a frame (3, H, W)."""
    numbers, factors = [[number for number, _ in changes]], [[factor for _, factor in changes]]
    return change_colours(image[None], np.array(numbers, np.int64), np.array(factors, np.float64))[0]


@pytest.mark.parametrize("factor", [0.0, 0.6, 0.83, 1.0, 1.17, 1.4])
@pytest.mark.parametrize("change", [BRIGHTNESS, CONTRAST, SATURATION])
def test_a_change_is_torchvisions(change, factor):
    for image in (clip(1, 224, 224)[0], clip()[0], corners()):
        assert torch.equal(changed(image, (change, factor)), THEIRS[change](image, factor))


@pytest.mark.parametrize("turns", [-0.5, -1 / 3, -0.25, -0.1, -0.03, 0.0, 0.07, 0.1, 1 / 6, 0.2, 0.42, 0.5])
def test_hue_is_torchvisions_to_a_level(turns):
    for image in (clip()[0], corners()):
        off = changed(image, (HUE, turns)).float() - v2.functional.adjust_hue(image, turns).float()
        assert off.abs().max() <= 1
        assert off.mean().abs() < 0.3  # rounding, which torchvision does its own way


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)])
def test_changes_follow_each_other_in_their_order(order):
    changes = [(number, (1.31, 0.66, 1.19)[number]) for number in order]
    for image in (clip(1, 225, 223)[0], corners()):
        expected = image
        for number, factor in changes:
            expected = THEIRS[number](expected, factor)
        assert torch.equal(changed(image, *changes), expected)


@pytest.mark.parametrize("height, width", [(1, 1), (1, 7), (7, 1), (31, 33), (32, 64), (45, 47)])
def test_frames_of_any_size(height, width):
    for image in clip(2, height, width):
        for number in (BRIGHTNESS, CONTRAST, SATURATION):
            assert torch.equal(changed(image, (number, 1.3)), THEIRS[number](image, 1.3))


def test_strides_do_not_matter():
    whole = clip(3, 50, 70)
    views = [whole, whole[::2, :, 3:40, 5:66], whole.flip(-1), whole.transpose(2, 3), whole[:, :, ::2, 1::3]]
    for view in views:
        for laid_out in (view, view.contiguous()):
            torch.manual_seed(0)
            jittered = ColorJitter(*STRENGTHS)(laid_out)
            torch.manual_seed(0)
            assert torch.equal(jittered, ColorJitter(*STRENGTHS)(view.clone()))
            assert jittered.is_contiguous()


@pytest.mark.parametrize("frames", [1, 4])
def test_jitter_draws_what_torchvision_draws_for_each_frame(frames):
    ours, theirs = ColorJitter(*STRENGTHS), v2.ColorJitter(*STRENGTHS)
    off, moments = [], []
    for seed in range(15):
        torch.manual_seed(seed)
        own, next_own = ours(clip(frames)).float(), torch.rand(1)
        torch.manual_seed(seed)
        wanted, next_wanted = torch.stack([theirs(frame) for frame in clip(frames)]).float(), torch.rand(1)
        assert next_own == next_wanted
        off.append((own - wanted).abs().max())
        moments.append([torch.stack([view.mean((2, 3)), view.std((2, 3))]) for view in (own, wanted)])
    assert max(off) <= 5  # levels: a difference of one, stretched by brightness, contrast and saturation
    own, wanted = [torch.stack(side) for side in zip(*moments, strict=True)]
    torch.testing.assert_close(own, wanted, atol=0.6, rtol=0)


def test_without_a_hue_all_levels_are_torchvisions():
    strengths = (0.4, 0.4, 0.2, 0)
    for seed in range(15):
        torch.manual_seed(seed)
        own = ColorJitter(*strengths)(clip())
        torch.manual_seed(seed)
        assert torch.equal(own, torch.stack([v2.ColorJitter(*strengths)(frame) for frame in clip()]))


def test_the_clip_stays_as_it_was():
    before = clip()
    view = ColorJitter(*STRENGTHS)(before)
    assert torch.equal(before, clip())
    assert view.shape == before.shape
    assert view.dtype == torch.uint8


def test_no_jitter_of_strength_zero():
    assert torch.equal(ColorJitter(0, 0, 0, 0)(clip()), clip())


def test_the_compiler_comes_with_a_jitter_only():
    code = (
        "import sys, dvfl.data.clips; from dvfl.config import InputConfig; "
        "[(dvfl.data.clips.TrainTransform(InputConfig(color_jitter=chance), True), print('numba' in sys.modules)) "
        "for chance in (0, 0.5)]"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


def double(number):
    return 2 * number


@pytest.fixture
def compile_double(monkeypatch, tmp_path):
    """Compiles `double` as the jitter is, with a cache of its own."""
    from numba import config

    from dvfl.data.jitter_kernel import compiled

    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(double, "__qualname__", "double")

    def compile():
        double.__qualname__ = "double"
        return compiled("int64(int64)")(double)

    return compile


def test_what_is_compiled_is_kept(compile_double, tmp_path):
    assert compile_double()(21) == 42
    kept = {path.name: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nb?")}
    assert len(kept) == 2
    again = compile_double()
    assert again(21) == 42 and sum(again.stats.cache_hits.values()) == 1
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nb?")} == kept


@pytest.mark.parametrize("trouble", ["damaged", "empty", "no folder", "full disk"])
def test_a_cache_in_trouble_stops_nothing(compile_double, tmp_path, monkeypatch, trouble):
    from numba.core import caching

    if trouble in ("damaged", "empty"):
        compile_double()
        for path in tmp_path.rglob("*.nb?"):
            path.write_bytes(b"no pickle" if trouble == "damaged" else b"")
    elif trouble == "no folder":
        monkeypatch.setattr(caching._CacheLocator, "ensure_cache_path", refuse)
    else:
        monkeypatch.setattr(caching.IndexDataCacheFile, "_save_data", refuse)
    assert compile_double()(21) == 42


def refuse(*arguments):
    raise OSError(28, "No space left on device")
