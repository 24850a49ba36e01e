"""Groups never straddle, every class is everywhere, and the same split comes out every time."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from dvfl.config import DatasetDefinition
from dvfl.data.errors import DataError
from dvfl.data.index import COLUMNS, build_index, clips_root
from dvfl.data.splits import check_split, few_clips, make_split, read_split, write_split


def an_index(classes=4, groups=8, clips=3, shared=False):
    """Rows as an index has them; groups of a name of their own in each class, or shared."""
    rows = []
    for label in range(classes):
        for group in range(groups[label] if isinstance(groups, list) else groups):
            for clip in range(clips):
                source = f"g{group:02d}" if shared else f"class{label}_g{group:02d}"
                clip_id = f"class{label}/g{group:02d}_c{clip}.avi"
                rows.append((clip_id, f"class{label}", label, source))
    index = pd.DataFrame(rows, columns=["clip_id", "class_name", "label", "group"])
    for name in COLUMNS:
        if name not in index:
            index[name] = "" if COLUMNS[name] == "str" else 0
    return index.assign(status="ok")


def define(**changes):
    return DatasetDefinition(kind="folder", root="/clips", **changes)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("groups", [3, 4, 8, [3, 9, 20, 5]])
@pytest.mark.parametrize("name", ["split1", "other"])
def test_groups_stay_together_and_classes_are_everywhere(shared, groups, name):
    index = an_index(groups=groups, shared=shared)
    split = make_split(index, define(), name)
    assert split.columns.tolist() == ["clip_id", "subset"]
    assert set(split["clip_id"]) == set(index["clip_id"])
    check_split(split, index)


def test_the_share_is_what_was_asked():
    index = an_index(classes=5, groups=20)
    for test, validation in ((0.25, 0.2), (0.1, 0.1), (0.4, 0.3)):
        split = make_split(index, define(test_fraction=test, validation_fraction=validation), "split1")
        share = split["subset"].value_counts(normalize=True)
        assert abs(share["test"] - test) < 0.11
        assert abs(share["validation"] / (1 - share["test"]) - validation) < 0.06


def test_a_split_is_a_function_of_its_seed_and_name():
    index = an_index()
    split = make_split(index, define(), "split1")
    shuffled = index.sample(frac=1, random_state=1)
    pd.testing.assert_frame_equal(make_split(shuffled, define(), "split1"), split)
    assert not make_split(index, define(), "split2").equals(split)
    assert not make_split(index, define(split_seed=1), "split1").equals(split)


def test_bad_clips_are_in_no_subset():
    index = an_index()
    index.loc[0, "status"] = "unreadable"
    split = make_split(index, define(), "split1")
    assert index.loc[0, "clip_id"] not in set(split["clip_id"])
    assert len(split) == len(index) - 1


def test_too_few_groups_are_named():
    with pytest.raises(DataError) as caught:
        make_split(an_index(groups=[8, 2, 8, 8]), define(), "split1")
    message = str(caught.value)
    assert "'class1' has 2 groups" in message
    assert "class1_g00, class1_g01" in message
    assert "needs 3" in message
    assert "make `group` finer" in message


def test_a_class_without_usable_clips_is_named():
    index = an_index()
    index.loc[index["label"] == 2, "status"] = "unreadable"
    with pytest.raises(DataError, match="'class2' has 0 groups"):
        make_split(index, define(), "split1")


def test_a_split_is_found_where_few_will_do(monkeypatch):
    """Both classes share two of their three groups, so the third ones must go together."""
    index = an_index(classes=2, groups=3, shared=True)
    own = index["class_name"] + "_" + index["group"]
    index["group"] = index["group"].where(index["group"] != "g00", own)
    for seed in range(5):
        check_split(make_split(index, define(split_seed=seed), "split1"), index)
    monkeypatch.setattr("dvfl.data.splits._divides", lambda *_: False)
    with pytest.raises(DataError, match="subset 'test' cannot be made"):
        make_split(index, define(), "split1")


def test_check_split_finds_what_is_wrong():
    index = an_index()
    split = make_split(index, define(), "split1")
    moved = split.copy()
    moved.loc[split[split["subset"] == "test"].index[0], "subset"] = "train"
    with pytest.raises(DataError, match="has clips in test and train"):
        check_split(moved, index)
    with pytest.raises(DataError, match="has no clip in subset 'test'"):
        check_split(split[split["subset"] != "test"], index)
    with pytest.raises(DataError, match="not in the index"):
        check_split(split, index.iloc[1:])


def test_few_clips_are_nested_and_whole_groups_come_first():
    index = an_index(groups=10)
    split = make_split(index, define(), "split1")
    train = set(split.loc[split["subset"] == "train", "clip_id"])
    chosen = {n: few_clips(index, split, n, 0) for n in (1, 4, 6, 10)}
    for n, ids in chosen.items():
        rows = index[index["clip_id"].isin(ids)]
        assert (rows.groupby("label").size() == n).all()
        assert (rows.groupby("label")["group"].nunique() == -(-n // 3)).all()
        assert set(ids) <= train
        assert ids == sorted(ids)
    assert set(chosen[1]) < set(chosen[4]) < set(chosen[6]) < set(chosen[10])
    assert few_clips(index.sample(frac=1), split.sample(frac=1), 4, 0) == chosen[4]
    assert few_clips(index, split, 4, 1) != chosen[4]


def test_too_few_labelled_clips_are_named():
    index = an_index(groups=[8, 4, 8, 8])
    split = make_split(index, define(), "split1")
    with pytest.raises(DataError, match="class 'class1' has"):
        few_clips(index, split, 10, 0)


def test_files(tmp_path):
    split = make_split(an_index(), define(), "split1")
    write_split(split, tmp_path / "splits/split1.csv")
    pd.testing.assert_frame_equal(read_split(tmp_path / "splits/split1.csv"), split)
    assert (tmp_path / "splits/split1.csv").read_bytes().startswith(b"clip_id,subset\nclass0/")


def test_official_lists(motions):
    index = build_index(clips_root(motions), motions, 1)
    split = make_split(index, motions, "split1")
    rows = split.merge(index, on="clip_id").groupby("subset")["group"].agg(lambda g: set(g))
    assert rows["test"] == {"g05", "g06"}
    assert len(rows["validation"]) == 1
    assert rows["train"] | rows["validation"] == {"g01", "g02", "g03", "g04"}
    for name, reason in (("split2", "has no list"), ("mine", "not an official split")):
        with pytest.raises(DataError, match=reason):
            make_split(index, motions, name)


def test_labels_do_not_follow_groups():
    """Groups are shuffled: the test subset is not simply the last of them."""
    index = an_index(groups=20)
    split = make_split(index, define(), "split1").merge(index, on="clip_id")
    numbers = split.loc[split["subset"] == "test", "group"].str[-2:].astype(int)
    assert numbers.min() < 10 < numbers.max()
    assert np.unique(numbers).size > 5
