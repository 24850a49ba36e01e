"""Modules of the user's own, imported for the models that they register."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from pathlib import Path

from dvfl.errors import UserError
from dvfl.models.registry import model_names

_files: dict[str, Path] = {}  # by model: the .py file that registered it


class PluginError(UserError, ValueError):
    """A plugin cannot be imported; the message says which, why, and where."""


def import_plugin(plugin: str) -> None:
    """Imports a module by its name, or a .py file by its path; once, however often it is asked for.

    A file's path is from the current folder; the file may import the modules beside it.

    Raises PluginError.
    """
    is_file = plugin.endswith(".py")
    if is_file and not Path(plugin).is_file():
        raise PluginError(f"{plugin}: no such file; give a module's name or the path of a .py file")
    known = set(model_names())
    try:
        if is_file:
            _import_file(Path(plugin).resolve())
        else:
            importlib.import_module(plugin)
    except Exception as error:
        beside = f"; there is {plugin}.py in this folder: is that meant?" if Path(f"{plugin}.py").is_file() else ""
        said = f"{type(error).__name__}: {error}{_where(error)}{beside}"
        raise PluginError(f"{plugin}: cannot be imported: {said}") from error
    if is_file:
        _files.update({name: Path(plugin) for name in model_names() if name not in known})


def plugin_file(model: str) -> Path | None:
    """The .py file that registered a model, as its plugin was named; None for a model of any other origin."""
    return _files.get(model)


def _where(error: Exception) -> str:
    """File and line that an error of a plugin's own code came from; nothing where importing it failed by itself."""
    machinery = (__file__, importlib.__file__, "<")
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(machinery)]
    return f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""


def _import_file(path: Path) -> None:
    name = str(path)  # no module's name, so that `models.py` does not pass for another module of that name
    if name in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
