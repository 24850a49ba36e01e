"""One epoch of distillation at the paper's sizes: the teacher in the loop beside its stored logits.

Both sides are the training's own: its batches, mixed by mixup and CutMix, its task and its optimiser. The clips are
random pixels in memory, since reading them costs both the same.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from dvfl.bench.pairs import Sides, Sizes, pair, seconds
from dvfl.config import DistillConfig, InputConfig, TrainConfig
from dvfl.distill.target_store import TargetStore
from dvfl.distill.targets import OnlineTargets, StoredTargets, TeacherTargets
from dvfl.distill.task import DistillationTask, frozen
from dvfl.models import create_model
from dvfl.models.inference import for_inference
from dvfl.profile.latency import Precision
from dvfl.train.loop import autocast, resolve, training_batches
from dvfl.train.optimisation import build_optimizer
from dvfl.train.teacher import Lessons

SEED = 0


class RandomClips:
    """What training reads of a data set: (clips, T, 3, S, S) of random pixels, the same in every epoch."""

    def __init__(self, clips: int, frames: int, img_size: int, num_classes: int) -> None:
        generator = torch.Generator().manual_seed(SEED)
        self.views = torch.randint(
            0, 256, (clips, frames, 3, img_size, img_size), dtype=torch.uint8, generator=generator
        )
        self.labels = np.arange(clips, dtype=np.int64) % num_classes
        self.input = InputConfig(frames=frames, img_size=img_size, short_side=img_size)

    def __len__(self) -> int:
        return len(self.views)

    def training_view(self, i: int, epoch: int) -> Tensor:
        return self.views[i]

    def is_kept(self, i: int, epoch: int) -> bool:
        return True


@dataclass(frozen=True)
class Epoch:
    """The sides, each of which trains the same student for an epoch and returns the loss of each step."""

    online: Callable[[], list[float]]
    stored: Callable[[], list[float]]
    write: Callable[[], None]  # the targets of the epoch; done once before `stored` is of use


def distillation_epoch(
    teacher: str = "video_focalnet_base",
    student: str = "vfl_net",
    *,
    clips: int = 8,
    batch_size: int = 4,
    frames: int = 8,
    img_size: int = 224,
    num_classes: int = 101,
    threads: int = 2,
    precision: Precision = "float32",
) -> Epoch:
    """The two ways of an epoch, ready to be timed; the targets are written already."""
    torch.set_num_threads(threads)
    torch.manual_seed(SEED)
    size = {"num_classes": num_classes, "num_frames": frames, "img_size": img_size}
    taught_by, model = for_inference(frozen(create_model(teacher, **size))), create_model(student, **size)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    train = TrainConfig(
        epochs=1, batch_size=batch_size, optimizer="sgd", lr=0.01, mixup=0.8, cutmix=1.0, device="cpu",
        threads=threads, precision=precision,
    )  # fmt: skip
    recipe = resolve(train, SEED, num_classes)
    lessons = Lessons(taught_by, RandomClips(clips, frames, img_size, num_classes), recipe)
    folder = Path(tempfile.mkdtemp(prefix="dvfl-bench-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    store = TargetStore(folder, ("epoch0",), clips, num_classes, "float32")
    numbers = range(lessons.count("epoch0"))

    def write() -> None:
        logits = torch.full((clips, num_classes), torch.nan)
        for positions, inputs in lessons.inputs("epoch0", numbers):
            logits[positions] = lessons.logits("epoch0", inputs)
        store.write("epoch0", logits)

    def epoch(targets: TeacherTargets) -> list[float]:
        model.load_state_dict(start)
        model.train()
        task = DistillationTask(model, targets, DistillConfig())
        optimizer, steps = build_optimizer(model, train), []
        torch.manual_seed(SEED)  # stochastic depth
        for batch in training_batches(lessons.dataset, recipe, 0, numbers):
            with autocast(recipe):
                losses = task(batch)
            losses.total.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            steps.append(losses.total.item())
        return steps

    write()
    return Epoch(lambda: epoch(OnlineTargets(taught_by)), lambda: epoch(StoredTargets(store)), write)


def stored_targets(sizes: Sizes, precision: Precision) -> Sides:
    """Both sides end with the very same losses."""
    epoch = distillation_epoch(
        frames=sizes.frames, img_size=sizes.img_size, num_classes=sizes.num_classes, threads=sizes.threads,
        precision=precision,
    )  # fmt: skip
    off = max(abs(a - b) for a, b in zip(epoch.online(), epoch.stored(), strict=True))
    return Sides(
        epoch.online, epoch.stored, deviation=off, note=f"writing them takes {seconds(epoch.write):.3g} s once"
    )


for _precision in get_args(Precision):
    pair(
        f"targets/video_focalnet_base/vfl_net/{_precision}",
        what="distillation epoch, base teaches vfl_net, 8 clips of 8x224x224, batch 4", slow="teacher in the loop",
        fast=f"stored targets, both in {_precision}", target=2.5,
    )(partial(stored_targets, precision=_precision))  # fmt: skip
