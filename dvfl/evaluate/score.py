"""From the predictions of one run to its `scores.json`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from dvfl.evaluate.metrics import confusion_matrix
from dvfl.evaluate.statistics import group_bootstrap

# Decimal places kept, so that the last bits of a sum do not change the file's bytes.
_DIGITS = 10


def score_predictions(
    predictions: pd.DataFrame,
    index: pd.DataFrame,
    classes: list[str],
    *,
    expected_clip_ids: Iterable[str],
    resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Any]:
    """Score one run on its test clips and return what `scores.json` holds.

    predictions: clip_id, label, probabilities (C numbers), one row a clip, in any order. index:
    clip_id, class_name, label, group, status, ...; a clip without a group is a group of its own.
    classes: the C class names by label. expected_clip_ids: the test clips; each must be predicted
    exactly once and nothing else may be, or the score would be of another test set.

    All values are fractions. Under `per_class`, a ratio over nothing (the recall of a class
    without test clips, the precision of one that was never predicted) is null. `confusion` counts
    clips: rows are labels, columns predictions.
    """
    predictions, clips = _test_clips(predictions, index, expected_clip_ids)
    of_other_length = predictions["probabilities"].map(len) != len(classes)
    _refuse(predictions.index[of_other_length], f"clips do not have {len(classes)} probabilities")
    probabilities = np.stack(predictions["probabilities"].to_numpy())
    labels = predictions["label"].to_numpy()
    groups = clips["group"].fillna(clips.index.to_series())

    confusion = confusion_matrix(probabilities, labels)  # refuses labels outside 0..C-1
    names = np.array(classes, dtype=object)[labels]
    _refuse(
        clips.index[clips["class_name"].to_numpy() != names],
        "clips have another class name in the index",
    )
    metrics = group_bootstrap(probabilities, labels, groups, resamples=resamples, seed=seed, level=level)
    return {
        "n_clips": len(labels),
        "n_groups": int(groups.nunique()),
        "classes": list(classes),
        "interval": {
            "method": "percentile bootstrap over groups",
            "level": level,
            "resamples": resamples,
            "seed": seed,
        },
        "metrics": {
            name: {
                "value": round(interval.estimate, _DIGITS),
                "ci_low": round(interval.low, _DIGITS),
                "ci_high": round(interval.high, _DIGITS),
            }
            for name, interval in metrics.items()
        },
        "per_class": [_class_scores(name, confusion, label) for label, name in enumerate(classes)],
        "confusion": confusion.tolist(),
    }


def _test_clips(
    predictions: pd.DataFrame, index: pd.DataFrame, expected_clip_ids: Iterable[str]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Predictions and index of the test clips, one row each, by clip_id; ValueError where they do not match."""
    index = _indexed_by_clip(index, "index")
    predictions = _indexed_by_clip(predictions, "predictions")
    expected = pd.DataFrame({"clip_id": list(expected_clip_ids)})
    expected = _indexed_by_clip(expected, "test clips").index
    if expected.empty:
        raise ValueError("there are no test clips to score")
    _refuse(expected.difference(index.index), "test clips are not in the index")
    missing = expected.difference(predictions.index)
    _refuse(
        [f"{clip} ({index.at[clip, 'status']})" for clip in missing],
        "test clips (status) have no prediction",
    )
    _refuse(predictions.index.difference(expected), "predicted clips are not test clips")

    predictions = predictions.sort_index()  # sums are then added in one order
    clips = index.loc[predictions.index]
    _refuse(
        clips.index[clips["label"].to_numpy() != predictions["label"].to_numpy()],
        "predicted clips have another label in the index",
    )
    return predictions, clips


def _class_scores(name: str, confusion: np.ndarray, label: int) -> dict[str, Any]:
    """Return recall, precision and F1 of one class from the confusion matrix (C, C)."""
    hits = int(confusion[label, label])
    count, predicted = int(confusion[label].sum()), int(confusion[:, label].sum())
    return {
        "class_name": name,
        "n": count,
        "recall": round(hits / count, _DIGITS) if count else None,
        "precision": round(hits / predicted, _DIGITS) if predicted else None,
        "f1": round(2 * hits / (count + predicted), _DIGITS) if count else None,
    }


def _indexed_by_clip(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return the table with clip_id as its index; ValueError where a clip stands twice."""
    repeated = table["clip_id"][table["clip_id"].duplicated()].unique()
    _refuse(repeated, f"clips stand more than once in the {name}")
    return table.set_index("clip_id")


def _refuse(clips: Iterable[str], rule: str) -> None:
    """Raise ValueError with the rule, how many clips break it, and the first few of them."""
    clips = [str(clip) for clip in clips]
    if clips:
        more = ", ..." if len(clips) > 3 else ""
        raise ValueError(f"{len(clips)} {rule}: {', '.join(clips[:3])}{more}")
