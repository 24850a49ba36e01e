"""`scores.json`: the right clips, once each, and the same bytes every time."""

import json

import numpy as np
import pandas as pd
import pytest

from dvfl.evaluate.metrics import METRICS, compute_metrics
from dvfl.evaluate.score import score_predictions
from dvfl.evaluate.statistics import group_bootstrap

CLASSES = ["clap", "jump", "wave"]


@pytest.fixture
def index():
    """Twelve clips of two classes (nobody waves) from four videos, and an unreadable one."""
    rows = [
        (f"{name}/v{video}_c{clip}.avi", name, label, f"v{video}", "ok")
        for label, name in enumerate(CLASSES[:2])
        for video in range(4)
        for clip in range(2 if label else 1)
    ]
    rows.append(("wave/bad.avi", "wave", 2, "v9", "unreadable"))
    return pd.DataFrame(rows, columns=["clip_id", "class_name", "label", "group", "status"])


@pytest.fixture
def predictions(index):
    good = index[index["status"] == "ok"]
    logits = np.random.default_rng(0).normal(size=(len(good), 3))
    logits[np.arange(len(good)), good["label"]] += 1
    odds = np.exp(logits)
    rows = (odds / odds.sum(axis=1, keepdims=True)).tolist()
    return good[["clip_id", "label"]].assign(probabilities=rows).reset_index(drop=True)


def score(predictions, index, **overrides):
    arguments = {"expected_clip_ids": index["clip_id"][index["status"] == "ok"], "resamples": 100}
    return score_predictions(predictions, index, CLASSES, **(arguments | overrides))


def test_scores_are_those_of_the_predictions(predictions, index):
    scores = score(predictions, index)
    probabilities = np.array(predictions["probabilities"].tolist())
    labels = predictions["label"].to_numpy()
    groups = index["group"][:12]
    assert list(scores) == [
        "n_clips",
        "n_groups",
        "classes",
        "interval",
        "metrics",
        "per_class",
        "confusion",
    ]
    assert (scores["n_clips"], scores["n_groups"], scores["classes"]) == (12, 4, CLASSES)
    assert scores["interval"] == {
        "method": "percentile bootstrap over groups",
        "level": 0.95,
        "resamples": 100,
        "seed": 0,
    }
    assert tuple(scores["metrics"]) == METRICS
    values = {name: entry["value"] for name, entry in scores["metrics"].items()}
    assert values == pytest.approx(compute_metrics(probabilities, labels), abs=1e-10)
    bootstrap = group_bootstrap(probabilities, labels, groups, resamples=100)
    for name, entry in scores["metrics"].items():
        assert entry["ci_low"] == pytest.approx(bootstrap[name].low, abs=1e-9)
        assert entry["ci_high"] == pytest.approx(bootstrap[name].high, abs=1e-9)


def test_per_class_scores_and_confusion(index):
    labels = index["label"][:12]
    predicted = [0, 0, 1, 1] + [1] * 6 + [0, 0]
    rows = np.eye(3)[predicted].tolist()
    table = pd.DataFrame({"clip_id": index["clip_id"][:12], "label": labels, "probabilities": rows})
    scores = score(table, index)
    assert scores["confusion"] == [[2, 2, 0], [2, 6, 0], [0, 0, 0]]
    clap, jump, wave = scores["per_class"]
    assert clap == {"class_name": "clap", "n": 4, "recall": 0.5, "precision": 0.5, "f1": 0.5}
    assert jump == {"class_name": "jump", "n": 8, "recall": 0.75, "precision": 0.75, "f1": 0.75}
    assert wave == {"class_name": "wave", "n": 0, "recall": None, "precision": None, "f1": None}
    assert scores["metrics"]["macro_f1"]["value"] == 0.625


def test_a_class_that_is_never_predicted_has_f1_of_zero(index):
    rows = np.eye(3)[[1] * 12].tolist()
    table = index[["clip_id", "label"]][:12].assign(probabilities=rows)
    clap = score(table, index)["per_class"][0]
    assert clap == {"class_name": "clap", "n": 4, "recall": 0.0, "precision": None, "f1": 0.0}


def test_the_same_bytes_whatever_the_order_of_rows(predictions, index, monkeypatch):
    monkeypatch.setattr("dvfl.evaluate.score._DIGITS", 20)  # even without rounding
    # One group and one calibration bin, so that twelve numbers are added to one sum.
    index = index.assign(group="v0")
    confidence = np.random.default_rng(1).uniform(0.41, 0.46, 12)
    rows = [[p, 0.6 - p, 0.4] for p in confidence]
    predictions = predictions.assign(probabilities=rows)

    def text(*tables):
        return json.dumps(score(*tables), allow_nan=False)

    first = text(predictions, index)
    for order in range(20):
        assert text(predictions.sample(frac=1, random_state=order), index) == first
    assert text(predictions, index.sample(frac=1, random_state=2)) == first
    as_float32 = predictions.assign(
        probabilities=[np.array(row, dtype=np.float32) for row in predictions["probabilities"]]
    )
    assert json.loads(text(as_float32, index))["confusion"] == json.loads(first)["confusion"]


def test_predictions_survive_parquet(predictions, index, tmp_path):
    predictions.to_parquet(tmp_path / "predictions.parquet")
    read = pd.read_parquet(tmp_path / "predictions.parquet")
    assert score(read, index) == score(predictions, index)


def test_values_are_rounded_plain_floats(predictions, index):
    for entry in score(predictions, index)["metrics"].values():
        for value in entry.values():
            assert type(value) is float
            assert value == round(value, 10)


def test_a_clip_without_a_group_is_its_own(predictions, index):
    assert score(predictions, index.assign(group=None))["n_groups"] == 12


def test_missing_clips_are_named_with_their_status(predictions, index):
    with pytest.raises(ValueError, match=r"2 test clips .* no prediction: .*v1_c0.avi \(ok\)"):
        score(predictions.drop(index=[0, 1]), index)
    with pytest.raises(ValueError, match=r"1 test clips .*: wave/bad.avi \(unreadable\)"):
        score(predictions, index, expected_clip_ids=index["clip_id"])
    with pytest.raises(ValueError, match=r"^8 test clips [^,]*, [^,]*, [^,]*, \.\.\.$"):
        score(predictions[:4], index)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p, i: (pd.concat([p, p[:1]]), i, {}), "1 clips stand more than once in the pred"),
        (lambda p, i: (p, pd.concat([i, i[:1]]), {}), "1 clips stand more than once in the index"),
        (
            lambda p, i: (p, i, {"expected_clip_ids": [*i["clip_id"][:12], i["clip_id"][0]]}),
            "more than once in the test clips",
        ),
        (lambda p, i: (p, i, {"expected_clip_ids": i["clip_id"][1:12]}), "1 predicted clips are"),
        (lambda p, i: (p, i[1:], {"expected_clip_ids": p["clip_id"]}), "not in the index: clap/v0"),
        (lambda p, i: (p[:0], i, {"expected_clip_ids": []}), "no test clips"),
        (lambda p, i: (p.assign(label=1), i, {}), "4 predicted clips have another label"),
        (
            lambda p, i: (p, i.assign(class_name=i["class_name"].replace("clap", "flap")), {}),
            "4 clips have another class name in the index: clap/",
        ),
        (
            lambda p, i: (p.assign(probabilities=[[0.5, 0.5]] * 12), i, {}),
            "12 clips do not have 3 probabilities",
        ),
        (lambda p, i: (p.assign(probabilities=[[0.5, 0.5, 0.5]] * 12), i, {}), "add up to 1"),
        (lambda p, i: (p.assign(label=7), i.assign(label=7), {}), "label 7"),
    ],
)
def test_what_does_not_fit_is_refused(predictions, index, change, message):
    predictions, index, overrides = change(predictions, index)
    with pytest.raises(ValueError, match=message):
        score(predictions, index, **overrides)
