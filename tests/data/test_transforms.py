"""Shapes for every kind of clip, draws that are one for the clip, and mixing as timm does it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from dvfl.config import InputConfig
from dvfl.data.transforms import TestTransform, TrainTransform, mix_batch, normalise
from dvfl.randomness import torch_seeded

SMALL = InputConfig(frames=4, img_size=32, short_side=36)
ALL_ON = SMALL.model_copy(update={"flip": 1.0, "color_jitter": 1.0, "greyscale": 1.0})
SHAPES = [(72, 72), (48, 64), (64, 48), (47, 63), (5, 9), (1, 30), (30, 1), (1, 1), (36, 400)]


def clip(height=48, width=64, frames=4):
    return np.random.default_rng(0).integers(0, 255, (frames, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("settings", [SMALL, ALL_ON], ids=["plain", "all on"])
def test_training_views_of_any_clip(shape, settings):
    view = TrainTransform(settings, allow_flip=True)(clip(*shape), (0, "view", 0, "a"))
    assert view.shape == (4, 3, 32, 32)
    assert view.dtype == torch.uint8
    assert view.is_contiguous()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("crops", [1, 3])
def test_test_views_of_any_clip(shape, crops):
    views = TestTransform(SMALL, crops)(clip(*shape))
    assert views.shape == (crops, 4, 3, 32, 32)
    assert views.dtype == torch.uint8


def test_a_view_is_a_function_of_its_address():
    transform = TrainTransform(ALL_ON, allow_flip=True)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one = transform(clip(), (0, "view", 3, "a"))
    assert torch.equal(torch.get_rng_state(), state), "draws must not leak out"
    torch.manual_seed(2)
    assert torch.equal(transform(clip(), (0, "view", 3, "a")), one)
    assert not torch.equal(transform(clip(), (0, "view", 4, "a")), one)


def test_crop_and_flip_are_one_for_the_clip():
    still = np.repeat(clip(frames=1), 4, axis=0)
    view = TrainTransform(SMALL, allow_flip=True)(still, (0, "a"))
    assert all(torch.equal(frame, view[0]) for frame in view)


def test_jitter_is_redrawn_for_every_frame():
    still = np.repeat(clip(frames=1), 4, axis=0)
    settings = SMALL.model_copy(update={"color_jitter": 1.0})
    view = TrainTransform(settings, allow_flip=True)(still, (0, "a"))
    assert not any(torch.equal(frame, view[0]) for frame in view[1:])


def test_greyscale_is_of_the_whole_clip():
    settings = SMALL.model_copy(update={"greyscale": 0.5})
    transform = TrainTransform(settings, allow_flip=True)
    grey = []
    for number in range(40):
        view = transform(clip(), (0, number))
        by_frame = (view[:, 0] == view[:, 1]).flatten(1).all(1)
        assert by_frame.all() or not by_frame.any()
        grey.append(bool(by_frame.all()))
    assert 5 < sum(grey) < 35


def test_no_flip_where_left_and_right_are_classes():
    ramp = np.broadcast_to(np.arange(64, dtype=np.uint8)[None, None, :, None], (4, 48, 64, 3))
    settings = SMALL.model_copy(update={"flip": 1.0})

    def slope(allow_flip):
        views = [TrainTransform(settings, allow_flip)(ramp, (0, k)).float() for k in range(20)]
        return {bool(view[..., -1].mean() > view[..., 0].mean()) for view in views}

    assert slope(allow_flip=False) == {True}
    assert slope(allow_flip=True) == {False}


def test_centre_and_three_crops_lie_where_they_should():
    columns = np.broadcast_to(np.arange(96, dtype=np.uint8)[None, None, :, None], (2, 32, 96, 3))
    three = TestTransform(InputConfig(img_size=32, short_side=32), crops=3)(columns)
    assert three[:, 0, 0, 0, 0].tolist() == [0, 32, 64]
    upright = three[:, 0, 0, 0, 0].tolist()
    portrait = TestTransform(InputConfig(img_size=32, short_side=32), crops=3)(columns.transpose(0, 2, 1, 3))
    assert portrait[:, 0, 0, 0, 0].tolist() == upright
    one = TestTransform(InputConfig(img_size=32, short_side=32), crops=1)(columns)
    assert one[0, 0, 0, 0, 0] == 32
    with pytest.raises(ValueError, match="1 or 3"):
        TestTransform(SMALL, crops=2)


# The three below compare with torchvision alone, its own defaults and ImageNet's constants written out: a default that
# changes is found.


def resized_plainly(chosen):
    how = {"interpolation": v2.InterpolationMode.BICUBIC} if chosen else {}
    frames = clip(60, 90)
    plain = v2.functional.resize(torch.from_numpy(frames).permute(0, 3, 1, 2), [36], antialias=True, **how)
    return SMALL.model_copy(update=chosen), how, frames, plain


@pytest.mark.parametrize("chosen", [{}, {"interpolation": "bicubic"}], ids=["default", "bicubic"])
def test_a_training_view_is_torchvisions(chosen):
    settings, how, frames, plain = resized_plainly(chosen)
    with torch_seeded(0, "a"):
        cropped = v2.RandomResizedCrop((32, 32), scale=(0.5, 1.0), ratio=(0.75, 4 / 3), antialias=True, **how)(plain)
        expected = v2.RandomHorizontalFlip(0.5)(cropped)
    assert torch.equal(TrainTransform(settings, allow_flip=True)(frames, (0, "a")), expected)


@pytest.mark.parametrize("chosen", [{}, {"interpolation": "bicubic"}], ids=["default", "bicubic"])
def test_a_test_view_is_torchvisions(chosen):
    settings, _, frames, plain = resized_plainly(chosen)
    assert torch.equal(TestTransform(settings)(frames)[0], v2.functional.center_crop(plain, [32, 32]))


@pytest.mark.parametrize("chosen", [{}, {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.5, 1.0)}], ids=["default", "own"])
def test_normalised_inputs_are_torchvisions(chosen):
    views = torch.from_numpy(clip()).permute(0, 3, 1, 2)
    by = chosen or {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    out = normalise(views, SMALL.model_copy(update=chosen))
    assert out.dtype == torch.float32
    assert torch.equal(out, v2.Normalize(**by)(views / 255))
    assert normalise(views.expand(2, 5, 4, 3, 48, 64), SMALL).shape == (2, 5, 4, 3, 48, 64)


def mixed(address, batch=6, **changes):
    views = torch.arange(batch).float().view(-1, 1, 1, 1, 1).expand(-1, 4, 3, 8, 8)
    settings = {"mixup": 0.8, "cutmix": 1.0, "probability": 1.0, "label_smoothing": 0.1}
    return views, mix_batch(
        views,
        torch.arange(batch) // 3,
        num_classes=3,
        address=address,
        **{**settings, **changes},
    )


@pytest.mark.parametrize("changes", [{"cutmix": 0.0}, {"mixup": 0.0}], ids=["mixup", "cutmix"])
@pytest.mark.parametrize("seed", range(5))
def test_targets_follow_the_pixels(changes, seed):
    views, (out, targets) = mixed((seed, "mix"), label_smoothing=0.0, **changes)
    assert out.shape == views.shape
    assert torch.equal(out[:, 0], out[:, 3]), "all frames share one box and lambda"
    assert torch.equal(views[:, 0, 0, 0, 0], torch.arange(6.0)), "the input stays as it was"
    replaced = (out - views).abs().mean((1, 2, 3, 4)) / (views - views.flip(0))[:, 0, 0, 0, 0].abs()
    own = targets[torch.arange(6), torch.arange(6) // 3]  # the other half is of the other class
    torch.testing.assert_close(own, 1 - replaced, atol=1e-5, rtol=0)
    torch.testing.assert_close(targets.sum(1), torch.ones(6))


def test_mixing_is_a_function_of_its_address():
    state = np.random.get_state()[1].copy()
    _, one = mixed((0, "mix", 0, 5))
    assert np.array_equal(np.random.get_state()[1], state), "draws must not leak out"
    np.random.seed(3)
    _, again = mixed((0, "mix", 0, 5))
    _, other = mixed((0, "mix", 0, 6))
    assert torch.equal(one[0], again[0])
    assert torch.equal(one[1], again[1])
    assert not torch.equal(one[1], other[1])


def test_mixing_happens_as_often_as_asked():
    changed = 0
    for number in range(60):
        views, (out, _) = mixed((0, number), probability=0.5)
        changed += not torch.equal(out, views)
    assert 15 < changed < 45


@pytest.mark.parametrize(
    "changes",
    [{"probability": 0.0}, {"mixup": 0.0, "cutmix": 0.0}, {"batch": 5}],
    ids=["never", "off", "odd batch"],
)
def test_labels_are_smoothed_without_mixing_too(changes):
    views, (out, targets) = mixed((0, "mix"), **changes)
    assert torch.equal(out, views)
    assert targets.dtype == torch.float32
    torch.testing.assert_close(targets[4], torch.tensor([0.1 / 3, 0.9 + 0.1 / 3, 0.1 / 3]))
