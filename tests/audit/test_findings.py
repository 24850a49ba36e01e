"""Counts of made-up clips by hand, and the published lists' own numbers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from dvfl.audit import findings
from dvfl.audit.job import audit_lists
from dvfl.data.errors import DataError


def some_clips():
    """Two classes; group g1 of Run stands in train and test, and two files are the same."""
    rows = [
        # clip, class, group, subset, frames, sha256, status
        ("Run/a.avi", "Run", "g1", "train", 25, "s1", "ok"),
        ("Run/b.avi", "Run", "g1", "test", 50, "s2", "ok"),
        ("Run/c.avi", "Run", "g2", "validation", 25, "s3", "ok"),
        ("Sit/a.avi", "Sit", "g1", "test", 25, "s3", "ok"),
        ("Sit/b.avi", "Sit", "g3", "train", 75, "s5", "ok"),
        ("Sit/c.avi", "Sit", "g4", "", 0, "s5", "unreadable"),
    ]
    names = ["clip_id", "class_name", "group", "subset", "frames", "sha256", "status"]
    return pd.DataFrame(rows, columns=names).assign(fps=25.0)


def value(found, metric, **where):
    rows = [row for row in found if row["metric"] == metric and all(row[key] == text for key, text in where.items())]
    assert len(rows) == 1, rows
    assert rows[0]["definition"]
    return rows[0]["value"]


def test_contents_by_subset_and_class():
    found = list(findings.contents(some_clips()))
    assert value(found, "clips", subset="train", class_name="") == 2
    assert value(found, "hours", subset="train", class_name="") * 3600 == pytest.approx(4)
    assert value(found, "clips", subset="test", class_name="Run") == 1
    assert value(found, "hours", subset="test", class_name="Run") * 3600 == pytest.approx(2)
    assert value(found, "classes", subset="validation", class_name="") == 1


def test_what_is_left_out():
    differing = pd.DataFrame({"problem": ["missing", "missing", "unlisted", "unreadable"]})
    found = list(findings.left_out(some_clips(), differing))
    assert value(found, "clips_missing") == 2 and value(found, "clips_unlisted") == 1
    assert value(found, "clips_unusable", status="") == value(found, "clips_unusable", status="unreadable") == 1
    assert {row["metric"] for row in findings.left_out(some_clips(), None)} == {"clips_unusable"}


def test_clips_that_no_list_names_are_counted_against_the_owners_number():
    assert value(findings.lacking(some_clips(), 8), "clips_missing") == 2
    assert value(findings.lacking(some_clips(), 6), "clips_missing") == 0


def test_a_number_that_is_not_its_classs_is_counted_and_the_folder_believed(tmp_path):
    (tmp_path / "labels.csv").write_text("id,name\n0,Run\n1,Sit\n2,Walk\n")
    (tmp_path / "train.csv").write_text("train/Run/a.avi,2\ntrain/Run/b.avi,2\ntrain/Sit/a.avi,1\ntrain/Walk/a.avi,3\n")
    (tmp_path / "val.csv").write_text("val/Run/c.avi,2\n")
    ((_, _, rows),) = audit_lists([tmp_path])
    by_metric = rows[rows["class_name"] == ""].set_index("metric")["value"]
    assert by_metric["clips_mislabelled"] == 4 and by_metric["classes_mislabelled"] == 2
    assert rows.loc[rows["class_name"] == "Run", "value"].tolist() == [1, 2]  # in test and in train


def test_the_authors_numbers_of_hmdb51_alone_are_not_those_of_its_classes(published_lists):
    found = {}
    for folder, _, rows in audit_lists([published_lists / "dvfl_released"]):
        by_metric = rows[rows["class_name"] == ""].set_index("metric")["value"]
        found[folder.name] = (by_metric["clips_mislabelled"], by_metric["classes_mislabelled"])
    assert found == {"ucf50": (0, 0), "ucf101": (0, 0), "hmdb51": (6414, 49)}


def test_a_source_is_of_one_class():
    """Sit/a has group g1 as Run/a has, but is no clip of its source."""
    found, culprits = findings.leaked_by_source(some_clips(), "(?P<group>x)")
    assert value(found, "test_leaked_by_source") == 1
    assert value(found, "test_leaked_by_source_share") == 50
    assert culprits[["clip_id", "other", "other_subset"]].values.tolist() == [["Run/b.avi", "Run/a.avi", "train"]]


def test_bytes_are_found_in_train_and_validation():
    found, culprits = findings.same_bytes(some_clips())
    assert value(found, "clips_with_same_bytes") == 2  # Sit/c is in no subset
    assert value(found, "test_leaked_by_bytes") == 1
    assert culprits[["clip_id", "other", "other_subset"]].values.tolist() == [["Sit/a.avi", "Run/c.avi", "validation"]]


def test_without_training_clips_nothing_is_claimed():
    found, culprits = findings.leaked_by_source(some_clips().query("subset == 'test'"), None)
    assert np.isnan(value(found, "test_leaked_by_source")) and culprits.empty
    assert "not tested" in found[0]["definition"]


# Test clips whose class and source video stand in train, and all test clips.
LEAKS = {
    ("dvfl_released/ucf50", "released"): (88, 1321),
    ("dvfl_released/ucf101", "released"): (223, 2630),
    ("dvfl_released/hmdb51", "released"): (301, 1317),
    ("ucf101", "split1"): (0, 3783),
    ("ucf101", "split2"): (0, 3734),
    ("ucf101", "split3"): (0, 3696),
    ("hmdb51", "split1"): (0, 1530),
    ("hmdb51", "split2"): (0, 1530),
    ("hmdb51", "split3"): (0, 1530),
}


def test_the_published_lists_leak_as_published(published_lists):
    found = {}
    for folder, split, rows in audit_lists([published_lists]):
        by_metric = rows[(rows["subset"] == "test") & (rows["class_name"] == "")].set_index("metric")["value"]
        leak = by_metric["test_leaked_by_source"], by_metric["clips"]
        found[folder.relative_to(published_lists).as_posix(), split] = leak
    assert {place: leak for place, leak in found.items() if place in LEAKS} == LEAKS
    # Only the validation lists of these two are here: nothing is claimed of them.
    assert all(np.isnan(found[name, "split1"][0]) for name in ("ssv2", "kinetics400"))


def test_lists_of_ones_own_with_a_pattern(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/train.csv").write_text("Run/x1-a.avi,0\nSit/y1-a.avi,1\n")
    (tmp_path / "mine/val.csv").write_text("Run/x1-b.avi,0\nSit/y2-a.avi,1\n")
    ((folder, split, rows),) = audit_lists([tmp_path], r"^(?P<group>\w+)-")
    assert (folder, split) == (tmp_path / "mine", "released")
    assert rows.set_index("metric").loc["test_leaked_by_source", "value"] == 1
    with pytest.raises(DataError, match="named group"):
        list(audit_lists([tmp_path], "x"))
    (tmp_path / "bare").mkdir()
    with pytest.raises(DataError, match="holds lists"):
        list(audit_lists([tmp_path / "bare"]))
