"""Whether a finished result still is what it says: hashes, scores, choices and tables made anew and compared.

Nothing is written. What cannot be checked is said, and does not count as a match.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dvfl import paths, plan
from dvfl.config import Config, digest
from dvfl.data.index import clips_root, read_index
from dvfl.errors import UserError
from dvfl.files import read_json, sha256
from dvfl.models.plugins import plugin_file
from dvfl.paths import RESULTS
from dvfl.provenance.records import WEIGHTS, Record, Records
from dvfl.run import Run, RunSettings
from dvfl.train.provenance import code_version

SAMPLE = 20  # clips of each data set that are hashed again unless all are
_NAMED = 3  # differences of one file that are named; of more, their number
# Not every kind of broken file is an error of the user's: what reading or scoring raises of one that was tampered with.
_BROKEN = (UserError, OSError, ValueError, KeyError)


@dataclass(frozen=True)
class Check:
    """What was looked at, whether it matches (None: could not be told), and what to say of it."""

    kind: str
    what: str
    matches: bool | None = True
    said: str = ""


def verify_results(config: Config, results: Path = RESULTS, every_clip: bool = False) -> Iterator[Check]:
    """Looks at everything under `results`, a folder of that name as the pipeline leaves it.

    config: the one that the results were made with. Raises UserError where there is no such folder.
    """
    if results.resolve().name != RESULTS.name or not results.is_dir():
        raise UserError(f"{results}: give the folder `{RESULTS}` that the pipeline made")
    with contextlib.chdir(results.resolve().parent):
        records = Records(RESULTS)
        yield from _hashes(config, records)
        yield from _runs(config, records)
        yield from _choices(config)
        yield from _targets()
        yield from _clips(config, every_clip)
        yield from _tables(config)
        yield from _code(records)


def summary(checks: list[Check]) -> str:
    """How many of each kind match."""
    kinds = Counter(check.kind for check in checks if check.matches is not None)
    matching = Counter(check.kind for check in checks if check.matches)
    parts = [f"{matching[kind]} of {count} {kind}" for kind, count in kinds.items()]
    wrong = sum(check.matches is False for check in checks)
    verdict = f"{wrong} no longer match" if wrong else "everything that was checked matches"
    return f"{verdict}: {', '.join(parts)}" if parts else "nothing to check"


# ------------------------------------------------------------------------------------------------------------- hashes


def _hashes(config: Config, records: Records) -> Iterator[Check]:
    """Files against the hashes that the runs took of them, each file once."""
    recorded: dict[tuple[Path, str], list[str]] = {}
    for record in records.runs.values():
        for path, sha in [*_inputs(config, records, record), *_outputs(record)]:
            recorded.setdefault((path, sha), []).append(record.directory.as_posix())
    now: dict[Path, str] = {}
    for (path, sha), runs in recorded.items():
        who = runs[0] if len(runs) == 1 else f"{len(runs)} runs, {runs[0]} for one,"
        if not path.is_file():
            apart = path.suffix in (".safetensors", ".pth")  # a published result may come without
            said = f"is not there, {who} recorded its sha256 {sha[:12]}…"
            yield Check("hashes", path.as_posix(), None if apart else False, said)
            continue
        now.setdefault(path, sha256(path))
        same = now[path] == sha
        said = "" if same else f"has sha256 {now[path][:12]}… now, {who} recorded {sha[:12]}…"
        yield Check("hashes", path.as_posix(), same, said)


def _inputs(config: Config, records: Records, record: Record) -> Iterator[tuple[Path, str]]:
    inputs = record.about["inputs"]
    teacher = records.teacher(record)
    named = record.about.get("teacher")
    network = record.about["settings"]["network"]
    files = {
        "plugin": plugin_file(network["model"]),
        "index": records.index(record),
        "split": records.split(record),
        "teacher_weights": records.place(named) / WEIGHTS if named else teacher and teacher.directory / WEIGHTS,
        **{key: paths.weights_path(config, network[key]) for key in ("weights", "start_from") if network.get(key)},
    }
    for what, sha in inputs.items():
        if sha:
            yield Path(files.get(what) or f"{record.directory}'s {what.replace('_', ' ')}"), sha


def _outputs(record: Record) -> Iterator[tuple[Path, str]]:
    for name, sha in record.about.get("outputs", {}).items():
        yield record.directory / name, sha


# ------------------------------------------------------------------------------------------------- settings and scores


def _runs(config: Config, records: Records) -> Iterator[Check]:
    """Each run's settings against those that the config gives it, and its scores against its predictions."""
    known = {run.directory: run for run in plan.all_runs(config)}
    for directory in records.runs:
        if directory not in known:
            said = "is no run of this config, so its settings and scores are not compared"
            yield Check("runs", directory.as_posix(), None, said)
            continue
        yield _settings(config, known[directory], records.runs[directory])
        yield _scores(config, known[directory])


def _settings(config: Config, run: Run, record: Record) -> Check:
    from dvfl.train.inputs import with_choices
    from dvfl.train.resume import changes

    about = record.about
    try:
        settings, _ = with_choices(config, run)
        same = RunSettings.model_validate(about["settings"]).digest == settings.digest
        said = [] if same else changes(about, settings, about["inputs"])
    except _BROKEN as error:
        said = [str(error)]
    if about["key"] != digest([about["settings_digest"], about["inputs"]]):
        said.append("its key is not that of its settings and inputs")
    return Check("settings", record.path.as_posix(), not said, _few(said))


def _scores(config: Config, run: Run) -> Check:
    from dvfl.evaluate.scoring import compute_scores

    path = run.directory / "scores.json"
    if not path.is_file():
        return Check("scores", path.as_posix(), None, "is not there")
    try:
        there, now = read_json(path), compute_scores(config, run)
    except _BROKEN as error:
        return Check("scores", path.as_posix(), False, f"cannot be computed again: {error}")
    # A score that is newer than the file is in no table that was made from it.
    said = [difference for key in there for difference in _differences(there[key], now.get(key), key)]
    return Check("scores", path.as_posix(), not said, _few(said))


def _choices(config: Config) -> Iterator[Check]:
    """What studies chose, against the scores of their trials."""
    from dvfl.ablate.study import choose

    for dataset in config.datasets:
        for study in config.chosen_by:
            path = paths.study_directory(dataset, study) / "choice.json"
            try:
                there, now = read_json(path), choose(config, dataset, study)
                said = [difference for key in there for difference in _differences(there[key], now.get(key), key)]
            except _BROKEN as error:
                said = [f"cannot be made again: {error}"]
            yield Check("choices", path.as_posix(), not said, _few(said))


def _targets() -> Iterator[Check]:
    """Stored logits of teachers against the hashes that were taken of them; `dvfl targets --verify` asks them anew."""
    for path in sorted(RESULTS.glob("targets/*/*/ready.json")):
        ready = read_json(path)
        files = {Path(ready["folder"]) / name: sha for name, sha in ready["files"].items()}
        if not any(file.is_file() for file in files):
            yield Check("targets", path.as_posix(), None, "the logits that it lists are not there")
            continue
        wrong = [file.name for file, sha in files.items() if not file.is_file() or sha256(file) != sha]
        said = f"{len(wrong)} of {len(files)} files are not as written, {wrong[0]} for one" if wrong else ""
        yield Check("targets", path.as_posix(), not wrong, said)


def _differences(there: Any, now: Any, name: str) -> Iterator[str]:
    """Where two plain values differ, by dotted name."""
    if isinstance(there, dict) and isinstance(now, dict) and there.keys() == now.keys():
        pairs = [(there[key], now[key], f"{name}.{key}") for key in there]
    elif isinstance(there, list) and isinstance(now, list) and len(there) == len(now):
        pairs = [(*values, f"{name}[{i}]") for i, values in enumerate(zip(there, now, strict=True))]
    else:
        if there != now:
            yield f"{name} is {there} in the file, {now} made anew"
        return
    for pair in pairs:
        yield from _differences(*pair)


def _few(said: list[str]) -> str:
    more = f"; and {len(said) - _NAMED} more" if len(said) > _NAMED else ""
    return "; ".join(said[:_NAMED]) + more


# ---------------------------------------------------------------------------------------------------- clips and tables


def _clips(config: Config, every: bool) -> Iterator[Check]:
    """Clips against the hashes in their index: all, or some that lie evenly over it."""
    for dataset in config.datasets:
        path, root = paths.index_path(dataset), clips_root(config.dataset_definitions[dataset])
        if not path.is_file():
            continue  # said where hashes are compared
        try:
            index = read_index(path)
        except _BROKEN as error:
            yield Check("clips", path.as_posix(), False, f"cannot be read: {error}")
            continue
        if not root.is_dir():
            yield Check("clips", root.as_posix(), None, f"is not here, so no clip of {dataset} is compared")
            continue
        hashed = index[index["sha256"].str.len() > 0]
        shown = hashed if every else hashed.iloc[np.unique(np.linspace(0, len(hashed) - 1, SAMPLE).astype(int))]
        for clip in shown.itertuples():
            file = root / clip.clip_id
            said = "is not there" if not file.is_file() else ""
            if not said and sha256(file) != clip.sha256:
                said = f"is not the clip that {path} lists: its sha256 differs"
            yield Check("clips", file.as_posix(), not said, said)


def _tables(config: Config) -> Iterator[Check]:
    """Each table against one built from the runs, and all.csv against the tables."""
    from dvfl.report.inputs import TABLES as folder
    from dvfl.report.tables import ON_DEMAND, TABLES, as_csv

    on_demand = {name: build for name, build in ON_DEMAND.items() if (folder / f"{name}.csv").is_file()}
    for name, build in (TABLES | on_demand).items():
        path = folder / f"{name}.csv"
        if not path.is_file():
            yield Check("tables", path.as_posix(), False, "is not there")
            continue
        late = 0
        try:
            there, now = _read(path), _read(StringIO(as_csv(build(config))))
            there, late = _with_late_ids(there, now)
            said = list(_cells(there, now, "from the runs"))
        except _BROKEN as error:
            said = [f"cannot be built again: {error}"]
        yield Check("tables", path.as_posix(), not said, _few(said))
        if late:
            said = f"{late} rows are without run ids that MLflow gave since; `dvfl tables` writes them"
            yield Check("tables", path.as_posix(), None, said)
    path = folder / "all.csv"
    try:
        there = _read(path)
        # Tables that are made on demand stand in all.csv once it is made after them.
        names = [*TABLES, *(name for name in on_demand if (there["table"] == name).any())]
        union = pd.concat([_read(folder / f"{name}.csv") for name in names], ignore_index=True)
        said = list(_cells(there, union, "in its table"))
    except _BROKEN as error:
        said = [f"cannot be compared: {error}"]
    yield Check("tables", path.as_posix(), not said, _few(said))


def _with_late_ids(there: pd.DataFrame, now: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """The table as it would be had MLflow been reached when it was made, and how many rows that changes."""
    if len(there) != len(now) or "run_ids" not in there or "run_ids" not in now:
        return there, 0
    ids = zip(there["run_ids"].str.split(";"), now["run_ids"].str.split(";"), strict=True)
    late = np.array([one != other and set(one) - {""} < set(other) for one, other in ids], dtype=bool)
    return there.assign(run_ids=there["run_ids"].mask(late, now["run_ids"])), int(late.sum())


def _read(source: Path | StringIO) -> pd.DataFrame:
    return pd.read_csv(source, dtype=str, keep_default_na=False)


def _cells(there: pd.DataFrame, now: pd.DataFrame, origin: str) -> Iterator[str]:
    """Cells that differ; rows are counted from 1, as `dvfl trace` counts them."""
    if list(there.columns) != list(now.columns):
        yield f"has columns {', '.join(there.columns)}, not {', '.join(now.columns)}"
        return
    if len(there) != len(now):
        yield f"has {len(there)} rows in the file, {len(now)} {origin}"
    both = min(len(there), len(now))
    for row, column in np.argwhere(there[:both].to_numpy() != now[:both].to_numpy()):
        one, other = there.iat[row, column] or "nothing", now.iat[row, column] or "nothing"
        yield f"row {row + 1}, {there.columns[column]}: {one} in the file, {other} {origin}"


def _code(records: Records) -> Iterator[Check]:
    """Results of another or an uncommitted version of the code may differ for that reason alone."""
    commit, _ = code_version()
    versions = Counter((record.about["commit"], record.about["dirty"]) for record in records.runs.values())
    for (made_by, dirty), count in versions.items():
        if made_by != commit or dirty:
            version = f"{(made_by or 'an unknown commit')[:12]}{' with uncommitted changes' if dirty else ''}"
            said = f"{count} runs were made by {version}, this is {(commit or 'an unknown commit')[:12]}"
            yield Check("code", "code", None, said)
