"""Sizes and ratios, and which published numbers stand where."""

from __future__ import annotations

import pandas as pd
import pytest

from dvfl.report import inputs
from dvfl.report.accuracy import build_accuracy
from dvfl.report.claims import build_claims
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


def test_what_was_not_measured_has_no_row(tables):
    assert "latency_p95_ms" not in set(tables["efficiency"]["metric"])


def test_every_published_number_is_a_claim(tables):
    table = tables["claims"]
    published = pd.read_csv(inputs.PUBLISHED)
    assert table["published"].tolist() == published["value"].tolist()
    assert table["model"].tolist() == published["model"].tolist()


def test_accuracies_of_other_data_are_not_tested(tables):
    claims = tables["claims"]
    accuracies = select(claims, unit="percent")
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
    claims = build_claims(config)
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
        (claim(50, views="not stated"), "the number of views, which the source does not state"),
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


def test_a_smaller_input_is_another_number(tree):
    config = tree()
    inputs.PUBLISHED.write_text(HEADER + claim(50), encoding="utf-8")
    assert "needs an input of 8x224x224" in build_claims(config).iloc[0]["setting"]
