"""The tables by name, and their files: full and tidy as CSV, readable as Markdown, LaTeX and HTML."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pandas as pd

from dvfl.config import Config
from dvfl.files import atomic, required
from dvfl.report.ablation import build_ablation
from dvfl.report.accuracy import build_accuracy
from dvfl.report.audit import build_audit, build_audit_classes
from dvfl.report.checks import build_checks
from dvfl.report.claims import build_claims
from dvfl.report.efficiency import build_efficiency
from dvfl.report.formats import as_html, as_latex, as_markdown
from dvfl.report.inputs import TABLES as FOLDER
from dvfl.report.protocol_effects import build_protocol_effects
from dvfl.report.released_loss import build_released_loss
from dvfl.report.results import ReportError
from dvfl.report.rows import COLUMNS, NUMBERS, number_text

TABLES: dict[str, Callable[[Config], pd.DataFrame]] = {
    "accuracy": build_accuracy,
    "efficiency": build_efficiency,
    "ablation": build_ablation,
    "checks": build_checks,
    "audit": build_audit,
    "audit_classes": build_audit_classes,
    "claims": build_claims,
    "released_loss": build_released_loss,
}
ON_DEMAND = {"protocol_effects": build_protocol_effects}  # a study of its own, which no other table waits for


def write_table(frame: pd.DataFrame, path: str | Path, words: str = "") -> None:
    """Write `path`.csv, .md, .tex and .html; the same frame gives the same bytes.

    What the table shows in plain `words`, if anything, stands in the pages that are read: .md and .html.
    """
    csv = as_csv(frame)
    contents = {
        "csv": csv,
        "md": as_markdown(frame, words),
        "tex": as_latex(frame),
        "html": as_html(frame, csv, Path(path).name, words),
    }
    for ending, content in contents.items():
        with atomic(Path(f"{path}.{ending}")) as partial:
            partial.write_text(content, encoding="utf-8", newline="\n")


def as_csv(frame: pd.DataFrame) -> str:
    """The table as its CSV file holds it."""
    text = frame.astype(object)
    for column in (*NUMBERS, "n_seeds"):
        text[column] = frame[column].map(number_text)
    return text.to_csv(index=False, lineterminator="\n")


def read_table(path: str | Path) -> pd.DataFrame:
    """A table from its CSV, as the builders return it; ReportError where columns are others."""
    path = required(Path(path))
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    if tuple(frame.columns) != COLUMNS:
        raise ReportError(f"{path} has other columns than a table: {', '.join(frame.columns)}")
    for column in NUMBERS:
        frame[column] = pd.to_numeric(frame[column].replace("", None)).astype("float64")
    frame["n_seeds"] = pd.to_numeric(frame["n_seeds"].replace("", None)).astype("Int64")
    return frame


def write_all(paths: Iterable[str | Path], output: str | Path = FOLDER / "all") -> pd.DataFrame:
    """Write the union of the tables at `paths` (CSV files), in their order, and return it."""
    frames = [read_table(path) for path in paths]
    if not frames:
        raise ReportError("there is no table to join")
    union = pd.concat(frames, ignore_index=True)
    write_table(union, output)
    return union
