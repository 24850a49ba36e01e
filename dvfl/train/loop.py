"""The training loop: epochs of micro-batches, whatever the task."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
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
from dvfl.train.checkpoint import Checkpoint
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
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"train.device: {name!r} is not a device; use auto, cpu, cuda or cuda:<n>") from error
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
    on_epoch: Callable[[dict[str, Any], int], None] = lambda row, epochs: None,
    stop: Callable[[], bool] = lambda: False,
) -> History:
    """Trains `task.model` in place and returns one row an epoch; goes on from the checkpoint if there is one.

    `on_epoch(row, epochs)` is called after each epoch's checkpoint is safe. `validate(model)` may add columns. The
    model ends with the weights of the last epoch; with `best_by`, a column of `validate`, which then looks at every
    epoch, with those of the first of its best epochs. `stop()` is asked after every optimiser step: once it is true,
    the checkpoint is written there, and Stopped raised.
    """
    model, trained, train = task.model, task.trained, recipe.train
    mixing = bool(train.mixup or train.cutmix)
    micro_batches = len(dataset) // train.batch_size if mixing else -(-len(dataset) // train.batch_size)
    if micro_batches == 0:
        raise ConfigError(
            f"train.batch_size: {train.batch_size} is more than the {len(dataset)} training clips, and mixup and "
            f"CutMix take whole batches only; make it smaller or turn them off"
        )
    steps_per_epoch = -(-micro_batches // train.accumulate)
    optimizer = build_optimizer(trained, train)
    history = checkpoint.load(trained, optimizer)
    for epoch in range(len(history), train.epochs):
        sums = _Sums(**(checkpoint.begun or {}))
        checkpoint.begun = None
        begin = time.perf_counter() - sums.seconds
        row: dict[str, Any] = {"epoch": epoch + 1}
        for _ in _epoch(task, dataset, recipe, optimizer, epoch, micro_batches, steps_per_epoch, sums):
            if stop():
                sums.seconds = time.perf_counter() - begin
                checkpoint.save(trained, optimizer, history, begun=asdict(sums))
                raise Stopped(
                    f"asked to end in epoch {epoch + 1} of {train.epochs}, after {sums.micro_batches} of "
                    f"{micro_batches} micro-batches; the same command goes on from there"
                )
        row |= sums.means(steps_per_epoch)
        every = train.validate_every if best_by is None else 1
        if validate is not None and ((epoch + 1) % every == 0 or epoch + 1 == train.epochs):
            row |= validate(model)
        if best_by is not None and all(row[best_by] > earlier[best_by] for earlier in history):
            checkpoint.best = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
        row["seconds"] = time.perf_counter() - begin
        history.append(row)
        checkpoint.save(trained, optimizer, history)
        on_epoch(row, train.epochs)
    if checkpoint.best is not None:
        model.load_state_dict(checkpoint.best)
    return history


@dataclass
class _Sums:
    """What an epoch's optimiser steps add up to."""

    micro_batches: int = 0
    clips: int = 0
    losses: dict[str, float] = field(default_factory=dict)
    correct: int = 0
    grad_norm: float = 0.0
    lr: float = 0.0
    seconds: float = 0.0

    def means(self, steps: int) -> dict[str, float]:
        """Means over the clips, by name; of the gradient's norm over the steps."""
        means = {name: total / self.clips for name, total in self.losses.items()}
        return {"lr": self.lr, **means, "train_top1": self.correct / self.clips, "grad_norm": self.grad_norm / steps}


def _epoch(
    task: SupervisedTask | DistillationTask,
    dataset: ClipDataset,
    recipe: Recipe,
    optimizer: torch.optim.Optimizer,
    epoch: int,
    micro_batches: int,
    steps_per_epoch: int,
    sums: _Sums,
) -> Iterator[None]:
    """One pass over the clips, from where `sums` ends; hands over after each optimiser step."""
    train = recipe.train
    task.model.train()
    order = epoch_order(len(dataset), recipe.seed, epoch)[sums.micro_batches * train.batch_size :]
    mixing = bool(train.mixup or train.cutmix)
    batches = iterate_training(dataset, order, epoch, train.batch_size, drop_last=mixing, workers=train.workers)
    for number, (positions, views, labels) in enumerate(batches, start=sums.micro_batches):
        step, part = divmod(number, train.accumulate)
        if part == 0:
            sums.lr = learning_rate(epoch * steps_per_epoch + step, train.epochs * steps_per_epoch, train)
            for group in optimizer.param_groups:
                group["lr"] = sums.lr
        batch = _prepare(torch.from_numpy(positions), views, labels, recipe, epoch, number)
        # A new address for every micro-batch: stochastic depth is the same after a resume.
        with torch_seeded(recipe.seed, "forward", epoch, number), autocast(recipe):
            losses = task(batch)
        in_step = min(train.accumulate, micro_batches - step * train.accumulate)
        (losses.total / in_step).backward()
        for name, value in losses.parts.items():
            sums.losses[name] = sums.losses.get(name, 0.0) + value * len(labels)
        sums.correct += int((losses.logits.argmax(1) == batch.labels).sum())
        sums.clips += len(labels)
        sums.micro_batches += 1
        if part == in_step - 1:
            sums.grad_norm += _step(task.trained, optimizer, train, epoch)
            yield


def _prepare(positions: Tensor, views: Tensor, labels: Tensor, recipe: Recipe, epoch: int, number: int) -> Batch:
    train = recipe.train
    inputs, labels = normalise(views.to(recipe.device)), labels.to(recipe.device)
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


def _step(trained: nn.Module, optimizer: torch.optim.Optimizer, train: TrainConfig, epoch: int) -> float:
    """One optimiser step; the gradient's norm before clipping."""
    norm = nn.utils.clip_grad_norm_(trained.parameters(), train.clip_grad_norm or float("inf")).item()
    if norm != norm or norm == float("inf"):
        raise Diverged(
            f"the gradient is not finite in epoch {epoch + 1}: the training diverged; lower train.lr, "
            f"or set train.clip_grad_norm, or use precision float32"
        )
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm


def autocast(recipe: Recipe) -> torch.autocast:
    """Mixed precision as the recipe says; float32 passes through."""
    return torch.autocast(recipe.device.type, dtype=torch.bfloat16, enabled=recipe.precision == torch.bfloat16)
