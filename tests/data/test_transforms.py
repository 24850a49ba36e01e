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


# Those below compare with torchvision alone, its own defaults and ImageNet's constants written out: a default that
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


PAPER = InputConfig(
    frames=2, img_size=24, short_side=28, crop_area=(0.08, 1.0), color_jitter=0.8, greyscale=0.2, brightness=0.4,
    contrast=0.4, saturation=0.4, hue=0.1,
)  # fmt: skip


def frame_by_frame(frames, address):
    """The paper's augmentations by the plain calls, every one on every frame."""
    clip = torch.from_numpy(frames).permute(0, 3, 1, 2)
    views = [v2.functional.resize(frame, [28], antialias=True) for frame in clip]
    jitter = v2.ColorJitter(0.4, 0.4, 0.4, 0.1)
    with torch_seeded(*address):
        box = v2.RandomResizedCrop((24, 24), scale=(0.08, 1.0), ratio=(0.75, 4 / 3)).make_params([views[0]])
        views = [v2.functional.resized_crop(view, size=[24, 24], antialias=True, **box) for view in views]
        if torch.rand(1) < 0.5:
            views = [v2.functional.horizontal_flip(view) for view in views]
        if torch.rand(1) < 0.8:
            views = [jitter(view) for view in views]
        if torch.rand(1) < 0.2:
            views = [v2.functional.rgb_to_grayscale(view, num_output_channels=3) for view in views]
    return torch.stack(views)


def leaning(height=40, width=56):
    """Two frames, brighter to the right and bluer to the bottom, with noise: a flip and a change of colours show."""
    noise = np.random.default_rng(1).normal(0, 12, (2, height, width, 3))
    across, down = np.linspace(40, 200, width)[:, None], np.linspace(-40, 40, height)[:, None, None]
    return (across + down * np.array([-1, 0, 1]) + noise).clip(0, 255).astype(np.uint8)


def test_the_papers_augmentations_are_torchvisions_on_fixed_seeds():
    transform, frames = TrainTransform(PAPER, allow_flip=True), leaning()
    for seed in range(40):
        off = (transform(frames, (seed,)).float() - frame_by_frame(frames, (seed,)).float()).abs()
        assert off.max() <= 5  # levels: of a hue, stretched by what comes after it
        assert off.mean() <= 0.5


def test_the_papers_augmentations_have_torchvisions_moments():
    """Of draws that have nothing in common; four standard errors of the difference of two means."""

    def seen(transform, seeds):
        rows = []
        for seed in seeds:
            view = transform((seed,)).float()
            lean = view[..., 12:].mean() - view[..., :12].mean()  # its sign is the flip's
            spread = (view[:, 0] - view[:, 2]).abs().mean()  # none where it is grey
            flicker = (view[0] - view[1]).mean().abs()  # of a jitter that each frame has for itself
            rows.append([view.mean(), view.std(), lean.sign(), lean.abs(), spread, spread == 0, flicker > 2])
        rows = torch.tensor(rows)
        return torch.cat([rows, (rows - rows.mean(0)) ** 2], dim=1)

    transform, frames = TrainTransform(PAPER, allow_flip=True), leaning()
    ours = seen(lambda address: transform(frames, address), range(500))
    theirs = seen(lambda address: frame_by_frame(frames, address), range(1000, 1500))
    error = ((ours.var(0) + theirs.var(0)) / len(ours)).sqrt()
    assert ((ours.mean(0) - theirs.mean(0)).abs() <= 4 * error).all()
    lean, grey = ours[:, 2], ours[:, 5]
    assert abs(lean.mean()) <= 4 / len(ours) ** 0.5  # flipped as often as not
    assert abs(grey.mean() - 0.2) <= 4 * (0.2 * 0.8 / len(ours)) ** 0.5


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
