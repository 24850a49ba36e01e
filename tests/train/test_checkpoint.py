"""A checkpoint brings model and optimiser back to the last bit, or says that there is none."""

from __future__ import annotations

import errno
import os

import pytest
import torch
from torch import nn

from dvfl.files import OutputError
from dvfl.train.checkpoint import Checkpoint

HISTORY = [{"epoch": 1, "loss": 0.1 + 0.2, "val_top1": 1 / 3}, {"epoch": 2, "loss": 1e-17}]


def trained(steps: int, seed: int = 0) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    go_on(model, optimizer, steps)
    return model, optimizer


def go_on(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for step in range(steps):
        inputs = torch.linspace(-1, 1, 12).view(4, 3) * (step + 1)
        model(inputs).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def test_a_fresh_start_changes_nothing(tmp_path):
    model, optimizer = trained(1)
    twin, _ = trained(1)
    assert Checkpoint(tmp_path / "none").load(model, optimizer) == []
    assert same(model, twin)


def test_what_goes_on_from_a_checkpoint_ends_as_if_it_had_not_stopped(tmp_path):
    model, optimizer = trained(3)
    Checkpoint(tmp_path).save(model, optimizer, HISTORY)
    go_on(model, optimizer, 3)
    other, its_optimizer = trained(0, seed=1)
    assert Checkpoint(tmp_path).load(other, its_optimizer) == HISTORY
    go_on(other, its_optimizer, 3)
    assert same(model, other)  # moments and buffers came back as well


def test_later_state_replaces_earlier_and_nothing_else_is_left(tmp_path):
    checkpoint = Checkpoint(tmp_path / "resume")
    checkpoint.save(*trained(1), HISTORY[:1])
    checkpoint.save(*trained(2), HISTORY)
    assert checkpoint.load(*trained(0)) == HISTORY
    assert os.listdir(tmp_path / "resume") == ["checkpoint.pt"]
    checkpoint.remove()
    checkpoint.remove()
    assert checkpoint.load(*trained(0)) == []


def test_on_a_full_disk_the_checkpoint_before_stands(tmp_path, monkeypatch):
    checkpoint = Checkpoint(tmp_path)
    checkpoint.save(*trained(1), HISTORY[:1])

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="the disk is full"):
        checkpoint.save(*trained(2), HISTORY)
    assert checkpoint.load(*trained(0)) == HISTORY[:1]
    assert os.listdir(tmp_path) == ["checkpoint.pt"]
