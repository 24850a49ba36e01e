"""The training loop: epochs of micro-batches, whatever the task and however many processes share them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dvfl.config import ConfigError, TrainConfig
from dvfl.data.clips import ClipDataset, epoch_order, iterate_training
from dvfl.data.transforms import mix_batch, normalise
from dvfl.distill.task import Batch, DistillationTask, SupervisedTask
from dvfl.errors import Stopped, UserError
from dvfl.randomness import torch_seeded
from dvfl.train.batch_norm import RunningStatistics
from dvfl.train.checkpoint import Checkpoint
from dvfl.train.distributed import ALONE, Processes, without_sync
from dvfl.train.optimisation import build_optimizer, learning_rate

History = list[dict[str, Any]]
Validator = Callable[[nn.Module], dict[str, float]]


@dataclass(frozen=True)
class Recipe:
    """How to train: the config's values with everything `auto` resolved."""

    train: TrainConfig
    device: torch.device
    precision: torch.dtype
    seed: int
    num_classes: int


def resolve(train: TrainConfig, seed: int, num_classes: int) -> Recipe:
    """Device and precision that `auto` stands for on this machine. ConfigError for a device that it lacks."""
    has_gpu = torch.cuda.is_available()
    name = train.device if train.device != "auto" else "cuda" if has_gpu else "cpu"
    if name.startswith("cuda") and not has_gpu:
        raise ConfigError(f"train.device: {name!r} was asked for, but PyTorch finds no GPU; use auto or cpu")
    device = torch.device("cuda" if name.startswith("cuda:") else name)  # a leased GPU is the only one it sees
    precision = train.precision if train.precision != "auto" else "bfloat16" if has_gpu else "float32"
    return Recipe(train, device, getattr(torch, precision), seed, num_classes)


def fit(
    task: SupervisedTask | DistillationTask,
    dataset: ClipDataset,
    recipe: Recipe,
    checkpoint: Checkpoint,
    *,
    validate: Validator | None = None,
    best_by: str | None = None,
    processes: Processes = ALONE,
    on_epoch: Callable[[dict[str, Any], int], None] = lambda row, epochs: None,
    stop: Callable[[], bool] = lambda: False,
) -> History:
    """Trains `task.model` in place and returns one row an epoch; goes on from the checkpoint if there is one.

    `on_epoch(row, epochs)` is called after each epoch's checkpoint is safe. `validate(model)` may add columns. The
    model ends with the weights of the last epoch; with `best_by`, a column of `validate`, which then looks at every
    epoch, with those of the first of its best epochs. `stop()` is asked after every optimiser step: once it is true,
    the checkpoint is written there, and Stopped raised.

    The `processes` share the micro-batches of each step, end with the same model and return the same rows; the first
    of them writes the checkpoints. All call `validate` and `on_epoch`, and stop together.
    """
    model, trained, train = task.model, task.trained, recipe.train
    micro_batches = count_micro_batches(len(dataset), train)
    if processes.count > train.accumulate:
        raise ConfigError(
            f"train.accumulate: {train.accumulate} micro-batches of a step are too few for {processes.count} "
            f"processes; raise it, or start fewer"
        )
    optimizer = build_optimizer(trained, train)
    scaler = torch.amp.GradScaler(recipe.device.type, enabled=recipe.precision == torch.float16)
    history = checkpoint.load(trained, optimizer, scaler)
    epochs = _Epochs(task, dataset, recipe, optimizer, scaler, processes, micro_batches)
    for epoch in range(len(history), train.epochs):
        sums = _Sums(**checkpoint.begun) if checkpoint.begun else _Sums()
        checkpoint.begun = None
        begin = time.perf_counter() - sums.seconds
        row: dict[str, Any] = {"epoch": epoch + 1}
        for _ in epochs.train(epoch, sums):
            if processes.any(stop()):
                sums.seconds = time.perf_counter() - begin
                sums.totals = processes.summed(sums.totals)
                if processes.first:
                    checkpoint.save(trained, optimizer, history, scaler, begun=asdict(sums))
                raise Stopped(
                    f"asked to end in epoch {epoch + 1} of {train.epochs}, after {sums.steps} of {epochs.steps} "
                    f"steps; the same command goes on from there"
                )
        row |= sums.means(processes)
        every = train.validate_every if best_by is None else 1
        if validate is not None and ((epoch + 1) % every == 0 or epoch + 1 == train.epochs):
            row |= validate(model)
        if best_by is not None and all(row[best_by] > earlier[best_by] for earlier in history):
            checkpoint.best = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
        row["seconds"] = time.perf_counter() - begin
        history.append(row)
        if processes.first:
            checkpoint.save(trained, optimizer, history, scaler)
        on_epoch(row, train.epochs)
    if checkpoint.best is not None:
        model.load_state_dict(checkpoint.best)
    return history


def count_micro_batches(clips: int, train: TrainConfig) -> int:
    """Micro-batches of an epoch. Raises ConfigError where there is none."""
    if not (train.mixup or train.cutmix):
        return -(-clips // train.batch_size)
    if clips < train.batch_size:
        raise ConfigError(
            f"train.batch_size: {train.batch_size} is more than the {clips} training clips, and mixup and "
            f"CutMix take whole batches only; make it smaller or turn them off"
        )
    return clips // train.batch_size


def training_batches(dataset: ClipDataset, recipe: Recipe, epoch: int, numbers: Sequence[int]) -> Iterator[Batch]:
    """Some micro-batches of an epoch, by number, as the network is shown them: shuffled, augmented and mixed."""
    train = recipe.train
    batches = iterate_training(
        dataset,
        epoch_order(len(dataset), recipe.seed, epoch),
        epoch,
        train.batch_size,
        drop_last=bool(train.mixup or train.cutmix),
        workers=train.workers,
        take=lambda _: numbers,
    )
    for number, (positions, views, labels) in zip(numbers, batches, strict=True):
        inputs = normalise(views.to(recipe.device), dataset.input)
        yield _mixed(torch.from_numpy(positions), inputs, labels.to(recipe.device), recipe, epoch, number)


@dataclass(frozen=True)
class MicroBatch:
    """A micro-batch as one process meets it."""

    number: int  # in the epoch, over all processes
    step: int  # of the epoch
    in_step: int  # micro-batches of the step, over all processes
    counts: bool  # False where the process has none of its own in the step
    last: bool  # of those that this process has in the step


def micro_batches_of(processes: Processes, micro_batches: int, accumulate: int) -> list[MicroBatch]:
    """What this process does of an epoch's micro-batches: a contiguous share of each step's.

    At the end of an epoch a step may have too few for all; who has none repeats the step's first, without weight, since
    all take part when gradients are added up.
    """
    mine = []
    for step, first in enumerate(range(0, micro_batches, accumulate)):
        in_step = min(accumulate, micro_batches - first)
        own = [first + part for part in processes.share(in_step)]
        for number in own or [first]:
            mine.append(MicroBatch(number, step, in_step, bool(own), number == (own or [first])[-1]))
    return mine


@dataclass
class _Sums:
    """What the optimiser steps of an epoch add up to so far."""

    steps: int = 0
    totals: dict[str, float] = field(default_factory=dict)  # over the clips that this process saw, by name
    grad_norm: float = 0.0
    finite: int = 0  # steps whose gradient was
    lr: float = 0.0
    seconds: float = 0.0

    def add(self, **values: float) -> None:
        """Adds to the totals."""
        for name, value in values.items():
            self.totals[name] = self.totals.get(name, 0.0) + value

    def means(self, processes: Processes) -> dict[str, float]:
        """Over the clips that all processes saw, by name; of the gradient's norm over the steps."""
        totals = processes.summed(self.totals)
        clips = totals.pop("clips")
        means = {name: total / clips for name, total in totals.items()}
        return {"lr": self.lr, **means, "grad_norm": self.grad_norm / max(1, self.finite)}


@dataclass
class _Epochs:
    """Passes over the clips."""

    task: SupervisedTask | DistillationTask
    dataset: ClipDataset
    recipe: Recipe
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    processes: Processes
    micro_batches: int  # of an epoch

    def __post_init__(self) -> None:
        train = self.recipe.train
        self.mine = micro_batches_of(self.processes, self.micro_batches, train.accumulate)
        self.steps = -(-self.micro_batches // train.accumulate)
        self.objective = self.processes.parallel(self.task, self.recipe.device)
        self.statistics = RunningStatistics(self.task.trained, self.processes)

    def train(self, epoch: int, sums: _Sums) -> Iterator[None]:
        """One pass over the clips, from where `sums` ends; hands over after each optimiser step."""
        recipe, train = self.recipe, self.recipe.train
        self.task.model.train()
        mine = [each for each in self.mine if each.step >= sums.steps]
        if not self.processes.first:  # what was begun is with the first; all have its names
            sums.totals = dict.fromkeys(sums.totals, 0.0)
        batches = training_batches(self.dataset, recipe, epoch, [each.number for each in mine])
        in_step = 0
        for micro_batch, batch in zip(mine, batches, strict=True):
            sums.lr = learning_rate(epoch * self.steps + micro_batch.step, train.epochs * self.steps, train)
            for group in self.optimizer.param_groups:
                group["lr"] = sums.lr
            with nullcontext() if micro_batch.last else without_sync(self.objective):
                # A new address for every micro-batch: stochastic depth is the same after a resume.
                with torch_seeded(recipe.seed, "forward", epoch, micro_batch.number), autocast(recipe):
                    losses = self.objective(batch)
                share = losses.total / micro_batch.in_step
                self.scaler.scale(share if micro_batch.counts else share * 0).backward()
            clips = len(batch.labels) if micro_batch.counts else 0
            correct = (losses.logits.argmax(1) == batch.labels).sum().item() * micro_batch.counts
            sums.add(**{name: value * clips for name, value in losses.parts.items()}, train_top1=correct, clips=clips)
            in_step += micro_batch.counts
            if micro_batch.last:
                norm = _step(self.task.trained, self.optimizer, self.scaler, train, epoch)
                if norm is not None:
                    sums.grad_norm, sums.finite = sums.grad_norm + norm, sums.finite + 1
                self.statistics.combine(in_step)
                in_step = 0
                sums.steps += 1
                yield


def _mixed(positions: Tensor, inputs: Tensor, labels: Tensor, recipe: Recipe, epoch: int, number: int) -> Batch:
    train = recipe.train
    mixed, soft_labels = mix_batch(
        inputs,
        labels,
        num_classes=recipe.num_classes,
        mixup=train.mixup,
        cutmix=train.cutmix,
        probability=train.mix_probability,
        cutmix_share=train.cutmix_share,
        label_smoothing=train.label_smoothing,
        address=(recipe.seed, "mix", epoch, number),
    )
    return Batch(mixed, labels, soft_labels, positions, epoch)


class Diverged(UserError):
    """The loss or its gradient is no longer a number."""


def _step(
    trained: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    train: TrainConfig,
    epoch: int,
) -> float | None:
    """One optimiser step; the gradient's norm before clipping, or None where it overflowed and the step is left out."""
    scaler.unscale_(optimizer)
    norm = nn.utils.clip_grad_norm_(trained.parameters(), train.clip_grad_norm or float("inf")).item()
    finite = math.isfinite(norm)
    # float16 overflows now and then, and the scale shrinks until it does not; below 1 it is not the scale.
    if not finite and not (scaler.is_enabled() and scaler.get_scale() > 1):
        raise Diverged(
            f"the gradient is not finite in epoch {epoch + 1}: the training diverged; lower train.lr, "
            f"or set train.clip_grad_norm, or use precision float32"
        )
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    return norm if finite else None


def autocast(recipe: Recipe) -> torch.autocast:
    """Mixed precision as the recipe says; float32 passes through."""
    mixed = recipe.precision != torch.float32
    return torch.autocast(recipe.device.type, dtype=recipe.precision if mixed else torch.bfloat16, enabled=mixed)


def compile_network(network: nn.Module) -> None:
    """Compiles a network where it is, so that its weights keep their names; stochastic depth draws as it did."""
    network.compile(options={"fallback_random": True})
