"""What a set of test predictions is worth: top-1, top-5, class-wise means and calibration.

Every metric here is a function of sums over clips: how often each class occurs, is predicted and
is hit, how many clips have their class among the top five, and by how much accuracy and confidence
differ in each calibration bin. `clip_sums` lays these out as one sparse row a clip; whoever adds up
rows, over all clips, over one group or over a bootstrap resample, gets the metrics of just those
clips from `metrics_of`. That makes the bootstrap one matrix product (`statistics.group_bootstrap`).

Conventions, the same for every number in the tables:

- All values are fractions, 0 to 1.
- The predicted class is the one of the highest probability; among equal probabilities the lower
  label comes first, in top-1 as in top-5, so that a constant output scores at chance.
- "Top-5" is top-min(5, C) for C classes.
- Means over classes run over the classes that occur among the labels at hand: recall has no value
  for a class without clips. In a bootstrap resample these are the classes of that resample. Clips
  that are wrongly given an absent class count against the class they belong to.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

METRICS = ("top1", "top5", "mean_class_accuracy", "macro_f1", "ece")
CALIBRATION_BINS = 15

# Softmax in half precision, stored and read again, adds up to 1 within about this.
_SUM_TOLERANCE = 1e-3


def compute_metrics(probabilities: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """Return every metric of `METRICS` for `probabilities` (N, C) and `labels` (N,)."""
    totals = clip_sums(probabilities, labels).sum(axis=0)
    return {name: float(value) for name, value in metrics_of(totals).items()}


def confusion_matrix(probabilities: ArrayLike, labels: ArrayLike) -> NDArray[np.int64]:
    """Count clips by label (rows) and predicted class (columns): (C, C)."""
    probabilities, labels = check_predictions(probabilities, labels)
    classes = probabilities.shape[1]
    cells = labels * classes + probabilities.argmax(axis=1)
    return np.bincount(cells, minlength=classes**2).reshape(classes, classes)


def true_class_rank(probabilities: ArrayLike, labels: ArrayLike) -> NDArray[np.int64]:
    """Return how many classes come before the true one, (N,): 0 where top-1 is right."""
    probabilities, labels = check_predictions(probabilities, labels)
    own = probabilities[np.arange(len(labels)), labels][:, None]
    tied_before = (probabilities == own) & (np.arange(probabilities.shape[1]) < labels[:, None])
    return ((probabilities > own) | tied_before).sum(axis=1)


def clip_sums(probabilities: ArrayLike, labels: ArrayLike) -> csr_array:
    """Lay out what each clip adds to the sums that the metrics are made of.

    Returns a sparse (N, 3C + 1 + 15) matrix. Columns: C for the label, C for the predicted class,
    C for a hit of the label, one for a hit among the top five, and `CALIBRATION_BINS` for
    correctness minus confidence, in the bin of the confidence.
    """
    probabilities, labels = check_predictions(probabilities, labels)
    clips, classes = probabilities.shape
    rank = true_class_rank(probabilities, labels)
    hit = (rank == 0).astype(float)
    confidence = probabilities.max(axis=1)
    columns = (
        labels,
        classes + probabilities.argmax(axis=1),
        2 * classes + labels,
        np.full(clips, 3 * classes),
        3 * classes + 1 + calibration_bin(confidence),
    )
    ones = np.ones(clips)
    entries = (ones, ones, hit, (rank < 5).astype(float), hit - confidence)
    rows = np.tile(np.arange(clips), len(columns))
    shape = (clips, 3 * classes + 1 + CALIBRATION_BINS)
    return csr_array((np.concatenate(entries), (rows, np.concatenate(columns))), shape=shape)


def calibration_bin(confidence: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the equal-width bin of each confidence; bin b is (b/15, (b+1)/15], as in Guo 2017."""
    inner_edges = np.arange(1, CALIBRATION_BINS) / CALIBRATION_BINS
    return np.searchsorted(inner_edges, confidence, side="left")


def metrics_of(sums: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Turn sums of `clip_sums` rows, (..., 3C + 1 + 15), into metrics, each of shape (...).

    Macro F1 is the mean of 2 * hits / (clips + predictions) over classes (Opitz and Burst 2019:
    the mean of F1 values, not the F1 of means). The expected calibration error is the sum over
    bins of |accuracy - confidence| * share of clips (Guo et al. 2017, eq. 3), in which the bin's
    own count cancels.
    """
    classes = (sums.shape[-1] - 1 - CALIBRATION_BINS) // 3
    count, predicted, hits, top5, gap = np.split(sums, [classes, 2 * classes, 3 * classes, 3 * classes + 1], axis=-1)
    clips = count.sum(axis=-1)
    # A class without clips has no hits either: its ratios below are 0 / 1 and add nothing.
    present = count > 0
    n_present = present.sum(axis=-1)
    recall = hits / np.where(present, count, 1)
    f1 = 2 * hits / np.where(present, count + predicted, 1)
    return {
        "top1": hits.sum(axis=-1) / clips,
        "top5": top5[..., 0] / clips,
        "mean_class_accuracy": recall.sum(axis=-1) / n_present,
        "macro_f1": f1.sum(axis=-1) / n_present,
        "ece": np.abs(gap).sum(axis=-1) / clips,
    }


def check_predictions(probabilities: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return both as arrays, (N, C) float64 and (N,) int64; ValueError says what is wrong where."""
    probabilities = np.asarray(probabilities, dtype=np.float64)
    labels = np.asarray(labels)
    if probabilities.ndim != 2 or 0 in probabilities.shape:
        raise ValueError(f"probabilities must be (clips, classes), neither 0; got shape {probabilities.shape}")
    if labels.shape != probabilities.shape[:1]:
        raise ValueError(
            f"one label a clip: {len(probabilities)} rows of probabilities, labels of shape {labels.shape}"
        )
    if labels.dtype.kind not in "iu":
        raise ValueError(f"labels must be integers, got {labels.dtype}")
    classes = probabilities.shape[1]
    _refuse((labels < 0) | (labels >= classes), labels, f"labels must lie in 0..{classes - 1}; label")
    _refuse(
        ~np.isfinite(probabilities).all(axis=1) | (probabilities < 0).any(axis=1),
        probabilities,
        "probabilities must be finite and not negative;",
    )
    total = probabilities.sum(axis=1)
    _refuse(np.abs(total - 1) > _SUM_TOLERANCE, total, "a row of probabilities must add up to 1; sum")
    return probabilities, labels.astype(np.int64)


def _refuse(wrong: NDArray[np.bool_], values: NDArray, rule: str) -> None:
    """Raise ValueError with the rule, the first offending row and its value."""
    if wrong.any():
        first = int(wrong.argmax())
        raise ValueError(f"{rule} {values[first]} in row {first} ({wrong.sum()} such rows)")
