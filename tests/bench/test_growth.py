"""Each point is measured by itself, the exponent is that of the law behind the points, and the figure shows both."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from dvfl.bench import growth
from dvfl.bench.growth import Point, Series, clip_name, made_up_index, measure_growth, series, write_clips
from dvfl.cli import cli
from dvfl.config import DatasetDefinition
from dvfl.data.index import build_index
from dvfl.profile.profile import ProfileError
from dvfl.report.figures import ON_DEMAND
from dvfl.report.growth import build_growth, points, power_law
from dvfl.report.rows import select, setting_parts
from dvfl.report.style import style

TINY = Point("forward", frames=2, img_size=32, num_classes=5, precision="float32", repeats=1)


@pytest.mark.parametrize("exponent", [0.5, 1, 2])
def test_a_power_law_has_its_exponent(exponent):
    sizes = [4, 8, 16, 32]
    law = power_law(sizes, [3 * size**exponent for size in sizes])
    assert law.exponent == pytest.approx(exponent) and law.factor == pytest.approx(3)
    assert [law.low, law.high, law.at_end] == pytest.approx([exponent] * 3)
    assert law.points == 4


def test_the_interval_covers_the_exponent_as_often_as_it_says():
    rng, sizes = np.random.default_rng(0), np.array([4.0, 8, 16, 32, 64])
    laws = [power_law(sizes, sizes**1.5 * np.exp(0.1 * rng.standard_normal(5))) for _ in range(400)]
    covered = np.mean([law.low <= 1.5 <= law.high for law in laws])
    assert 0.91 <= covered <= 0.99  # 0.95, and four standard errors


def test_a_fixed_cost_widens_the_interval_and_the_end_says_where_it_goes():
    sizes = [10, 100, 1000, 10_000, 100_000]
    law = power_law(sizes, [100 + size for size in sizes])
    assert law.high - law.low > 0.4 and law.exponent < 0.9
    assert law.at_end == pytest.approx(1, abs=0.01)


def test_points_without_a_cost_are_not_fitted():
    assert power_law([1, 2, 4, 8], [0, 2, 4, math.nan]) is None
    assert power_law([1, 2, 4, 8], [0, 2, 4, 8]).points == 3


def test_each_series_grows_in_one_size_alone():
    found = {(each.along, each.points[0].work): each for each in series(TINY, index_clips=1000)}
    assert found["frames", "step"].sizes == (4, 8, 16, 32, 64)
    assert (min(found["resolution", "step"].sizes), max(found["resolution", "step"].sizes)) == (112, 336)
    assert (min(found["clips", "split"].sizes), max(found["clips", "split"].sizes)) == (100, 100_000)
    assert found["clips", "index"].sizes[-1] == 1000
    field = {"frames": "frames", "resolution": "img_size", "batch": "batch", "clips": "clips"}
    for (along, work), each in found.items():
        for size, point in zip(each.sizes, each.points, strict=True):
            assert point == replace(TINY, work=work, **{field[along]: size})


@pytest.mark.parametrize(
    "point", [TINY, replace(TINY, work="step"), replace(TINY, work="split", clips=100),
              replace(TINY, work="index", clips=20)],
    ids=lambda point: point.work,
)  # fmt: skip
def test_each_work_is_timed(point):
    found = growth.work(point)
    assert set(found) == set(growth.MEASURED)
    assert found["cpu_seconds"] > 0 and found["seconds"] > 0
    assert 0 <= found["peak_memory_increase_mb"] < found["peak_memory_mb"]


def test_a_larger_step_takes_more_time_and_memory_each_in_a_process_of_its_own():
    sizes = (16, 1)  # the small one second: a peak that it shared with the large one would show
    tiny = replace(TINY, work="step", img_size=64)
    rows, problems = measure_growth([Series("batch", tuple(replace(tiny, batch=n) for n in sizes), sizes)])
    assert not problems
    large, small = rows
    assert large["cpu_seconds"] > 1.5 * small["cpu_seconds"]
    assert large["peak_memory_increase_mb"] > 2 * small["peak_memory_increase_mb"]


def test_the_made_up_index_is_that_of_the_clips_that_are_written(tmp_path):
    write_clips(tmp_path / "clips", 60)
    definition = DatasetDefinition(kind="folder", root=tmp_path / "clips", group=growth.GROUP)
    read, made_up = build_index(tmp_path / "clips", definition, workers=1), made_up_index(60)
    assert read["status"].eq("ok").all() and read["sha256"].is_unique
    pd.testing.assert_frame_equal(read[list(made_up)], made_up, check_dtype=False)
    assert clip_name(59)[2] in set(read["clip_id"])
    assert made_up.groupby("group")["class_name"].nunique().eq(1).all()


@pytest.fixture
def made_up_costs(monkeypatch):
    """Forward passes quadratic and splits linear in what grows; the largest batch does not fit."""

    def in_a_fresh_process(request, module, what):
        if request["batch"] == growth.BATCHES[-1]:
            raise ProfileError(f"{what}: killed")
        size = request["clips"] or request["frames"] * request["img_size"] * request["batch"]
        cost = float(size) if request["clips"] else float(size) ** 2
        return dict.fromkeys(growth.MEASURED, cost)

    monkeypatch.setattr(growth, "in_a_fresh_process", in_a_fresh_process)


def test_the_command_writes_table_and_figure(made_up_costs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(cli, ["growth", "--index-clips", "1000"])
    assert done.exit_code == 0, done.output
    assert "not measured: forward of vfl_net, 16 x 8x224x224: killed" in done.output
    for path in ("tables/growth.csv", "tables/growth.md", "figures/growth.png", "figures/growth.pdf"):
        assert (tmp_path / "results" / path).stat().st_size > 0
    table = pd.read_csv("results/tables/growth.csv")
    exponents = select(table, metric="cpu_seconds_exponent")
    by_series = {
        (parts["along"], parts["work"]): (parts["size"], value)
        for parts, value in zip(exponents["setting"].map(setting_parts), exponents["value"], strict=True)
    }
    assert by_series["frames", "forward"] == ("4..64", pytest.approx(2))
    assert by_series["batch", "step"] == ("1..8", pytest.approx(2))
    assert by_series["clips", "split"] == ("100..100000", pytest.approx(1, abs=1e-4))
    assert by_series["clips", "index"] == ("100..1000", pytest.approx(1, abs=1e-3))
    drawn = pd.read_csv("results/figures/growth.csv")
    there = drawn.dropna(subset=["value"])
    assert len(drawn) == len(there) + 4  # two works, two metrics
    np.testing.assert_allclose(there["law"], there["value"], rtol=1e-2)


def test_the_figure_has_a_row_for_each_size_and_says_the_exponents(made_up_costs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows, _ = measure_growth(series(TINY, index_clips=1000))
    table = build_growth(rows, {"machine": "m"})
    assert len(points(table)) == len(rows) * len(growth.MEASURED)
    Path("results/tables").mkdir(parents=True)
    table.to_csv("results/tables/growth.csv", index=False)
    with style():
        figure = ON_DEMAND["growth"].draw(ON_DEMAND["growth"].data(None))
    assert len(figure.axes) == 4 * 2
    assert [cell.get_xscale() for cell in figure.axes] == ["log"] * 8
    legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert legend == ["forward pass: exponent 2.00 [2.00, 2.00]", "training step: exponent 2.00 [2.00, 2.00]"]
