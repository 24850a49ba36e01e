"""The network of a run before its training: which clips it will have learned, which weights it is given."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from dvfl import paths
from dvfl.config import Config, ConfigError, TrainConfig
from dvfl.models.pretrained import LoadReport, load_pretrained
from dvfl.models.weights import NetworkDescription, read_description
from dvfl.run import Run, RunSettings
from dvfl.train.lineage import check_lineage, trained_on
from dvfl.train.loop import compile_network


def learned_clips(
    config: Config, run: Run, teacher: Run | None, settings: RunSettings, classes: list[str], split_sha256: str | None
) -> dict[str, str] | None:
    """The clips that the run's weights will have learned. Refuses weights, given or the teacher's, that leak others."""
    network = settings.network
    given, start = (name and paths.weights_path(config, name) for name in (network.weights, network.start_from))
    taught_by = teacher.directory / "weights.safetensors" if teacher and not given else None
    described = {path: _said_of(path) for path in (given, start, taught_by) if path}
    for path, description in described.items():
        check_lineage(path, description, classes, run, split_sha256, starts=path == start)
    if given:
        return described[given].trained_on if described[given] else None
    return trained_on(run, split_sha256)


def _said_of(weights: Path) -> NetworkDescription | None:
    """What weights say of themselves; other programs' formats say nothing."""
    return read_description(weights) if weights.suffix == ".safetensors" else None


def leaves_one_clip(clips: int, train: TrainConfig) -> bool:
    """Whether a micro-batch of an epoch holds a single clip; one that mixes drops the epoch's remainder."""
    return train.batch_size == 1 or (clips % train.batch_size == 1 and not (train.mixup or train.cutmix))


def load_given(config: Config, settings: RunSettings, model: nn.Module, classes: list[str]) -> LoadReport | None:
    """Loads the weights that replace the training or that it starts from; what became of them."""
    weights, start_from = settings.network.weights, settings.network.start_from
    given = weights or start_from
    if given is None:
        return None
    named = config.weights_definitions.get(given)
    return load_pretrained(
        model,
        paths.weights_path(config, given),
        classes=classes,
        layout=named and named.layout,
        complete=weights is not None,
    )


def make_lighter(model: nn.Module, settings: RunSettings) -> None:
    """Gradient checkpointing and compilation of a network that is to be trained, where they are asked for.

    Raises ConfigError where they would not do what they say.
    """
    train = settings.train
    if train.gradient_checkpointing:
        if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):
            raise ConfigError(
                f"train.gradient_checkpointing: {settings.network.model} has BatchNorm, whose statistics would count "
                f"every clip twice; turn it off"
            )
        try:
            model.set_grad_checkpointing()
        except (AttributeError, AssertionError) as error:
            raise ConfigError(
                f"train.gradient_checkpointing: {settings.network.model} does not know it; turn it off"
            ) from error
    if train.compile:
        if settings.distill is not None and settings.distill.features.weight:
            raise ConfigError(
                "train.compile: modulators cannot be watched in a compiled network; turn it off, or set "
                "distill.features.weight: 0"
            )
        compile_network(model)
