"""The losses against exact golden values, and the properties that make them divergences."""

import json
import math
import runpy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch.testing import assert_close

from dvfl.config.divergences import PARAMETERS, DivergenceName
from dvfl.distill import forward_kl as exported
from dvfl.distill.divergences import (
    DIVERGENCES,
    NEED_LABELS,
    alpha_divergence,
    cosine,
    dist,
    dkd,
    forward_kl,
    jensen_shannon,
    released_code,
    reverse_kl,
    squared_logits,
    standardised_logits,
    symmetric_kl,
    total_loss,
)

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "distillation_losses.json").read_text())
EXACT = Path(__file__).parent / "golden/divergences.json"
few = settings(max_examples=15, deadline=None, derandomize=True)
temperatures = st.floats(0.5, 20.0)


def labelled(name: str) -> Callable:
    """The divergence as a function of two logits and a temperature; a label, where it needs one, is the last class."""

    def divergence(student, teacher, temperature, t_squared=True):
        last = {"labels": torch.full((len(student),), student.shape[-1] - 1)} if name in NEED_LABELS else {}
        return DIVERGENCES[name](student, teacher, temperature, t_squared, **last)

    return divergence


ALL = {name: labelled(name) for name in DIVERGENCES}
# Orders and skews at the ends of their ranges, beside the default.
ALL |= {
    f"alpha_divergence, {order}, {skew}": partial(alpha_divergence, order=order, skew=skew)
    for order, skew in ((0.0, 0.2), (0.01, 0.0), (0.99, 0.5), (1.0, 0.0))
}


def divergences(*left_out: str) -> pytest.MarkDecorator:
    chosen = [pytest.param(call, id=name) for name, call in ALL.items() if name not in left_out]
    return pytest.mark.parametrize("divergence", chosen)


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
    for name in ("forward_kl", "reverse_kl", "released_code"):
        value = DIVERGENCES[name](student, teacher, case["temperature"]).item()
        assert value == pytest.approx(case[name], rel=0, abs=1e-9)
    kd = forward_kl(student, teacher, case["temperature"])
    ce = F.cross_entropy(student, torch.tensor(case["labels"]))
    total = total_loss(kd, ce, case["alpha"]).item()
    assert total == pytest.approx(case["total"], rel=0, abs=1e-9)


@pytest.mark.parametrize("case", json.loads(EXACT.read_text()), ids=lambda case: f"T={case['temperature']}")
@pytest.mark.parametrize("name", DIVERGENCES)
def test_each_is_what_its_definition_gives_at_fifty_digits(name, case):
    student, teacher = (torch.tensor(case[role], dtype=torch.float64) for role in ("student", "teacher"))
    parameters = case["parameters"].get(name, {})
    labels = {"labels": torch.tensor(case["labels"])} if name in NEED_LABELS else {}
    call = partial(DIVERGENCES[name], student, teacher, case["temperature"], **parameters, **labels)
    assert call(t_squared=False).item() == pytest.approx(case["values"][name], rel=1e-12, abs=1e-13)
    assert call().item() == pytest.approx(case["temperature"] ** 2 * case["values"][name], rel=1e-12, abs=1e-12)


def test_the_golden_values_are_those_of_their_script():
    pytest.importorskip("mpmath")
    assert runpy.run_path(str(EXACT.with_suffix(".py")))["compute"]() == json.loads(EXACT.read_text())


def test_the_config_knows_every_divergence_and_its_parameters():
    assert list(DIVERGENCES) == list(get_args(DivergenceName))
    for name, section in PARAMETERS.items():
        defaults = DIVERGENCES[name].__kwdefaults__
        assert {key: value for key, value in defaults.items() if key != "labels"} == section.model_dump()


# ------------------------------------------------------------------------------------------------------- properties


@divergences("released_code")
@few
@given(pair=logits_pair(), temperature=temperatures)
def test_none_is_negative_and_each_is_zero_at_equality(divergence, pair, temperature):
    student, teacher = pair
    assert divergence(student, teacher, temperature) >= -1e-9
    assert abs(divergence(teacher, teacher, temperature)) <= 1e-9


@divergences("released_code")
def test_none_is_zero_between_logits_that_differ(divergence):
    assert divergence(*random_logits(), 4.0) > 1e-3


@divergences("squared_logits")
@few
@given(pair=logits_pair(), temperature=temperatures, shift=st.floats(-50, 50))
def test_a_constant_added_to_all_logits_changes_nothing(divergence, pair, temperature, shift):
    # Rounded, so that correlations are between rows that differ by more than the rounding of a sum.
    student, teacher = (logits.round(decimals=2) for logits in pair)
    value = divergence(student, teacher, temperature)
    assert_close(divergence(student + shift, teacher, temperature), value, rtol=1e-7, atol=1e-7)
    assert_close(divergence(student, teacher - shift, temperature), value, rtol=1e-7, atol=1e-7)


def test_squared_logits_tell_a_constant_apart():
    student, _ = random_logits()
    assert_close(squared_logits(student + 3, student, 7.0).item(), 4.5)


@few
@given(
    student=arrays.arrays("float64", (2, 5), elements=st.integers(-20, 20), unique=True),
    scale=st.floats(0.1, 50),
    temperature=temperatures,
)
def test_standardised_logits_have_no_scale(student, scale, temperature):
    student = torch.from_numpy(student)
    teacher = student.flip(1)
    value = standardised_logits(student, teacher, temperature)
    assert_close(standardised_logits(scale * student, teacher, temperature), value, rtol=1e-5, atol=1e-9)
    assert_close(standardised_logits(student, scale * teacher, temperature), value, rtol=1e-5, atol=1e-9)
    assert abs(standardised_logits(scale * teacher, teacher, temperature)) < 1e-9


@divergences("standardised_logits")
@few
@given(pair=logits_pair(), temperature=temperatures)
def test_temperature_divides_logits_and_its_square_multiplies(divergence, pair, temperature):
    student, teacher = pair
    bare = divergence(student, teacher, temperature, t_squared=False)
    assert_close(bare, divergence(student / temperature, teacher / temperature, 1.0))
    assert_close(divergence(student, teacher, temperature), temperature**2 * bare)


def test_the_temperature_of_standardised_logits_divides_the_z_scores():
    student, teacher = random_logits(classes=101)
    scored = [(each - each.mean(-1, keepdim=True)) / each.std(-1, keepdim=True) for each in (student, teacher)]
    assert_close(standardised_logits(student, teacher, 2.0), forward_kl(*scored, 2.0), rtol=1e-6, atol=0)


def test_temperature_cancels_in_squared_logits():
    student, teacher = random_logits()
    assert_close(squared_logits(student, teacher, 10.0), squared_logits(student, teacher, 1.0))


@few
@given(pair=logits_pair(), temperature=temperatures)
def test_reverse_is_forward_with_student_and_teacher_exchanged(pair, temperature):
    student, teacher = pair
    assert_close(reverse_kl(student, teacher, temperature), forward_kl(teacher, student, temperature))


@few
@given(pair=logits_pair(), temperature=temperatures)
@pytest.mark.parametrize("divergence", [symmetric_kl, jensen_shannon, squared_logits, cosine, dist])
def test_symmetric_ones_do_not_ask_who_is_the_teacher(divergence, pair, temperature):
    student, teacher = pair
    assert_close(divergence(student, teacher, temperature), divergence(teacher, student, temperature))


@few
@given(pair=logits_pair(), temperature=temperatures)
def test_jensen_shannon_is_bounded(pair, temperature):
    assert jensen_shannon(*pair, temperature, t_squared=False) <= math.log(2) + 1e-9


@few
@given(pair=logits_pair(), order=st.floats(0, 1), temperature=temperatures)
def test_the_order_leads_from_reverse_to_forward_kl(pair, order, temperature):
    student, teacher = pair
    at = partial(alpha_divergence, student, teacher, temperature, skew=0.0)
    assert_close(at(order=0.0), reverse_kl(student, teacher, temperature))
    assert_close(at(order=1.0), forward_kl(student, teacher, temperature))
    # The alpha-divergence of order a is that of order 1 - a with the two exchanged.
    exchanged = alpha_divergence(teacher, student, temperature, order=1 - order, skew=0.0)
    assert_close(at(order=order), exchanged, rtol=1e-6, atol=1e-6)


def test_orders_near_the_ends_are_near_what_is_there():
    student, teacher = random_logits()
    for end in (0.0, 1.0):
        at_end = alpha_divergence(student, teacher, 1.0, order=end, skew=0.1)
        for step in (1e-120, 1e-5, 9e-4, 1.1e-3):
            near = alpha_divergence(student, teacher, 1.0, order=abs(end - step), skew=0.1)
            assert_close(near, at_end, rtol=1e-2, atol=0)


def test_skew_bounds_what_a_missed_class_costs():
    teacher, student = torch.tensor([[50.0, 0.0]]), torch.tensor([[-50.0, 0.0]])
    assert forward_kl(student, teacher, 1.0) > 49
    assert alpha_divergence(student, teacher, 1.0, order=1.0, skew=0.1) == pytest.approx(-math.log(0.1), rel=1e-4)


@few
@given(pair=logits_pair(), temperature=temperatures)
def test_dkd_takes_forward_kl_apart(pair, temperature):
    """KL(p || q) = TCKD + (1 - p_y) NCKD, clip by clip."""
    student, teacher = (logits[:1] for logits in pair)
    for label in range(student.shape[1]):
        rest = 1 - torch.softmax(teacher / temperature, 1)[0, label].item()
        parts = dkd(student, teacher, temperature, labels=torch.tensor([label]), alpha=1.0, beta=rest)
        assert_close(parts, forward_kl(student, teacher, temperature), rtol=1e-7, atol=1e-7)


def test_dkd_weighs_the_label_against_the_others():
    student, teacher = random_logits()
    labels = torch.tensor([0, 3, 6])
    target = dkd(student, teacher, 4.0, labels=labels, alpha=1.0, beta=0.0)
    others = dkd(student, teacher, 4.0, labels=labels, alpha=0.0, beta=1.0)
    assert_close(dkd(student, teacher, 4.0, labels=labels, alpha=2.0, beta=8.0), 2 * target + 8 * others)
    moved = student.clone()
    moved[torch.arange(3), labels] += 5.0  # the label alone: the others' shares among themselves stay
    assert_close(dkd(moved, teacher, 4.0, labels=labels, alpha=0.0, beta=1.0), others)
    assert dkd(moved, teacher, 4.0, labels=labels, alpha=1.0, beta=0.0) != target


def test_dist_asks_for_correlation_alone():
    """Probabilities a + b p correlate perfectly with p, clip by clip and class by class."""
    _, teacher = random_logits(batch=5)
    p = torch.softmax(teacher, 1)
    student = (0.6 * p + 0.4 / 7).log()
    assert forward_kl(student, teacher, 1.0) > 0.01
    assert dist(student, teacher, 1.0) < 1e-12


def test_dist_over_the_clips_of_a_class_needs_two_of_them():
    student, teacher = random_logits(batch=1)
    assert dist(student, teacher, 4.0, gamma=7.0) == dist(student, teacher, 4.0, gamma=0.0) > 0


@pytest.mark.parametrize(
    ("divergence", "share"),
    [
        (reverse_kl, 1),
        (symmetric_kl, 1),
        (jensen_shannon, 1 / 4),
        (partial(alpha_divergence, order=0.3, skew=0.0), 1),
        (partial(alpha_divergence, order=0.3, skew=0.5), 1 / 4),
        (cosine, 1),
    ],
)
def test_by_t_squared_they_pull_alike_at_high_temperature(divergence, share):
    student, teacher = random_logits()
    assert_close(divergence(student, teacher, 1e3), share * forward_kl(student, teacher, 1e3), rtol=2e-2, atol=0)


@divergences()
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


@divergences()
def test_extreme_logits_stay_finite(divergence):
    student = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    loss = divergence(student, torch.tensor([[-1e4, 1e4, 0.0]]), 1.0)
    loss.backward()
    assert math.isfinite(loss.item())
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@divergences()
def test_half_precision_logits_are_compared_in_single_precision(divergence, dtype):
    student, teacher = (logits.to(dtype) for logits in random_logits(classes=101))
    loss = divergence(student, teacher, 10.0)
    assert loss.dtype == torch.float32
    exact = divergence(student.double(), teacher.double(), 10.0)
    assert_close(loss.double(), exact, rtol=1e-3, atol=0)


@pytest.mark.parametrize("values", [{"order": 1.1}, {"order": -0.1}, {"skew": 1.0}, {"skew": -0.1}])
def test_orders_and_skews_out_of_range_are_refused(values):
    with pytest.raises(ValueError, match="order must be in"):
        alpha_divergence(*random_logits(), 1.0, **values)


def test_total_loss_goes_from_labels_to_teacher():
    kd, ce = torch.tensor(3.0), torch.tensor(5.0)
    assert total_loss(kd, ce, alpha=0.0) == ce
    assert total_loss(kd, ce, alpha=1.0) == kd
    for alpha in (-0.1, 1.1):
        with pytest.raises(ValueError, match="alpha"):
            total_loss(kd, ce, alpha)


@divergences()
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
