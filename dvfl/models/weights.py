"""A run's weights on disk, with what it takes to build their network again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import nn

from dvfl.errors import UserError
from dvfl.files import atomic
from dvfl.models.registry import check_name, create_model
from dvfl.randomness import torch_seeded


class WeightsError(UserError, ValueError):
    """Weights that do not fit; the message says which file, what does not fit, and what to do."""


@dataclass(frozen=True)
class NetworkDescription:
    """What `create_model` needs, and the classes behind the logits."""

    model: str
    classes: list[str]
    num_frames: int
    img_size: int
    overrides: dict[str, Any] = field(default_factory=dict)
    trained_on: dict[str, str] | None = None  # dataset, split, and the sha256 of its list; None where nobody says

    def build(self) -> nn.Module:
        """Raises WeightsError where the model does not take these sizes or overrides."""
        try:
            check_name(self.model)
        except ValueError as error:
            raise WeightsError(f"{self.model}: {error}") from error
        with self._explained():
            return create_model(self.model, **self._size, **self.overrides)

    def check(self, model: nn.Module, alone: bool = False) -> None:
        """Shows the model a black clip, so that one that cannot take it is refused before it is trained.

        `alone`: in training mode (on a copy), as a micro-batch of one clip is; batch statistics may want more.

        Raises WeightsError unless logits (1, number of classes) come out.
        """
        shown = deepcopy(model).train() if alone else model.eval()
        with self._explained("a micro-batch of one clip: " if alone else ""), torch.no_grad(), torch_seeded("check"):
            logits = shown(torch.zeros(1, self.num_frames, 3, self.img_size, self.img_size))
            if logits.shape != (1, len(self.classes)):
                raise ValueError(f"gives {tuple(logits.shape)} for one clip, not logits (1, {len(self.classes)})")

    @property
    def _size(self) -> dict[str, int]:
        return {"num_classes": len(self.classes), "num_frames": self.num_frames, "img_size": self.img_size}

    @contextmanager
    def _explained(self, what: str = "") -> Iterator[None]:
        try:
            yield
        except (TypeError, ValueError, RuntimeError, AssertionError) as error:
            shown = ", ".join(f"{key}={value}" for key, value in (self._size | self.overrides).items())
            said = " ".join(str(error).split())
            change = "model_overrides, input, or train.batch_size" if what else "model_overrides or input"
            raise WeightsError(f"{self.model} with {shown}: {what}{said}; change {change}") from error


def save_weights(path: Path, model: nn.Module, description: NetworkDescription) -> None:
    """Writes weights and description. The same weights give the same bytes.

    One metadata key only: safetensors writes several in no fixed order.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    metadata = {"dvfl": json.dumps(asdict(description), sort_keys=True)}
    with atomic(path) as partial:
        partial.write_bytes(save(tensors, metadata=metadata))


def load_network(path: str | Path) -> tuple[nn.Module, NetworkDescription]:
    """The network of a weights file that `save_weights` wrote, in eval mode. WeightsError where it is none."""
    path = Path(path)
    description = _describe(path)
    model = description.build()
    load_into(model, path)
    return model.eval(), description


def load_into(model: nn.Module, path: str | Path) -> None:
    """Weights of a file into a model of the same architecture; WeightsError names what does not fit."""
    path = Path(path)
    read_description(path)
    tensors = load_file(path)
    expected = model.state_dict()
    missing = sorted(expected.keys() - tensors.keys())
    unknown = sorted(tensors.keys() - expected.keys())
    other = [key for key in expected.keys() & tensors.keys() if expected[key].shape != tensors[key].shape]
    if missing or unknown or other:
        raise WeightsError(
            f"{path}: does not fit {type(model).__name__}: {misfit(missing, unknown, sorted(other))}; "
            f"use weights of the same model, width and number of classes"
        )
    with torch.no_grad():
        model.load_state_dict(tensors)


def misfit(missing: list[str], unknown: list[str], other_shape: list[str]) -> str:
    """What of a file does not fit a model, in words."""
    parts = (
        (missing, "weights missing"),
        (unknown, "weights that the model does not have"),
        (other_shape, "weights of another shape"),
    )
    return "; ".join(f"{len(keys)} {what} (for example {keys[0]})" for keys, what in parts if keys)


def _describe(path: Path) -> NetworkDescription:
    description = read_description(path)
    if description is None:
        raise WeightsError(f"{path}: does not say which network it belongs to; was it written by dvfl?")
    return description


def read_description(path: Path) -> NetworkDescription | None:
    """What a safetensors file says of its network; None where another program wrote it. Raises WeightsError."""
    if not path.is_file():
        raise WeightsError(f"{path}: no such weights file")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: is not a complete safetensors file ({error}); make or fetch it again") from error
    return NetworkDescription(**json.loads(metadata["dvfl"])) if "dvfl" in metadata else None
