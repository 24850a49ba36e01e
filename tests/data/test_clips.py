"""Views do not depend on who makes them, in which order, or how often."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from dvfl.config import InputConfig
from dvfl.data.clips import ClipDataset, epoch_order, iterate_test, iterate_training
from dvfl.data.errors import DataError, UnreadableClip
from dvfl.data.index import build_index
from dvfl.data.splits import make_split

INPUT = InputConfig(frames=4, img_size=16, short_side=20, color_jitter=0.5, views=2)


@pytest.fixture
def tables(folder, definition):
    index = build_index(folder, definition, 1)
    return index, make_split(index, definition, "split1")


@pytest.fixture
def build(folder, tables):
    def dataset(subsets=("train",), views=2, seed=0, clip_ids=None):
        settings = INPUT.model_copy(update={"views": views})
        return ClipDataset(*tables, folder, subsets, settings, True, seed, clip_ids)

    return dataset


def epoch(dataset, number, workers=0, batch_size=4, drop_last=False):
    order = epoch_order(len(dataset), 0, number)
    return list(iterate_training(dataset, order, number, batch_size, drop_last, workers))


def same(one, other):
    return len(one) == len(other) and all(
        np.array_equal(a[0], b[0]) and torch.equal(a[1], b[1]) and torch.equal(a[2], b[2])
        for a, b in zip(one, other, strict=True)
    )


def test_what_a_data_set_holds(build, tables):
    index, split = tables
    dataset = build(("train", "validation"))
    expected = split.loc[split["subset"] != "test", "clip_id"].sort_values().tolist()
    rows = index.set_index("clip_id").loc[expected]
    assert dataset.clip_ids == expected
    assert dataset.labels.dtype == np.int64
    assert dataset.labels.tolist() == rows["label"].tolist()
    assert dataset.groups.tolist() == rows["group"].tolist()
    assert dataset.classes == ["jump", "run"]
    few = build(clip_ids=build().clip_ids[:3])
    assert few.clip_ids == build().clip_ids[:3]


def test_impossible_data_sets(build, folder, tables):
    index, split = tables
    with pytest.raises(DataError, match="no clip in the subsets nothing"):
        build(("nothing",))
    with pytest.raises(DataError, match="is not in the subsets train"):
        build(clip_ids=["jump/none.avi"])
    with pytest.raises(DataError, match="not in the index"):
        ClipDataset(index.iloc[:0], split, folder, ("train",), INPUT, True, 0)


def test_views_are_functions_of_seed_epoch_and_clip(build):
    dataset = build(views=None)
    view = dataset.training_view(1, 5)
    assert view.shape == (4, 3, 16, 16)
    assert view.dtype == torch.uint8
    alone = build(views=None, clip_ids=[dataset.clip_ids[1]])
    assert torch.equal(alone.training_view(0, 5), view)
    assert not torch.equal(dataset.training_view(1, 6), view)
    assert not torch.equal(build(views=None, seed=1).training_view(1, 5), view)
    assert dataset.cache_bytes() == 0
    assert not dataset.is_kept(1, 5)


def test_views_that_the_epochs_cycle_through_are_kept(build, monkeypatch):
    dataset, anew = build(views=2), build(views=None)
    first = [dataset.training_view(0, 0)]
    monkeypatch.setattr("dvfl.data.clips.read_frames", None)  # one reading makes both
    first.append(dataset.training_view(0, 1))
    monkeypatch.undo()
    assert all(torch.equal(view, anew.training_view(0, number)) for number, view in enumerate(first))
    monkeypatch.setattr("dvfl.data.clips.read_frames", None)
    assert torch.equal(dataset.training_view(0, 2), first[0])
    assert torch.equal(dataset.training_view(0, 5), first[1])
    assert not torch.equal(*first)
    assert dataset.cache_bytes() == len(dataset) * 2 * first[0].nbytes


@pytest.mark.parametrize("views", [2, None])
def test_processes_leave_no_trace(build, views):
    alone, helped = build(views=views), build(views=views)
    for number in range(3):
        assert same(epoch(alone, number), epoch(helped, number, workers=2))
        assert helped.is_kept(0, 0) == helped.is_kept(0, 1) == (views is not None)  # both after the first epoch


def test_batches(build):
    dataset = build()
    batches = epoch(dataset, 0)
    positions = np.concatenate([batch[0] for batch in batches])
    assert sorted(positions.tolist()) == list(range(len(dataset)))
    assert [len(batch[0]) for batch in batches[:-1]] == [4] * (len(batches) - 1)
    for positions, views, labels in batches:
        assert views.shape == (len(positions), 4, 3, 16, 16)
        assert labels.dtype == torch.int64
        assert labels.tolist() == dataset.labels[positions].tolist()
        for position, view in zip(positions, views, strict=True):
            assert torch.equal(view, dataset.training_view(int(position), 0))
    kept = epoch(dataset, 0, batch_size=5, drop_last=True)
    assert len(kept) == len(dataset) // 5
    assert all(len(batch[0]) == 5 for batch in kept)


def test_epoch_order():
    order = epoch_order(10, 0, 0)
    assert sorted(order.tolist()) == list(range(10))
    assert np.array_equal(order, epoch_order(10, 0, 0))
    assert not np.array_equal(order, epoch_order(10, 0, 1))
    assert not np.array_equal(order, epoch_order(10, 1, 0))


@pytest.mark.parametrize(("clips", "crops", "batch_size", "size"), [(1, 1, 4, 4), (2, 3, 4, 1)])
def test_every_test_clip_comes_once(build, clips, crops, batch_size, size):
    dataset = build(("test",))
    batches = list(iterate_test(dataset, clips, crops, batch_size))
    assert np.concatenate([batch[0] for batch in batches]).tolist() == list(range(len(dataset)))
    assert batches[0][1].shape == (size, clips * crops, 4, 3, 16, 16)
    assert torch.equal(batches[0][1][0], dataset.test_views(0, clips, crops))
    helped = list(iterate_test(dataset, clips, crops, batch_size, workers=2))
    assert all(torch.equal(a[1], b[1]) for a, b in zip(batches, helped, strict=True))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_clip_that_breaks_during_a_run_is_named(build, folder, workers):
    dataset = build()
    broken = folder / dataset.clip_ids[2]
    broken.write_bytes(b"")
    with pytest.raises(UnreadableClip, match=dataset.clip_ids[2]):
        epoch(dataset, 0, workers=workers)


def test_short_clips_repeat_frames(build, folder, tables, video):
    index, split = tables
    clip_id = build().clip_ids[0]
    video(f"clips/{clip_id}", frames=1)
    index = index.assign(frames=index["frames"].where(index["clip_id"] != clip_id, 1))
    dataset = ClipDataset(index, split, folder, ("train",), INPUT, True, 0, [clip_id])
    assert dataset.training_view(0, 0).shape == (4, 3, 16, 16)
    assert dataset.test_views(0, 4, 3).shape == (12, 4, 3, 16, 16)


def test_subsets_can_be_joined(build):
    joined = build(("train", "validation", "test"))
    assert len(joined) == 24
    assert pd.Series(joined.clip_ids).is_monotonic_increasing


def test_random_test_frames_are_drawn_once_for_a_clip_and_a_seed(build):
    dataset, other = build(("test",)), build(("test",), seed=1)
    even, drawn = dataset.test_views(0, 4), dataset.test_views(0, 4, random=True)
    assert drawn.shape == even.shape
    assert torch.equal(drawn, build(("test",)).test_views(0, 4, random=True))
    assert not torch.equal(drawn, even)
    assert not torch.equal(drawn, other.test_views(0, 4, random=True))
    assert not torch.equal(drawn, dataset.test_views(1, 4, random=True))
    assert torch.equal(dataset.test_views(0, random=True), dataset.test_views(0))  # a single clip takes the centres


def test_a_test_may_be_of_the_first_clips_alone(build):
    dataset = build(("test",))
    positions = [batch[0].tolist() for batch in iterate_test(dataset, 1, 1, 2, first=3)]
    assert positions == [[0, 1], [2]]
