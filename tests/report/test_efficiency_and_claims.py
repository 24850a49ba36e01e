"""Sizes and ratios, and which published numbers stand where."""

from __future__ import annotations

import json
import re

import pandas as pd
import pytest

from dvfl import paths
from dvfl.report import claims as claims_table
from dvfl.report import inputs
from dvfl.report.ablation import build_ablation
from dvfl.report.accuracy import build_accuracy
from dvfl.report.claims import build_claims
from dvfl.report.efficiency import build_efficiency
from dvfl.report.rows import COLUMNS, select

HEADER = "dataset,split,protocol,views,model,arm,metric,unit,value,source\n"
AT_PAPER_SIZE = {"input": {"img_size": 224, "short_side": 256}}


def claim(value: float, views: str = "1", dataset: str = "motions") -> str:
    model = "video_focalnet_w24_d1121"
    return f"{dataset},split1,as_described,{views},{model},teacher,top1,percent,{value},a paper\n"


def test_efficiency_values(tables):
    table = tables["efficiency"]
    assert tuple(table.columns) == COLUMNS
    params = select(table, metric="params").set_index("model")["value"]
    assert params["video_focalnet_base"] == 157.083
    assert params["video_focalnet_w12_d1121"] == 0.361234
    arms = select(table, metric="gmacs").set_index("model")["arm"]
    assert arms["vfl_net"] == "student" and arms["video_focalnet_w12_d1121"] == "student, distilled"


def test_ratios_of_paper_and_own_models(tables):
    table = select(tables["efficiency"], arm="teacher / student")
    paper = select(table, model="video_focalnet_base / vfl_net").set_index("metric")
    assert paper.loc["params_ratio", "value"] == pytest.approx(157_082_741 / 22_214_723, rel=1e-5)
    assert paper.loc["gmacs_ratio", ["published", "difference"]].tolist() == pytest.approx(
        [7, 220.9 / 27.2 - 7], rel=1e-4
    )
    assert set(paper.index) == {"params_ratio", "gmacs_ratio", "latency_ratio", "memory_ratio"}
    assert paper["published"].notna().sum() == 1
    own = select(table, model="video_focalnet_w24_d1121 / video_focalnet_w12_d1121")
    assert len(own) == 4 and own["published"].isna().all()


def test_exported_forms_name_their_runtime_and_come_after(tree):
    config = tree()
    path = paths.profile_path("vfl_net")
    profile = json.loads(path.read_text())
    batch = profile["batches"][0] | {"latency_ms": 1.5}
    form = {
        "runtime": "openvino",
        "precision": "int8",
        "device": "cpu",
        "threads": 2,
        "file_mb": 22.5,
        "batches": [batch],
    }
    path.write_text(json.dumps(profile | {"exported": [form]}))
    latency, exported = select(build_efficiency(config), model="vfl_net", metric="latency_ms").to_dict("records")
    assert "runtime" not in latency["setting"] and latency["value"] == profile["batches"][0]["latency_ms"]
    assert "batch=1; runtime=openvino; precision=int8; device=cpu; threads=2; machine=a CPU" in exported["setting"]
    assert exported["value"] == 1.5
    (size,) = select(build_efficiency(config), metric="file_mb").to_dict("records")
    assert size["value"] == 22.5 and size["setting"].endswith("runtime=openvino; precision=int8")


def test_what_was_not_measured_has_no_row(tables):
    assert "latency_p95_ms" not in set(tables["efficiency"]["metric"])


def test_every_published_number_is_a_claim(tables):
    published = pd.read_csv(inputs.PUBLISHED)
    table = tables["claims"].iloc[: len(published)]
    assert table["published"].tolist() == published["value"].tolist()
    assert table["model"].tolist() == published["model"].tolist()


def test_accuracies_of_other_data_are_not_tested(tables):
    claims = tables["claims"]
    accuracies = claims[claims["unit"].isin(["percent", "percentage points"])]
    assert accuracies["value"].isna().all() and accuracies["difference"].isna().all()
    assert accuracies["setting"].str.startswith("not tested here: needs ").all()
    assert tables["accuracy"]["published"].isna().all()


def test_sizes_are_tested_in_every_run(tables):
    claims = tables["claims"]
    sizes = select(claims, metric="params").set_index("model")
    assert sizes["setting"].str.startswith("reproduced: ").all()
    assert sizes.loc["video_focalnet_base", "difference"] == pytest.approx(0.083)
    ratio = select(claims, metric="compute_reduction_vs_teacher").iloc[0]
    assert ratio["value"] == pytest.approx(8.12132)
    assert ratio["setting"].startswith("not reproduced: measured 8.12, as multiply-adds (parameters: 7.07)")


def test_what_the_abstract_says_is_tested_in_every_run(tables):
    said = select(tables["claims"], model="video_focalnet_base / vfl_net").set_index("metric")
    assert list(said.index) == ["params_ratio", "latency_ratio", "memory_ratio", "gmacs_ratio"]
    ratios = select(tables["efficiency"], model="video_focalnet_base / vfl_net").set_index("metric")
    assert said["value"].to_dict() == ratios.loc[said.index, "value"].to_dict()
    assert said["run_ids"].to_dict() == ratios.loc[said.index, "run_ids"].to_dict()
    assert said.loc["params_ratio", "setting"].startswith("reproduced: the measured value rounds to it; ")
    interval = "not reproduced: the 95 % interval [7.97, 8.14] has no value that rounds to it; "
    assert said.loc["latency_ratio", "setting"].startswith(interval)
    assert said["published"].dropna().to_dict() == {"params_ratio": 7, "latency_ratio": 7}
    for metric, words in (("memory_ratio", "lower memory usage"), ("gmacs_ratio", "reduced GFLOPs")):
        assert said.loc[metric, "setting"].startswith("reproduced: the ratio is above 1; ")
        assert f'Claim: "{words}"' in said.loc[metric, "setting"]


def test_a_ratio_of_latencies_is_told_with_what_the_passes_leave_open(tree):
    config = tree()
    path = paths.profile_path("vfl_net")
    profile = json.loads(path.read_text())
    passes = [300.0, 330, 360, 350, 340, 400, 410]
    profile["batches"][0] |= {"latency_ms": 350, "latencies_ms": passes}
    path.write_text(json.dumps(profile))
    teacher = json.loads(paths.profile_path("video_focalnet_base").read_text())["batches"][0]["latencies_ms"]
    ends = [min(teacher) / 410, max(teacher) / 300]
    ratio = select(build_efficiency(config), metric="latency_ratio").iloc[0]
    assert ratio[["ci_low", "ci_high"]].tolist() == pytest.approx(ends, rel=1e-5)
    rate = select(build_efficiency(config), model="vfl_net", metric="clips_per_second").iloc[0]
    assert rate[["ci_low", "ci_high"]].tolist() == pytest.approx([1000 / 410, 1000 / 300], rel=1e-5)
    claim = select(build_claims(config), metric="latency_ratio").iloc[0]
    assert claim["setting"].startswith("reproduced: the 95 % interval [6.47, 8.86] has values that round to it; ")
    assert claim[["ci_low", "ci_high"]].tolist() == ratio[["ci_low", "ci_high"]].tolist()


def test_few_passes_leave_a_ratio_without_interval(tree):
    config = tree()
    path = paths.profile_path("vfl_net")
    profile = json.loads(path.read_text())
    profile["batches"][0]["latencies_ms"] = profile["batches"][0]["latencies_ms"][:6]
    path.write_text(json.dumps(profile))
    assert select(build_efficiency(config), model="vfl_net", metric="latency_ms")["ci_low"].notna().all()
    assert select(build_efficiency(config), metric="latency_ratio")["ci_low"].isna().iloc[0]
    claim = select(build_claims(config), metric="latency_ratio").iloc[0]
    assert claim["setting"].startswith("not reproduced: measured 8.0")


def test_a_student_that_takes_more_memory_does_not_take_less(tree):
    config = tree()
    path = paths.profile_path("vfl_net")
    profile = json.loads(path.read_text())
    profile["batches"][0]["peak_memory_mb"] = 10 * profile["batches"][0]["peak_memory_mb"]
    path.write_text(json.dumps(profile))
    memory = select(build_claims(config), metric="memory_ratio").iloc[0]
    assert memory["value"] < 1 and memory["setting"].startswith(f"not reproduced: measured {memory['value']:.2f}; ")


def test_gains_on_data_sets_that_are_not_here_are_not_tested(tables):
    gains = select(tables["claims"], metric="top1_difference")
    assert gains["dataset"].tolist() == ["ucf50", "ucf101", "hmdb51", "ssv2", "kinetics400"]
    for gain in gains.itertuples():
        assert gain.setting.startswith(f"not tested here: needs data set {gain.dataset}, arm teacher with video_focal")


def test_a_gain_on_a_data_set_of_the_paper_is_tested(tree, make_config, monkeypatch):
    config = tree(make_config(datasets=["motions"], **AT_PAPER_SIZE))
    for name, value in (
        ("DATASETS", ("motions",)),
        ("TEACHER", config.teacher.model),
        ("STUDENT", config.student.model),
    ):
        monkeypatch.setattr(claims_table, name, value)
    contrast = {"arm": "distilled - student", "metric": "top1_difference"}
    expected = select(build_accuracy(config), dataset="motions", **contrast).iloc[0]
    gain = select(build_claims(config), dataset="motions", **contrast).iloc[0]
    same = ["split", "protocol", "value", "ci_low", "ci_high", "n_seeds", "run_ids"]
    assert gain[same].tolist() == expected[same].tolist()
    above = expected["ci_low"] > 0
    assert gain["setting"].startswith("reproduced: " if above else "not reproduced: ")
    assert pd.isna(gain["published"])


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(1, 3, "reproduced: .*above 0"), (-1, 3, "not reproduced: .*includes 0"), (-3, -1, "not reproduced: .*below 0")],
)
def test_verdict_of_a_gain(low, high, verdict):
    assert re.match(verdict, claims_table._gain_verdict(pd.Series({"ci_low": low, "ci_high": high})))


def test_an_unprofiled_model_is_not_tested(tree, make_config):
    claims = build_claims(tree(make_config(profile={"paper_models": ["vfl_net"]})))
    base = select(claims, metric="params", model="video_focalnet_base").iloc[0]
    assert pd.isna(base["value"])
    assert base["setting"].startswith("not tested here: needs the profile of video_focalnet_base")
    ratio = select(claims, metric="compute_reduction_vs_teacher").iloc[0]
    assert ratio["setting"].startswith("not tested here: needs the profile of")


def test_a_number_that_is_tested_has_value_and_verdict(tree, make_config):
    config = tree(make_config(**AT_PAPER_SIZE))
    inputs.PUBLISHED.write_text(HEADER + claim(99.9) + claim(10), encoding="utf-8")
    value = select(build_accuracy(config), dataset="motions", arm="teacher", metric="top1").iloc[0]
    assert value["published"] == 10  # the same number claimed twice: the last one
    claims = build_claims(config).iloc[:2]  # the abstract's come after
    assert (claims["value"] == value["value"]).all() and (claims["n_seeds"] == 1).all()
    inside = [
        low <= p <= high for low, p, high in zip(claims["ci_low"], claims["published"], claims["ci_high"], strict=True)
    ]
    assert inside == [True, False]
    assert claims["setting"].iloc[0].startswith("reproduced: the published value lies in")
    assert claims["setting"].iloc[1].startswith("not reproduced: ")
    assert claims["difference"].iloc[1] == pytest.approx(value["value"] - 10, abs=1e-3)
    assert (claims["run_ids"] == value["run_ids"]).all()


@pytest.mark.parametrize(
    ("line", "lacking"),
    [
        (claim(50, views="12"), "12 views"),
        (claim(50, dataset="ucf50"), "data set ucf50 with split split1"),
        (claim(50).replace("split1", "split2"), "split split2"),
        (claim(50).replace("as_described", "as_released"), "protocol as_released"),
        (claim(50).replace(",teacher,", ",student,"), "arm student with video_focalnet_w24_d1121"),
    ],
)
def test_one_thing_that_differs_is_enough(tree, make_config, line, lacking):
    config = tree(make_config(**AT_PAPER_SIZE))
    inputs.PUBLISHED.write_text(HEADER + line, encoding="utf-8")
    row = build_claims(config).iloc[0]
    assert row["setting"].startswith(f"not tested here: needs {lacking}. Source: a paper, views: ")
    assert pd.isna(row["value"]) and build_accuracy(config)["published"].isna().all()


def test_where_the_source_states_no_views_it_is_not_tested_and_what_is_measured_here_is_said(tree, make_config):
    config = tree(make_config(**AT_PAPER_SIZE))
    inputs.PUBLISHED.write_text(HEADER + claim(50, views="not stated"), encoding="utf-8")
    own = select(build_accuracy(config), dataset="motions", arm="teacher", metric="top1").iloc[0]
    row = build_claims(config).iloc[0]
    assert row["setting"] == (
        f"not tested here: needs the number of views, which the source does not state; with 1x1 it is "
        f"{own['value']:.1f} [{own['ci_low']:.1f}, {own['ci_high']:.1f}] here. Source: a paper, views: not stated"
    )
    assert pd.isna(row["value"]) and pd.isna(own["published"])


def test_a_smaller_input_is_another_number(tree):
    config = tree()
    inputs.PUBLISHED.write_text(HEADER + claim(50), encoding="utf-8")
    assert "needs an input of 8x224x224" in build_claims(config).iloc[0]["setting"]


# ------------------------------------------------------------------------------------------- networks of a paper's name

AT_112 = {
    "input": {"img_size": 112, "short_side": 128},
    "teacher": {"model": "video_focalnet_base"},
    "student": {"model": "vfl_net", "clips_per_class": 10},
}
NARROW = {"network": "student", "set": {"student.model_overrides": {"embed_dim": 48}}}
GMACS = 27.2  # of vfl_net in the synthetic results


def values(frame: pd.DataFrame, metric: str) -> dict[str, float]:
    return select(frame, metric=metric).set_index("model")["value"].to_dict()


def test_a_network_of_a_papers_name_at_another_input_has_rows_of_its_own(tree, make_config):
    config = tree(make_config(datasets=["motions"], **AT_112))
    table = build_efficiency(config)
    gmacs = values(table, "gmacs")
    assert gmacs["vfl_net"] == GMACS and gmacs["vfl_net.112px"] == pytest.approx(GMACS / 4)
    rows = select(table, metric="gmacs").set_index("model")
    assert rows.loc["vfl_net.112px", "arm"] == "student, distilled" and rows.loc["vfl_net", "arm"] == "student"
    assert rows.loc["vfl_net.112px", ["setting", "run_ids"]].tolist() == [
        "input=8x112x112; classes=4",
        "profile-vfl_net.112px",
    ]
    pairs = select(table, metric="gmacs_ratio")
    assert pairs["model"].tolist() == ["video_focalnet_base / vfl_net", "video_focalnet_base.112px / vfl_net.112px"]
    assert pairs["published"].notna().tolist() == [True, False]
    models = select(build_accuracy(config), metric="top1").set_index("arm")["model"]
    assert models["teacher"] == "video_focalnet_base.112px" and models["student"] == "vfl_net.112px"


def test_what_was_published_is_tested_on_the_papers_size_alone(tree, make_config):
    beside = build_claims(tree(make_config(datasets=["motions"], **AT_112)))
    assert select(beside, metric="params")["value"].notna().all()
    profile = {"paper_models": ["video_focalnet_base"]}
    alone = build_claims(tree(make_config(datasets=["motions"], profile=profile, **AT_112)))
    assert pd.isna(select(alone, metric="params", model="vfl_net").iloc[0]["value"])
    ratios = alone[alone["unit"] == "ratio"]
    assert len(ratios) == 5 and ratios["value"].isna().all()


def test_arms_of_one_model_with_other_overrides_have_rows_of_their_own(tree, make_config):
    arms = make_config().model_dump(mode="json")["arms"] | {"narrow": NARROW}
    config = tree(make_config(datasets=["motions"], arms=arms, **AT_112))
    params = values(build_efficiency(config), "params")
    assert params["vfl_net.112px.embed_dim=48"] == pytest.approx(params["vfl_net.112px"] / 4, rel=1e-5)
    models = select(build_accuracy(config), metric="top1").set_index("arm")["model"]
    assert models["narrow"] == "vfl_net.112px.embed_dim=48" and models["student"] == "vfl_net.112px"


def test_each_data_set_has_the_costs_of_its_own_classes(tables):
    for metric in ("params", "gmacs_ratio"):
        models = select(tables["efficiency"], metric=metric)["model"]
        assert models.str.endswith("w12_d1121.classes_of=other_set").sum() == 1 and models.is_unique


def test_a_trial_is_named_by_the_network_that_it_trains(tree, make_config):
    widths = {"arms": ["student"], "grid": {"student.model_overrides.embed_dim": [48, 96]}, "evaluate_on": "test"}
    ablation = {
        "run": ["widths"],
        "studies": {"widths": widths | {"reference": {"student.model_overrides.embed_dim": 96}}},
    }
    config = tree(make_config(datasets=["motions"], ablation=ablation, chosen_by=[], **AT_112))
    table = build_ablation(config)
    assert select(table, metric="top1")["model"].tolist() == ["vfl_net.112px.embed_dim=48", "vfl_net.112px"]
    assert set(select(table, metric="top1_difference")["model"]) == {"vfl_net.112px.embed_dim=48 - vfl_net.112px"}
