"""Stored teacher logits are those of the teacher in the loop; a teacher that knows nothing is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dvfl.distill.targets import CachedTargets, OnlineTargets, TeacherAtChance, check_teacher
from dvfl.distill.task import frozen
from dvfl.errors import UserError

CPU = torch.device("cpu")


@pytest.fixture
def teacher() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Flatten(), nn.Linear(2 * 3 * 4 * 4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 5)]
    return frozen(nn.Sequential(*layers))


@pytest.fixture
def views() -> torch.Tensor:
    """(views, clips, T, 3, H, W)."""
    torch.manual_seed(1)
    return torch.randn(3, 10, 2, 3, 4, 4)


def test_cached_targets_equal_online_ones_for_the_same_views(teacher, views):
    cached = CachedTargets.compute(teacher, (view.split(4) for view in views), CPU)
    online = OnlineTargets(teacher)
    for epoch in (0, 1, 2, 3, 7):
        positions = torch.tensor([9, 0, 4])
        inputs = views[epoch % 3, positions]
        torch.testing.assert_close(
            cached(inputs, positions, epoch), online(inputs, positions, epoch), atol=1e-6, rtol=1e-6
        )


def test_another_view_has_other_targets(teacher, views):
    cached = CachedTargets.compute(teacher, (view.split(4) for view in views), CPU)
    positions = torch.arange(10)
    assert not torch.allclose(cached(views[0], positions, 0), cached(views[0], positions, 1))
    assert torch.equal(cached(views[0], positions, 1), cached(views[0], positions, 4))


def test_they_are_logits_of_all_views_and_clips_and_may_be_used_in_training(teacher, views):
    cached = CachedTargets.compute(teacher, (view.split(4) for view in views), CPU)
    assert cached.logits.shape == (3, 10, 5)
    assert cached.logits.dtype == torch.float32
    weight = torch.ones(5, requires_grad=True)
    (cached(views[0], torch.arange(10), 0) * weight).sum().backward()  # no inference tensor
    assert not cached.logits.requires_grad


def test_online_targets_carry_no_graph_and_single_precision(teacher, views):
    teacher[-1].weight.requires_grad_(True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = OnlineTargets(teacher)(views[0], torch.arange(10), 0)
    assert not logits.requires_grad
    assert logits.dtype == torch.float32


def answers(right: int, count: int, num_classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits that are right on the first `right` of `count` clips, and the labels."""
    labels = torch.arange(count) % num_classes
    told = torch.where(torch.arange(count) < right, labels, (labels + 1) % num_classes)
    return nn.functional.one_hot(told, num_classes).float(), labels


@pytest.mark.parametrize(("right", "count", "num_classes"), [(100, 100, 4), (39, 100, 4), (70, 100, 2)])
def test_a_teacher_above_chance_passes_with_its_accuracy(right, count, num_classes):
    assert check_teacher(*answers(right, count, num_classes), "weights") == pytest.approx(right / count)


@pytest.mark.parametrize(
    ("right", "count", "num_classes"), [(0, 100, 4), (25, 100, 4), (32, 100, 4), (57, 100, 2), (2, 2, 2)]
)
def test_a_teacher_that_guessing_would_equal_is_refused(right, count, num_classes):
    with pytest.raises(TeacherAtChance) as error:
        check_teacher(*answers(right, count, num_classes), "teacher.safetensors")
    line = str(error.value)
    assert line.startswith("teacher.safetensors: ") and "\n" not in line
    assert f"{right / count:.1%}" in line and f"{1 / num_classes:.1%}" in line and "order of its classes" in line
    assert isinstance(error.value, UserError)
