"""What the released loss is worth beside KL: its value, its gradient, and that the logits drawn decide neither."""

from __future__ import annotations

import math

import pandas as pd
import pytest
import torch

from dvfl.distill import released_loss as module
from dvfl.distill.released_loss import COLUMNS, released_loss


@pytest.fixture(scope="module")
def found() -> pd.DataFrame:
    return released_loss()


def at(found: pd.DataFrame, temperature: float) -> pd.DataFrame:
    return found[found["temperature"] == temperature].set_index("loss")


def ratio(found: pd.DataFrame, temperature: float) -> float:
    here = at(found, temperature)["gradient"]
    return here["forward_kl"] / here["released_code"]


def test_at_temperature_10_with_101_classes_it_is_far_below_zero_and_its_gradient_a_hundredth_of_kls(found):
    assert at(found, 10).at["released_code", "value"] == pytest.approx(-460, abs=5)
    assert 100 < ratio(found, 10) < 200
    assert at(found, 10).at["forward_kl", "value"] > 0


@pytest.mark.parametrize(("std", "seed"), [(1.0, 0), (2.0, 1), (3.0, 2)])
def test_other_random_logits_say_the_same(monkeypatch, std, seed):
    monkeypatch.setattr(module, "STD", std)
    monkeypatch.setattr(module, "SEED", seed)
    found = released_loss([10])
    assert at(found, 10).at["released_code", "value"] == pytest.approx(-460, abs=8)
    assert 100 < ratio(found, 10) < 200


def test_every_temperature_is_there_and_the_value_falls_with_its_square(found):
    assert tuple(found.columns) == COLUMNS
    assert found.groupby("loss")["temperature"].agg(list).tolist() == [list(range(1, 21))] * 2
    # Near T = infinity p is uniform: T^2 (log 1/C - 1/C).
    limit = 400 * (-math.log(101) - 1 / 101)
    assert at(found, 20).at["released_code", "value"] == pytest.approx(limit, rel=0.01)


def test_gradients_are_those_of_a_clips_own_loss(found, monkeypatch):
    """By hand, from the derivative: T (q - p) for T^2 KL."""
    draw = torch.Generator().manual_seed(module.SEED)
    shape = (module.CLIPS, module.CLASSES)
    student, teacher = (module.STD * torch.randn(shape, generator=draw, dtype=torch.float64) for _ in range(2))
    p, q = ((logits / 4).softmax(1) for logits in (teacher, student))
    expected = (4 * (q - p)).norm(dim=1).mean().item()
    assert at(found, 4).at["forward_kl", "gradient"] == pytest.approx(expected, rel=1e-9)
    inner = (p * q).sum(1, keepdim=True)
    expected = (4 * q * (p - inner)).norm(dim=1).mean().item()
    assert at(found, 4).at["released_code", "gradient"] == pytest.approx(expected, rel=1e-9)
