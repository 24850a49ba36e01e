"""Metrics against scikit-learn and plain loops, on random and on awkward predictions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    f1_score,
    top_k_accuracy_score,
)
from sklearn.metrics import confusion_matrix as sklearn_confusion_matrix

from dvfl.evaluate.metrics import (
    CALIBRATION_BINS,
    METRICS,
    calibration_bin,
    clip_sums,
    compute_metrics,
    confusion_matrix,
    metrics_of,
    true_class_rank,
)


def random_predictions(seed, clips, classes, label_classes=None):
    """Return probabilities (clips, classes) that are somewhat right, and labels (clips,)."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, label_classes or classes, clips)
    logits = 1.5 * rng.normal(size=(clips, classes))
    logits[np.arange(clips), labels] += 1.5
    odds = np.exp(logits)
    return odds / odds.sum(axis=1, keepdims=True), labels


def ece_by_loop(probabilities, labels, bins=15):
    """Guo et al. 2017, eq. 3, as it is written."""
    total = 0.0
    for b in range(bins):
        correct, confidence = [], []
        for row, label in zip(probabilities, labels, strict=True):
            if b / bins < max(row) <= (b + 1) / bins:
                correct.append(float(np.argmax(row) == label))
                confidence.append(max(row))
        if correct:
            gap = abs(np.mean(correct) - np.mean(confidence))
            total += len(correct) / len(labels) * gap
    return total


@given(
    seed=st.integers(0, 2**32 - 1),
    clips=st.integers(1, 60),
    classes=st.integers(6, 12),
    absent=st.integers(0, 5),
)
def test_metrics_agree_with_their_oracles(seed, clips, classes, absent):
    probabilities, labels = random_predictions(seed, clips, classes, classes - absent)
    predicted = probabilities.argmax(axis=1)
    present = np.unique(labels)
    # With labels of one class only, scikit-learn's balanced accuracy is that class's recall.
    recalls = [np.mean(predicted[labels == label] == label) for label in present]
    expected = {
        "top1": accuracy_score(labels, predicted),
        "top5": top_k_accuracy_score(labels, probabilities, k=5, labels=range(classes)),
        "mean_class_accuracy": np.mean(recalls),
        "macro_f1": f1_score(labels, predicted, labels=present, average="macro", zero_division=0),
        "ece": ece_by_loop(probabilities, labels),
    }
    assert compute_metrics(probabilities, labels) == pytest.approx(expected, abs=1e-12)


def test_mean_class_accuracy_is_scikit_learns_balanced_accuracy():
    probabilities, labels = random_predictions(0, 200, 7)
    expected = balanced_accuracy_score(labels, probabilities.argmax(axis=1))
    assert compute_metrics(probabilities, labels)["mean_class_accuracy"] == pytest.approx(expected)


def test_confusion_matrix_has_labels_in_rows():
    probabilities, labels = random_predictions(1, 100, 6, label_classes=4)
    expected = sklearn_confusion_matrix(labels, probabilities.argmax(axis=1), labels=range(6))
    np.testing.assert_array_equal(confusion_matrix(probabilities, labels), expected)


def test_values_worked_out_by_hand():
    probabilities = [[0.7, 0.2, 0.1], [0.1, 0.5, 0.4], [0.2, 0.2, 0.6], [0.0, 1.0, 0.0]]
    labels = [0, 0, 2, 2]  # predicted 0, 1, 2, 1; class 1 has no clip
    assert compute_metrics(probabilities, labels) == pytest.approx(
        {
            "top1": 2 / 4,
            "top5": 1.0,  # top 3 of 3
            "mean_class_accuracy": (1 / 2 + 1 / 2) / 2,
            "macro_f1": (2 / 3 + 2 / 3) / 2,
            "ece": (0.3 + 0.5 + 0.4 + 1.0) / 4,  # each clip in a bin of its own
        }
    )


def test_among_equal_probabilities_the_lower_label_comes_first():
    constant = np.full((8, 8), 1 / 8)
    np.testing.assert_array_equal(true_class_rank(constant, np.arange(8)), np.arange(8))
    metrics = compute_metrics(constant, np.arange(8))
    assert (metrics["top1"], metrics["top5"]) == (1 / 8, 5 / 8)


@given(seed=st.integers(0, 2**32 - 1), classes=st.integers(2, 9))
def test_top1_is_the_confusion_diagonal_even_with_ties(seed, classes):
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 3, size=(30, classes)) + np.eye(classes, dtype=int)[0]
    probabilities = counts / counts.sum(axis=1, keepdims=True)
    labels = rng.integers(0, classes, 30)
    diagonal = np.trace(confusion_matrix(probabilities, labels)) / 30
    assert compute_metrics(probabilities, labels)["top1"] == pytest.approx(diagonal)


def test_calibration_bins_are_closed_on_the_right():
    edges = np.arange(1, CALIBRATION_BINS + 1) / CALIBRATION_BINS
    np.testing.assert_array_equal(calibration_bin(edges), np.arange(CALIBRATION_BINS))
    np.testing.assert_array_equal(calibration_bin(edges[:-1] + 1e-9), np.arange(1, CALIBRATION_BINS))
    assert calibration_bin(np.array([1 + 1e-7])) == CALIBRATION_BINS - 1


def test_perfect_predictions_are_perfect():
    assert compute_metrics(np.eye(4), np.arange(4)) == {name: 0.0 if name == "ece" else 1.0 for name in METRICS}


@given(seed=st.integers(0, 2**32 - 1), clips=st.integers(2, 40))
def test_weighted_sums_are_metrics_of_repeated_clips(seed, clips):
    probabilities, labels = random_predictions(seed, clips, 7)
    weights = np.random.default_rng(seed).integers(0, 4, clips)
    weights[0] += 1
    summed = metrics_of((clip_sums(probabilities, labels).T @ weights.astype(float)).T)
    repeated = compute_metrics(np.repeat(probabilities, weights, axis=0), np.repeat(labels, weights))
    assert {name: float(value) for name, value in summed.items()} == pytest.approx(repeated)


@given(seed=st.integers(0, 2**32 - 1))
def test_order_of_clips_does_not_matter(seed):
    probabilities, labels = random_predictions(seed, 30, 6)
    order = np.random.default_rng(seed).permutation(30)
    assert compute_metrics(probabilities[order], labels[order]) == pytest.approx(compute_metrics(probabilities, labels))


@pytest.mark.parametrize(
    ("probabilities", "labels", "message"),
    [
        ([[0.5, 0.5]], [0, 1], "one label a clip"),
        (np.empty((0, 3)), [], "neither 0"),
        ([0.5, 0.5], [0, 1], r"\(clips, classes\)"),
        ([[0.5, 0.5], [0.5, 0.6]], [0, 1], "add up to 1; sum 1.1 in row 1"),
        ([[0.5, np.nan]], [0], "finite"),
        ([[np.inf, 0.5]], [0], "finite"),
        ([[1.5, -0.5]], [0], "not negative"),
        ([[0.5, 0.5], [0.5, 0.5]], [0, 2], r"0\.\.1; label 2 in row 1"),
        ([[0.5, 0.5]], [-1], r"label -1 in row 0"),
        ([[0.5, 0.5]], [0.0], "integers"),
    ],
)
def test_wrong_predictions_are_refused(probabilities, labels, message):
    with pytest.raises(ValueError, match=message):
        compute_metrics(probabilities, labels)


def test_half_precision_probabilities_are_accepted():
    probabilities, labels = random_predictions(2, 50, 101)
    exact = compute_metrics(probabilities, labels)
    rounded = compute_metrics(probabilities.astype(np.float16), labels)
    assert rounded["ece"] == pytest.approx(exact["ece"], abs=0.02)
