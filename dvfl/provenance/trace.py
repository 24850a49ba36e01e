"""A number walked back: from a table's row to its runs, their code, settings, choices, clips, and teachers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from rich.text import Text
from rich.tree import Tree

from dvfl.errors import UserError
from dvfl.files import sha256
from dvfl.provenance.records import WEIGHTS, Record, Records
from dvfl.report.results import read_json

# Of a run's settings, what a reader asks for first; all of them are in run.json.
_FIRST = {
    "network": ("model", "model_overrides", "weights", "start_from", "clips_per_class"),
    "input": ("frames", "img_size", "views"),
    "train": ("epochs", "batch_size", "accumulate", "optimizer", "lr", "weight_decay", "label_smoothing", "mixup"),
    "distill": ("divergence", "alpha", "temperature", "t_squared", "targets"),
}


class TraceError(UserError):
    """A row cannot be walked back; the message says which row or run is missing."""


def trace_row(table: Path, row: int) -> dict[str, Any]:
    """What a row of a table rests on, as plain values.

    row: counted from 1, the header not counted. table: a CSV file in the folder `tables` of a results folder. Raises
    TraceError where there is no such table or row, or no record of a run that it names.
    """
    if not table.is_file():
        raise TraceError(f"{table}: there is no such file; give a table, such as results/tables/accuracy.csv")
    frame = pd.read_csv(table, dtype=str, keep_default_na=False)
    if not 1 <= row <= len(frame):
        raise TraceError(f"{table}: there is no row {row}; its rows are 1 to {len(frame)}, the header not counted")
    values = {column: text for column, text in frame.iloc[row - 1].items() if text}
    records = Records(table.parent.parent)
    found = [_found(records, table, row, run_id) for run_id in values.get("run_ids", "").split(";") if run_id]
    return {
        "table": str(table),
        "row": row,
        "rows": len(frame),
        "values": values,
        "runs": [trace_run(records, record) for record in found if not record.is_profile],
        "profiles": [_profile(record) for record in found if record.is_profile],
        "files": [] if found else _files(records, values),
        "without_id": [str(record.path) for record in records.all if not record.id],
    }


def _found(records: Records, table: Path, row: int, run_id: str) -> Record:
    if run_id not in records.by_id:
        raise TraceError(
            f"{table}, row {row}: no run.json under {records.results}/runs or {records.results}/ablation, and no "
            f"profile, has the run id {run_id}; the table is older than its runs, make it again"
        )
    return records.by_id[run_id]


def trace_run(records: Records, record: Record) -> dict[str, Any]:
    """Code, settings, choices, inputs and clips of a run, and the same of its teacher and of what it started from."""
    about = record.about
    teacher, start = records.teacher(record), records.start(record)
    return {
        "run_id": record.id,
        "directory": str(record.directory),
        "commit": about["commit"],
        "dirty": about["dirty"],
        "settings": about["settings"],
        "chosen": [_choice(records, about["dataset"], *item) for item in (about["chosen"] or {}).items()],
        "inputs": _inputs(records, record, teacher),
        "weights_sha256": records.weights_hash(record),
        "clips": _clips(records, record),
        "device": about["device"],
        "versions": about["versions"],
        "teacher": None if teacher is None else trace_run(records, teacher),
        "started_from": None if start is None else trace_run(records, start),
    }


def _choice(records: Records, dataset: str, key: str, value: Any) -> dict[str, Any]:
    """Which study chose a value; None where none says so now."""
    chosen = [each for each in records.choices(dataset) if each["values"].get(key) == value]
    by = {"study": chosen[0]["study"], "subset": chosen[0]["subset"]} if chosen else {"study": None, "subset": None}
    return {"key": key, "value": value, **by}


def _inputs(records: Records, record: Record, teacher: Record | None) -> list[dict[str, Any]]:
    network = record.about["settings"]["network"]
    paths = {
        "index": records.index(record),
        "split": records.split(record),
        "teacher_weights": teacher and teacher.directory / WEIGHTS,
        **{key: network.get(key) for key in ("weights", "start_from")},
    }
    return [
        {"what": what, "path": str(paths[what]) if paths.get(what) else None, "sha256": digest}
        for what, digest in record.about["inputs"].items()
        if digest
    ]


def _clips(records: Records, record: Record) -> dict[str, Any]:
    """How many clips were learned and tested, and where their names are."""
    about, settings = record.about, record.about["settings"]
    joined = about["stage"] != "selection" and settings["train"]["include_validation"]
    scores = record.directory / "scores.json"
    tested = read_json(scores) if scores.exists() else {}
    return {
        "learned": about["train_clips"],
        "from": ["train", "validation"] if joined else ["train"],
        "per_class": settings["network"].get("clips_per_class"),
        "tested": tested.get("n_clips"),
        "tested_on": tested.get("subset"),
        "list": str(records.split(record)),
    }


def _profile(record: Record) -> dict[str, Any]:
    return {"run_id": record.id, "path": str(record.path), **record.about}


def _files(records: Records, values: dict[str, str]) -> list[dict[str, str]]:
    """Files behind a row that names no run: counts come from index, split and audit."""
    folder = records.results / "data" / values.get("dataset", "")
    split = values.get("split", "")
    audit = [folder / f"audit/{split}.csv"] if values.get("table") == "audit" else []
    paths = [folder / "index.parquet", folder / f"splits/{split}.csv", *audit]
    return [{"path": str(path), "sha256": sha256(path)} for path in paths if path.is_file()]


# ------------------------------------------------------------------------------------------------------ for a terminal


def as_tree(traced: dict[str, Any]) -> Tree:
    """The same for a reader; a run that several share is told once."""
    tree = Tree(Text(f"{traced['table']}, row {traced['row']} of {traced['rows']}", style="bold"))
    row = tree.add(Text("the row"))
    for column, text in traced["values"].items():
        if column != "run_ids":
            row.add(_line(column, text))
    told: set[str] = set()
    for run in traced["runs"]:
        _add_run(tree, "run", run, told)
    for profile in traced["profiles"]:
        _add_profile(tree, profile)
    for file in traced["files"]:
        tree.add(_line(file["path"], f"sha256 {file['sha256']}"))
    if not (traced["runs"] or traced["profiles"] or traced["files"]):
        tree.add(Text("no run: this number was not tested here"))
    if traced["without_id"]:
        late = f"{len(traced['without_id'])} runs, {traced['without_id'][0]} for one: MLflow has not been reached since"
        tree.add(_line("without id", f"{late}; `dvfl tables` delivers them and writes their ids into the tables"))
    return tree


def _add_run(tree: Tree, role: str, run: dict[str, Any], told: set[str]) -> None:
    branch = tree.add(Text.assemble((f"{role} ", "bold"), (run["directory"], "cyan")))
    if run["directory"] in told:
        branch.add(Text("as above"))
        return
    told.add(run["directory"])
    branch.add(_line("MLflow", run["run_id"] or "not tracked"))
    branch.add(_line("commit", _commit(run)))
    for section, keys in _FIRST.items():
        values = run["settings"].get(section) or {}
        shown = {key: values[key] for key in keys if values.get(key) not in (None, {}, [])}
        if shown:
            branch.add(_line(section, ", ".join(f"{key} {value}" for key, value in shown.items())))
    for choice in run["chosen"]:
        by = f"by {choice['study']}, on {choice['subset']}" if choice["study"] else "no choice.json says so any more"
        branch.add(_line("chosen", f"{choice['key']} {choice['value']} ({by})"))
    for each in run["inputs"]:
        branch.add(_line(each["what"], f"{each['path'] or 'not under this folder'}, sha256 {each['sha256']}"))
    branch.add(_line("own weights", f"sha256 {run['weights_sha256']}" if run["weights_sha256"] else "not here"))
    branch.add(_line("clips", _clip_text(run["clips"])))
    branch.add(_line("all of it", f"{run['directory']}/run.json"))
    for role, key in (("teacher", "teacher"), ("started from", "started_from")):
        if run[key]:
            _add_run(branch, role, run[key], told)


def _clip_text(clips: dict[str, Any]) -> str:
    few = f", {clips['per_class']} a class" if clips["per_class"] else ""
    tested = f", tested on {clips['tested']} of {clips['tested_on']}" if clips["tested"] else ""
    return f"learned {clips['learned']} of {' and '.join(clips['from'])}{few}{tested}: named in {clips['list']}"


def _add_profile(tree: Tree, profile: dict[str, Any]) -> None:
    branch = tree.add(Text.assemble(("profile ", "bold"), (profile["path"], "cyan")))
    branch.add(_line("MLflow", profile["run_id"]))
    branch.add(_line("commit", _commit(profile)))
    size = f"{profile['frames']}x{profile['img_size']}x{profile['img_size']}, {profile['num_classes']} classes"
    overrides = "".join(f", {key} {value}" for key, value in profile.get("overrides", {}).items())
    branch.add(_line("model", f"{profile['model']}{overrides}, {size}"))
    branch.add(_line("measured", f"{profile['device']}, {profile['precision']}, {profile['threads']} threads"))
    branch.add(_line("machine", ", ".join(f"{key} {value}" for key, value in profile["machine"].items())))


def _commit(about: dict[str, Any]) -> str:
    commit = about.get("commit")
    if commit is None:
        return "not recorded"
    return f"{commit}, with uncommitted changes" if about.get("dirty") else commit


def _line(name: str, text: str) -> Text:
    return Text.assemble((f"{name} ", "dim"), text)
