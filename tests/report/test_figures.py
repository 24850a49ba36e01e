"""Figures: their data, their files, and what is drawn where there is nothing to draw."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dvfl.report.figures import FIGURES, write_figure
from dvfl.report.figures.confusion import most_confused
from dvfl.report.inputs import figure_inputs
from dvfl.report.rows import select
from dvfl.report.style import RC, looks, style
from dvfl.report.tables import read_table
from dvfl.report.tracked import track_figures


@pytest.fixture
def config(tables, make_config):
    """The synthetic config, its results and tables being the working directory: read only."""
    return make_config()


def test_all_figures_twice_the_same(config, tmp_path):
    for name in FIGURES:
        write_figure(name, config, tmp_path)
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(first) == {f"{name}.{end}" for name in FIGURES for end in ("pdf", "png", "csv")}
    assert b"CreationDate" not in first["confusion.pdf"]
    for name in ("labelled_clips", "accuracy_vs_params"):
        write_figure(name, config, tmp_path / "again")
        for end in ("pdf", "png", "csv"):
            assert (tmp_path / f"again/{name}.{end}").read_bytes() == first[f"{name}.{end}"]


def test_figures_need_their_inputs_and_nothing_else(tree, make_tables):
    config = tree()
    make_tables(config)
    inputs = {path for name in FIGURES for path in figure_inputs(name, config)}
    for path in sorted(Path("results").rglob("*.*")):
        if path.is_file() and path not in inputs:
            path.unlink()
    for name in FIGURES:
        assert not FIGURES[name].data(config).empty


def test_tradeoff_is_that_of_the_tables(config, tables):
    frame = FIGURES["accuracy_vs_params"].data(config)
    row = select(frame, dataset="motions", arm="distilled").iloc[0]
    table = select(tables["accuracy"], dataset="motions", arm="distilled")
    assert row["top1"] == select(table, metric="top1")["value"].iloc[0]
    assert row["params"] == 0.361234 and row["latency_ms"] == pytest.approx(3.11004)


def test_tradeoff_has_the_cost_of_the_networks_that_were_trained(tree, make_config, make_tables):
    """Where the paper's size of the same name is profiled beside them, and arms of one model differ."""
    arms = make_config().model_dump(mode="json")["arms"]
    arms["narrow"] = {"network": "student", "set": {"student.model_overrides": {"embed_dim": 48}}}
    config = make_config(
        input={"img_size": 112, "short_side": 128},
        teacher={"model": "video_focalnet_base"},
        student={"model": "vfl_net", "clips_per_class": 10},
        arms=arms,
    )
    make_tables(tree(config))
    efficiency = read_table("results/tables/efficiency.csv")
    for name in ("accuracy_vs_params", "accuracy_vs_gmacs"):
        frame = FIGURES[name].data(config).set_index(["dataset", "arm"])
        for metric in ("params", "gmacs", "latency_ms"):
            table = select(efficiency, metric=metric).set_index("model")["value"]
            for arm, model in (("student", "vfl_net.112px"), ("narrow", "vfl_net.112px.embed_dim=48")):
                assert frame.loc[("motions", arm), "model"] == model
                assert frame.loc[("motions", arm), metric] == table[model]
                if metric != "params":  # the input does not change the parameters
                    assert table[model] < table["vfl_net"]
                assert frame.loc[("other_set", arm), metric] == table[f"{model}.classes_of=other_set"]


def test_heat_map_marks_choice_and_baseline(config):
    frame = select(FIGURES["alpha_temperature"].data(config), dataset="motions")
    assert frame[frame["chosen"]][["alpha", "temperature"]].values.tolist() == [[0.9, 4]]
    assert frame[frame["alpha"] == 0]["temperature"].isna().all()
    with style():
        figure = FIGURES["alpha_temperature"].draw(frame)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert len(texts) == 9 and len(figure.axes[0].patches) == 1
    assert "α = 0, labels only" in figure.axes[0].get_title()


def test_labelled_clips_has_arms_and_gain(config):
    frame = select(FIGURES["labelled_clips"].data(config), dataset="motions")
    gain = select(frame, metric="top1_difference")
    assert gain["training_clips"].tolist() == [16, 40, 80]
    assert set(select(frame, metric="top1")["arm"]) == {"student", "distilled"}


def test_curves_are_in_percent(config):
    frame = FIGURES["training_curves"].data(config)
    assert select(frame, quantity="train_top1")["value"].max() > 90
    assert set(select(frame, quantity="loss_kd")["arm"]) == {"distilled"}


def test_figures_say_what_was_not_run(tree, make_config, make_tables):
    config = tree(make_config(ablation={"run": [], "studies": {}}, chosen_by=[]))
    make_tables(config)
    for name in ("alpha_temperature", "labelled_clips"):
        frame = FIGURES[name].data(config)
        assert frame.empty and len(frame.columns) > 5
        with style():
            figure = FIGURES[name].draw(frame)
        assert figure.texts[0].get_text().startswith("not run: ")


def test_one_seed_and_many_classes(tree, make_config, make_tables, tmp_path):
    config = tree(make_config(datasets=["motions"], seeds=[0]), classes=25, groups=8)
    make_tables(config)
    for name in FIGURES:
        write_figure(name, config, tmp_path)
    frame = FIGURES["confusion"].data(config)
    with style():
        figure = FIGURES["confusion"].draw(frame)
    shown = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert shown[-1] == "any other class" and len(shown) <= 16


def test_most_confused_are_the_largest_off_diagonal_cells():
    classes = [f"c{label:02d}" for label in range(30)]
    counts = np.diag(np.full(30, 100))
    counts[3, 20] = 9
    counts[7, 8] = 5
    found = most_confused(pd.DataFrame(counts, classes, classes), classes)
    assert {"c03", "c20", "c07", "c08"} <= set(found) and len(found) <= 15
    assert found == sorted(found)
    assert most_confused(pd.DataFrame(counts[:20, :20]), classes[:20]) == classes[:20]


def test_claims_are_drawn_or_named_each_once(config, tables):
    frame = FIGURES["claims"].data(config)
    assert len(frame) == len(tables["claims"])
    tested = frame[frame["value"].notna()]
    assert set(tested["verdict"]) == {"reproduced", "not reproduced"}
    assert set(frame["verdict"]) - set(tested["verdict"]) == {"not tested here"}
    with style():
        figure = FIGURES["claims"].draw(frame)
    *panels, untested = figure.axes
    assert sum(len(panel.get_yticks()) for panel in panels) == len(tested)
    assert untested.get_title(loc="left") == f"{len(frame) - len(tested)} of {len(frame)} claims are not tested here"
    counts = [int(text.get_text().split(": ")[1]) for text in untested.texts if text.get_ha() == "right"]
    assert sum(counts) == len(frame) - len(tested)


def test_claims_of_accuracy_are_drawn_with_their_interval(config):
    frame = FIGURES["claims"].data(config)
    percent = frame["unit"].isin(["percent", "percentage points"])
    frame.loc[percent, ["value", "ci_low", "ci_high"]] = [80.0, 78.0, 82.0]
    frame.loc[percent, "verdict"] = "not reproduced"
    with style():
        figure = FIGURES["claims"].draw(frame)
    assert len(figure.axes) == 4 and len(figure.axes[2].collections) == (frame["unit"] == "percent").sum()


def test_style_is_readable_in_print():
    sizes = [value for key, value in RC.items() if key.endswith("size") and "marker" not in key]
    assert min(value for value in sizes if isinstance(value, int | float)) >= 8
    assert RC["pdf.fonttype"] == 42
    look = looks(["distilled", "mine", "teacher"])
    assert len({(each.color, each.marker) for each in look.values()}) == len(look)
    assert looks(["distilled"])["distilled"] == look["distilled"]


def test_a_run_without_training_has_no_curve(tree, make_config):
    config = tree(make_config(datasets=["motions"]))
    history = Path("results/runs/motions/split1/as_described/teacher/seed0/history.csv")
    history.write_text("epoch\n")  # what a run with given weights leaves
    frame = FIGURES["training_curves"].data(config)
    assert set(frame["arm"]) == {"student", "distilled"}
    with style():
        FIGURES["training_curves"].draw(frame)


def test_figures_are_artifacts_of_a_run_of_the_data_sets_experiment(make_config, monkeypatch, tmp_path):
    from mlflow import MlflowClient

    from dvfl.track import prepare

    monkeypatch.chdir(tmp_path)
    config = make_config(datasets=["motions"])
    prepare(config.tracking, {"motions": []})
    picture = tmp_path / "confusion.png"
    picture.write_bytes(b"of four classes")
    track_figures(config, [picture])
    client = MlflowClient(config.tracking.uri)
    (run,) = client.search_runs([client.get_experiment_by_name("dvfl/motions").experiment_id])
    assert (run.info.run_name, run.data.tags["rule"]) == ("figures", "figures")
    place = client.download_artifacts(run.info.run_id, "confusion.png")
    assert Path(place).read_bytes() == b"of four classes"
