"""Draws are pure functions of their address, and leave the global generators alone."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from dvfl.randomness import derive_seed, generator, numpy_seeded, torch_seeded

ADDRESSES = [
    (0, "crop", 0, "a.avi"),
    (0, "crop", 1, "a.avi"),
    (0, "crop", 0, "b.avi"),
    (1, "crop", 0, "a.avi"),
    (0, "mix", 0),
]


def draws(address) -> np.ndarray:
    return generator(*address).random(8)


def test_the_same_address_draws_the_same_in_any_order():
    forwards = {address: draws(address) for address in ADDRESSES}
    backwards = {address: draws(address) for address in reversed(ADDRESSES)}
    for address in ADDRESSES:
        np.testing.assert_array_equal(forwards[address], backwards[address])


def test_other_addresses_draw_something_else():
    for one, other in itertools.combinations(ADDRESSES, 2):
        assert not np.isclose(draws(one), draws(other)).any()


@pytest.mark.parametrize(
    ("one", "other"), [((1, 23), (12, 3)), ((1,), ("1",)), (("ab", "c"), ("a", "bc")), ((1,), (1, 0))]
)
def test_addresses_are_told_apart_by_their_parts_and_types(one, other):
    assert derive_seed(*one) != derive_seed(*other)


def test_seeds_are_the_same_for_ever():
    # Other values would silently change every published number: then say so in the change log.
    assert derive_seed(0, "view", 3, "Left/v_Left_g01_c01.avi") == 8161602492988382032
    assert generator(0, "order", 0).permutation(6).tolist() == [1, 0, 2, 4, 3, 5]


def test_seeds_fit_every_generator():
    seeds = [derive_seed("size", number) for number in range(2000)]
    assert min(seeds) >= 0 and max(seeds) < 2**63
    assert len(set(seeds)) == len(seeds)
    assert abs(np.mean(seeds) / 2**63 - 0.5) < 0.03


def test_draws_are_uniform_and_independent_over_addresses():
    first = np.array([generator(0, "uniform", number).random() for number in range(4000)])
    assert abs(first.mean() - 0.5) < 0.02
    assert abs(first.var() - 1 / 12) < 0.005
    assert abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < 0.06


def torch_state() -> bytes:
    return torch.random.get_rng_state().numpy().tobytes()


@pytest.mark.parametrize("fails", [False, True])
def test_torchs_global_generator_is_as_before(fails):
    torch.manual_seed(5)
    before = torch_state()
    try:
        with torch_seeded(0, "init"):
            one = torch.rand(4)
            if fails:
                raise RuntimeError
    except RuntimeError:
        assert fails
    assert torch_state() == before
    torch.manual_seed(6)
    with torch_seeded(0, "init"):
        assert torch.equal(torch.rand(4), one)
    with torch_seeded(1, "init"):
        assert not torch.equal(torch.rand(4), one)


@pytest.mark.parametrize("fails", [False, True])
def test_numpys_global_generator_is_as_before(fails):
    np.random.seed(5)
    expected = np.random.RandomState(5).random_sample(3)
    try:
        with numpy_seeded(0, "mix"):
            one = np.random.random_sample(4)
            if fails:
                raise RuntimeError
    except RuntimeError:
        assert fails
    np.testing.assert_array_equal(np.random.random_sample(3), expected)
    with numpy_seeded(0, "mix"):
        np.testing.assert_array_equal(np.random.random_sample(4), one)
