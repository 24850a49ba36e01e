"""The losses against exact golden values, and the properties that make them divergences."""

import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch.testing import assert_close

from dvfl.distill import forward_kl as exported
from dvfl.distill.divergences import (
    DIVERGENCES,
    forward_kl,
    released_code,
    reverse_kl,
    total_loss,
)

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "distillation_losses.json").read_text())
KL = [forward_kl, reverse_kl]
few = settings(max_examples=50, deadline=None, derandomize=True)
temperatures = st.floats(0.5, 20.0)


@st.composite
def logits_pair(draw) -> tuple[torch.Tensor, torch.Tensor]:
    """Student and teacher logits of one shape, (1..4, 2..6), in float64."""
    shape = (draw(st.integers(1, 4)), draw(st.integers(2, 6)))
    values = arrays.arrays("float64", shape, elements=st.floats(-10, 10))
    return torch.from_numpy(draw(values)), torch.from_numpy(draw(values))


def random_logits(batch: int = 3, classes: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, batch, classes, generator=generator, dtype=torch.float64).unbind()
    return 3 * student, 3 * teacher


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: f"T={case['temperature']}")
def test_golden_losses(case):
    student = torch.tensor(case["student"], dtype=torch.float64)
    teacher = torch.tensor(case["teacher"], dtype=torch.float64)
    for name, divergence in DIVERGENCES.items():
        value = divergence(student, teacher, case["temperature"]).item()
        assert value == pytest.approx(case[name], rel=0, abs=1e-9)
    kd = forward_kl(student, teacher, case["temperature"])
    ce = F.cross_entropy(student, torch.tensor(case["labels"]))
    total = total_loss(kd, ce, case["alpha"]).item()
    assert total == pytest.approx(case["total"], rel=0, abs=1e-9)


@pytest.mark.parametrize("kl", KL)
@few
@given(pair=logits_pair(), temperature=temperatures)
def test_kl_is_not_negative_and_zero_at_equality(kl, pair, temperature):
    student, teacher = pair
    assert kl(student, teacher, temperature) >= -1e-9
    assert abs(kl(teacher, teacher, temperature)) <= 1e-9


@pytest.mark.parametrize("divergence", DIVERGENCES.values())
@few
@given(pair=logits_pair(), temperature=temperatures, shift=st.floats(-50, 50))
def test_a_constant_added_to_all_logits_changes_nothing(divergence, pair, temperature, shift):
    student, teacher = pair
    value = divergence(student, teacher, temperature)
    assert_close(divergence(student + shift, teacher, temperature), value, rtol=0, atol=1e-8)
    assert_close(divergence(student, teacher - shift, temperature), value, rtol=0, atol=1e-8)


@pytest.mark.parametrize("divergence", DIVERGENCES.values())
@few
@given(pair=logits_pair(), temperature=temperatures)
def test_temperature_divides_logits_and_its_square_multiplies(divergence, pair, temperature):
    student, teacher = pair
    bare = divergence(student, teacher, temperature, t_squared=False)
    assert_close(bare, divergence(student / temperature, teacher / temperature, 1.0))
    assert_close(divergence(student, teacher, temperature), temperature**2 * bare)


@few
@given(pair=logits_pair(), temperature=temperatures)
def test_reverse_is_forward_with_student_and_teacher_exchanged(pair, temperature):
    student, teacher = pair
    assert_close(reverse_kl(student, teacher, temperature), forward_kl(teacher, student, temperature))


@pytest.mark.parametrize("divergence", DIVERGENCES.values())
@pytest.mark.parametrize("t_squared", [True, False])
def test_gradients_agree_with_finite_differences(divergence, t_squared):
    student, teacher = (logits.requires_grad_() for logits in random_logits())
    assert torch.autograd.gradcheck(lambda s, t: divergence(s, t, 3.0, t_squared=t_squared), (student, teacher))


def test_loss_is_the_mean_over_the_batch():
    student, teacher = random_logits(batch=4)
    one_by_one = [forward_kl(s, t, 2.0) for s, t in zip(student.split(1), teacher.split(1), strict=True)]
    assert_close(forward_kl(student, teacher, 2.0), torch.stack(one_by_one).mean())


def test_a_certain_teacher_gives_cross_entropy():
    student, _ = random_logits(batch=4)
    labels = torch.tensor([0, 3, 6, 1])
    teacher = 1e4 * F.one_hot(labels, 7).double()
    assert_close(forward_kl(student, teacher, 1.0), F.cross_entropy(student, labels))


def test_at_high_temperature_forward_kl_matches_logits():
    """T^2 KL tends to half the mean square of the difference of centred logits."""
    student, teacher = random_logits()
    difference = student - teacher
    centred = difference - difference.mean(-1, keepdim=True)
    limit = centred.square().mean(-1).mean() / 2
    assert_close(forward_kl(student, teacher, 1e4), limit, rtol=1e-3, atol=0)


def test_forward_covers_modes_and_reverse_seeks_them():
    teacher = torch.tensor([[5.0, 5.0, -5.0]])
    one_mode, too_broad = torch.tensor([[5.0, -5.0, -5.0]]), torch.tensor([[5.0, 5.0, 5.0]])
    assert forward_kl(one_mode, teacher, 1.0) > forward_kl(too_broad, teacher, 1.0)
    assert reverse_kl(one_mode, teacher, 1.0) < reverse_kl(too_broad, teacher, 1.0)


def test_the_released_code_is_no_divergence_and_hardly_pulls():
    student, teacher = random_logits(batch=16, classes=101)
    assert released_code(teacher, teacher, 10.0) < -100.0
    assert released_code(student, teacher, 10.0) < -100.0

    def pull(divergence) -> float:
        logits = student.clone().requires_grad_()
        divergence(logits, teacher, 10.0).backward()
        return logits.grad.norm().item()

    assert 50 < pull(forward_kl) / pull(released_code) < 500


@pytest.mark.parametrize("divergence", DIVERGENCES.values())
def test_extreme_logits_stay_finite(divergence):
    student = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    loss = divergence(student, torch.tensor([[-1e4, 1e4, 0.0]]), 1.0)
    loss.backward()
    assert math.isfinite(loss.item())
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_compared_in_single_precision(dtype):
    student, teacher = (logits.to(dtype) for logits in random_logits(classes=101))
    loss = forward_kl(student, teacher, 10.0)
    assert loss.dtype == torch.float32
    exact = forward_kl(student.double(), teacher.double(), 10.0)
    assert_close(loss.double(), exact, rtol=1e-4, atol=0)


def test_total_loss_goes_from_labels_to_teacher():
    kd, ce = torch.tensor(3.0), torch.tensor(5.0)
    assert total_loss(kd, ce, alpha=0.0) == ce
    assert total_loss(kd, ce, alpha=1.0) == kd
    for alpha in (-0.1, 1.1):
        with pytest.raises(ValueError, match="alpha"):
            total_loss(kd, ce, alpha)


@pytest.mark.parametrize("divergence", DIVERGENCES.values())
def test_impossible_arguments_are_refused(divergence):
    student, teacher = random_logits()
    for temperature in (0.0, -1.0):
        with pytest.raises(ValueError, match="temperature must be above 0"):
            divergence(student, teacher, temperature)
    with pytest.raises(ValueError, match="same num_classes"):
        divergence(student, teacher[:, :-1], 1.0)
    with pytest.raises(ValueError, match="batch, classes"):
        divergence(student[0], teacher[0], 1.0)


def test_the_package_exports_the_papers_loss():
    assert exported is forward_kl
