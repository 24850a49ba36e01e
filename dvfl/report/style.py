"""How all figures look: printed size, colours, markers, and files that are the same every time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dvfl.files import atomic

WIDTH = 7.2  # inches: a full text width; text below is at printed size

RC = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same on every machine
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.labelsize": 8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "figure.titlesize": 9,
    "figure.dpi": 100,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 200,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "0.9",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.4,
    "lines.markersize": 5,
    "pdf.fonttype": 42,  # text stays text, which journals ask for
    "svg.hashsalt": "dvfl",
}

# Okabe and Ito's colours that are dark enough for lines; shapes and dashes tell them apart in grey.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_MARKERS = ("s", "o", "^", "D", "v", "P", "X")
_LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
_FIRST = ("teacher", "student", "distilled")  # look the same in every figure


@dataclass(frozen=True)
class Look:
    """Colour, marker and dashes of one arm."""

    color: str
    marker: str
    linestyle: str | tuple[int, tuple[int, ...]]


def looks(arms: Iterable[str]) -> dict[str, Look]:
    """A look for each arm; teacher, student and distilled always have the same."""
    names = [*_FIRST, *(arm for arm in dict.fromkeys(arms) if arm not in _FIRST)]
    count = len(_COLOURS)
    return {name: Look(_COLOURS[i % count], _MARKERS[i % count], _LINES[i % count]) for i, name in enumerate(names)}


@contextmanager
def style() -> Iterator[None]:
    """Draw and save inside: matplotlib's own defaults with the settings above."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(RC)
        yield


def panels(rows: int, columns: int, height: float, **options: object) -> tuple[Figure, np.ndarray]:
    """A figure of full width, each row `height` inches high; axes as an array (rows, columns)."""
    figure = Figure(figsize=(WIDTH, rows * height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def note(message: str) -> Figure:
    """A figure that says why there is none."""
    figure = Figure(figsize=(WIDTH, 1.2))
    figure.text(0.5, 0.5, message, ha="center", va="center", wrap=True)
    return figure


def place(dataset: str, split: str) -> str:
    """Title of what belongs to one data set and split."""
    return f"{dataset}, {split}"


def shorten(text: str, length: int = 20) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def percent_axis(axes: Axes, label: str) -> None:
    """y from 0 to 100 with room for markers at the ends."""
    axes.set_ylabel(label)
    axes.set_ylim(-3, 103)


def save(figure: Figure, path: str | Path) -> None:
    """Write `path`.pdf and .png without dates, so that the same figure has the same bytes."""
    for ending, metadata in (("pdf", {"CreationDate": None}), ("png", {"Software": None})):
        with atomic(Path(f"{path}.{ending}")) as partial:
            figure.savefig(partial, format=ending, metadata=metadata)
