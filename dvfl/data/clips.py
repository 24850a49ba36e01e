"""Views of the clips of a split, one at a time or in batches.

A training view is drawn for (seed, epoch, clip) alone, so the order in which views are made, and
the number of processes that make them, leave no trace.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dvfl.config import InputConfig
from dvfl.data.errors import DataError, UnreadableClip
from dvfl.data.frame_store import FrameStore
from dvfl.data.reader import read_frames
from dvfl.data.sampling import random_segment_indices, test_view_indices
from dvfl.data.transforms import TestTransform, TrainTransform
from dvfl.randomness import generator

Take = Callable[[int], Iterable[int]]  # numbers of the batches to make, of so many


# Snakemake looks at the names and dates of a folder's clips whenever it starts.
GONE = (
    "does not exist; restore it, or run `dvfl index` and `dvfl split` anew, which leave it out; snakemake does so by "
    "itself for a folder of your own"
)


class ClipDataset(Dataset):
    """The clips of some subsets of a split, in the order of their ids.

    `clip_ids` (list of str), `labels` (int64 array), `groups` (array of str) run in parallel;
    `classes` (list of str) names the labels.
    """

    def __init__(
        self,
        index: pd.DataFrame,
        split: pd.DataFrame,
        root: str | Path,
        subsets: Sequence[str],
        input: InputConfig,
        allow_flip: bool,
        seed: int,
        clip_ids: Sequence[str] | None = None,
        store: FrameStore | None = None,
    ) -> None:
        """Clips of `split` whose subset is one of `subsets`; of these, only `clip_ids` if given.

        `root` is the clips' root, which clip ids are relative to; frames come from the `store` if there is one. Raises
        DataError where nothing is left or a clip that was named is not among them.
        """
        chosen = set(split.loc[split["subset"].isin(list(subsets)), "clip_id"])
        if clip_ids is not None:
            absent = sorted(set(clip_ids) - chosen)
            if absent:
                raise DataError(f"clip {absent[0]!r} is not in the subsets {', '.join(subsets)}")
            chosen &= set(clip_ids)
        if not chosen:
            raise DataError(f"the split has no clip in the subsets {', '.join(subsets)}")
        unknown = sorted(chosen - set(index["clip_id"]))
        if unknown:
            raise DataError(f"clip {unknown[0]!r} of the split is not in the index: index again")
        rows = index[index["clip_id"].isin(chosen)].sort_values("clip_id")
        names = index[["label", "class_name"]].drop_duplicates().sort_values("label")

        self.root, self.input, self.seed, self.store = Path(root), input, seed, store
        self.clip_ids = rows["clip_id"].tolist()
        self.labels = rows["label"].to_numpy(np.int64)
        self.groups = rows["group"].to_numpy(object)
        self.classes = names["class_name"].tolist()
        self._frames = rows["frames"].tolist()
        self._transform = TrainTransform(input, allow_flip)
        self._kept: dict[tuple[int, int], Tensor] = {}

    def __len__(self) -> int:
        return len(self.clip_ids)

    def training_view(self, i: int, epoch: int) -> Tensor:
        """The clip's view of an epoch, uint8 (T, 3, S, S).

        With `input.views` = V, epoch e shows view e mod V; all V are made at once and kept in memory.
        """
        if not self.is_kept(i, epoch):
            views = self.new_views(i, epoch)
            self.keep(i, epoch, views)
            return views[0]
        return self._kept[i, self._view(epoch)]

    @property
    def together(self) -> int:
        """Views that are made at once, since a clip is decoded once for all of them."""
        return self.input.views or 1

    def new_views(self, i: int, epoch: int) -> Tensor:
        """The clip's views of this epoch and of those after it that are made together, uint8 (N, T, 3, S, S)."""
        addresses = [(self.seed, "view", self._view(e), self.clip_ids[i]) for e in range(epoch, epoch + self.together)]
        segments = partial(random_segment_indices, self._frames[i], self.input.frames)
        numbers, places = np.unique([segments(generator(*address)) for address in addresses], return_inverse=True)
        frames = self._read(i, numbers, self._transform.short_side)
        each = zip(places.reshape(len(addresses), -1), addresses, strict=True)
        return torch.stack([self._transform(frames[place], address) for place, address in each])

    def test_views(self, i: int, clips: int = 1, crops: int = 1, random: bool = False) -> Tensor:
        """Test views, uint8 (clips * crops, T, 3, S, S): all crops of a temporal clip together.

        With `random`, several temporal clips take frames drawn for (seed, clip) and not evenly spread ones.
        """
        if random and clips > 1:
            rng = generator(self.seed, "test frames", self.clip_ids[i])
            drawn = [random_segment_indices(self._frames[i], self.input.frames, rng) for _ in range(clips)]
            indices = np.stack(drawn)
        else:
            indices = test_view_indices(self._frames[i], self.input.frames, clips)
        return test_views(partial(self._read, i), indices, self.input, crops)

    def cache_bytes(self) -> int:
        """Bytes of the views in memory once all of them are made; 0 where none are kept."""
        size = self.input.img_size
        return len(self) * (self.input.views or 0) * self.input.frames * 3 * size * size

    def is_kept(self, i: int, epoch: int) -> bool:
        """Whether the view is in memory, so that no process has to make it."""
        return (i, self._view(epoch)) in self._kept

    def keep(self, i: int, epoch: int, views: Tensor) -> None:
        """Keep new views, where views are kept at all."""
        if self.input.views:
            kept = views.clone()  # what another process made is shared memory
            self._kept |= {(i, self._view(epoch + later)): view for later, view in enumerate(kept)}

    def _read(self, i: int, indices: np.ndarray, short_side: int) -> np.ndarray:
        """Frames of a clip, uint8 (T, H, W, 3); those of a store have the short side that it has."""
        if self.store is not None:
            return self.store.read(self.clip_ids[i], indices)
        path = self.root / self.clip_ids[i]
        try:
            return read_frames(path, indices, short_side, self.input.interpolation)
        except UnreadableClip as error:
            if path.exists():
                raise
            raise UnreadableClip(path, GONE) from error

    def _view(self, epoch: int) -> int:
        return epoch % self.input.views if self.input.views else epoch


def read_test_views(path: str | Path, num_frames: int, input: InputConfig, clips: int = 1, crops: int = 1) -> Tensor:
    """Test views of a file of `num_frames` frames, uint8 (clips * crops, T, 3, S, S)."""
    indices = test_view_indices(num_frames, input.frames, clips)
    return test_views(partial(read_frames, path, interpolation=input.interpolation), indices, input, crops)


def test_views(
    read: Callable[[np.ndarray, int], np.ndarray], indices: np.ndarray, input: InputConfig, crops: int
) -> Tensor:
    """Views of the frames `indices` (clips, T), which `read(frame numbers, short side)` gives.

    uint8 (clips * crops, T, 3, S, S).
    """
    transform = TestTransform(input, crops)
    frames = read(indices.reshape(-1), transform.short_side)
    by_clip = frames.reshape(*indices.shape, *frames.shape[1:])
    return torch.cat([transform(clip) for clip in by_clip])


test_views.__test__ = False  # a function of the library that pytest would take for a test


def epoch_order(n: int, seed: int, epoch: int) -> np.ndarray:
    """Order in which an epoch shows n clips: a permutation, int64 (n,)."""
    return generator(seed, "order", epoch).permutation(n)


def iterate_training(
    dataset: ClipDataset,
    order: Sequence[int],
    epoch: int,
    batch_size: int,
    drop_last: bool = False,
    workers: int = 0,
    take: Take = range,
) -> Iterator[tuple[np.ndarray, Tensor, Tensor]]:
    """Batches of an epoch: positions int64 (B,), views uint8 (B, T, 3, S, S), labels int64 (B,).

    `workers` processes make the views that are not in memory yet. `take(n)` says which of the n batches are made.
    """
    batches = _batches(order, batch_size, drop_last)
    batches = [batches[number] for number in take(len(batches))]
    missing = [[i for i in batch if not dataset.is_kept(i, epoch)] for batch in batches]
    made = _made(_TrainingViews(dataset, epoch), missing, workers)
    for batch, absent, views in zip(batches, missing, made, strict=True):
        fresh = dict(zip(absent, views, strict=True))
        for i, views_of_clip in fresh.items():
            dataset.keep(i, epoch, views_of_clip)
        shown = [fresh[i][0] if i in fresh else dataset.training_view(i, epoch) for i in batch]
        positions = np.asarray(batch, dtype=np.int64)
        yield positions, torch.stack(shown), torch.from_numpy(dataset.labels[positions])


def iterate_test(
    dataset: ClipDataset,
    clips: int,
    crops: int,
    batch_size: int,
    workers: int = 0,
    random: bool = False,
    first: int | None = None,
    take: Take = range,
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Every clip once, in order: positions int64 (B,), views uint8 (B, V, T, 3, S, S).

    V = clips * crops. `batch_size` counts views: B is as many clips as fit, at least one. `random` frames, and no more
    than the `first` clips, are what the released code makes of a test. `take(n)` says which of the n batches are made.
    """
    batches = clip_batches(len(range(len(dataset))[:first]), batch_size, clips * crops)
    batches = [batches[number] for number in take(len(batches))]
    made = _made(_TestViews(dataset, clips, crops, random), batches, workers)
    for batch, views in zip(batches, made, strict=True):
        yield np.asarray(batch, dtype=np.int64), views


def clip_batches(clips: int, batch_size: int, views: int) -> list[list[int]]:
    """Positions of the clips of each batch of a test: `batch_size` counts views, and a clip's stay together."""
    return _batches(range(clips), max(1, batch_size // views))


class _TrainingViews(Dataset):
    def __init__(self, dataset: ClipDataset, epoch: int) -> None:
        self.dataset, self.epoch = dataset, epoch

    def __getitem__(self, i: int) -> Tensor | UnreadableClip:
        return _or_error(self.dataset.new_views, i, self.epoch)


class _TestViews(Dataset):
    def __init__(self, dataset: ClipDataset, clips: int, crops: int, random: bool) -> None:
        self.dataset, self.arguments = dataset, (clips, crops, random)

    def __getitem__(self, i: int) -> Tensor | UnreadableClip:
        return _or_error(self.dataset.test_views, i, *self.arguments)


def _or_error(make, *arguments) -> Tensor | UnreadableClip:
    """The error as a value: a DataLoader would bury the clip's name in another's traceback."""
    try:
        return make(*arguments)
    except UnreadableClip as error:
        return error


def _made(views: Dataset, batches: list[list[int]], workers: int) -> Iterator[Tensor]:
    """Views of each batch of positions, stacked; no process starts where nothing is to be made."""
    if not any(batches):
        workers = 0
    loader = DataLoader(views, batch_sampler=batches, num_workers=workers, collate_fn=_stack)
    for batch in loader:
        if isinstance(batch, UnreadableClip):
            raise batch
        yield batch


def _stack(views: list[Tensor | UnreadableClip]) -> Tensor | UnreadableClip:
    errors = [view for view in views if isinstance(view, UnreadableClip)]
    if errors:
        return errors[0]
    return torch.stack(views) if views else torch.empty(0, dtype=torch.uint8)


def _batches(order: Sequence[int], batch_size: int, drop_last: bool = False) -> list[list[int]]:
    order = [int(i) for i in order]
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    if drop_last and batches and len(batches[-1]) < batch_size:
        batches.pop()
    return batches
