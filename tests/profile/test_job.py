"""A profile on disk and in MLflow."""

from __future__ import annotations

import pytest

from dvfl import paths
from dvfl.files import read_json
from dvfl.profile import job
from dvfl.profile.latency import Measurement
from dvfl.track import OUTBOXES
from dvfl.track.outbox import Outbox, find_outboxes

TIMED = Measurement([0.3, 0.1, 0.2], peak_memory=2_000_000, peak_memory_increase=1_000_000).summary(1)
COUNTED = {"params": 10, "gmacs": 1.0, "other_gops": 0.1, "activations_m": 0.2, "weights_mb": 0.3}


def test_mlflow_has_its_numbers_and_the_file_each_pass(project, monkeypatch: pytest.MonkeyPatch) -> None:
    exported = [{"runtime": "onnxruntime", "precision": "float32", "batches": [TIMED]}]
    monkeypatch.setattr(job, "profile_model", lambda *_, **__: COUNTED | {"batches": [TIMED], "exported": exported})
    job.profile_one(project.config({"profile": {"paper_models": ["vfl_net"]}}), "vfl_net", threads=1)
    assert read_json(paths.profile_path("vfl_net"))["batches"] == [TIMED]
    (outbox,) = (Outbox(place) for place in find_outboxes(OUTBOXES))
    sent = {key: value for record, _ in outbox.read() for key, value, *_ in record.get("metrics", [])}
    assert sent["batch1.latency_ms"] == sent["onnxruntime.float32.batch1.latency_ms"] == 200
    assert sent["params"] == 10
    (tags,) = (record["tags"] for record, _ in outbox.read() if record["kind"] == "open")
    assert tags["config_hash"] == read_json(paths.profile_path("vfl_net"))["key"]
