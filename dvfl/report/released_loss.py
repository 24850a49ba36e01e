"""Table `released_loss`: the value and gradient of the released loss beside KL's, over temperatures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from dvfl.config import Config
from dvfl.files import required
from dvfl.paths import released_loss_path
from dvfl.report.rows import setting, table_frame


def build_released_loss(config: Config) -> pd.DataFrame:
    """Per temperature: value and gradient of both losses, and how many times the gradient is weaker."""
    return table_frame("released_loss", _rows(read_released_loss()))


def read_released_loss() -> pd.DataFrame:
    """loss, temperature, value, gradient; as `dvfl released-loss` wrote them."""
    return pd.read_csv(required(released_loss_path()))


def _rows(found: pd.DataFrame) -> Iterator[dict[str, Any]]:
    for temperature, both in found.groupby("temperature"):
        row = {"setting": setting(temperature=temperature)}
        by_loss = both.set_index("loss")
        for loss, measured in by_loss.iterrows():
            yield row | {"metric": f"{loss}_value", "unit": "nats", "value": measured["value"]}
            yield row | {"metric": f"{loss}_gradient", "unit": "", "value": measured["gradient"]}
        weaker = by_loss.at["forward_kl", "gradient"] / by_loss.at["released_code", "gradient"]
        yield row | {"metric": "gradient_ratio", "unit": "ratio", "value": weaker}
