"""A profile on disk and in MLflow."""

from __future__ import annotations

from typing import Any

import pytest

from dvfl import paths, steps
from dvfl.errors import UserError
from dvfl.files import read_json, write_json
from dvfl.profile import job
from dvfl.profile.latency import Measurement
from dvfl.track import OUTBOXES
from dvfl.track.outbox import Outbox, find_outboxes
from tests.conftest import make_data

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


def test_a_network_is_built_as_its_run_builds_it_and_kept_under_its_own_name(project, monkeypatch) -> None:
    """Beside the paper's of that name: another input, other classes, and overrides in one arm."""
    asked: list[tuple[str, dict[str, Any]]] = []

    def measured(model: str, **values: Any) -> dict[str, Any]:
        asked.append((model, values))
        return COUNTED | {"batches": [TIMED], "overrides": values["overrides"]}

    monkeypatch.setattr(job, "profile_model", measured)
    narrow = {"network": "student", "set": {"student.model_overrides": {"embed_dim": 8}}}
    student = {"model": "vfl_net", "model_overrides": dict.fromkeys(project.settings["student"]["model_overrides"])}
    values = {"profile": {"paper_models": ["vfl_net"]}, "student": student, "arms": {"narrow": narrow}}
    config = project.config(values)
    make_data(project)
    names = ("vfl_net", "vfl_net.2frames.32px", "vfl_net.2frames.32px.embed_dim=8")
    assert {*names} < {*steps.profiled_models(config)}
    for name in names:
        job.profile_one(config, name, threads=1)
        assert read_json(paths.profile_path(name))["name"] == name
    told = [
        (model, *(values[key] for key in ("num_classes", "frames", "img_size", "overrides"))) for model, values in asked
    ]
    assert told == [("vfl_net", 101, 8, 224, {}), ("vfl_net", 3, 2, 32, {}), ("vfl_net", 3, 2, 32, {"embed_dim": 8})]
    with pytest.raises(UserError, match=r"'vfl_net.16px' is neither .* there are vfl_net, .*, vfl_net.2frames.32px"):
        job.profile_one(config, "vfl_net.16px", threads=1)


def test_what_a_study_chose_of_the_network_is_what_is_measured(project, monkeypatch) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(
        job, "profile_model", lambda _, **values: asked.append(values) or COUNTED | {"batches": [TIMED]}
    )
    widths = {"arms": ["student"], "seeds": [0], "grid": {"student.model_overrides.embed_dim": [8, 16]}}
    values = {"ablation": {"studies": {"widths": widths}}, "chosen_by": ["widths"], "profile": {"paper_models": []}}
    config = project.config(values)
    make_data(project)
    choice = paths.study_directory("colours", "widths") / "choice.json"
    write_json(choice, {"values": {"student.model_overrides.embed_dim": 16}})
    (name,) = (name for name in steps.profiled_models(config) if name.endswith(".chosen_by=widths"))
    job.profile_one(config, name, threads=1)
    assert asked[0]["overrides"]["embed_dim"] == 16 and "embed_dim" not in name
