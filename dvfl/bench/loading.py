"""Training samples out of the loader, one core: decord and torchvision frame by frame beside ours.

The clips are rendered here, some of UCF101's size (320x240, MPEG-4 in AVI, 180 frames) and one of 10 s of 720p H.264,
or they are the user's. Both sides take the same frames and the same draws, so their pixels can be compared: what
differs is how a frame is resized, and the rounding of a hue.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path

import av
import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as frame_by_frame

from dvfl.bench.pairs import Sides, Sizes, Unavailable, pair, seconds
from dvfl.config import DatasetDefinition, FrameStoreConfig, InputConfig, MotionsConfig
from dvfl.data.clips import ClipDataset
from dvfl.data.frame_store import FrameStore, packs, write_pack
from dvfl.data.index import build_index
from dvfl.data.motions import CLASSES, render_clip
from dvfl.data.reader import probe
from dvfl.data.sampling import random_segment_indices
from dvfl.files import sha256
from dvfl.randomness import generator, torch_seeded

SLOW = "decord, torchvision v2 frame by frame"
FPS, QUALITY, SEED = 25, 90, 0
LEVELS = 4.0  # of 255: two ways of resizing, and JPEG, on textures with noise


def input_of(sizes: Sizes) -> InputConfig:
    """The paper's recipe with all its augmentations."""
    return InputConfig(
        frames=sizes.frames,
        img_size=sizes.img_size,
        short_side=sizes.short_side,
        crop_area=(0.08, 1.0),
        color_jitter=0.8,
        greyscale=0.2,
        views=None,
        frame_store=FrameStoreConfig(quality=QUALITY),
    )


def loading(sizes: Sizes, clips: str, stored: bool) -> Sides:
    """One epoch over the clips, view by view; `clips` is one of CLIPS."""
    torch.set_num_threads(1)
    dataset = dataset_of(sizes, clips, stored)
    plain = PlainLoader(dataset)
    off = max(
        (plain.view(i).float() - dataset.training_view(i, 0).float()).abs().mean().item()
        for i in range(min(2, len(dataset)))
    )
    decoding = ""
    if not stored:
        decoded = seconds(lambda: [probe(dataset.root / clip) for clip in dataset.clip_ids])
        decoding = f"decoding these clips, and nothing else, takes {decoded:.3g} s; "
    return Sides(
        slow=lambda: [plain.view(i) for i in range(len(dataset))],
        fast=lambda: [dataset.training_view(i, 0) for i in range(len(dataset))],
        deviation=off,
        threads=1,
        note=f"{decoding}{len(dataset)} views; deviation: mean, in levels of 255",
    )


class PlainLoader:
    """The same views by the plain calls: seek with decord, then every step on every frame, as released pipelines do."""

    def __init__(self, dataset: ClipDataset) -> None:
        try:
            import decord
        except ImportError as error:
            raise Unavailable("the slow side needs decord: pip install 'dvfl[test]'") from error
        self.reader, self.dataset, self.input = decord.VideoReader, dataset, dataset.input
        self.context = decord.cpu(0)
        self.jitter = v2.ColorJitter(self.input.brightness, self.input.contrast, self.input.saturation, self.input.hue)

    def view(self, i: int) -> Tensor:
        """uint8 (T, 3, S, S), of epoch 0."""
        dataset, input = self.dataset, self.input
        address = (dataset.seed, "view", 0, dataset.clip_ids[i])
        reader = self.reader(str(dataset.root / dataset.clip_ids[i]), ctx=self.context, num_threads=1)
        indices = random_segment_indices(len(reader), input.frames, generator(*address))
        frames = torch.from_numpy(reader.get_batch(indices).asnumpy()).permute(0, 3, 1, 2)
        frames = [frame_by_frame.resize(frame, [input.short_side], antialias=True) for frame in frames]
        with torch_seeded(*address):
            return torch.stack(list(self._augmented(frames)))

    def _augmented(self, frames: list[Tensor]) -> Iterator[Tensor]:
        input, size = self.input, [self.input.img_size] * 2
        crop = v2.RandomResizedCrop(size, scale=input.crop_area, ratio=input.crop_aspect).make_params([frames[0]])
        frames = [frame_by_frame.resized_crop(frame, size=size, antialias=True, **crop) for frame in frames]
        if torch.rand(1) < input.flip:
            frames = [frame_by_frame.horizontal_flip(frame) for frame in frames]
        if torch.rand(1) < input.color_jitter:
            frames = [self.jitter(frame) for frame in frames]
        if torch.rand(1) < input.greyscale:
            frames = [frame_by_frame.rgb_to_grayscale(frame, num_output_channels=3) for frame in frames]
        yield from frames


def dataset_of(sizes: Sizes, clips: str, stored: bool) -> ClipDataset:
    """The clips as training clips, decoded live or out of a frame store."""
    root, index = _own(sizes.own_clips) if clips == "own" else _all_rendered(sizes, large=clips == "720p")
    split = pd.DataFrame({"clip_id": index["clip_id"], "subset": "train"})
    input, store = input_of(sizes), None
    if stored:
        folder = _scratch() / f"frames{sizes.short_side}"
        for pack in packs(folder, index, input):
            if not pack.path.exists():
                write_pack(pack, root, input)
        store = FrameStore(folder, index, input)
    return ClipDataset(index, split, root, ["train"], input, allow_flip=True, seed=SEED, store=store)


@cache
def _own(folder: str | None) -> tuple[Path, pd.DataFrame]:
    """The usable clips of the user's folder, and their index."""
    if folder is None:
        raise Unavailable("it needs a folder of clips: --clips FOLDER, which holds <class>/<clip>")
    definition = DatasetDefinition(kind="folder", root=Path(folder).resolve())
    index = build_index(definition.root, definition, workers=1)
    return definition.root, index[index["status"] == "ok"]


def _all_rendered(sizes: Sizes, large: bool) -> tuple[Path, pd.DataFrame]:
    root = _scratch()
    shape = (sizes.large_height, sizes.large_frames) if large else (sizes.clip_height, sizes.clip_frames)
    paths = [_rendered(root, k, *shape, large) for k in range(1 if large else sizes.clips)]
    index = pd.DataFrame(
        {
            "clip_id": [path.name for path in paths],
            "class_name": "moving",
            "label": 0,
            "group": [path.stem for path in paths],
            "frames": shape[1],
            "sha256": [sha256(path) for path in paths],
            "status": "ok",
        }
    )
    return root, index


@cache
def _scratch() -> Path:
    folder = tempfile.mkdtemp(prefix="dvfl-bench-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def _rendered(root: Path, number: int, height: int, frames: int, large: bool) -> Path:
    """A clip of motions, 4:3 in MPEG-4 or 16:9 in H.264; rendered once, and small ones are stretched to large."""
    path = root / f"clip{number}_{height}_{frames}.{'mp4' if large else 'avi'}"
    if path.exists():
        return path
    width = height * 16 // 9 if large else height * 4 // 3
    config = MotionsConfig(frames=frames, size=max(16, width // 4 if large else width))
    pixels = render_clip(config, CLASSES[number % len(CLASSES)], number, 0)
    rows = config.size * height // width
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264" if large else "mpeg4", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        if not large:
            stream.bit_rate = 400_000  # of UCF101's clips, about
        for image in pixels[:, :rows]:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            file.mux(stream.encode(frame.reformat(width, height, format="yuv420p")))
        file.mux(stream.encode())
    return path


CLIPS = {"ucf101": "320x240 MPEG-4 clips", "720p": "a 10 s 720p H.264 clip", "own": "the clips of --clips"}

for _clips, _said in CLIPS.items():
    for _stored, _target in ((False, None if _clips == "720p" else 2.0), (True, 10.0 if _clips == "720p" else 5.0)):
        pair(
            f"loader/{_clips}/{'stored' if _stored else 'live'}",
            what=f"training samples, one core, all augmentations, {_said}",
            slow=SLOW,
            fast="ours, frame store" if _stored else "ours, decoding live",
            target=_target,
            tolerance=LEVELS,
            quick=_clips == "ucf101",
        )(partial(loading, clips=_clips, stored=_stored))
