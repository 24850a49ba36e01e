"""Groups never straddle, every class is everywhere, and the same split comes out every time."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest

from dvfl.config import DEFAULT_CONFIG, DatasetDefinition, load_config
from dvfl.data.errors import DataError
from dvfl.data.index import COLUMNS, build_index, clips_root
from dvfl.data.lists import read_lists
from dvfl.data.sources import guess_pattern, source_of
from dvfl.data.splits import check_split, few_clips, make_split, mismatches, published_list, read_split, write_split
from tests.data.conftest import write_video


def an_index(classes=4, groups=8, clips=3, shared=False):
    """Rows as an index has them; groups of a name of their own in each class, or shared."""
    rows = []
    for label in range(classes):
        for group in range(groups[label] if isinstance(groups, list) else groups):
            for clip in range(clips):
                source = f"g{group:02d}" if shared else f"class{label}_g{group:02d}"
                clip_id = f"class{label}/g{group:02d}_c{clip}.avi"
                rows.append((clip_id, f"class{label}", label, source))
    return completed(pd.DataFrame(rows, columns=["clip_id", "class_name", "label", "group"]))


def completed(index):
    for name in COLUMNS:
        if name not in index:
            index[name] = "" if COLUMNS[name] == "str" else 0
    return index.assign(status="ok")


def named_index(clips):
    """The index of clips that are there by name alone, all of them good."""
    pattern = guess_pattern(clips)
    index = pd.DataFrame({"clip_id": sorted(clips)})
    index["class_name"] = index["clip_id"].str.split("/").str[0]
    index["label"] = index["class_name"].rank(method="dense").astype(int) - 1
    index["group"] = [source_of(clip, pattern) for clip in index["clip_id"]]
    return completed(index), pattern


def define(**changes):
    return DatasetDefinition(kind="folder", root="/clips", **changes)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("groups", [3, 4, 8, [3, 9, 20, 5]])
@pytest.mark.parametrize("name", ["split1", "split7"])
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
        assert abs(share["test"] - test) < 0.05
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
    for name, reason in (("split2", "has no list"), ("split", "not an official split.*are split1 and clips<k>")):
        with pytest.raises(DataError, match=reason):
            make_split(index, motions, name)


def test_labels_do_not_follow_groups():
    """Groups are shuffled: the test subset is not simply the last of them."""
    index = an_index(groups=20)
    split = make_split(index, define(), "split1").merge(index, on="clip_id")
    numbers = split.loc[split["subset"] == "test", "group"].str[-2:].astype(int)
    assert numbers.min() < 10 < numbers.max()
    assert np.unique(numbers).size > 5


# ------------------------------------------------------------------------------------------------ published lists


@pytest.fixture
def listed(tmp_path):
    """Lists of two classes in UCF101's format: groups 1 to 3 train, 4 tests and 5 is in neither."""
    names = [f"{name}/v_{name}_g{group:02d}_c01.avi" for name in ("Jump", "Run") for group in range(1, 6)]
    lines = {"train": names[0:3] + names[5:8], "test": [names[3], names[8]]}
    folder = tmp_path / "lists"
    folder.mkdir()
    (folder / "classInd.txt").write_text("1 Jump\r\n2 Run\r\n")
    (folder / "trainlist01.txt").write_text("".join(f"{n} {1 + n.startswith('R')}\r\n" for n in lines["train"]))
    (folder / "testlist01.txt").write_text("".join(f"{n}\r\n" for n in lines["test"]))
    return folder, names


def test_a_split_follows_its_list(listed):
    folder, names = listed
    index, pattern = named_index(names)
    definition = define(group=pattern, lists={"official": folder})
    split = make_split(index, definition, "split1").set_index("clip_id")["subset"]
    assert set(split.index) == set(names) - {names[4], names[9]}
    assert set(split[split == "test"].index) == {names[3], names[8]}
    assert split.value_counts().to_dict() == {"train": 4, "validation": 2, "test": 2}
    with pytest.raises(DataError, match="'split2' has no list in"):
        make_split(index, definition, "split2")
    with pytest.raises(DataError, match="needs the released lists"):
        make_split(index, definition, "released")


def test_a_difference_between_list_and_index_is_listed_and_an_error_if_wished(listed):
    folder, names = listed
    index, pattern = named_index(names[1:])
    index.loc[index["clip_id"] == names[1], "status"] = "unreadable"
    definition = define(group=pattern, lists={"official": folder})
    found = mismatches(index, published_list(definition, "split1")).set_index("clip_id")
    assert found["problem"].to_dict() == {
        names[0]: "missing",
        names[1]: "unreadable",
        names[4]: "unlisted",
        names[9]: "unlisted",
    }
    assert found.loc[names[0], "place"] == f"{folder / 'trainlist01.txt'}:1"
    strict = define(group=pattern, lists={"official": folder, "mismatch": "error"})
    message = "differ in 4 clips .*1 missing.*trainlist01.txt:1.*lists.mismatch: report"
    with pytest.raises(DataError, match=message):
        make_split(index, strict, "split1")
    with pytest.raises(
        DataError, match=r"class 'Jump' has 1 groups"
    ):  # reported or not, one group cannot be two subsets
        make_split(index, definition, "split1")


def test_a_list_of_another_length_than_the_owners_is_refused(listed):
    folder, names = listed
    index, pattern = named_index(names)
    known = load_config(DEFAULT_CONFIG).dataset_definitions["ucf101"]
    definition = known.model_copy(update={"group": pattern, "lists": define(lists={"official": folder}).lists})
    with pytest.raises(DataError, match=r"split1 lists 6 clips of train where 9,537 are expected.*expected\.splits"):
        make_split(index, definition, "split1")


@pytest.mark.parametrize("name", ["other", "relased", "offical1", "split", "fold1of", "fold*of3"])
def test_a_name_that_is_no_splits_is_not_drawn(name):
    with pytest.raises(DataError, match=rf"there is no split {re.escape(repr(name))}; there are split<k>, released"):
        make_split(an_index(), define(), name)


def test_folds_by_group_are_a_partition():
    index = an_index(groups=10)
    folds = [make_split(index, define(), f"fold{number}of4") for number in range(1, 5)]
    tested = [clip for fold in folds for clip in fold.loc[fold["subset"] == "test", "clip_id"]]
    assert sorted(tested) == sorted(index["clip_id"])
    for fold in folds:
        check_split(fold, index)
    for name, message in (("fold5of4", "no fold 5 of 4"), ("fold1of11", "ask for fewer folds")):
        with pytest.raises(DataError, match=message):
            make_split(index, define(), name)


def test_one_group_is_left_out_of_all_classes():
    index, pattern = named_index([f"{c}/v_{c}_g{g:02d}_c0{i}.avi" for c in "AB" for g in range(1, 26) for i in (1, 2)])
    split = make_split(index, define(group=pattern), "fold7of25")
    test = split.loc[split["subset"] == "test", "clip_id"]
    assert sorted(test) == [f"{c}/v_{c}_g07_c0{i}.avi" for c in "AB" for i in (1, 2)]
    split = make_split(index, define(group=pattern), "fold2of5")
    groups = split.loc[split["subset"] == "test", "clip_id"].str.extract(r"_(g\d+)_")[0]
    assert sorted(set(groups)) == ["g02", "g07", "g12", "g17", "g22"]
    with pytest.raises(DataError, match="26 folds of 25 g01…g25"):
        make_split(index, define(group=pattern), "fold1of26")


# All names that the owners list: 13,320 and 6,766 clips.
OFFICIAL = {
    "ucf101": (13320, {"split1": (9537, 3783), "split2": (9586, 3734), "split3": (9624, 3696)}),
    "hmdb51": (6766, dict.fromkeys(("split1", "split2", "split3"), (3570, 1530))),
}


@pytest.mark.parametrize("name", OFFICIAL)
def test_index_and_official_splits_of_all_names(published_lists, tmp_path, name):
    """One tiny clip, linked under every name that the owner lists, is indexed and split as the registry says."""
    total, counts = OFFICIAL[name]
    folder, root = published_lists / name, tmp_path / "clips"
    clip = write_video(tmp_path / "one.avi", 2, 16, 16)
    for listed in set().union(*(frame["clip"] for frame in read_lists(folder).values())):
        (root / listed).parent.mkdir(parents=True, exist_ok=True)
        (root / listed).hardlink_to(clip)
    own = {name: {"root": root, "lists": {"official": folder, "mismatch": "error"}}}
    known = load_config(DEFAULT_CONFIG, values={"dataset_definitions": own}).dataset_definitions[name]
    index = build_index(clips_root(known), known, workers=2)
    assert index["status"].value_counts().to_dict() == {"ok": total}
    assert index["class_name"].nunique() == known.source.expected.classes
    assert known.splits == list(counts)
    for split_name, (train, test) in counts.items():
        split = make_split(index, known, split_name)
        subsets = split["subset"].value_counts()
        assert (subsets["train"] + subsets["validation"], subsets["test"]) == (train, test)
        assert total - len(split) == {"ucf101": 0, "hmdb51": 1666}[name]
        assert 0.1 < subsets["validation"] / train < 0.3
        check_split(split, index, leaks=True)


@pytest.mark.parametrize(
    ("name", "train", "test"), [("ucf50", 5360, 1321), ("ucf101", 10690, 2630), ("hmdb51", 5393, 1317)]
)
def test_released_splits_are_followed_though_they_leak(published_lists, name, train, test):
    folder = published_lists / "dvfl_released" / name
    index, pattern = named_index(read_lists(folder)["released"]["clip"])
    split = make_split(index, define(group=pattern, lists={"released": folder}), "released")
    subsets = split["subset"].value_counts()
    assert (subsets["train"] + subsets["validation"], subsets["test"]) == (train, test)
    with pytest.raises(DataError, match="it must be in one"):
        check_split(split, index)


def test_leave_one_group_out_of_ucf50(published_lists):
    index, pattern = named_index(read_lists(published_lists / "dvfl_released/ucf50")["released"]["clip"])
    assert len(index) == 6681
    split = make_split(index, define(group=pattern), "fold25of25")
    test = split.loc[split["subset"] == "test", "clip_id"]
    assert test.str.contains("_g25_").all() and test.str.split("/").str[0].nunique() == 50
    check_split(split, index)


def test_a_split_by_clip_leaks_and_is_a_share_of_every_class():
    index = an_index(classes=3, groups=8, clips=5)
    split = make_split(index, define(test_fraction=0.25), "clips1").merge(index, on="clip_id")
    test = split[split["subset"] == "test"]
    assert test.groupby("class_name").size().tolist() == [10, 10, 10]
    train = split[split["subset"] == "train"]
    assert test["group"].isin(train["group"]).mean() > 0.5
    assert not set(train["group"]) & set(split.loc[split["subset"] == "validation", "group"])
    shuffled = index.sample(frac=1, random_state=1)
    pd.testing.assert_frame_equal(make_split(shuffled, define(), "clips1"), make_split(index, define(), "clips1"))
    other = make_split(index, define(), "clips2")
    assert not other.equals(make_split(index, define(), "clips1"))


def test_the_embedded_data_set_can_be_split_by_clip_too(tmp_path):
    definition = DatasetDefinition(kind="motions", root=tmp_path, motions={})
    assert published_list(definition, "clips1") is None
    assert set(make_split(an_index(), definition, "clips1")["subset"]) == {"train", "validation", "test"}
