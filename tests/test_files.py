"""Files appear whole or not at all, and a refusal to write is one line that says what to do."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dvfl.errors import UserError
from dvfl.files import MissingInput, OutputError, atomic, read_json, required, sha256, write_json

ROOT = Path(__file__).parents[1]


def test_the_file_is_there_when_the_block_has_ended_and_not_before(tmp_path):
    path = tmp_path / "deep" / "er" / "value.json"
    with atomic(path) as partial:
        partial.write_text("new")
        assert not path.exists()
        assert partial.suffix == ".json" and partial.parent == path.parent
    assert path.read_text() == "new"
    assert os.listdir(path.parent) == ["value.json"]


def test_anyone_may_read_what_is_written(tmp_path):
    write_json(tmp_path / "value.json", {"a": 1})
    assert (tmp_path / "value.json").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("error", [RuntimeError("mine"), KeyboardInterrupt(), OSError(errno.ENOSPC, "full")])
def test_failure_leaves_the_old_file_and_no_litter(tmp_path, error):
    path = tmp_path / "value.json"
    path.write_text("old")
    with pytest.raises((type(error), OutputError)), atomic(path) as partial:
        partial.write_text("half of the ne")
        raise error
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["value.json"]


def test_errors_that_are_not_the_systems_pass_unchanged(tmp_path):
    with pytest.raises(ValueError, match="mine"), atomic(tmp_path / "x"):
        raise ValueError("mine")


@pytest.mark.parametrize("call", ["replace", "fsync"])
@pytest.mark.parametrize(
    ("number", "remedy"),
    [(errno.ENOSPC, "the disk is full; free some space"), (errno.EROFS, "read-only"), (errno.EDQUOT, "quota")],
)
def test_a_full_disk_is_one_line_with_path_and_remedy(tmp_path, monkeypatch, call, number, remedy):
    path = tmp_path / "value.json"
    path.write_text("old")

    def refuse(*arguments, **others):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(OutputError) as error:
        write_json(path, {"a": 1})
    monkeypatch.undo()
    line = str(error.value)
    assert line.startswith(f"cannot write {path}: ") and remedy in line and "run the same command again" in line
    assert "\n" not in line
    assert isinstance(error.value, UserError)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["value.json"]


def test_a_file_where_the_folder_should_be_is_named(tmp_path):
    (tmp_path / "results").write_text("I am no folder")
    for path in (tmp_path / "results/value.json", tmp_path / "results/deeper/value.json"):
        with pytest.raises(OutputError) as error:
            write_json(path, {})
        assert str(path) in str(error.value) and "move that file away" in str(error.value)


LIMITED = """
import resource, sys
from pathlib import Path
import torch, pandas as pd
from dvfl.files import OutputError
from dvfl.models.weights import NetworkDescription, save_weights
from dvfl.train.checkpoint import Checkpoint

model = torch.nn.Linear(300, 300)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
folder = Path(sys.argv[1])
checkpoint = Checkpoint(folder)
description = NetworkDescription("any", ["a", "b"], 1, 32)
checkpoint.save(model, optimizer, [{"epoch": 1}])
save_weights(folder / "weights.safetensors", model, description)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
for save in (
    lambda: checkpoint.save(model, optimizer, [{"epoch": 1}, {"epoch": 2}]),
    lambda: save_weights(folder / "weights.safetensors", model, description),
):
    try:
        save()
    except OutputError as error:
        print(error)
print(checkpoint.load(model, optimizer))
"""


def test_when_the_system_really_refuses_checkpoint_and_weights_stay_whole(tmp_path):
    """A limit on a file's size stops a write in its middle, as a full disk does."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    checkpoint, weights, loaded = done.stdout.splitlines()
    assert checkpoint.startswith(f"cannot write {tmp_path / 'checkpoint.pt'}: ")
    assert weights.startswith(f"cannot write {tmp_path / 'weights.safetensors'}: ")
    assert loaded == "[{'epoch': 1}]"
    assert sorted(os.listdir(tmp_path)) == ["checkpoint.pt", "weights.safetensors"]


def test_what_an_earlier_step_makes_is_asked_for_by_name(tmp_path):
    with pytest.raises(MissingInput) as error:
        required(tmp_path / "index.parquet")
    assert f"`dvfl results {tmp_path / 'index.parquet'}`" in str(error.value)
    (tmp_path / "index.parquet").touch()
    assert required(tmp_path / "index.parquet") == tmp_path / "index.parquet"


def test_json_comes_back_as_it_went_and_equal_values_give_equal_bytes(tmp_path):
    value = {"b": [1, 2.5, None], "a": {"x": "é", "p": Path("results/x")}}
    write_json(tmp_path / "one.json", value)
    write_json(tmp_path / "two.json", value)
    assert read_json(tmp_path / "one.json") == {"b": [1, 2.5, None], "a": {"x": "é", "p": "results/x"}}
    assert sha256(tmp_path / "one.json") == sha256(tmp_path / "two.json")


def test_sha256_is_that_of_the_bytes(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert sha256(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
