"""Table `checks`: is the class of the embedded data set in the motion, and in nothing else?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from dvfl.config import Config
from dvfl.paths import motion_check_path
from dvfl.plan import motion_checked
from dvfl.report.inputs import model_of
from dvfl.report.results import read_json, run_ids
from dvfl.report.rows import setting, table_frame
from dvfl.run import Run

# What the test clips were shown as, and which answer counts as right.
SHOWN = {
    "as_is": "as they are",
    "repeated_frame": "one frame repeated",
    "shuffled_frames": "frames shuffled",
    "reversed": "backwards",
    "reversed_mirror": "backwards, right if the mirror class is answered",
}


def build_checks(config: Config) -> pd.DataFrame:
    """Top-1 in percent of a trained teacher on test clips whose motion was taken away or turned round."""
    return table_frame("checks", [row for run in motion_checked(config) for row in _rows(config, run)])


def _rows(config: Config, run: Run) -> Iterator[dict[str, Any]]:
    found = read_json(motion_check_path(run))
    row = {
        "dataset": run.dataset,
        "split": run.split,
        "protocol": run.protocol,
        "model": model_of(config, run.arm),
        "arm": run.arm,
        "metric": "top1",
        "unit": "percent",
        "n_seeds": 1,
        "run_ids": run_ids([run]),
    }
    for name, shown in SHOWN.items():
        value = {key: 100 * number for key, number in found["top1"][name].items()}
        yield row | {"setting": setting(interval="groups", seed=run.seed, shown=shown)} | value
    yield row | {
        "setting": setting(seed=run.seed, shown="nothing: chance"),
        "value": 100 * found["chance"],
    }
