"""What users get wrong, through the real command: one clear line, no traceback, an exit code that says so."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from dvfl.data.index import read_index
from tests.workflow.conftest import snakemake


@pytest.fixture
def fails(dvfl_command):
    """Runs a command that must fail; what it said on stderr."""

    def run(*arguments: str | Path) -> str:
        process = dvfl_command(*arguments)
        out, err = process.communicate(timeout=120)
        assert process.returncode == 1, err
        assert "Traceback" not in err
        assert out == ""
        return "".join(line for line in err.splitlines(keepends=True) if line.startswith("dvfl: "))

    return run


@pytest.fixture
def clips(empty_project, colour_clips) -> Path:
    """The colour clips, to be spoilt."""
    root = empty_project.root / "clips"
    shutil.copytree(colour_clips, root)
    return root


def config_of(project, root: Path, **definition) -> Path:
    return project.config_file({"dataset_definitions": {"colours": {"root": str(root)} | definition}})


def test_a_misspelt_key(empty_project, fails):
    file = empty_project.config_file({"distill": {"temprature": 4}, "train": {"epochs": "many"}})
    assert fails("runs", "--config", file).splitlines() == [
        "dvfl: train.epochs: input should be a valid integer, not text (given: 'many')",
        "dvfl: distill.temprature: there is no such key; did you mean 'temperature'?",
    ]


def test_an_argument_that_the_model_does_not_have(empty_project, fails):
    file = empty_project.config_file({"student": {"model_overrides": {"embed_dims": 7}}})
    assert fails("runs", "--config", file) == (
        "dvfl: student.model_overrides.embed_dims: there is no such argument of video_focalnet_tiny; "
        "did you mean 'embed_dim'?\n"
    )


def test_an_unknown_run(project, fails):
    said = fails("train", "results/runs/colours/split1/as_described/studnet/seed0", "--config", project.config_file())
    assert "studnet/seed0: the config has no such run; it has, for example" in said
    assert "results/runs/colours/split1/as_described/student/seed0" in said


def test_more_labelled_clips_than_there_are_are_told_with_the_split(project, command):
    study = {"arms": ["student"], "evaluate_on": "test", "points": [{"student.clips_per_class": 50}]}
    labels = {"student": {"clips_per_class": 40}, "ablation": {"run": ["labels"], "studies": {"labels": study}}}
    code, _, err = command("split", "colours", "split1", "--config", str(project.config_file(labels)))
    one, other = (line for line in err.splitlines() if "will fail in training" in line)
    assert code == 0
    assert "arm student: class " in one and "fewer than the clips_per_class of 40" in one
    assert "ablation.studies.labels: class " in other and "or set what asks for it to null" in other
    few = {"student": {"clips_per_class": 2}, "ablation": {"studies": {"labels": study}}}  # a study that is not run
    assert "will fail" not in command("split", "colours", "split1", "--config", str(project.config_file(few)))[2]


def test_a_config_file_that_is_not_there(empty_project, fails):
    assert fails("runs", "--config", "none.yaml") == "dvfl: none.yaml: no such config file\n"


def test_a_root_that_does_not_exist(empty_project, fails):
    root = empty_project.root / "nowhere"
    said = fails("index", "colours", "--config", config_of(empty_project, root))
    assert str(root) in said and "give the folder that holds <class>/<clip>" in said


def test_a_root_without_clips(empty_project, fails):
    root = empty_project.root / "clips"
    (root / "red").mkdir(parents=True)
    (root / "red/notes.txt").write_text("no clip")
    said = fails("index", "colours", "--config", config_of(empty_project, root))
    assert str(root) in said and "holds no clips" in said and ".avi" in said


def test_a_single_class(empty_project, clips, fails):
    shutil.rmtree(clips / "red")
    shutil.rmtree(clips / "green")
    said = fails("index", "colours", "--config", config_of(empty_project, clips))
    assert str(clips) in said and "blue" in said and "two or more" in said


def test_a_class_with_fewer_groups_than_subsets(empty_project, clips, fails, command):
    for group in range(2, 6):
        (clips / f"red/red_g{group}_c0.avi").unlink()
    file = config_of(empty_project, clips)
    assert command("index", "colours", "--config", file)[0] == 0
    said = fails("split", "colours", "split1", "--config", file)
    assert "class 'red' has 2 groups" in said and "needs 3" in said and "add clips" in said


def test_a_class_that_a_list_leaves_without_test_clips(empty_project, clips, fails, command):
    names = sorted(path.relative_to(clips).as_posix() for path in clips.rglob("*.avi"))
    lists = empty_project.root / "lists"
    lists.mkdir()
    tested = [name for name in names if "g0" in name and "red" not in name]
    (lists / "trainlist01.txt").write_text("".join(f"{name} 1\n" for name in names if name not in tested))
    (lists / "testlist01.txt").write_text("".join(f"{name}\n" for name in tested))
    file = config_of(empty_project, clips, lists={"official": str(lists)})
    assert command("index", "colours", "--config", file)[0] == 0
    assert fails("split", "colours", "split1", "--config", file) == (
        f"dvfl: colours: splits: split1 of {lists}: class 'red' has no clip in subset 'test' of the split; add such "
        f"clips, or leave it out\n"
    )


def test_clips_of_which_none_can_be_used(empty_project, clips, fails):
    for path in clips.rglob("*.avi"):
        path.write_text("no video")
    said = fails("index", "colours", "--config", config_of(empty_project, clips))
    assert f"clips of {clips} can be used: blue/blue_g0_c0.avi, for one, " in said
    assert said.endswith("; replace the files, or give another `root`\n")


def test_where_differences_are_an_error_they_are_listed_all_the_same(empty_project, clips, command):
    names = sorted(path.relative_to(clips).as_posix() for path in clips.rglob("*.avi"))
    lists = empty_project.root / "lists"
    lists.mkdir()
    (lists / "trainlist01.txt").write_text("".join(f"{name} 1\n" for name in [*names[2:], "blue/lost_g9_c0.avi"]))
    (lists / "testlist01.txt").write_text(f"{names[0]}\n")
    file = config_of(empty_project, clips, lists={"official": str(lists), "mismatch": "error"})
    assert command("index", "colours", "--config", file)[0] == 0
    code, _, said = command("split", "colours", "split1", "--config", file)
    assert code == 1 and "list and index differ in 2 clips (1 missing, 1 unlisted)" in said
    assert "1 clips missing: named in results/data/colours/splits/split1.mismatch.csv" in said
    listed = pd.read_csv(empty_project.root / "results/data/colours/splits/split1.mismatch.csv", keep_default_na=False)
    assert list(zip(listed["clip_id"], listed["problem"], strict=True)) == [
        ("blue/lost_g9_c0.avi", "missing"),
        (names[1], "unlisted"),
    ]
    assert not (empty_project.root / "results/data/colours/splits/split1.csv").exists()


@pytest.fixture
def spoilt(clips, write_clip) -> dict[str, str]:
    """Clip ids of bad clips, each with the status it must get."""
    whole = (clips / "red/red_g0_c0.avi").read_bytes()
    long = write_clip(clips / "red/red_g7_c0.avi", frames=60)
    long.write_bytes(long.read_bytes()[: long.stat().st_size // 2])
    (clips / "red/red_g8_c0.avi").write_text("this is a text file, whatever its name says\n" * 20)
    (clips / "blue/blue_g8_c0.avi").touch()
    write_clip(clips / "green/green_g8_c0.avi", frames=2)
    (clips / "red/red_g9_c0.avi").write_bytes(whole[:300])
    return {
        "red/red_g7_c0.avi": "unreadable",
        "red/red_g8_c0.avi": "unreadable",
        "blue/blue_g8_c0.avi": "unreadable",
        "green/green_g8_c0.avi": "too_short",
        "red/red_g9_c0.avi": "unreadable",
    }


def test_bad_clips_are_listed_with_the_reason_and_left_out(empty_project, clips, spoilt, dvfl_command, command):
    file = config_of(empty_project, clips, min_frames=4)
    process = dvfl_command("index", "colours", "--config", file)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert "Traceback" not in said
    index = read_index("results/data/colours/index.parquet").set_index("clip_id")
    bad = index[index["status"] != "ok"]
    assert bad["status"].to_dict() == spoilt
    assert bad["reason"].str.len().gt(5).all()
    assert "empty" in bad["reason"]["blue/blue_g8_c0.avi"]
    assert "2 frames, fewer than 4" in bad["reason"]["green/green_g8_c0.avi"]
    assert "18 ok" in said and "4 unreadable" in said and "1 too_short" in said
    assert all(clip in said for clip in spoilt)
    assert command("split", "colours", "split1", "--config", file)[0] == 0
    split = pd.read_csv("results/data/colours/splits/split1.csv")
    assert not set(split["clip_id"]) & set(spoilt)
    assert len(split) == 18


def test_a_clip_that_vanished_after_it_was_indexed(empty_project, clips, command, fails):
    file = config_of(empty_project, clips)
    for step in (["index", "colours"], ["split", "colours", "split1"]):
        assert command(*step, "--config", file)[0] == 0
    split = pd.read_csv("results/data/colours/splits/split1.csv")
    gone = split.loc[split["subset"] == "train", "clip_id"].iloc[0]
    os.unlink(clips / gone)
    code, _, err = command("train", "results/runs/colours/split1/as_described/student/seed0", "--config", file)
    assert code == 1
    (line,) = (line for line in err.splitlines() if line.startswith("dvfl: "))
    assert line.startswith(
        f"dvfl: {clips / gone}: does not exist; restore it, or run `dvfl index` and `dvfl split` anew"
    )
    assert not Path("results/runs/colours/split1/as_described/student/seed0").exists()
    for step in (
        ["index", "colours"],
        ["split", "colours", "split1"],
        ["train", "results/runs/colours/split1/as_described/student/seed0"],
    ):
        assert command(*step, "--config", file)[0] == 0


def test_a_root_that_does_not_exist_through_snakemake(empty_project):
    root = empty_project.root / "nowhere"
    file = config_of(empty_project, root)
    done = snakemake(empty_project.root, "-n", "--cores", "1", "--configfile", str(file), check=False)
    said = f"dvfl: dataset_definitions.colours.root: {root} does not exist or is no folder; give the folder that holds "
    assert done.returncode == 1 and done.stdout.splitlines()[-1] == f"{said}<class>/<clip>"


def test_a_disk_without_space_while_training(project):
    """A limit on a file's size stops a write in its middle, as a full disk does."""
    run = "results/runs/colours/split1/as_described/student/seed0"
    done = subprocess.run(
        [sys.executable, "-m", "dvfl", "train", run, "--config", project.config_file()],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(SNAKEFILE.parent)},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("dvfl: cannot"))
    assert line.startswith("dvfl: cannot write results/runs/") and "(ulimit -f)" in line


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A folder with a file system of its own, so that it can be made read-only."""
    place = tmp_path / "shared"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_shared_disk_that_is_read_only(project, read_only, fails, monkeypatch):
    shutil.copytree(project.root / "results", read_only / "results")
    file = project.config_file()
    subprocess.run(["mount", "-o", "remount,ro", read_only], check=True)
    monkeypatch.chdir(read_only)
    said = fails("train", "results/runs/colours/split1/as_described/student/seed0", "--config", file)
    monkeypatch.chdir(project.root)
    assert "cannot write" in said and "the file system is read-only; choose another place" in said


@pytest.mark.parametrize("what", ["a file", "a link that leads nowhere"])
@pytest.mark.parametrize("through", ["dvfl", "snakemake"])
def test_results_that_are_no_folder(empty_project, fails, what, through):
    results, file = empty_project.root / "results", empty_project.config_file()
    results.touch() if what == "a file" else results.symlink_to("nowhere")
    if through == "dvfl":
        said = fails("results", "--config", file)
    else:
        said = snakemake(empty_project.root, "-n", "--cores", "1", "--configfile", str(file), check=False).stdout
    *before, line = said.splitlines()
    assert line.startswith("dvfl: cannot write results/.config/") and "move that file away" in line
    assert not any("Error" in each for each in before)


@pytest.fixture
def without_privileges() -> list[str]:
    """What to put before a command so that permissions hold for it, too, where the tests run as root."""
    if os.geteuid():
        return []
    drop = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    if shutil.which("setpriv") is None or subprocess.run([*drop, "true"], capture_output=True).returncode:
        pytest.skip("root may read everything here, and cannot give that up")
    return drop


@pytest.fixture
def closed(clips) -> Iterator[Path]:
    """A class's folder that its owner may not read."""
    (clips / "red").chmod(0)
    yield clips / "red"
    (clips / "red").chmod(0o755)


SNAKEFILE = Path(__file__).parents[1] / "Snakefile"


@pytest.mark.parametrize(
    "words",
    [
        ["dvfl", "index", "colours", "--config"],
        ["dvfl", "results", "--config"],
        ["snakemake", "--snakefile", str(SNAKEFILE), "-n", "--cores", "1", "--configfile"],
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_a_folder_that_may_not_be_read(empty_project, clips, closed, without_privileges, words):
    command = [*without_privileges, sys.executable, "-m", *words, config_of(empty_project, clips)]
    environment = os.environ | {"PYTHONPATH": str(SNAKEFILE.parent)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    key = "" if "index" in words else "dataset_definitions.colours.root: "
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1 and line.startswith(f"dvfl: {key}cannot read {closed}: its permissions")
