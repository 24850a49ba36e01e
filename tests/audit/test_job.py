"""The audit of a data set's splits, from clips to files, and as a user types it."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
import pytest
import yaml

from dvfl import paths
from dvfl.audit.job import audit_split, fingerprint_dataset
from dvfl.config import DEFAULT_CONFIG, Config, load_config
from dvfl.data.index import build_index, write_index
from dvfl.data.lists import read_lists
from dvfl.data.splits import make_split, write_split
from dvfl.report.audit import build_audit, build_audit_classes
from dvfl.report.rows import setting_parts

UCF = r"^(?P<group>v_.+_(?P<fold>g\d+))_c\d+$"


def config_of(root: Path, **definition: object) -> Config:
    definitions = {"mine": {"kind": "folder", "root": str(root), "group": UCF} | definition}
    return load_config(DEFAULT_CONFIG, values={"datasets": ["mine"], "dataset_definitions": definitions})


def prepare(config: Config, workers: int = 1) -> pd.DataFrame:
    """Index, splits and fingerprints of the only data set; the index."""
    definition = config.dataset_definitions["mine"]
    index = build_index(definition.root, definition, workers)
    write_index(index, paths.index_path("mine"))
    for split in definition.splits:
        write_split(make_split(index, definition, split), paths.split_path("mine", split))
    fingerprint_dataset(config, "mine", workers)
    return index


def totals(found: pd.DataFrame) -> dict[str, float]:
    rows = found[(found["class_name"] == "") & found["status"].eq("") & found["subset"].isin(["", "test"])]
    return dict(zip(rows["metric"], rows["value"], strict=True))


@pytest.fixture
def lists(tmp_path, clip, monkeypatch):
    """A folder of clips with lists beside: Run's and Sit's groups 1 to 4 train, group 5 tests."""
    monkeypatch.chdir(tmp_path)
    names = [f"{name}/v_{name}_g{group:02d}_c01.avi" for name in ("Run", "Sit") for group in range(1, 6)]
    for seed, name in enumerate(names):
        clip(f"clips/{name}", seed, frames=10, height=64, width=80)
    folder = tmp_path / "lists"
    folder.mkdir()
    (folder / "trainlist01.txt").write_text("".join(f"{n} {1 + (n[0] == 'S')}\n" for n in names if "_g05_" not in n))
    (folder / "testlist01.txt").write_text("".join(f"{n}\n" for n in names if "_g05_" in n))
    return folder


def test_planted_copies_are_found_and_named(lists, tmp_path, copied):
    clips = tmp_path / "clips"
    copied(clips / "Run/v_Run_g02_c01.avi", clips / "Run/v_Run_g31_c01.avi", left=0.08, right=0.05, top=0.06, add=20)
    (clips / "Sit/v_Sit_g32_c01.avi").write_bytes((clips / "Sit/v_Sit_g03_c01.avi").read_bytes())
    (clips / "Sit/v_Sit_g04_c01.avi").write_bytes(b"broken")
    with (lists / "testlist01.txt").open("a") as file:
        file.write("Run/v_Run_g31_c01.avi\nSit/v_Sit_g32_c01.avi\nSit/v_Sit_g01_c09.avi\n")
    config = config_of(clips, lists={"official": str(lists)})
    prepare(config)
    assert totals(audit_split(config, "mine", "split1")) == {
        "clips": 4,
        "classes": 2,
        "smallest_class": 2,
        "largest_class": 2,
        "hours": pytest.approx(40 / 25 / 3600, rel=1e-3),
        "clips_unusable": 1,
        "clips_missing": 1,
        "clips_unlisted": 0,
        "clips_mislabelled": 0,
        "classes_mislabelled": 0,
        "test_leaked_by_source": 0,
        "test_leaked_by_source_share": 0,
        "clips_with_same_bytes": 2,
        "test_leaked_by_bytes": 1,
        "test_leaked_by_bytes_share": 25,
        "clips_compared_by_pictures": 11,
        "clips_with_same_pictures": 2,
        "test_leaked_by_pictures": 2,
        "test_leaked_by_pictures_share": 50,
    }
    leaks = pd.read_csv(paths.leaks_path("mine", "split1"))
    by_pictures = leaks[leaks["found_by"] == "pictures"]
    assert by_pictures[["clip_id", "other"]].values.tolist() == [
        ["Run/v_Run_g31_c01.avi", "Run/v_Run_g02_c01.avi"],
        ["Sit/v_Sit_g32_c01.avi", "Sit/v_Sit_g03_c01.avi"],
    ]
    table = build_audit(config).set_index("metric")
    assert table.loc["test_leaked_by_pictures", "value"] == 2
    assert "10 of 64 bits" in table.loc["test_leaked_by_pictures", "setting"]
    classes = build_audit_classes(config).set_index(["setting", "metric"])["value"]
    assert classes["subset=test; class=Run", "clips"] == 2
    assert classes["subset=test; class=Run", "hours"] == pytest.approx(20 / 25 / 3600, rel=1e-3)
    assert {metric for _, metric in classes.index} == {"clips", "hours"}
    assert classes.xs("clips", level=1).sum() == 12 - 1  # all but the broken one
    assert table["setting"].map(lambda text: set(setting_parts(text)) <= {"subset", "status", "definition"}).all()


def test_the_commands(lists, tmp_path, capsys):
    from dvfl.cli import cli

    values = {
        "datasets": ["mine"],
        "dataset_definitions": {
            "mine": {"kind": "folder", "root": str(tmp_path / "clips"), "group": UCF, "lists": {"official": str(lists)}}
        },
    }
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(values))
    for command in (["index", "mine"], ["split", "mine", "split1"], ["fingerprint", "mine"], ["audit"]):
        cli.main([*command, "--config", str(tmp_path / "mine.yaml")], standalone_mode=False)
    assert "test_leaked_by_pictures test" in capsys.readouterr().out
    cli.main(["audit", "--lists", str(lists)], standalone_mode=False)
    out = capsys.readouterr().out
    assert f"{lists}, split1" in out and "0 clips   test_leaked_by_source test" in out
    assert paths.mismatch_path("mine", "split1").read_text() == "clip_id,subset,problem,place\n"


def test_the_real_clips(real_clips, published_lists, tmp_path, copied, monkeypatch):
    """In split 1 of the 224 clips nothing is found but the copy, cropped and brightened, that is planted in test."""
    monkeypatch.chdir(tmp_path)
    for folder in real_clips.iterdir():
        (tmp_path / "clips" / folder.name).mkdir(parents=True)
        for clip in folder.iterdir():
            os.symlink(clip, tmp_path / "clips" / folder.name / clip.name)
    listed = read_lists(published_lists / "ucf101")["split1"]
    trained = set(listed.loc[listed["subset"] == "train", "clip"])
    source = next(name for name in sorted(trained) if name.startswith("PullUps/"))
    copied(
        real_clips / source, tmp_path / "clips/WallPushups/v_WallPushups_g77_c01.avi", 0.06, 0.04, 0.08, 0.05, add=25
    )
    lists = tmp_path / "lists"
    lists.mkdir()
    for name in ("classInd", "trainlist01", "testlist01"):
        (lists / f"{name}.txt").write_bytes((published_lists / f"ucf101/{name}.txt").read_bytes())
    with (lists / "testlist01.txt").open("ab") as file:
        file.write(b"WallPushups/v_WallPushups_g77_c01.avi\r\n")
    config = config_of(tmp_path / "clips", lists={"official": str(lists)})
    index = prepare(config, workers=2)
    assert len(index) == 225
    found = totals(audit_split(config, "mine", "split1"))
    assert [found[f"test_leaked_by_{way}"] for way in ("source", "bytes", "pictures")] == [0, 0, 1]
    assert (found["clips_compared_by_pictures"], found["clips_with_same_pictures"]) == (225, 0)
    assert found["clips_missing"] == 13321 - 225
    leak = pd.read_csv(paths.leaks_path("mine", "split1")).iloc[0]
    assert (leak["clip_id"], leak["other"]) == ("WallPushups/v_WallPushups_g77_c01.avi", source)
