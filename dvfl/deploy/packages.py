"""The packages that only export needs: imported where they are used, so that nothing else waits for them or has to
install them."""

from __future__ import annotations

import importlib
from types import ModuleType

from dvfl.errors import UserError

EXTRA = "export"  # of pyproject.toml


class ExportError(UserError):
    """A network could not be exported; the message says which, why, and what to do."""


def package(name: str) -> ModuleType:
    """The package, imported. Raises ExportError, with the extra to install, where it is not there."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ExportError(
            f"{error.name} is not installed: exported networks need the extra {EXTRA!r}; "
            f"pip install --editable '.[{EXTRA}]'"
        ) from error
