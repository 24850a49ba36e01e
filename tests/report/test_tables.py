"""The files of the tables: bytes, escapes, union, errors."""

from __future__ import annotations

import re
from base64 import b64decode
from pathlib import Path

import pandas as pd
import pytest

from dvfl.files import NotMadeYet
from dvfl.report.formats import as_html, as_latex, as_markdown
from dvfl.report.inputs import table_inputs
from dvfl.report.results import ReportError
from dvfl.report.rows import COLUMNS, setting, setting_parts, table_frame
from dvfl.report.tables import TABLES, read_table, write_all, write_table


def written(folder: str = "results/tables") -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


def test_files_and_determinism(tree, make_tables):
    config = tree()
    make_tables(config)
    first = written()
    names = [*TABLES, "all"]
    assert set(first) == {f"{name}.{ending}" for name in names for ending in ("csv", "md", "tex", "html")}
    make_tables(config)
    assert written() == first
    assert all(b"\r" not in content for content in first.values())


def test_all_is_the_union(tables, tmp_path):
    write_all([f"results/tables/{name}.csv" for name in TABLES], tmp_path / "all")
    parts = [read_table(f"results/tables/{name}.csv") for name in TABLES]
    lines = (tmp_path / "all.csv").read_text().splitlines()
    assert lines[0] == ",".join(COLUMNS)
    assert len(lines) == 1 + sum(map(len, parts))
    bodies = [Path(f"results/tables/{name}.csv").read_text().splitlines()[1:] for name in TABLES]
    assert lines[1:] == [line for body in bodies for line in body]


def test_an_empty_table_joins_too(tree, make_config, make_tables):
    make_tables(tree(make_config(ablation={"run": [], "studies": {}}, chosen_by=[])))
    assert Path("results/tables/ablation.csv").read_text() == ",".join(COLUMNS) + "\n"
    assert len(read_table("results/tables/all.csv")) > 0


def test_csv_reads_back(tree):
    table = TABLES["efficiency"](tree())
    write_table(table, "efficiency")
    pd.testing.assert_frame_equal(read_table("efficiency.csv"), table, check_dtype=False)


def test_other_columns_are_refused(tmp_path):
    path = tmp_path / "audit.csv"
    path.write_text("table,value\naudit,1\n")
    with pytest.raises(ReportError, match=r"audit\.csv has other columns"):
        write_all([path], tmp_path / "all")


@pytest.mark.parametrize("table", TABLES)
def test_a_table_needs_its_inputs_and_nothing_else(tree, table):
    """Rules depend on `table_inputs`: every other run, profile and data set may be gone."""
    config = tree()
    inputs = table_inputs(table, config)
    runs = {path.parent for path in inputs if path.name == "scores.json"}
    for path in sorted(Path("results").rglob("*.*")):
        if path.is_file() and path not in inputs and path.parent not in runs:
            path.unlink()
    TABLES[table](config)
    missing = next(path for path in reversed(inputs) if path.parts[0] == "results")
    missing.unlink()
    if missing.name == "scores.json":
        (missing.parent / "predictions.parquet").unlink()  # several seeds are read from these
    with pytest.raises(NotMadeYet, match=r"not there yet; make it with `dvfl results results/"):
        TABLES[table](config)


def test_a_broken_file_is_named(tree):
    config = tree()
    path = Path("results/runs/motions/split1/as_described/student/seed0/run.json")
    path.write_text("{")
    with pytest.raises(ReportError, match=r"student/seed0/run\.json is not JSON"):
        TABLES["accuracy"](config)


def one_row(**values: object) -> pd.DataFrame:
    row = {"dataset": "my_set", "arm": "a & b", "metric": "top1", "unit": "percent", "value": 61.25}
    return table_frame("accuracy", [row | values])


def test_a_page_holds_the_table_and_its_csv_file():
    frame = one_row(ci_low=50.04, ci_high=72.0, setting="interval=<b>")
    page = as_html(frame, "a,b\n1,2\n", "accuracy")
    assert "<td>61.2 [50.0,&nbsp;72.0]</td>" in page and "<td>a &amp; b</td>" in page and "<th>top-1 (%)</th>" in page
    assert "&lt;b&gt;" in page and "<b>" not in page
    (data,) = re.findall(r'download="accuracy.csv" href="data:text/csv;base64,([^"]+)"', page)
    assert b64decode(data) == b"a,b\n1,2\n"
    assert "No rows." in as_html(frame.iloc[:0], "", "accuracy")


def test_markdown_and_latex_are_escaped():
    frame = one_row(ci_low=50.04, ci_high=72.0, setting="interval=50%_of|all")
    markdown, latex = as_markdown(frame), as_latex(frame)
    assert "my\\_set" in markdown and "50%\\_of\\|all" in markdown
    assert "61.2 [50.0, 72.0]" in markdown and "top-1 (%)" in markdown
    assert r"a \& b" in latex and r"my\_set" in latex and r"50\%\_of|all" in latex
    assert r"top-1 (\%)" in latex and "61.2 [50.0, 72.0]" in latex


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ({"unit": "probability", "metric": "p_value", "value": 0.00002}, "<0.001"),
        ({"unit": "probability", "metric": "p_value", "value": 0.0312}, "0.031"),
        ({"unit": "million", "metric": "params", "value": 22.214723}, "22.21"),
        ({"unit": "clips", "metric": "clips", "value": 360}, "360"),
        ({"published": 84.2}, "61.2 (published: 84.2)"),
        ({"value": None, "published": 84.2}, "– (published: 84.2)"),
    ],
)
def test_cells(values, shown):
    cell = as_markdown(one_row(**values)).splitlines()[-1].split(" | ")[-1]
    assert cell.removesuffix(" |").replace("\\", "") == shown


def test_rows_of_one_arm_are_one_line():
    row = {"arm": "student", "unit": "percent", "value": 1.0, "setting": "views=1x1"}
    frame = table_frame("accuracy", [row | {"metric": metric} for metric in ("top1", "top5", "ece")])
    lines = as_markdown(frame).splitlines()
    assert lines[-1] == "| student | 1.0 | 1.0 | 1.0 |"
    assert "**views 1x1**" in lines


def test_setting_has_an_inverse():
    text = setting(trial="alpha=0.5,temperature=4", chosen=None, batch=1, alpha=0.5)
    assert text == "trial=alpha=0.5,temperature=4; batch=1; alpha=0.5"
    assert setting_parts(text) == {"trial": "alpha=0.5,temperature=4", "batch": "1", "alpha": "0.5"}


def test_difference_and_rounding():
    frame = one_row(value=1 / 3, published=0.25)
    assert frame["value"].iloc[0] == 0.333333
    assert frame["difference"].iloc[0] == 0.0833333
