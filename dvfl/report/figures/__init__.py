"""One module per figure, each with `data`, what is plotted as a table, and `draw`, the picture.

`draw` sees nothing but what `data` returned, so `results/figures/<name>.csv` is the whole figure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from dvfl.config import Config
from dvfl.files import atomic
from dvfl.report.figures import (
    alpha_temperature,
    audit,
    claims,
    confusion,
    growth,
    labelled_clips,
    protocol_effects,
    released_loss,
    tradeoff,
    training_curves,
)
from dvfl.report.inputs import FIGURES as FOLDER
from dvfl.report.style import save, style


@dataclass(frozen=True)
class Plot:
    """`data` reads what runs and tables left; `draw` turns it into a picture."""

    data: Callable[[Config], pd.DataFrame]
    draw: Callable[[pd.DataFrame], Figure]


FIGURES: dict[str, Plot] = {
    "accuracy_vs_params": Plot(tradeoff.data, tradeoff.draw_accuracy_vs_params),
    "accuracy_vs_gmacs": Plot(tradeoff.data, tradeoff.draw_accuracy_vs_gmacs),
    "training_curves": Plot(training_curves.data, training_curves.draw),
    "confusion": Plot(confusion.data, confusion.draw),
    "alpha_temperature": Plot(alpha_temperature.data, alpha_temperature.draw),
    "labelled_clips": Plot(labelled_clips.data, labelled_clips.draw),
    "audit": Plot(audit.data, audit.draw),
    "claims": Plot(claims.data, claims.draw),
    "released_loss": Plot(released_loss.data, released_loss.draw),
}
ON_DEMAND = {
    "protocol_effects": Plot(protocol_effects.data, protocol_effects.draw),
    "growth": Plot(growth.data, growth.draw),
}


def write_figure(name: str, config: Config, folder: str | Path = FOLDER) -> None:
    """Write <folder>/<name>.pdf, .png and .csv; the same inputs give the same bytes."""
    path = Path(folder) / name
    plot = (FIGURES | ON_DEMAND)[name]
    frame = plot.data(config)
    with style():
        save(plot.draw(frame), path)
    with atomic(path.with_suffix(".csv")) as partial:
        frame.to_csv(partial, index=False, float_format="%.6g", lineterminator="\n")
