"""Every published format is read as it is, and what is wrong in a list is named with its file and line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dvfl.data.errors import DataError
from dvfl.data.lists import listed_classes, match_clips, read_lists
from dvfl.data.sources import fold_of, guess_pattern, source_of


def write(folder: Path, files: dict[str, str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_bytes(text.encode())
    return folder


def clips(folder: Path, split: str) -> dict[str, tuple[str, str]]:
    frame = read_lists(folder)[split]
    return dict(zip(frame["clip"], zip(frame["class_name"], frame["subset"], strict=True), strict=True))


UCF101 = {
    "classInd.txt": "1 Archery\r\n2 HandstandPushups\r\n",
    "trainlist01.txt": "Archery/v_Archery_g08_c01.avi 1\r\n\r\nHandstandPushups/v_HandStandPushups_g08_c01.avi 2\r\n",
    "testlist01.txt": "Archery/v_Archery_g01_c01.avi\r\nHandstandPushups/v_HandStandPushups_g01_c01.avi\r\n \r\n",
}
HMDB51 = {
    "class_list.txt": "turn   \nwave",
    "turn_test_split1.txt": "#9_Turn!_[HQ]_turn_f_cm_np1_ba_bad_0.avi 1 \nB_turn_f_cm_np1_ba_bad_3.avi 2 \n",
    "wave_test_split1.txt": "A_wave_u_nm_np1_fr_med_0.avi 0 \n",
    "turn_test_split2.txt": "B_turn_f_cm_np1_ba_bad_3.avi 1 \n",
}
TEMPLATE = "Moving something up"
SSV2 = {
    "something-something-v2-labels.json": json.dumps({TEMPLATE: "0", "Other": "1"}),
    "something-something-v2-train.json": json.dumps([{"id": "7", "template": "Moving [something] up"}]),
    "something-something-v2-validation.json": json.dumps([{"id": "8", "template": "Moving [something] up"}]),
    "something-something-v2-test.json": json.dumps([{"id": "9"}]),
}
HEADER = "label,youtube_id,time_start,time_end,split\n"
KINETICS = {
    "train.csv": HEADER + '"tai chi",abcdefghijk,7,17,train\n',
    "val.csv": HEADER + "yoga,-bcdefghijk,107,117,validate\n",
}
NUMBERED = {"label_map_k400.txt": "tai chi\nyoga\n", "valid_processed.txt": "abcdefghijk_000007_000017 0 299 1\n"}
RELEASED = {
    "labels.csv": "id,name\n0,turn\n1,wave\n",
    "train.csv": "train/turn/A b_turn_f_cm_np1_ba_bad_0.avi,3\r\ntrain/wave/A_wave_f_cm_np1_ba_bad_0.avi 2\r\n",
    "val.csv": "val/turn/C_turn_f_cm_np1_ba_bad_0.avi,3\r\n",
}


def test_ucf101(tmp_path):
    found = clips(write(tmp_path, UCF101), "split1")
    assert found["HandstandPushups/v_HandStandPushups_g01_c01.avi"] == ("HandstandPushups", "test")
    assert found["Archery/v_Archery_g08_c01.avi"] == ("Archery", "train")
    assert len(found) == 4


def test_hmdb51(tmp_path):
    found = clips(write(tmp_path, HMDB51), "split1")
    assert [subset for _, subset in found.values()] == ["train", "test", "unused"]
    assert found["turn/#9_Turn!_[HQ]_turn_f_cm_np1_ba_bad_0.avi"] == ("turn", "train")
    assert set(read_lists(tmp_path)) == {"split1", "split2"}


def test_ssv2(tmp_path):
    assert clips(write(tmp_path, SSV2), "split1") == {"7": (TEMPLATE, "train"), "8": (TEMPLATE, "test")}
    assert listed_classes(tmp_path) == {"7": TEMPLATE, "8": TEMPLATE}


def test_kinetics(tmp_path):
    found = clips(write(tmp_path / "csv", KINETICS), "split1")
    assert found == {
        "abcdefghijk_000007_000017": ("tai chi", "train"),
        "-bcdefghijk_000107_000117": ("yoga", "test"),
    }
    found = clips(write(tmp_path / "numbered", NUMBERED), "split1")
    assert found == {"abcdefghijk_000007_000017": ("yoga", "test")}


def test_released(tmp_path):
    found = clips(write(tmp_path, RELEASED), "released")
    assert found["turn/A b_turn_f_cm_np1_ba_bad_0.avi"] == ("turn", "train")
    assert found["wave/A_wave_f_cm_np1_ba_bad_0.avi"] == ("wave", "train")
    assert found["turn/C_turn_f_cm_np1_ba_bad_0.avi"] == ("turn", "test")
    assert listed_classes(tmp_path) is None


@pytest.mark.parametrize(
    ("files", "file", "text", "message"),
    [
        (UCF101, "trainlist01.txt", "\r\nArchery/v_Archery_g08_c01.avi\r\n", ":2: .*a column is missing"),
        (UCF101, "trainlist01.txt", "Archery/v_Archery_g08_c01.avi 2\n", ":1: Archery has number 2 here and 1 in"),
        (UCF101, "testlist01.txt", "Yoga/v_Yoga_g01_c01.avi\n", ":1: class 'Yoga' is not in .*classInd"),
        (UCF101, "testlist01.txt", "v_Yoga_g01_c01.avi\n", ":1: .* has no class folder"),
        (UCF101, "testlist01.txt", "Archery/v_Archery_g08_c01.avi\n", ":1: .* is listed at .*trainlist01.txt:1"),
        (UCF101, "testlist02.txt", "", "trainlist02.txt: is missing"),
        (HMDB51, "wave_test_split1.txt", "A_wave_u_nm_np1_fr_med_0.avi\n", ":1: .*a column is missing"),
        (HMDB51, "wave_test_split1.txt", "a.avi 1\nb.avi 3 \n", ":2: the flag is '3'"),
        (HMDB51, "wave_test_split1.txt", "a.avi 1\n\na.avi 1\n", ":3: wave/a.avi is listed at .*:1 already"),
        (HMDB51, "jump_test_split1.txt", "a.avi 1\n", ":1: class 'jump' is not in .*class_list.txt"),
        (SSV2, "something-something-v2-train.json", '[{"id": "7"}]', "entry 1: has no `id` or no `template`"),
        (SSV2, "something-something-v2-train.json", '[{"id": "7", "template": "X"}]', "entry 1: class 'X' is not in"),
        (SSV2, "something-something-v2-train.json", "[", "is not JSON"),
        (KINETICS, "val.csv", HEADER + "\nyoga,-bcdefghijk,107\n", ":3: .* lacks a column"),
        (KINETICS, "val.csv", HEADER + "yoga,abcdefghijk,7,17,val\n", ":2: .* is listed at .*train.csv:2"),
        (NUMBERED, "valid_processed.txt", "abcdefghijk_000007_000017 0 299 2\n", ":1: class 2 is unknown"),
        (RELEASED, "val.csv", "\nval/turn/C.avi\n", ":2: .*a column is missing"),
        (RELEASED, "val.csv", "val/turn/C.avi,4\n", ":1: turn has label 4 here and 3 before"),
        (RELEASED, "val.csv", "val/jump/C.avi,4\n", ":1: class 'jump' is not in .*labels.csv"),
    ],
)
def test_what_is_wrong_is_named_with_file_and_line(tmp_path, files, file, text, message):
    with pytest.raises(DataError, match=message) as caught:
        read_lists(write(tmp_path, files | {file: text}))
    assert str(tmp_path) in str(caught.value)


def test_a_folder_without_lists_is_refused(tmp_path):
    with pytest.raises(DataError, match="holds no list that is known"):
        read_lists(tmp_path)
    (tmp_path / "trainlist01.txt").write_bytes(b"\xff\xfe")
    (tmp_path / "testlist01.txt").touch()
    with pytest.raises(DataError, match="is not a text file"):
        read_lists(tmp_path)


def test_clips_are_found_under_other_folders_endings_and_cases():
    ids = ["train/Push/v_push_g01_c01.mp4", "val/Push/v_Push_g01_c02.avi", "Pull/v_Push_g01_c02.avi"]
    listed = ["Push/v_Push_g01_c01.avi", "Push/v_Push_g01_c02.avi", "Push/v_Push_g01_c03.avi"]
    assert match_clips(listed, ids) == [ids[0], ids[1], ""]
    # YouTube's names differ by case alone: then case counts.
    assert match_clips(["aB", "Ab", "AB"], ["x/aB.mp4", "x/Ab.mp4"]) == ["x/aB.mp4", "x/Ab.mp4", ""]
    with pytest.raises(DataError, match="have one name"):
        match_clips(["Push/a.avi"], ["Push/a.avi", "Push/a.mp4"])


@pytest.mark.parametrize(
    ("clip", "source", "fold"),
    [
        ("Archery/v_Archery_g08_c01.avi", "v_Archery_g08", "g08"),
        ("turn/Big_Fish_turn_f_cm_np1_ba_bad_12.avi", "Big_Fish_turn", ""),
        ("a-_defghijk_000007_000017", "a-_defghijk", ""),
        ("74225", "74225", ""),
    ],
)
def test_sources_by_name(clip, source, fold):
    pattern = guess_pattern([clip])
    assert source_of(clip, pattern) == source
    assert fold_of(clip, pattern) == fold


COUNTS = {
    "ucf101": {
        "split1": {"train": 9537, "test": 3783},
        "split2": {"train": 9586, "test": 3734},
        "split3": {"train": 9624, "test": 3696},
    },
    "hmdb51": {f"split{number}": {"train": 3570, "test": 1530, "unused": 1666} for number in (1, 2, 3)},
    "ssv2": {"split1": {"test": 24777}},
    "kinetics400": {"split1": {"test": 19877}},
    "dvfl_released/ucf50": {"released": {"train": 5360, "test": 1321}},
    "dvfl_released/ucf101": {"released": {"train": 10690, "test": 2630}},
    "dvfl_released/hmdb51": {"released": {"train": 5393, "test": 1317}},
}


@pytest.mark.parametrize("name", COUNTS)
def test_the_owners_lists(published_lists, name):
    lists = read_lists(published_lists / name)
    assert {split: frame["subset"].value_counts().to_dict() for split, frame in lists.items()} == COUNTS[name]
