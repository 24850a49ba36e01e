"""Fetching as jobs: how many there are, that a dry run asks nobody, and that what waits holds nobody up."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml

from dvfl.files import read_json
from tests.data import owners
from tests.data.server import serving
from tests.data.test_extract import RARS, readable_rar
from tests.workflow.conftest import PROJECT, snakemake, write_clip

NAMES = ("ucf50", "ucf101", "hmdb51", "ssv2", "kinetics400")


def jobs(said: str) -> dict[str, int]:
    return {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", said, flags=re.M)}


def config_file(folder: Path, **values) -> Path:
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_the_jobs_of_the_papers_data_sets_are_a_fixed_number_and_need_no_network(tmp_path, monkeypatch):
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody answers there
    file = config_file(tmp_path, datasets=list(NAMES))
    found = jobs(snakemake(tmp_path, "-n", "--cores", "2", "--configfile", str(file)).stdout)
    assert (found["arrive"], found["fetch_shard"], found["fetch"], found["index"]) == (1, 16, 5, 5)
    assert found["index_shard"] == 8 + 16


# Runs a command and tells its peak memory in kB, to which what starts it would count: so it is a small process.
MEMORY = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:])
print("peak memory", resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""


def test_the_papers_whole_dag_is_small_and_fetches_weights_once_each_before_what_starts_from_them(tmp_path):
    begin = time.perf_counter()
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(PROJECT / "Snakefile"), "-n", "--cores", "2"]
    command += ["--directory", str(tmp_path), "--configfile", str(PROJECT / "config/paper.yaml")]
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    said, _, kilobytes = done.stdout.rpartition("peak memory ")
    assert done.returncode == 0, said[-6000:]
    megabytes = int(kilobytes) / 1000
    found = jobs(said)
    print(f"{found['total']} jobs, {time.perf_counter() - begin:.0f} s, {megabytes:.0f} MB")
    assert found["total"] == 572 and megabytes < 1000
    # Five arms and three seeds on nine splits: three of two data sets, one of each other.
    assert (found["split"], found["audit"], found["test"]) == (9, 9, 5 * 3 * 9)
    assert found["fetch_weights"] == 3  # for the four sizes
    assert found["profile"] == 4 * 5  # sizes and numbers of classes; UCF101's are the paper's own
    starts = dict(re.findall(r"Training runs/ucf101/split1/as_described/(\w+)/seed0\n.*weights/(\w+)\.pth", said))
    assert starts == {
        "teacher": "focalnet_base_srf",
        "teacher_small": "focalnet_small_srf",
        "teacher_tiny": "focalnet_tiny_srf",
        "student": "focalnet_tiny_srf",
    }


def test_weights_are_fetched_by_a_job(tmp_path):
    with serving() as server:
        server.files["/microsoft/FocalNet/releases/download/v1.0.0/focalnet_tiny_srf.pth"] = b"weights"
        file = config_file(tmp_path, fetch={"rewrite": {"https://github.com": server.url()}})
        wanted = "resources/weights/focalnet_tiny_srf.pth"
        snakemake(tmp_path, "--cores", "1", "--configfile", str(file), "--", wanted)
        assert (tmp_path / wanted).read_bytes() == b"weights"
        assert (tmp_path / f"{wanted}.sha256").exists()
        said = snakemake(tmp_path, "-n", "--cores", "1", "--configfile", str(file), "--", wanted).stdout
        assert "Nothing to be done" in said and len(server.asked) == 1


def test_own_clips_and_archives_need_no_waiting(tmp_path):
    clips = tmp_path / "clips/a_class"
    clips.mkdir(parents=True)
    own = {"ssv2": {"archives": str(tmp_path)}, "kinetics400": {"root": str(tmp_path / "clips")}}
    file = config_file(tmp_path, datasets=["ssv2", "kinetics400"], dataset_definitions=own)
    found = jobs(snakemake(tmp_path, "-n", "--cores", "2", "--configfile", str(file)).stdout)
    assert "fetch_shard" not in found and found["fetch"] == 2
    own["kinetics400"]["root"] = str(tmp_path / "nowhere")
    config_file(tmp_path, datasets=["kinetics400"], dataset_definitions=own)
    done = snakemake(tmp_path, "-n", "--cores", "2", "--configfile", str(file), check=False)
    assert "dataset_definitions.kinetics400.root" in done.stdout and done.returncode


NETWORK = {"model": "video_focalnet_w12_d1121", "train": {"epochs": 1}}
SMALL = {
    "seeds": [0],
    "input": {"frames": 2, "img_size": 32, "short_side": 32},
    "train": {"batch_size": 4},
    "teacher": NETWORK,
    "student": {**NETWORK, "clips_per_class": None},
    "arms": {"teacher": None, "distilled": None, "teacher_few": None, "distilled_few": None},
    "chosen_by": [],
    "ablation": {
        "run": [],
        "studies": dict.fromkeys(["epochs", "alpha_temperature", "labelled_clips", "protocol_effects"]),
    },
}
SPLITS = {"ucf50": ["fold1of3"], "hmdb51": ["split1", "released"]}  # the others' split1 is in their owners' lists


def test_one_command_takes_all_to_audited_splits_and_a_training_while_one_waits_for_its_files(tmp_path):
    names = [name for name in NAMES if readable_rar() or name not in RARS]
    write_clip(tmp_path / "clip.avi", (200, 40, 40))
    clip = (tmp_path / "clip.avi").read_bytes()
    definitions = owners.definitions(str(tmp_path / "resources"))
    splits = {name: SPLITS.get(name, ["split1"]) for name in names}
    for name in names:
        definitions[name] |= {"splits": splits[name], "validation_fraction": 0.34}
    definitions["ssv2"]["source"]["wait_hours"] = 0.1
    audits = {name: [tmp_path / f"results/data/{name}/audit/{split}.csv" for split in splits[name]] for name in names}
    weights = {
        name: tmp_path / f"results/runs/{name}/{splits[name][0]}/as_described/student/seed0/weights.safetensors"
        for name in names
    }
    with serving() as server:
        for name in set(names) - {"ssv2"}:
            server.files |= getattr(owners, name)(clip)
        server.files |= owners.released("hmdb51")
        file = config_file(
            tmp_path,
            datasets=names,
            dataset_definitions=definitions,
            fetch={"rewrite": dict(owners.mirrors(server.url())), "backoff": 0},
            **SMALL,
        )
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(PROJECT / "Snakefile"), "--cores", "2"]
        command += ["--directory", str(tmp_path), "--configfile", str(file), "--"]
        targets = [path for name in names for path in (*audits[name], weights[name])]
        command += [str(path.relative_to(tmp_path)) for path in targets]
        log = tmp_path / "said.txt"
        with (
            log.open("w") as said,
            subprocess.Popen(command, stdout=said, stderr=said, start_new_session=True) as process,
        ):
            others = [
                tmp_path / f"results/data/{name}/splits/{splits[name][0]}.csv" for name in names if name != "ssv2"
            ]
            while not all(path.exists() for path in others):
                time.sleep(0.2)
                if process.poll() is not None or "Error in rule" in log.read_text():
                    os.killpg(process.pid, signal.SIGKILL)  # it would wait for the files to the end
                    pytest.fail(log.read_text())
            assert not (tmp_path / "results/data/ssv2/arrived.json").exists()
            text = log.read_text()
            assert "https://www.qualcomm.com/" in text and "take it out of `datasets`" in text
            folder = tmp_path / "resources/ssv2/archives"
            folder.mkdir(parents=True)
            for name, content in owners.ssv2(clip).items():
                (folder / name).write_bytes(content)
            assert process.wait(timeout=600) == 0, log.read_text()
    assert all(path.exists() for path in targets)
    for name in names:
        for path in audits[name]:
            found = pd.read_csv(path, keep_default_na=False).query("class_name == ''")
            clips = found[found["metric"] == "clips"].set_index("subset")["value"].astype(int)
            unused = 2 if (name, path.stem) == ("hmdb51", "split1") else 0  # its flag 0
            assert clips.sum() == owners.COUNTS[name] - unused and set(clips.index) == {"train", "validation", "test"}
            assert {"hours", "clips_missing", "clips_with_same_bytes", "test_leaked_by_source"} <= set(found["metric"])
            assert (found["value"] != "").any() and (found["definition"] != "").all()
            if name == "hmdb51":
                mislabelled = found.set_index("metric").loc["clips_mislabelled", "value"]
                assert float(mislabelled) == (12 if path.stem == "released" else 0)


def test_weights_of_an_address_are_fetched_once_and_take_the_place_of_a_training(taught):
    teacher = "results/runs/colours/split1/as_described/teacher/seed0"
    content = (taught.root / teacher / "weights.safetensors").read_bytes()
    shutil.rmtree(taught.root / "results/runs")
    with serving() as server:
        server.files["/of/me/big.safetensors"] = content
        file = taught.config_file({"teacher": {"weights": f"{server.url('/of/me/big.safetensors')}?download=1"}})
        server.files["/of/me/big.safetensors?download=1"] = content
        run = ["--cores", "1", "--configfile", str(file), "--", f"{teacher}/weights.safetensors"]
        snakemake(taught.root, *run)
        (fetched,) = taught.root.glob("resources/weights/big-????????.safetensors")
        assert fetched.read_bytes() == content and len(server.asked) == 1
    assert (taught.root / f"{fetched}.sha256").read_text().endswith(f"  {fetched.name}\n")
    assert read_json(taught.root / teacher / "run.json")["settings"]["network"]["weights"] == fetched.name
    assert jobs(snakemake(taught.root, "-n", *run).stdout) == {}


def test_weights_that_are_not_there_are_told_before_any_job(tmp_path):
    for values, role in (
        ({"teacher": {"weights": "/none/big.pth"}}, "teacher.weights"),
        ({"arms": {"student": {"set": {"student.start_from": "/none/big.pth"}}}}, "student.start_from"),
        ({"teacher": {"weights": "results/runs/none/big.pth"}}, "teacher.weights"),
    ):
        done = snakemake(tmp_path, "-n", "--cores", "1", "--configfile", config_file(tmp_path, **values), check=False)
        said = done.stdout.splitlines()[-1]
        assert said.startswith(f"dvfl: {role}: ") and "big.pth does not exist or is no file; give the path or " in said
        assert "Exception" not in done.stdout
    values = {"student": {"start_from": "resources/weights/focalnet_tiny_srf.pth"}}  # which a rule fetches
    snakemake(tmp_path, "-n", "--cores", "1", "--configfile", config_file(tmp_path, **values))
