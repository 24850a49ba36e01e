"""Tensors of a weights file, by name, whoever wrote it; nothing in the file is ever run.

A pickle says which functions to call while it is read, so it can do anything. PyTorch's reader for weights alone calls
none but those that make tensors. Released checkpoints need a little more: beside their tensors they hold the config
object that they were trained with, of a class that need not be installed here. Such objects are held as empty shells,
which takes no code of theirs; a file that wants anything *called* is refused.
"""

from __future__ import annotations

import pickle
import pickletools
import re
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from dvfl.models.weights import NetworkDescription, WeightsError, read_description

WRAPPERS = ("model", "state_dict")  # keys under which checkpoints keep their weights
PREFIXES = ("module.", "_orig_mod.")  # of DistributedDataParallel and torch.compile

LEGACY_PICKLES = 4  # that a file of torch.save before 1.6 begins with; the last of them is the object
# Calls that yield plain numbers, such as the best accuracy so far; the numbers are not wanted.
NUMBERS = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtype")
RUNNING = ("os", "posix", "nt", "sys")  # modules that PyTorch refuses whatever else is allowed


@dataclass(frozen=True)
class TensorFile:
    tensors: dict[str, Tensor]
    description: NetworkDescription | None  # where dvfl wrote the file


def read_tensors(path: str | Path) -> TensorFile:
    """The tensors of a .safetensors file or of one that torch.save wrote, on the CPU.

    Of a checkpoint these are its `model` or `state_dict`, without the prefixes that wrappers put before their names.
    Raises WeightsError where there are none.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        description = read_description(path)
        return TensorFile(load_file(path), description)
    if not path.is_file():
        raise WeightsError(f"{path}: no such weights file")
    content = _read_pickle(path)
    for key in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    named = content.items() if isinstance(content, Mapping) else ()
    tensors = {_bare(name): value for name, value in named if isinstance(name, str) and isinstance(value, Tensor)}
    if not tensors:
        raise WeightsError(f"{path}: holds no weights by name; give a file with a model's state dict")
    return TensorFile(tensors, None)


def _bare(name: str) -> str:
    while name.startswith(PREFIXES):
        name = name.partition(".")[2]
    return name


def _read_pickle(path: Path) -> Any:
    zipped = zipfile.is_zipfile(path)
    try:
        named = torch.serialization.get_unsafe_globals_in_checkpoint(path) if zipped else _legacy_globals(path)
        for name in named:
            if name.partition(".")[0] in RUNNING:
                raise _would_run(path, name)
        numbers = [(_Number, name) for name in NUMBERS]
        shells = [(_shell(path, name), name) for name in named if name not in NUMBERS]
        with torch.serialization.safe_globals(numbers + shells):
            # Mapped, a checkpoint's optimizer state, as large as its weights, is not read at all.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except WeightsError:
        raise
    except Exception as error:  # a file that is cut or of another kind fails in many ways
        raise WeightsError(f"{path}: cannot be read as weights ({_reason(error)}); make or fetch it again") from error


def _legacy_globals(path: Path) -> set[str]:
    """Classes and functions that the pickles name."""
    with path.open("rb") as file:
        operations = [each for _ in range(LEGACY_PICKLES) for each in pickletools.genops(file)]
    names = {argument.replace(" ", ".") for operation, argument, _ in operations if operation.name == "GLOBAL"}
    return {re.sub(r"^__builtin__\.", "builtins.", name) for name in names}


def _would_run(path: Path, name: str) -> WeightsError:
    return WeightsError(
        f"{path}: would call {name} if it were opened as its author meant; it was not, and nothing of it was run; "
        f"get the weights from a source that you trust"
    )


def _reason(error: Exception) -> str:
    text = str(error)
    if isinstance(error, pickle.UnpicklingError):
        text = re.sub(r"(?s)^.*WeightsUnpickler error:", "", text)
    return next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)


class _Number:
    """In place of a numpy scalar."""

    def __init__(self, *arguments: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class _Shell(type):
    """Classes whose objects can be unpickled, as bare mappings, and never be called."""

    path: Path

    def __call__(cls, *arguments: Any, **named: Any) -> Any:
        raise _would_run(cls.path, cls.__name__)


def _shell(path: Path, name: str) -> type:
    # PyTorch's reader fills no mappings but these, hence none of a class of our own.
    return _Shell(name, (), {"__new__": lambda cls, *arguments: OrderedDict(), "path": path})
