"""The loop alone, over views that are made up: no video is read."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from dvfl.config import ConfigError, DistillConfig, TrainConfig
from dvfl.distill.targets import OnlineTargets
from dvfl.distill.task import DistillationTask, SupervisedTask, frozen
from dvfl.errors import Stopped
from dvfl.train.checkpoint import Checkpoint
from dvfl.train.loop import Diverged, fit, resolve
from tests.train.views import CLASSES, Views


def network(dropout: float = 0.0, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    layers = [nn.Flatten(), nn.Linear(2 * 3 * 8 * 8, 16), nn.LayerNorm(16), nn.Dropout(dropout), nn.Linear(16, CLASSES)]
    return nn.Sequential(*layers)


def train(folder, *, model=None, views=None, task=None, seed: int = 0, validate=None, **values):
    """Trained model and history. SGD unless told otherwise."""
    recipe = TrainConfig(**{"optimizer": "sgd", "lr": 0.01, "epochs": 3, "batch_size": 4, "device": "cpu"} | values)
    model = model or network()
    task = task(model) if task else SupervisedTask(model)
    history = fit(task, views or Views(), resolve(recipe, seed, CLASSES), Checkpoint(folder), validate=validate)
    return model, history


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_it_learns(tmp_path):
    _, history = train(tmp_path, epochs=10)
    assert history[-1]["loss"] < 0.5 * history[0]["loss"]
    assert history[-1]["train_top1"] == 1.0
    assert [row["epoch"] for row in history] == list(range(1, 11))


@pytest.mark.parametrize("after", [1, 2, 4])  # optimiser steps: within an epoch, at the end of one, in the next
def test_asked_to_stop_within_an_epoch_it_goes_on_to_the_same_bits(tmp_path, after):
    values = {"optimizer": "adamw", "batch_size": 2, "accumulate": 3, "mixup": 0.8, "epochs": 3}
    whole, history = train(tmp_path / "whole", model=network(0.3), **values)
    recipe = TrainConfig(**{"lr": 0.01, "device": "cpu"} | values)
    model, asked = network(0.3), iter(range(1, 100))
    checkpoint = Checkpoint(tmp_path / "stopped")
    with pytest.raises(Stopped, match=rf"in epoch {1 + (after - 1) // 2} of 3, after {2 - after % 2} of 2 steps"):
        fit(
            SupervisedTask(model),
            Views(),
            resolve(recipe, 0, CLASSES),
            checkpoint,
            stop=lambda: next(asked) == after,
        )
    resumed, rest = train(tmp_path / "stopped", model=network(0.3, seed=9), **values)
    assert torch.equal(weights(resumed), weights(whole))
    for one, other in zip(rest, history, strict=True):
        assert one["seconds"] > 0
        assert {**one, "seconds": 0} == {**other, "seconds": 0} and list(one) == list(other)


def test_the_last_learning_rate_of_each_epoch_is_logged(tmp_path):
    _, history = train(tmp_path, epochs=4, warmup=0.0, lr=0.01, lr_floor=0.1)
    assert history[-1]["lr"] == pytest.approx(0.001)
    assert history[0]["lr"] > history[1]["lr"] > history[2]["lr"] > history[3]["lr"]


def test_the_same_seed_gives_the_same_bits_and_another_does_not(tmp_path):
    one, _ = train(tmp_path / "one", model=network(0.3))
    torch.rand(7)  # the global generator's state leaves no trace
    two, _ = train(tmp_path / "two", model=network(0.3))
    other, _ = train(tmp_path / "other", model=network(0.3), seed=1)
    assert torch.equal(weights(one), weights(two))
    assert not torch.equal(weights(one), weights(other))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("mixup", [0.0, 0.8])
def test_stopped_after_any_epoch_it_goes_on_to_the_same_bits(tmp_path, optimizer, mixup):
    values = {"optimizer": optimizer, "mixup": mixup, "epochs": 4}
    whole, history = train(tmp_path / "whole", model=network(0.3), **values)

    class Stop(Exception):
        pass

    def stop_once(row, epochs):
        if row["epoch"] == stop:
            raise Stop

    for stop in (1, 3):
        folder = tmp_path / f"stopped{stop}"
        recipe = TrainConfig(**{"lr": 0.01, "batch_size": 4, "device": "cpu"} | values)
        with pytest.raises(Stop):
            task = SupervisedTask(network(0.3))
            fit(task, Views(), resolve(recipe, 0, CLASSES), Checkpoint(folder), on_epoch=stop_once)
        resumed, rest = train(folder, model=network(0.3, seed=9), **values)
        assert torch.equal(weights(resumed), weights(whole))
        assert [without_time(row) for row in rest] == [without_time(row) for row in history]


def without_time(row: dict) -> dict:
    return {name: value for name, value in row.items() if name != "seconds"}


@pytest.mark.parametrize(("batch_size", "accumulate"), [(6, 2), (4, 3), (1, 12), (4, 8)])
def test_accumulating_small_batches_equals_one_large_batch(tmp_path, batch_size, accumulate):
    large, its = train(tmp_path / "large", batch_size=12, epochs=5)
    small, history = train(tmp_path / "small", batch_size=batch_size, accumulate=accumulate, epochs=5)
    torch.testing.assert_close(weights(small), weights(large), rtol=1e-4, atol=1e-6)
    assert [row["loss"] for row in history] == pytest.approx([row["loss"] for row in its], rel=1e-4)
    assert [row["grad_norm"] for row in history] == pytest.approx([row["grad_norm"] for row in its], rel=1e-3)


def test_without_accumulation_small_batches_end_elsewhere(tmp_path):
    large, _ = train(tmp_path / "large", batch_size=12, epochs=5)
    small, _ = train(tmp_path / "small", batch_size=4, epochs=5)
    assert (weights(small) - weights(large)).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("batch_size", "accumulate", "steps"), [(4, 1, 3), (5, 1, 3), (4, 2, 2), (12, 5, 1), (100, 1, 1)]
)
def test_every_clip_counts_once_an_epoch_in_whole_steps(tmp_path, monkeypatch, batch_size, accumulate, steps):
    shown: list[int] = []
    taken: list[int] = []
    views = Views()
    draw = views.training_view
    monkeypatch.setattr(views, "training_view", lambda i, epoch: shown.append(i) or draw(i, epoch))
    step = torch.optim.SGD.step
    monkeypatch.setattr(torch.optim.SGD, "step", lambda self, *a, **k: taken.append(1) and step(self, *a, **k))
    train(tmp_path, views=views, batch_size=batch_size, accumulate=accumulate, epochs=1)
    assert sorted(shown) == list(range(12))
    assert len(taken) == steps


def test_epochs_come_in_orders_of_their_own(tmp_path, monkeypatch):
    shown: list[int] = []
    views = Views()
    monkeypatch.setattr(views, "training_view", lambda i, epoch: shown.append(i) or views.views[i])
    train(tmp_path, views=views, epochs=2)
    assert shown[:12] != shown[12:]


def test_loss_parts_are_means_over_the_clips_by_name(tmp_path):
    _, history = train(tmp_path, batch_size=5, epochs=1, lr=1e-9, label_smoothing=0.0)
    views = (Views().views.float() / 255 - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor(
        [0.229, 0.224, 0.225]
    ).view(3, 1, 1)
    logits, labels = network()(views), torch.from_numpy(Views().labels)
    assert history[0]["loss_ce"] == pytest.approx(nn.functional.cross_entropy(logits, labels).item(), rel=1e-4)
    assert history[0]["train_top1"] == pytest.approx((logits.argmax(1) == labels).float().mean().item())
    assert {"epoch", "lr", "loss", "loss_ce", "train_top1", "grad_norm", "seconds"} == set(history[0])


def test_distillation_logs_its_parts_and_the_total_is_theirs(tmp_path):
    config = DistillConfig(alpha=0.3, temperature=2.0)
    teacher = frozen(network(seed=4))
    before = weights(teacher).clone()
    _, history = train(tmp_path, task=lambda model: DistillationTask(model, OnlineTargets(teacher), config))
    for row in history:
        assert row["loss"] == pytest.approx(0.3 * row["loss_kd"] + 0.7 * row["loss_ce"], rel=1e-5)
    assert torch.equal(weights(teacher), before)


def test_validation_is_looked_at_every_so_many_epochs_and_at_the_end(tmp_path):
    looks: list[bool] = []

    def validate(model: nn.Module) -> dict[str, float]:
        looks.append(model.training)
        model.eval()
        return {"val_top1": len(looks) / 10}

    _, history = train(tmp_path, epochs=5, validate_every=2, validate=validate)
    assert {row["epoch"]: row["val_top1"] for row in history if "val_top1" in row} == {2: 0.1, 4: 0.2, 5: 0.3}


def test_looking_at_validation_changes_nothing(tmp_path):
    alone, _ = train(tmp_path / "alone", model=network(0.3))
    watched, _ = train(
        tmp_path / "watched", model=network(0.3), validate_every=1, validate=lambda model: model.eval() and {}
    )
    assert torch.equal(weights(alone), weights(watched))


def test_the_gradient_is_clipped_and_its_norm_before_is_logged(tmp_path):
    model, history = train(tmp_path, epochs=1, batch_size=12, lr=1.0, warmup=0.0, clip_grad_norm=1e-3, weight_decay=0.0)
    moved = (weights(model) - weights(network())).norm().item()
    assert history[0]["grad_norm"] > 0.1
    assert moved == pytest.approx(1e-3 * 1.9, rel=0.02)  # Nesterov's first step is 1 + momentum long


def test_bfloat16_trains_and_differs_a_little_from_float32(tmp_path):
    full, _ = train(tmp_path / "full")
    mixed, history = train(tmp_path / "mixed", precision="bfloat16")
    assert all(math.isfinite(row["loss"]) for row in history)
    difference = (weights(mixed) - weights(full)).abs().max().item()
    assert 0 < difference < 0.05
    assert all(parameter.dtype == torch.float32 for parameter in mixed.parameters())


def test_mixing_takes_whole_batches_only(tmp_path, monkeypatch):
    shown: list[int] = []
    views = Views(11)
    draw = views.training_view
    monkeypatch.setattr(views, "training_view", lambda i, epoch: shown.append(i) or draw(i, epoch))
    train(tmp_path, views=views, mixup=0.8, epochs=1)
    assert len(set(shown)) == len(shown) == 8


def test_mixing_changes_the_training(tmp_path):
    plain, _ = train(tmp_path / "plain")
    mixed, _ = train(tmp_path / "mixed", mixup=0.8)
    cut, _ = train(tmp_path / "cut", cutmix=1.0)
    never, _ = train(tmp_path / "never", mixup=0.8, mix_probability=0.0)
    assert not torch.equal(weights(plain), weights(mixed))
    assert not torch.equal(weights(mixed), weights(cut))
    torch.testing.assert_close(weights(never), weights(plain))


def test_mixing_more_clips_than_there_are_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"train\.batch_size: 14 is more than the 12 training clips"):
        train(tmp_path, mixup=0.8, batch_size=14)


@pytest.mark.parametrize("clip_grad_norm", [5.0, None])
def test_a_training_that_diverges_stops_with_what_to_do(tmp_path, clip_grad_norm):
    model = network()
    with torch.no_grad():
        model[-1].weight.fill_(math.nan)
    with pytest.raises(Diverged, match=r"epoch 1.*lower train\.lr"):
        train(tmp_path, model=model, clip_grad_norm=clip_grad_norm)
    assert not (tmp_path / "checkpoint.pt").exists()


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_device_that_is_not_there_is_refused(device):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ConfigError, match=rf"train\.device: '{device}'.*finds no GPU"):
        resolve(TrainConfig(device=device), 0, CLASSES)


def test_auto_stands_for_what_the_machine_has():
    recipe = resolve(TrainConfig(device="auto", precision="auto"), 0, CLASSES)
    gpu = torch.cuda.is_available()
    assert recipe.device.type == ("cuda" if gpu else "cpu")
    assert recipe.precision == (torch.bfloat16 if gpu else torch.float32)


# ----------------------------------------------------------------------------------------- selecting an epoch, on test


def scripted(values):
    """A validator that says what it is told, epoch by epoch, and keeps the weights that it saw."""
    values, seen = iter(values), []

    def validate(model: nn.Module) -> dict[str, float]:
        seen.append(weights(model))
        return {"test_top1": next(values)}

    return validate, seen


def select(folder, values, model=None, stop=None, **changes):
    recipe = TrainConfig(**{"optimizer": "sgd", "lr": 0.01, "epochs": 4, "batch_size": 4, "device": "cpu"} | changes)
    validate, seen = scripted(values)
    task = SupervisedTask(model or network())

    def stop_at(row, epochs):
        if row["epoch"] == stop:
            raise InterruptedError

    checkpoint = Checkpoint(folder)
    options = {"validate": validate, "best_by": "test_top1", "on_epoch": stop_at}
    history = fit(task, Views(), resolve(recipe, 0, CLASSES), checkpoint, **options)
    return task.model, history, seen


def test_the_first_of_the_best_epochs_is_kept_and_every_epoch_is_looked_at(tmp_path):
    model, history, seen = select(tmp_path, [0.2, 0.7, 0.7, 0.5], validate_every=10)
    assert [row["test_top1"] for row in history] == [0.2, 0.7, 0.7, 0.5]
    assert torch.equal(weights(model), seen[1])
    assert not torch.equal(weights(model), seen[3])


def test_a_stopped_selection_still_knows_its_best_epoch(tmp_path):
    _, _, seen = select(tmp_path / "whole", [0.2, 0.9, 0.1, 0.1])
    with pytest.raises(InterruptedError):
        select(tmp_path / "stopped", [0.2, 0.9, 0.1], stop=3)
    model, history, _ = select(tmp_path / "stopped", [0.1], model=network(seed=9))
    assert len(history) == 4
    assert torch.equal(weights(model), seen[1])
