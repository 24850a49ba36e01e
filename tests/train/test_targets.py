"""Teacher targets in files: for the very inputs of the training, shared, never stale, whole or absent."""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from dvfl import paths, stores
from dvfl.config import ConfigError
from dvfl.distill import target_store as store_module
from dvfl.distill.target_store import TargetsError, TargetStore
from dvfl.distill.targets import TeacherAtChance
from dvfl.files import MissingInput, read_json, sha256
from dvfl.models.weights import WeightsError, load_network, save_weights
from dvfl.provenance import verify
from dvfl.train import teacher as teacher_module
from dvfl.train.loop import resolve
from dvfl.train.targets import verify_targets, write_targets
from tests.train.test_job import RUN, assert_same, outcome

# Every draw there is: views are new in every epoch, jittered, flipped, mixed; one clip of the 9 to 11 is left out.
MIXED = {
    "input": {"views": None, "color_jitter": 0.8, "greyscale": 0.2},
    "train": {"batch_size": 4},
    "student": {"train": {"mixup": 0.8, "cutmix": 1.0, "mix_probability": 0.7, "epochs": 3}},
}
SHUFFLED = {"input": {"views": None}}
TEACHER = RUN / "teacher/seed0/weights.safetensors"


def distil(place, values: dict, targets: str, **others) -> Path:
    return place.train("distilled", values | {"distill": {"targets": targets, **others}})


def written(place, values: dict, **distill) -> Path:
    """Writes the targets of the distilled arm; their folder."""
    config = place.config(values | {"distill": {"targets": "stored", **distill}})
    run = place.run(config, "distilled")
    write_targets(config, run)
    return Path(read_json(stores.targets_directory(config, run) / "ready.json")["folder"])


def no_teacher(monkeypatch) -> None:
    """From here on the teacher cannot be asked."""

    def refuse(path):
        raise AssertionError("the teacher was loaded")

    monkeypatch.setattr(teacher_module, "load_network", refuse)


@pytest.mark.parametrize("values", [MIXED, SHUFFLED], ids=["mixed", "shuffled"])
def test_a_training_on_stored_targets_ends_with_the_bytes_of_the_teacher_in_the_loop(
    taught, another_folder, monkeypatch, values
):
    online = outcome(distil(another_folder(taught, "online"), values, "online"))
    stored = another_folder(taught, "stored")
    folder = written(stored, values)
    assert {path.stem for path in folder.iterdir()} >= {"unmixed", "epoch0", "epoch1"}
    with monkeypatch.context() as patch:
        no_teacher(patch)
        directory = distil(stored, values, "stored")
    assert_same(outcome(directory), online)
    about = read_json(directory / "run.json")
    assert about["teacher_targets"] == "stored" and about["teacher_top1_on_training_clips"] > 0.7


def test_few_views_are_stored_once_and_give_the_bytes_of_those_in_memory(taught, another_folder, monkeypatch):
    values = {"student": {"train": {"epochs": 5}}}
    memory = distil(another_folder(taught, "memory"), values, "auto")
    assert read_json(memory / "run.json")["teacher_targets"] == "in memory"
    memory = outcome(memory)
    stored = another_folder(taught, "stored")
    folder = written(stored, values)
    assert {path.name for path in folder.iterdir()} == {"view0.npy", "view1.npy"}
    no_teacher(monkeypatch)
    assert_same(outcome(distil(stored, values, "stored")), memory)


def test_every_temperature_alpha_and_divergence_reads_one_store(taught, monkeypatch):
    written(taught, MIXED)
    no_teacher(monkeypatch)
    for distill in ({"temperature": 7.0}, {"alpha": 0.9}, {"divergence": "dkd"}, {"t_squared": False}):
        assert read_json(distil(taught, MIXED, "auto", **distill) / "run.json")["teacher_targets"] == "stored"
        shutil.rmtree(RUN / "distilled")
    student = {**MIXED["student"], "model_overrides": {"embed_dim": 6, "depths": [1, 1, 1, 1], "init": "narrow"}}
    assert distil(taught, MIXED | {"student": student}, "stored").is_dir()


STALE = {
    "input": {"input": MIXED["input"] | {"flip": 0.1}},
    "mean": {"input": MIXED["input"] | {"mean": [0.5, 0.5, 0.5]}},
    "interpolation": {"input": MIXED["input"] | {"interpolation": "bicubic"}},
    "batch plan": {"train": {"batch_size": 6}},
    "mixing": {"student": {"train": {**MIXED["student"]["train"], "mixup": 0.4}}},
    "epochs": {"student": {"train": {**MIXED["student"]["train"], "epochs": 4}}},
    "clips": {"student": {**MIXED["student"], "clips_per_class": 2}},
    "head": {"distill": {"teacher_head": "random"}},
    "precision": {"distill": {"targets_precision": "float16"}},
    "computed precision": {"train": {"precision": "bfloat16"}},
    "compiled": {"train": {"compile": True}},
}


@pytest.mark.parametrize("what", STALE)
def test_a_store_of_other_inputs_is_not_found(taught, what):
    written(taught, MIXED)
    values = MIXED | STALE[what]
    with pytest.raises(MissingInput, match=r"results/targets/colours/.*`dvfl targets results/targets"):
        taught.train("distilled", values | {"distill": {"targets": "stored"} | values.get("distill", {})})


def changed_teacher() -> None:
    network, description = load_network(TEACHER)
    with torch.no_grad():
        network.head.bias.add_(torch.arange(3) * 1e-6)
    save_weights(TEACHER, network, description)


def test_a_store_of_another_teacher_or_index_is_never_used_and_makes_room_for_the_new_one(taught):
    old = written(taught, MIXED)
    changed_teacher()
    with pytest.raises(MissingInput, match="of other weights or clips"):
        distil(taught, MIXED, "stored")
    assert read_json(distil(taught, MIXED, "auto") / "run.json")["teacher_targets"] == "online"
    new = written(taught, MIXED)
    assert new != old and new.is_dir() and not old.exists()
    index = paths.index_path("colours")
    table = pd.read_parquet(index)
    table.assign(fps=table["fps"] + 1).to_parquet(index)
    with pytest.raises(MissingInput):
        distil(taught, MIXED, "stored")


def test_a_store_of_another_split_seed_or_device_is_not_found(taught, monkeypatch):
    written(taught, MIXED)
    values = MIXED | {"distill": {"targets": "stored"}}
    with pytest.raises(MissingInput, match=r"results/targets/colours/"):
        taught.train("distilled", values, seed=1)
    with monkeypatch.context() as elsewhere:
        on_meta = {"device": torch.device("meta")}
        elsewhere.setattr("dvfl.train.job.resolve", lambda *about: replace(resolve(*about), **on_meta))
        with pytest.raises(MissingInput, match="of other weights or clips"):
            taught.train("distilled", values)
    split = paths.split_path("colours", "split1")
    table = pd.read_csv(split)
    table.drop(table.index[table["subset"] == "test"][0]).to_csv(split, index=False)
    with pytest.raises(WeightsError, match="weights that were trained on this very split"):  # said before any store is
        taught.train("distilled", values)


def test_half_precision_takes_half_the_space_and_says_its_error(taught, capsys):
    whole, half = written(taught, MIXED), written(taught, MIXED, targets_precision="float16")
    said = capsys.readouterr().err
    wide, narrow = (np.load(folder / "epoch1.npy") for folder in (whole, half))
    assert narrow.nbytes * 2 == wide.nbytes
    ready = read_json(half.parent / "ready.json")
    shown = ~np.isnan(wide)
    assert (
        0 < np.abs(wide - narrow)[shown].max() <= ready["largest_rounding_error"] < 2**-10 * np.abs(wide[shown]).max()
    )
    assert f"rounded by {ready['largest_rounding_error']:.2g} at most" in said
    stored = outcome(distil(taught, MIXED, "stored", targets_precision="float16"))
    shutil.rmtree(half.parent)
    shutil.rmtree(RUN / "distilled")
    asked = distil(taught, MIXED, "auto", targets_precision="float16")  # rounded alike, wherever they come from
    assert read_json(asked / "run.json")["teacher_targets"] == "online"
    assert_same(outcome(asked), stored)


def test_what_it_takes_is_said_before_and_a_full_disk_refuses_it(taught, monkeypatch, capsys):
    usage = shutil.disk_usage("/")._replace(free=100)
    with monkeypatch.context() as full:
        full.setattr(store_module.shutil, "disk_usage", lambda path: usage)
        with pytest.raises(TargetsError, match="nothing was written; free some space"):
            written(taught, MIXED)
    assert not list(Path("results/targets").rglob("*.npy"))
    capsys.readouterr()
    before = []

    def write(store, name, logits, really=TargetStore.write):
        before.append(capsys.readouterr().err)
        really(store, name, logits)

    monkeypatch.setattr(TargetStore, "write", write)
    folder = written(taught, MIXED)
    clips, classes = np.load(folder / "epoch0.npy").shape
    said = before[0].splitlines()[0]
    assert f"4 passes x {clips} clips x {classes} classes x 4 bytes = " in said
    numbers = re.search(r"about (\S+) s after (\S+) s to start \((\S+) ms .*pays where (\d+) or more runs read", said)
    seconds, started, asked, runs = map(float, numbers.groups())
    saved = 4 * clips * asked / 1e3  # by each run that does not ask the teacher; what is said is rounded
    assert runs >= 2 and saved * (runs + 1) >= 0.9 * (started + seconds)
    assert runs == 2 or saved * (runs - 1) <= 1.1 * (started + seconds)
    assert read_json(folder.parent / "ready.json")["bytes"] == sum(path.stat().st_size for path in folder.iterdir())


def test_a_kill_loses_no_finished_pass_and_leaves_no_half_of_one(taught, another_folder, dvfl_command):
    values = {**MIXED, "student": {"train": {**MIXED["student"]["train"], "epochs": 40}}}
    whole = written(another_folder(taught, "whole"), values)
    expected = {path.name: sha256(path) for path in whole.iterdir()}
    place, done = another_folder(taught, "killed"), {}
    file = place.config_file(values | {"distill": {"targets": "stored"}})
    for number in (signal.SIGKILL, signal.SIGTERM):
        process = dvfl_command("targets", RUN / "distilled/seed0", "--config", file)
        while len(list(Path("results/targets").rglob("[!.]*.npy"))) < len(done) + 2:
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.01)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
        assert process.returncode == (os.EX_TEMPFAIL if number == signal.SIGTERM else -number)
        done = {path: path.stat().st_mtime_ns for path in Path("results/targets").rglob("[!.]*.npy")}
        assert all(sha256(path) == expected[path.name] for path in done)
        assert len(done) < len(expected) and not list(Path("results/targets").rglob("ready.json"))
    assert "passes of the teacher; the same command goes on from there" in said
    folder = written(place, values)
    assert {path.name: sha256(path) for path in folder.iterdir()} == expected
    assert all(path.stat().st_mtime_ns == then for path, then in done.items())


def test_some_are_asked_anew_and_a_wrong_one_is_found(taught, command):
    folder = written(taught, MIXED)
    file = taught.config_file(MIXED | {"distill": {"targets": "stored"}})
    code, _, said = command("targets", folder.parent, "--config", file, "--verify", "1000")
    total = 4 * len(np.load(folder / "unmixed.npy"))
    assert code == 0 and f"{total} of {total} samples" in said and "largest logit" in said
    rows = np.load(folder / "epoch1.npy")
    rows[np.flatnonzero(~np.isnan(rows[:, 0]))[0], 1] += 0.01
    np.save(folder / "epoch1.npy", rows)
    code, _, said = command("targets", RUN / "distilled/seed0", "--config", file, "--verify", "1000")
    assert code == 1 and "epoch1.npy: the teacher's logits for" in said and "are others" in said


def test_a_file_that_is_not_as_written_is_told_by_dvfl_verify(taught):
    folder = written(taught, MIXED)
    assert [check.matches for check in verify._targets()] == [True]
    rows = np.load(folder / "epoch2.npy")
    np.save(folder / "epoch2.npy", rows[::-1])
    (check,) = verify._targets()
    assert check.matches is False and "1 of 4 files" in check.said and "epoch2.npy" in check.said
    shutil.rmtree(folder)
    assert [check.matches for check in verify._targets()] == [None]  # may be deleted once all runs have read them


def test_a_teacher_at_chance_is_refused_before_its_epochs_and_from_what_is_stored(taught):
    folder = written(taught, MIXED)
    rows = np.load(folder / "unmixed.npy")
    np.save(folder / "unmixed.npy", np.zeros_like(rows))
    with pytest.raises(TeacherAtChance, match=r"results/targets/.*right on 33\.3%"):
        distil(taught, MIXED, "stored")
    network, description = load_network(TEACHER)
    torch.nn.init.zeros_(network.head.weight)
    save_weights(TEACHER, network, description)
    with pytest.raises(TeacherAtChance, match=r"weights\.safetensors"):
        written(taught, MIXED)
    assert {path.name for path in Path("results/targets").rglob("*.npy")} == {"unmixed.npy"}


def test_two_processes_write_and_read_what_one_does(taught, another_folder):
    values = {**MIXED, "train": {"batch_size": 2, "accumulate": 2}}
    both = {**values, "train": {**values["train"], "processes": 2}}
    alone = written(another_folder(taught, "alone"), values)
    one = {path.name: sha256(path) for path in alone.iterdir()}
    place = another_folder(taught, "two")
    folder = written(place, both)
    assert {path.name: sha256(path) for path in folder.iterdir()} == one
    stored = outcome(distil(place, both, "stored"))
    shutil.rmtree(RUN / "distilled")
    assert_same(outcome(distil(place, both, "online")), stored)


def test_where_nothing_can_be_stored_the_teacher_stays_in_the_loop(taught, capsys):
    values = {"distill": {"features": {"weight": 1.0}}}
    directory = taught.train("distilled", values)
    assert read_json(directory / "run.json")["teacher_targets"] == "online"
    assert "stored logits have no modulators" in capsys.readouterr().err
    config = taught.config(values)
    with pytest.raises(TargetsError, match="keeps the teacher in the loop"):
        write_targets(config, taught.run(config, "distilled"))
    with pytest.raises(TargetsError, match="learns from labels alone"):
        write_targets(config, taught.run(config, "student"))
    with pytest.raises(ConfigError, match="no modulators"):
        taught.config({"distill": {"features": {"weight": 1.0}, "targets": "stored"}})


def test_a_damaged_file_and_too_large_logits_are_told(tmp_path):
    store = TargetStore(tmp_path / "name/key", ("view0",), clips=3, classes=2, precision="float16")
    with pytest.raises(TargetsError, match=r"set distill\.targets_precision: float32"):
        store.write("view0", torch.full((3, 2), 1e5))
    assert store.missing() == ["view0"]
    store.write("view0", torch.ones(3, 2))
    file = store.path("view0")
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(TargetsError, match=r"view0\.npy: is damaged .*delete it, then"):
        store.read("view0")
    np.save(file, np.ones((2, 2)))
    with pytest.raises(TargetsError, match="holds"):
        store.read("view0")


def test_a_verification_needs_them_all(taught):
    config = taught.config(MIXED)
    with pytest.raises(MissingInput, match="unmixed"):
        verify_targets(config, taught.run(config, "distilled"), 3)
