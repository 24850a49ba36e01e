"""What the closing summary says."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from rich.console import Console

from dvfl.report.results import ReportError
from dvfl.report.summary import gain_sentence, summary, ui_line
from dvfl.report.tables import TABLES

COMMIT = "0123456789abcdef"


def said(renderable: object) -> str:
    console = Console(width=110)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


def test_numbers_gain_and_places(tables, make_config):
    text = said(summary(make_config(), tables, COMMIT))
    for part in ("motions, split1", "other_set, split1", "teacher", "student", "distilled"):
        assert part in text
    assert "distilled - student:" in text and "95 % interval over seeds and groups" in text
    assert "one teacher for all" in " ".join(text.split())
    assert "results/tables/all.csv" in text and "results/figures/" in text and "dvfl ui" in text
    assert "were made by" not in text


def test_the_line_for_the_ui_works_where_it_stands(monkeypatch, tmp_path):
    programs = tmp_path / "environment" / "bin"
    monkeypatch.setattr(sys, "executable", str(programs / "python"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/usr/bin")
    assert ui_line([Path("my file.yaml")]) == "environment/bin/dvfl ui --config 'my file.yaml'"
    monkeypatch.setenv("PATH", f"/usr/bin:{programs}")
    assert ui_line([]) == "dvfl ui"


def test_tables_of_another_config_are_no_answer(tables, make_config):
    accuracy = tables["accuracy"]
    others = tables | {"accuracy": accuracy[accuracy["arm"] != "student"]}
    with pytest.raises(ReportError, match=r"accuracy\.csv: holds no student of motions, split1, .*--config"):
        summary(make_config(), others, COMMIT)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (1, 9, "distillation gains"),
        (-9, -1, "distillation loses"),
        (-1, 9, "no gain is shown, the interval includes 0"),
    ],
)
def test_the_sentence_follows_the_interval(tables, make_config, low, high, verdict):
    accuracy = tables["accuracy"]
    joint = accuracy["arm"].eq("distilled - student") & accuracy["ci_low"].notna()
    accuracy.loc[joint, ["value", "ci_low", "ci_high"]] = [(low + high) / 2, low, high]
    sentence = gain_sentence(make_config(), accuracy)
    assert sentence.endswith(f": {verdict}.") and f"[{low:+.1f}, {high:+.1f}]" in sentence


def test_other_and_uncommitted_code_is_named(tree, tables, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    config = tree()
    run = Path("results/runs/motions/split1/as_described/student/seed1/run.json")
    record = json.loads(run.read_text())
    run.write_text(json.dumps(record | {"commit": "another"}))
    trial = Path("results/ablation/motions/alpha_temperature/alpha=0/distilled/seed0/run.json")
    trial.write_text(json.dumps(record | {"dirty": True}))
    text = said(summary(config, tables, COMMIT))
    assert f"1 run(s) in the tables were made by another commit than {COMMIT}:" in text
    assert "results/runs/motions/split1/as_described/student/seed1" in text
    assert "1 run(s) in the tables were made by uncommitted code:" in text
    assert "alpha=0/distilled/seed0" in text


def test_no_distilled_arm(tree, make_config):
    arms = {"teacher": {"network": "teacher"}, "student": {"network": "student"}}
    config = tree(make_config(arms=arms, ablation={"run": [], "studies": {}}, chosen_by=[]))
    tables = {name: TABLES[name](config) for name in ("accuracy", "efficiency")}
    assert "compares no distilled arm" in said(summary(config, tables))


def test_the_costs_are_those_of_the_networks_that_were_trained(tree, make_config):
    config = tree(
        make_config(
            datasets=["motions"],
            input={"img_size": 112, "short_side": 128},
            teacher={"model": "video_focalnet_base"},
            student={"model": "vfl_net", "model_overrides": {"embed_dim": 48}, "clips_per_class": 10},
        )
    )
    lines = said(summary(config, {name: TABLES[name](config) for name in ("accuracy", "efficiency")})).splitlines()
    teacher, student = (next(line for line in lines if f" {arm} " in line) for arm in ("teacher", "student"))
    assert "video_focalnet_base.112px" in teacher and "157 │" in teacher and " 55.2 │" in teacher  # 220.9 / 4 GMACs
    assert "5.55 │" in student and " 1.7 │" in student  # a quarter of vfl_net's parameters, a sixteenth of its GMACs
