"""One trial of a study: train, predict, score, record."""

from __future__ import annotations

import pandas as pd

from dvfl.ablate.study import record_trial
from dvfl.config import Config
from dvfl.evaluate.job import score_run, test_run
from dvfl.plan import Run
from dvfl.train.job import train_run


def run_trial(config: Config, run: Run, wait: bool = False) -> float:
    """Top-1 of the trial on the subset that its study is evaluated on, as a fraction."""
    train_run(config, run, wait)
    test_run(config, run)
    value = score_run(config, run)["metrics"]["top1"]["value"]
    history = pd.read_csv(run.directory / "history.csv")
    curve = history.set_index("epoch")["val_top1"].dropna() if "val_top1" in history else {}
    record_trial(config, run, value, {int(epoch): float(top1) for epoch, top1 in dict(curve).items()})
    return value
