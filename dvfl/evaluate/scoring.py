"""From a run's predictions to its scores. Nothing here needs PyTorch, which takes longer to import than the scoring."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pandas as pd

from dvfl import paths, plan
from dvfl.config import Config
from dvfl.data.index import read_index
from dvfl.data.splits import read_split
from dvfl.evaluate.score import score_predictions
from dvfl.files import read_json, required, sha256, write_json
from dvfl.run import Run
from dvfl.track import open_tracker


def score_run(config: Config, run: Run) -> dict[str, Any]:
    """Scores the run's predictions and writes scores.json."""
    scores = compute_scores(config, run)
    write_json(run.directory / "scores.json", scores)
    _track_scores(config, run, scores)
    return scores


def compute_scores(config: Config, run: Run) -> dict[str, Any]:
    """What scores.json holds of the run's predictions."""
    index = read_index(required(paths.index_path(run.dataset)))
    split = read_split(required(paths.split_path(run.dataset, run.split)))
    subset = plan.run_settings(config, run).evaluated_on
    evaluate = plan.evaluation(config, run)
    clip_ids = sorted(split.loc[split["subset"] == subset, "clip_id"])
    predictions = required(run.directory / "predictions.parquet")
    scores = score_predictions(
        pd.read_parquet(predictions),
        index,
        index.drop_duplicates("label").sort_values("label")["class_name"].tolist(),
        expected_clip_ids=clip_ids[: evaluate.tested(len(clip_ids))],
        resamples=config.evaluate.resamples,
    )
    about = {
        **{key: getattr(run, key) for key in ("dataset", "split", "protocol", "arm", "seed", "study", "trial")},
        "subset": subset,
        "views": f"{evaluate.clips}x{evaluate.crops}",
        "clips_dropped": len(clip_ids) - scores["n_clips"],
        "predictions_sha256": sha256(predictions),
    }
    return about | scores


def _track_scores(config: Config, run: Run, scores: dict[str, Any]) -> None:
    """Scores join the MLflow run of their training."""
    key = read_json(required(run.directory / "run.json"))["key"]
    subset = plan.run_settings(config, run).evaluated_on
    with open_tracker(config, run, key, rule="evaluate", reopen=True) as tracker:
        tracker.metrics({f"{subset}.{name}": metric["value"] for name, metric in scores["metrics"].items()})
        tracker.artifact(run.directory / "scores.json")
        with tempfile.TemporaryDirectory() as folder:
            matrix = Path(folder) / "confusion_matrix.csv"
            classes = pd.Index([each["class_name"] for each in scores["per_class"]], name="true class, then predicted")
            pd.DataFrame(scores["confusion"], index=classes, columns=classes).to_csv(matrix)
            tracker.artifact(matrix)
