"""The packages that only export needs: imported where they are used, so that nothing else waits for them or has to
install them."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

from dvfl.errors import UserError

EXTRA = "export"  # of pyproject.toml
PACKAGES = ("ml_dtypes", "onnx", "onnxruntime", "onnxscript", "openvino")


class ExportError(UserError):
    """A network could not be exported; the message says which, why, and what to do."""


def package(name: str) -> ModuleType:
    """The package, imported. Raises ExportError, with the extra to install, where it is not there."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise _not_installed(error.name or name) from error


def require_packages() -> None:
    """Looks for all of them, and imports none. Raises ExportError for the first that is not there."""
    for name in PACKAGES:
        if importlib.util.find_spec(name) is None:
            raise _not_installed(name)


def _not_installed(name: str) -> ExportError:
    return ExportError(
        f"{name} is not installed: exported networks need the extra {EXTRA!r}; pip install --editable '.[{EXTRA}]'"
    )
