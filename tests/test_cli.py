"""The commands as a user types them; each in this process unless the start itself is what is tested."""

from __future__ import annotations

import subprocess
import sys

import pandas as pd
import pytest
import yaml

from dvfl.config import check_config, digest, load_config
from dvfl.files import read_json

ORDER = [
    "config",
    "protocol",
    "fetch",
    "index",
    "split",
    "frames",
    "fingerprint",
    "audit",
    "train",
    "test",
    "score",
    "trial",
    "choose",
    "profile",
    "tables",
    "trace",
    "verify",
    "pack",
    "predict",
]
IMPORTED = """
import atexit, sys
from dvfl.cli import main
atexit.register(lambda: print("heavy:", *sorted({"torch", "mlflow", "optuna", "pandas"} & set(sys.modules))))
main()
"""


def test_scoring_and_its_tracking_start_without_what_takes_seconds_to_import():
    code = "import dvfl.evaluate.scoring, sys; print(*{'torch', 'torchvision', 'scipy.stats'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""


def test_help_lists_the_commands_in_the_order_of_the_pipeline(command):
    code, out, _ = command("--help")
    assert code == 0
    listed = out.split("Commands:")[1].split("\n  ")[1:]
    names = [line.split()[0] for line in listed if line.strip()]
    assert [name for name in names if name in ORDER] == ORDER
    assert all(len(line.split()) > 2 for line in listed)  # each says what it does


@pytest.mark.parametrize(
    "name",
    [
        *ORDER,
        "runs",
        "tracking",
        "motion-check",
        "growth",
        "protocol",
        "released-loss",
        "protocol-effects",
        "figures",
        "summary",
        "ui",
        "results",
    ],
)
def test_every_command_explains_itself(command, name):
    code, out, _ = command(name, "--help")
    assert code == 0
    assert f"Usage: dvfl {name}" in out or f" {name} " in out.splitlines()[0]


@pytest.mark.parametrize("argument", ["--help", "config"])
def test_help_and_config_do_not_wait_for_pytorch(argument):
    done = subprocess.run([sys.executable, "-c", IMPORTED, argument], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "heavy:", done.stderr


def test_config_prints_the_whole_config_which_loads_again(project, command):
    file = project.config_file()
    code, out, _ = command("config", "--config", file)
    assert code == 0
    printed = yaml.safe_load(out)
    assert printed["train"]["clip_grad_norm"] == 5.0  # a default
    again = check_config(printed)
    from dvfl.config import DEFAULT_CONFIG

    assert again == load_config(DEFAULT_CONFIG, file)
    code, short, _ = command("config", "--config", file, "--hash")
    assert short.strip() == digest(again.model_dump(mode="json"))


def test_later_config_files_win(project, command):
    first, second = project.config_file(), project.config_file({"seeds": [3]}, name="second.yaml")
    assert yaml.safe_load(command("config", "--config", first, "--config", second)[1])["seeds"] == [3]
    assert yaml.safe_load(command("config", "--config", second, "--config", first)[1])["seeds"] == [0]


def test_runs_lists_directories_that_the_other_commands_take(project, command):
    from dvfl.plan import parse_run

    file = project.config_file()
    code, out, _ = command("runs", "--config", file)
    assert code == 0
    assert out.splitlines() == [
        f"results/runs/colours/split1/as_described/{arm}/seed0" for arm in ("teacher", "student", "distilled")
    ]
    config = project.config()
    assert [str(parse_run(config, line)) for line in out.splitlines()] == out.splitlines()


def test_a_data_set_goes_all_the_way_to_scores(empty_project, command):
    file = empty_project.config_file()
    run = "results/runs/colours/split1/as_described"
    steps = [["index", "colours"], ["split", "colours", "split1"]]
    steps += [[step, f"{run}/{arm}/seed0"] for arm in ("teacher", "distilled") for step in ("train", "test", "score")]
    said = []
    for step in steps:
        code, _, err = command(*step, "--config", file)
        assert code == 0, err
        assert "Traceback" not in err and "Warning" not in err
        said.append(err)
    assert "colours: 18 ok" in said[0]
    assert "train" in said[1] and "validation" in said[1] and "test" in said[1]
    assert "split1/as_described/distilled/seed0: top-1" in said[-1]
    files = {"weights.safetensors", "history.csv", "run.json", "predictions.parquet", "scores.json"}
    for arm in ("teacher", "distilled"):
        assert files == {path.name for path in (empty_project.root / run / arm / "seed0").iterdir()}
    assert read_json(f"{run}/distilled/seed0/scores.json")["n_clips"] == len(
        pd.read_parquet(f"{run}/distilled/seed0/predictions.parquet")
    )


def test_tracking_is_opened_beforehand(project, command):
    code, _, _ = command("tracking", "--config", project.config_file(), "--out", "results/tracking/ready.json")
    assert code == 0
    ready = read_json("results/tracking/ready.json")
    assert ready["reachable"] and "dvfl/colours" in ready["experiments"]


@pytest.mark.parametrize(
    "step", [["index", "colors"], ["split", "colors", "split1"], ["fetch", "colors", "--out", "x"]]
)
def test_an_unknown_data_set_is_named_with_the_known_ones(project, command, step):
    code, out, err = command(*step, "--config", project.config_file())
    assert code != 0 and out == ""
    assert "'colors' is not among the config's datasets: colours; name it under `datasets` in a file" in err


def test_a_folder_of_ones_own_is_not_fetched(project, command):
    code, _, err = command("fetch", "colours", "--config", project.config_file(), "--out", "fetched.json")
    assert code == 1
    assert "nothing to fetch" in err and len(err.splitlines()) == 1


def test_an_unknown_command_or_a_missing_argument_is_told(command):
    for arguments in (["trian"], ["train"], ["predict"]):
        code, _, err = command(*arguments)
        assert code == 2 and "Error" in err


def test_a_split_without_an_index_says_what_to_make_first(empty_project, command):
    file = empty_project.config_file()
    code, _, err = command("split", "colours", "split1", "--config", file)
    assert code == 1
    (line,) = err.splitlines()
    assert line == (
        "dvfl: results/data/colours/index.parquet: not there yet; "
        f"make it with `dvfl results --config {file} results/data/colours/index.parquet`"
    )


@pytest.mark.parametrize("target", ["results/data/mine/index.parquet", "results/runs/mine/split1"])
def test_a_result_of_an_unknown_data_set_is_refused_before_any_work(project, command, target):
    code, out, err = command("results", "--config", project.config_file(), target)
    assert code == 1 and out == ""
    (line,) = err.splitlines()
    assert line == (
        "dvfl: 'mine' is not among the config's datasets: colours; "
        "name it under `datasets` in a file given with --config"
    )


def test_an_error_of_our_own_keeps_its_traceback(project, monkeypatch, command):
    import dvfl.train.job

    def broken(*_):
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(dvfl.train.job, "train_run", broken)
    run = "results/runs/colours/split1/as_described/student/seed0"
    with pytest.raises(ZeroDivisionError, match="ours"):
        command("train", run, "--config", project.config_file())


def test_ctrl_c_ends_in_one_line_and_130(project, monkeypatch, command):
    import dvfl.train.job

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(dvfl.train.job, "train_run", interrupted)
    run = "results/runs/colours/split1/as_described/student/seed0"
    code, out, err = command("train", run, "--config", project.config_file())
    assert (code, out) == (130, "")
    assert err.strip() == "dvfl: stopped; what is finished is kept, and the same command goes on from there"


@pytest.mark.parametrize("place", ["results", "results/runs", "results/runs/colours/split1/as_described/student"])
def test_a_file_where_a_folder_should_be_is_one_line(project, command, place):
    import shutil

    target = project.root / place
    if place == "results":
        shutil.rmtree(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("I am no folder")
    step = (
        ["index", "colours"]
        if place == "results"
        else ["train", "results/runs/colours/split1/as_described/student/seed0"]
    )
    code, _, err = command(*step, "--config", project.config_file())
    assert code == 1
    lines = [line for line in err.splitlines() if line.startswith("dvfl: ")]
    assert len(lines) == 1
    assert lines[0].startswith("dvfl: cannot write ") and "results" in lines[0] and "move that file away" in lines[0]
