"""Less memory or faster steps, and the same training: gradient checkpointing, compilation, float16."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from dvfl import plan
from dvfl.config import ConfigError, TrainConfig
from dvfl.distill.task import SupervisedTask
from dvfl.files import read_json, sha256
from dvfl.models import create_model
from dvfl.train.checkpoint import Checkpoint
from dvfl.train.loop import Diverged, fit, resolve
from dvfl.train.network import make_lighter
from tests.train.test_distributed import network
from tests.train.views import Views

RUN = Path("results/runs/colours/split1/as_described")
DROPPED = {"student": {"model_overrides": {"drop_path_rate": 0.3}}}


def small(**values) -> nn.Module:
    torch.manual_seed(0)
    return create_model("video_focalnet_w12_d1121", num_classes=3, num_frames=2, img_size=32, **values)


@pytest.mark.parametrize("distill", [{}, {"targets": "online", "features": {"weight": 0.5}}])
def test_gradient_checkpointing_changes_no_bit(taught, another_folder, distill):
    values = {**DROPPED, "distill": distill}
    hashes = []
    for again in (False, True):
        place = another_folder(taught, f"again-{again}")
        directory = place.train("distilled", {**values, "train": {"gradient_checkpointing": again}})
        hashes.append((sha256(directory / "weights.safetensors"), read_json(directory / "run.json")["key"]))
    assert hashes[0] == hashes[1]


def test_gradient_checkpointing_keeps_fewer_activations():
    kept = []
    for again in (False, True):
        model, sizes = small(), []
        model.set_grad_checkpointing(again)

        def note(tensor, sizes=sizes):
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            model(torch.randn(2, 2, 3, 32, 32)).sum()
        kept.append(sum(sizes))
    assert kept[1] < kept[0] / 3


@pytest.mark.parametrize(
    ("model", "said"),
    [("timm/test_resnet", "has BatchNorm, whose statistics would count"), ("swin3d_t", "not know it")],
)
def test_gradient_checkpointing_is_refused_where_it_would_not_do_what_it_says(project, monkeypatch, model, said):
    config = project.config({"train": {"gradient_checkpointing": True}})
    settings = plan.run_settings(config, project.run(config))
    settings = settings.model_copy(update={"network": settings.network.model_copy(update={"model": model})})
    network = create_model(model, num_classes=3, num_frames=2, img_size=32) if "resnet" in model else nn.Linear(2, 2)
    with pytest.raises(ConfigError, match=f"{model}.*{said}"):
        make_lighter(network, settings)


def test_timm_models_that_know_it_checkpoint_gradients():
    model = create_model("timm/test_vit", num_classes=3, num_frames=2, img_size=32)
    model.set_grad_checkpointing()
    assert model.network.grad_checkpointing


def test_a_compiled_network_is_trained_and_saved_under_the_same_names(project, another_folder, monkeypatch):
    """By the compiler's front end alone: what makes machine code takes a minute, and rounds otherwise."""
    compiled = []

    def front_end(self, *, options):
        compiled.append(options)
        self._compiled_call_impl = torch.compile(self._call_impl, backend="eager")

    monkeypatch.setattr(nn.Module, "compile", front_end)
    other = another_folder(project, "compiled")
    directory = other.root / other.train("student", {**DROPPED, "train": {"compile": True}})
    monkeypatch.chdir(project.root)
    without = project.train("student", DROPPED)
    assert compiled == [{"fallback_random": True}]
    weights, its = (load_file(place / "weights.safetensors") for place in (directory, without))
    assert weights.keys() == its.keys()
    assert all((weights[name] - its[name]).abs().max() < 1e-4 for name in its)


def test_modulators_are_not_watched_in_a_compiled_network(taught):
    values = {"train": {"compile": True}, "distill": {"targets": "online", "features": {"weight": 0.5}}}
    with pytest.raises(ConfigError, match=r"train\.compile: modulators cannot be watched"):
        taught.train("distilled", values)


# ------------------------------------------------------------------------------------------------------------- float16


def half(folder: Path, epochs: int = 4, stop: int | None = None, model: nn.Module | None = None):
    train = {"optimizer": "sgd", "lr": 0.02, "batch_size": 4, "device": "cpu", "precision": "float16"}
    task = SupervisedTask(model or network())

    def on_epoch(row, of):
        if row["epoch"] == stop:
            raise InterruptedError

    recipe = resolve(TrainConfig(**train, epochs=epochs), 0, 3)
    return task.model, fit(task, Views(26), recipe, Checkpoint(folder), on_epoch=on_epoch)


def test_float16_learns_and_goes_on_where_it_was_to_the_same_bits(tmp_path):
    whole, history = half(tmp_path / "whole")
    assert history[-1]["loss"] < history[0]["loss"]
    with pytest.raises(InterruptedError):
        half(tmp_path / "stopped", stop=2)
    assert torch.load(tmp_path / "stopped/checkpoint.pt")["scaler"]["scale"] > 1
    resumed, rest = half(tmp_path / "stopped", model=network(seed=9))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    assert pd.DataFrame(rest).drop(columns="seconds").equals(pd.DataFrame(history).drop(columns="seconds"))


def test_a_step_that_overflows_is_left_out_and_the_scale_shrinks(tmp_path):
    model = network(dropout=0.0)
    with torch.no_grad():
        model[-1].weight.mul_(3000)  # times the first scale, too much for float16
    _, history = half(tmp_path, epochs=3, model=model)
    assert 0 < history[-1]["grad_norm"] < float("inf")
    assert torch.load(tmp_path / "checkpoint.pt")["scaler"]["scale"] < 65536


def test_float16_that_never_becomes_finite_has_diverged(tmp_path):
    model = network()
    with torch.no_grad():
        model[-1].weight.fill_(float("nan"))
    with pytest.raises(Diverged, match=r"lower train\.lr"):
        half(tmp_path, epochs=10, model=model)
