"""The total loss on logits computed by hand; the teacher is frozen and sees what the student sees."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from torch import nn

from dvfl.config import DistillConfig
from dvfl.config.divergences import AlphaDivergenceConfig, DivergenceName
from dvfl.distill.divergences import alpha_divergence, dkd
from dvfl.distill.targets import CachedTargets, OnlineTargets
from dvfl.distill.task import Batch, DistillationTask, SupervisedTask, frozen

LOG2, LOG3 = math.log(2), math.log(3)


class Fixed(nn.Module):
    """A network that answers the same logits whatever it sees."""

    def __init__(self, *logits: list[float]):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))

    def forward(self, inputs):
        return self.logits * 1


def batch(soft_labels: list[list[float]]) -> Batch:
    soft = torch.tensor(soft_labels)
    count = len(soft)
    return Batch(torch.zeros(count, 1, 3, 4, 4), soft.argmax(1), soft, torch.arange(count), epoch=0)


# One clip, two classes. At T = 2 the student's log-odds log 9 become log 3: q = (3/4, 1/4); the teacher's log 4 become
# log 2: p = (2/3, 1/3). At T = 1 the student says (9/10, 1/10).
STUDENT, TEACHER = [2 * LOG3, 0.0], [2 * LOG2, 0.0]
CE = -math.log(0.1)  # the label is class 1
FORWARD = 2 / 3 * math.log(8 / 9) + 1 / 3 * math.log(4 / 3)
REVERSE = 3 / 4 * math.log(9 / 8) + 1 / 4 * math.log(3 / 4)


@pytest.mark.parametrize("alpha", [0.1, 0.5, 1.0])
@pytest.mark.parametrize(
    ("changes", "kd"),
    [
        ({}, 4 * FORWARD),
        ({"t_squared": False}, FORWARD),
        ({"divergence": "reverse_kl"}, 4 * REVERSE),
    ],
)
def test_total_is_alpha_kd_plus_the_rest_of_cross_entropy(alpha, changes, kd):
    config = DistillConfig(**{"alpha": alpha, "temperature": 2.0} | changes)
    task = DistillationTask(Fixed(STUDENT), OnlineTargets(Fixed(TEACHER)), config)
    losses = task(batch([[0.0, 1.0]]))
    assert losses.parts["loss_kd"] == pytest.approx(kd, rel=1e-5)
    assert losses.parts["loss_ce"] == pytest.approx(CE, rel=1e-5)
    assert losses.total.item() == pytest.approx(alpha * kd + (1 - alpha) * CE, rel=1e-5)
    assert losses.parts["loss"] == losses.total.item()


def test_cross_entropy_is_with_the_soft_labels():
    losses = SupervisedTask(Fixed(STUDENT, STUDENT))(batch([[0.25, 0.75], [1.0, 0.0]]))
    first = -0.25 * math.log(0.9) - 0.75 * math.log(0.1)
    assert losses.total.item() == pytest.approx((first - math.log(0.9)) / 2, rel=1e-5)
    assert set(losses.parts) == {"loss", "loss_ce"}


def test_the_gradient_is_that_of_the_formula():
    """dKL(p||q)/dz = (q - p) / T, times T^2; dCE/dz = softmax(z) - y."""
    student = Fixed(STUDENT)
    config = DistillConfig(alpha=0.3, temperature=2.0)
    DistillationTask(student, OnlineTargets(Fixed(TEACHER)), config)(batch([[0.0, 1.0]])).total.backward()
    kd = 2.0 * (3 / 4 - 2 / 3)
    expected = 0.3 * kd + 0.7 * 0.9
    assert student.logits.grad[0, 0].item() == pytest.approx(expected, rel=1e-5)
    assert student.logits.grad[0, 1].item() == pytest.approx(-expected, rel=1e-5)


def test_no_gradient_reaches_the_teacher_even_if_it_is_not_frozen():
    student, teacher = Fixed(STUDENT), Fixed(TEACHER)
    task = DistillationTask(student, OnlineTargets(teacher), DistillConfig(alpha=0.5))
    task(batch([[0.0, 1.0]])).total.backward()
    assert teacher.logits.grad is None
    assert student.logits.grad is not None


def test_logits_are_handed_over_without_their_graph():
    task = DistillationTask(Fixed(STUDENT), OnlineTargets(Fixed(TEACHER)), DistillConfig())
    assert not task(batch([[0.0, 1.0]])).logits.requires_grad


class Spy(nn.Module):
    """Remembers what it was shown and in which mode."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 2)
        self.seen: list[tuple[torch.Tensor, bool]] = []

    def forward(self, inputs):
        self.seen.append((inputs.clone(), self.training))
        return self.head(inputs.mean((1, 3, 4)))


def test_the_teacher_sees_the_very_input_that_the_student_sees():
    student, teacher = Spy(), frozen(Spy())
    student.train()
    task = DistillationTask(student, OnlineTargets(teacher), DistillConfig())
    inputs = torch.randn(4, 2, 3, 8, 8)
    task(Batch(inputs, torch.zeros(4, dtype=torch.long), torch.full((4, 2), 0.5), torch.arange(4), 0))
    ((shown, training),), ((taught, teaching),) = student.seen, teacher.seen
    assert torch.equal(shown, inputs) and torch.equal(taught, inputs)
    assert training and not teaching


def test_frozen_stops_gradients_batch_statistics_and_dropout():
    teacher = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.9), nn.Linear(3, 2)).train()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    assert frozen(teacher) is teacher
    inputs = torch.randn(5, 3) + 7
    assert torch.equal(teacher(inputs), teacher(inputs))
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_cached_targets_reach_the_task_by_position_and_epoch():
    logits = torch.arange(24.0).view(2, 6, 2).sin()
    config = DistillConfig(alpha=1.0, temperature=1.0)
    task = DistillationTask(Fixed(STUDENT, STUDENT), CachedTargets(logits), config)
    positions = torch.tensor([5, 2])
    shown = Batch(torch.zeros(2, 1, 3, 4, 4), torch.zeros(2, dtype=torch.long), torch.full((2, 2), 0.5), positions, 3)
    p = logits[1, positions].softmax(1)
    q = torch.tensor([STUDENT, STUDENT]).softmax(1)
    expected = (p * (p / q).log()).sum(1).mean().item()
    assert task(shown).total.item() == pytest.approx(expected, rel=1e-4)


TWO = Batch(torch.zeros(2, 1, 3, 4, 4), torch.tensor([0, 2]), torch.eye(3)[[0, 2]], torch.tensor([1, 0]), epoch=1)


@pytest.mark.parametrize("name", get_args(DivergenceName))
def test_every_divergence_learns_from_stored_and_from_fresh_targets(name):
    taught = torch.tensor([[2.0, 0.0, -1.0], [0.5, 1.0, 3.0]])
    config = DistillConfig(alpha=0.5, temperature=2.0, divergence=name)
    found = []
    # Of two views and two clips, the second view is shown, the clips in the other order.
    for targets in (OnlineTargets(Fixed(*taught.tolist())), CachedTargets(torch.stack([-taught, taught.flip(0)]))):
        student = Fixed([0.1, 0.2, 0.3], [1.0, 0.0, 0.0])
        losses = DistillationTask(student, targets, config)(TWO)
        losses.total.backward()
        assert student.logits.grad.isfinite().all() and student.logits.grad.abs().max() > 1e-4
        assert losses.total.item() == pytest.approx(0.5 * losses.parts["loss_kd"] + 0.5 * losses.parts["loss_ce"])
        found.append((losses.parts, student.logits.grad))
    assert found[0][0] == found[1][0] and torch.equal(found[0][1], found[1][1])


def test_a_divergences_own_parameters_come_from_the_config():
    student, teacher = torch.tensor([[0.1, 0.2, 0.3]]), torch.tensor([[2.0, 0.0, -1.0]])
    config = DistillConfig(alpha=1.0, temperature=3.0, divergence="alpha_divergence")
    config = config.model_copy(update={"alpha_divergence": AlphaDivergenceConfig(order=0.25, skew=0.4)})
    task = DistillationTask(Fixed(*student.tolist()), OnlineTargets(Fixed(*teacher.tolist())), config)
    expected = alpha_divergence(student, teacher, 3.0, order=0.25, skew=0.4).item()
    assert task(batch([[0.0, 1.0, 0.0]])).parts["loss_kd"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("soft", "label"),
    [([0.9, 0.05, 0.05], 0), ([0.05, 0.35, 0.6], 2), ([0.1, 0.45, 0.45], 1), ([0.0, 0.0, 1.0], 2)],
)
def test_dkd_takes_a_mixed_clip_for_what_most_of_it_is(soft, label):
    student, teacher = [0.1, 0.2, 0.3], [2.0, 0.0, -1.0]
    config = DistillConfig(divergence="dkd", temperature=2.0)
    losses = DistillationTask(Fixed(student), OnlineTargets(Fixed(teacher)), config)(batch([soft]))
    expected = dkd(torch.tensor([student]), torch.tensor([teacher]), 2.0, labels=torch.tensor([label])).item()
    assert losses.parts["loss_kd"] == pytest.approx(expected)
    assert losses.parts["loss_ce"] == pytest.approx(
        nn.functional.cross_entropy(torch.tensor([student]), torch.tensor([soft])).item()
    )
