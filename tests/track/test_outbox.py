"""What is written down first, whatever MLflow does."""

import json
import math
from pathlib import Path

import pytest

from dvfl.track.outbox import MAX_METRICS, MAX_PARAM_VALUE, MAX_PARAMS, Outbox, from_json


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    return Outbox.create(tmp_path / "box", experiment="dvfl/motions", name="student/seed0")


def records(outbox: Outbox) -> list[dict]:
    return [record for record, _ in outbox.read()]


def metrics(outbox: Outbox) -> list[list]:
    return [metric for record in records(outbox) for metric in record.get("metrics", [])]


def test_one_line_an_epoch(outbox: Outbox) -> None:
    outbox.add_metrics({"loss": 0.5, "top1": 0.25}, step=1, time_ms=7)
    assert records(outbox)[1:] == [{"kind": "batch", "metrics": [["loss", 0.5, 1, 7], ["top1", 0.25, 1, 7]]}]


def test_values_that_are_not_finite_are_kept_as_strict_json(outbox: Outbox) -> None:
    outbox.add_metrics({"a": math.nan, "b": math.inf, "c": -math.inf, "d": None}, 0, 0)
    for line in outbox.path.read_text().splitlines():
        json.loads(line, parse_constant=lambda constant: pytest.fail(constant))
    values = {key: from_json(value) for key, value, _, _ in metrics(outbox)}
    assert math.isnan(values["a"]) and values["b"] == math.inf and values["c"] == -math.inf
    assert "d" not in values


def test_what_is_no_number_is_refused(outbox: Outbox) -> None:
    with pytest.raises(ValueError, match="high"):
        outbox.add_metrics({"loss": "high"}, 0, 0)


def test_a_step_has_one_value_even_when_it_is_trained_again(outbox: Outbox) -> None:
    outbox.add_metrics({"loss": 0.5}, step=1, time_ms=7)
    again = Outbox(outbox.directory)
    again.add_metrics({"loss": 0.5, "top1": 0.1}, step=1, time_ms=9)
    again.add_metrics({"loss": 0.4}, step=2, time_ms=10)
    assert metrics(again) == [["loss", 0.5, 1, 7], ["top1", 0.1, 1, 9], ["loss", 0.4, 2, 10]]


def test_lines_fit_into_one_request(outbox: Outbox) -> None:
    outbox.add_params({f"p{i}": i for i in range(2 * MAX_PARAMS + 1)})
    outbox.add_metrics({f"m{i}": i for i in range(MAX_METRICS + 1)}, 0, 0)
    counts = [(len(each.get("params", ())), len(each.get("metrics", ()))) for each in records(outbox)]
    assert counts[1:] == [(100, 0), (100, 0), (1, 0), (0, 1000), (0, 1)]


def test_keys_and_values_become_what_mlflow_takes(outbox: Outbox) -> None:
    outbox.add_params({"a{b}": "x" * 10_000, "../up//twice/": "http://me:s3cret@host", "": 1})
    params = records(outbox)[1]["params"]
    assert list(params) == ["a_b_", "up/twice", "_"]
    assert len(params["a_b_"]) == MAX_PARAM_VALUE
    assert params["up/twice"] == "http://***@host"


def test_a_param_that_changes_is_kept_as_a_tag(outbox: Outbox) -> None:
    outbox.add_params({"workers": 2, "lr": 0.1})
    for _ in range(2):
        Outbox(outbox.directory).add_params({"workers": 4, "lr": 0.1})
    assert records(outbox)[1:] == [
        {"kind": "batch", "params": {"workers": "2", "lr": "0.1"}},
        {"kind": "batch", "tags": {"workers": "4"}},
    ]


@pytest.mark.parametrize("lost", [1, 20])
def test_a_line_that_a_kill_cut_short_is_written_again(outbox: Outbox, lost: int) -> None:
    outbox.add_metrics({"loss": 0.5}, step=1, time_ms=7)
    outbox.add_metrics({"loss": 0.4}, step=2, time_ms=8)
    whole = outbox.path.read_bytes()
    outbox.path.write_bytes(whole[:-lost])

    again = Outbox(outbox.directory)
    assert metrics(again) == [["loss", 0.5, 1, 7]]
    again.add_metrics({"loss": 0.4}, step=2, time_ms=8)
    assert outbox.path.read_bytes() == whole


def test_artifacts_are_copies(outbox: Outbox, tmp_path: Path) -> None:
    scores = tmp_path / "scores.json"
    for text in ("first", "second"):
        scores.write_text(text)
        outbox.add_artifact(scores, "test")
    scores.unlink()
    assert records(outbox)[-1] == {
        "kind": "artifact",
        "path": "artifacts/test/scores.json",
        "folder": "test",
    }
    assert (outbox.directory / "artifacts/test/scores.json").read_text() == "second"
