"""Going on with a stopped training that is named by its folder: only as it was begun.

Unasked, a run goes on where its settings and inputs are those of the stopped one, and starts afresh where they are not.
Asked for by its folder, it goes on or says what changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dvfl.config import flatten
from dvfl.errors import UserError
from dvfl.files import read_json, write_json
from dvfl.paths import resume_directory
from dvfl.run import Run, RunSettings
from dvfl.train.checkpoint import Checkpoint

BEGUN = "begun.json"  # beside the checkpoint: what the training was begun with


class CannotResume(UserError):
    """A training cannot go on from a folder; the message says what changed, or that nothing is there."""


def write_begun(checkpoint: Checkpoint, settings: RunSettings, inputs: Mapping[str, str | None]) -> None:
    """Notes what a training is begun with, for a later one to compare."""
    begun = {"settings": settings.model_dump(mode="json"), "inputs": dict(inputs)}
    write_json(checkpoint.path.with_name(BEGUN), begun)


def remove_begun(checkpoint: Checkpoint) -> None:
    checkpoint.path.with_name(BEGUN).unlink(missing_ok=True)


def run_directory(folder: Path) -> Path:
    """Directory of the run that a folder belongs to: the run's own, its `.resume`, or one state in that."""
    for each in (folder, folder.parent):
        if each.suffix == ".resume":
            return each.with_suffix("")
    return folder


def check_resumable(folder: Path, run: Run, key: str, settings: RunSettings, inputs: Mapping[str, str | None]) -> None:
    """Raises CannotResume unless the training in `folder` was begun with these settings and inputs.

    key: of settings and inputs, the name of the state that would be gone on from.
    """
    if run_directory(folder).resolve() != run.directory.resolve():
        raise CannotResume(f"{folder}: belongs to another run than {run}; give that run's folder")
    all_states = resume_directory(run, key).parent
    named = folder if folder.parent.suffix == ".resume" else None
    states = [named] if named else sorted(all_states.glob("*/"), key=lambda state: state.stat().st_mtime)
    stopped = [state for state in states if Checkpoint(state).path.exists()]
    if any(state.name == key for state in stopped):
        return
    finished = run.directory / "run.json"
    if stopped:
        place, begun = stopped[-1], stopped[-1] / BEGUN
    elif finished.exists() and named is None:
        place, begun = run.directory, finished
        if read_json(finished)["key"] == key:
            return
    else:
        raise CannotResume(f"{folder}: no stopped training lies there; leave --resume away to start {run}")
    changed = changes(read_json(begun), settings, inputs) if begun.exists() else ["what, was not noted"]
    raise CannotResume(
        f"{place}: was begun with other settings or inputs, so it cannot go on; give back the former values, or leave "
        f"--resume away to start afresh:\n  " + "\n  ".join(changed)
    )


def changes(begun: Mapping[str, Any], settings: RunSettings, inputs: Mapping[str, str | None]) -> list[str]:
    """`key: old value then, new value now` for each that differs; `begun` has settings and inputs as plain values."""
    then = flatten(begun["settings"]) | flatten({"inputs": begun["inputs"]})
    now = flatten(settings.model_dump(mode="json")) | flatten({"inputs": dict(inputs)})
    keys = [key for key in {**then, **now} if then.get(key) != now.get(key)]
    return [f"{key}: {_shown(then.get(key))} then, {_shown(now.get(key))} now" for key in keys]


def _shown(value: Any) -> str:
    return "nothing" if value is None else str(value)
