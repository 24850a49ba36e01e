"""The figures in MLflow: one run of each data set's experiment, with the pictures as its artifacts."""

from __future__ import annotations

from pathlib import Path

from dvfl import steps
from dvfl.config import Config
from dvfl.report.inputs import FIGURES
from dvfl.track import Tracker, outbox_directory
from dvfl.track.store import experiment_name
from dvfl.train.provenance import code_version


def track_figures(config: Config, pictures: list[Path]) -> None:
    """Hands MLflow the figures of all data sets, which stand in each one's experiment."""
    version = dict(zip(("commit", "dirty"), code_version(), strict=True))
    version["config_hash"] = steps.report_settings(config)
    for dataset in config.datasets:
        with Tracker.open_named(
            config.tracking,
            outbox_directory(FIGURES / dataset),
            experiment=experiment_name(dataset),
            name="figures",
            tags={"rule": "figures", **version},
        ) as tracker:
            for picture in pictures:
                tracker.artifact(picture)
