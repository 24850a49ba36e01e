"""The released loss beside KL: its value, its gradient, and how many times weaker that is."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dvfl.config import Config
from dvfl.report import style
from dvfl.report.released_loss import read_released_loss
from dvfl.report.rows import select

_LINES = {
    "forward_kl": {"label": "KL(p ‖ q), as described", "color": "black", "linestyle": "-"},
    "released_code": {"label": "Σ p (log p − q), as released", "color": "#D55E00", "linestyle": "--"},
}


def data(config: Config) -> pd.DataFrame:
    """One row per loss and temperature: loss, temperature, value, gradient."""
    return read_released_loss()


def draw(frame: pd.DataFrame) -> Figure:
    """Left the values, in the middle the gradients, right the ratio of the gradients."""
    figure, axes = style.panels(1, 3, 2.6)
    value, gradient, ratio = axes[0]
    for loss, look in _LINES.items():
        rows = select(frame, loss=loss)
        value.plot(rows["temperature"], rows["value"], **look)
        gradient.plot(rows["temperature"], rows["gradient"], **look)
    value.set_title("value, times T²")
    value.set_ylabel("nats")
    gradient.set_title("gradient by a clip's logits")
    gradient.set_ylabel("norm (log scale)")
    gradient.set_yscale("log")
    by_loss = frame.pivot(index="temperature", columns="loss", values="gradient")
    ratio.plot(by_loss.index, by_loss["forward_kl"] / by_loss["released_code"], color="black")
    ratio.set_title("ratio of the gradients")
    ratio.set_ylabel("KL's over the released one's")
    ratio.set_ylim(bottom=0)
    for cell in axes[0]:
        _temperatures(cell)
    figure.legend(handles=value.get_legend_handles_labels()[0], loc="outside upper center", ncols=2)
    return figure


def _temperatures(cell: Axes) -> None:
    cell.set_xlabel("temperature T")
    cell.set_xticks([1, 5, 10, 15, 20])
