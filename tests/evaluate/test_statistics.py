"""Intervals and tests against closed forms, scipy, brute force and simulated truth."""

from dataclasses import asdict, astuple
from itertools import product

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from dvfl.evaluate.metrics import METRICS, compute_metrics
from dvfl.evaluate.statistics import (
    Interval,
    group_bootstrap,
    holm,
    median_interval,
    metric_seed_intervals,
    paired_seed_interval,
    seed_interval,
    sign_flip_test,
    split_mean_interval,
)


def grouped_predictions(rng, n_groups=30, clips=6, classes=6):
    """Return probabilities, labels and groups of clips that are easy or hard by group."""
    groups = np.repeat(np.arange(n_groups), clips)
    labels = rng.integers(0, classes, len(groups))
    logits = rng.normal(size=(len(groups), classes))
    logits[np.arange(len(groups)), labels] += 1 + 1.5 * rng.normal(size=n_groups)[groups]
    odds = np.exp(logits)
    return odds / odds.sum(axis=1, keepdims=True), labels, groups


def correctness(rng, n_seeds, groups, gain=0.0, seed_sd=0.0, group_sd=0.0):
    """Return student and distilled correctness (n, N); in probit units distilled gains `gain`.

    Groups are easy or hard for both (sd 1) and gain more or less (group_sd); each training is
    luckier or unluckier (seed_sd).
    """
    n_groups = groups.max() + 1
    difficulty = rng.normal(size=n_groups)[groups]
    gains = gain + group_sd * rng.normal(size=n_groups)[groups]

    def arm(skill):
        luck = seed_sd * rng.normal(size=(n_seeds, 1))
        noise = rng.normal(size=(n_seeds, len(groups)))
        return (difficulty + skill + luck + noise > 0).astype(float)

    return arm(0.0), arm(gains)


# ---------------------------------------------------------------- group bootstrap


def test_bootstrap_values_are_the_metrics_and_lie_in_order():
    probabilities, labels, groups = grouped_predictions(np.random.default_rng(0))
    intervals = group_bootstrap(probabilities, labels, groups)
    assert tuple(intervals) == METRICS
    values = {name: interval.estimate for name, interval in intervals.items()}
    assert values == pytest.approx(compute_metrics(probabilities, labels))
    for interval in intervals.values():
        assert 0 <= interval.low < interval.high <= 1


def test_bootstrap_resamples_whole_groups():
    """Against a plain loop that copies the clips of the drawn groups."""
    probabilities, labels, groups = grouped_predictions(np.random.default_rng(1), 12, clips=20)
    rng = np.random.default_rng(2)
    draws = []
    for _ in range(1000):
        clips = np.concatenate([np.flatnonzero(groups == g) for g in rng.integers(0, 12, 12)])
        draws.append(compute_metrics(probabilities[clips], labels[clips]))
    intervals = group_bootstrap(probabilities, labels, groups, resamples=4000)
    for name, interval in intervals.items():
        values = [draw[name] for draw in draws]
        width = np.std(values)
        assert interval.low == pytest.approx(np.quantile(values, 0.025), abs=0.25 * width)
        assert interval.high == pytest.approx(np.quantile(values, 0.975), abs=0.25 * width)


def test_bootstrap_is_a_function_of_its_seed_and_not_of_the_order_of_clips():
    rng = np.random.default_rng(3)
    probabilities, labels, groups = grouped_predictions(rng)
    first = group_bootstrap(probabilities, labels, groups, resamples=200)
    assert first == group_bootstrap(probabilities, labels, groups, resamples=200)
    assert first != group_bootstrap(probabilities, labels, groups, resamples=200, seed=1)
    order = rng.permutation(len(labels))
    again = group_bootstrap(probabilities[order], labels[order], groups[order], resamples=200)
    renamed = group_bootstrap(probabilities, labels, [f"v{g:03}" for g in groups], resamples=200)
    for name in METRICS:
        assert astuple(again[name]) == pytest.approx(astuple(first[name]))
        assert astuple(renamed[name]) == pytest.approx(astuple(first[name]))


def test_bootstrap_does_not_depend_on_the_block_size(monkeypatch):
    predictions = grouped_predictions(np.random.default_rng(4))
    whole = group_bootstrap(*predictions, resamples=100)
    monkeypatch.setattr("dvfl.evaluate.statistics._BLOCK", 70)
    assert group_bootstrap(*predictions, resamples=100) == whole


def test_bootstrap_of_one_group_has_no_width():
    probabilities, labels, _ = grouped_predictions(np.random.default_rng(5))
    for interval in group_bootstrap(probabilities, labels, ["v1"] * len(labels)).values():
        assert interval.low == pytest.approx(interval.estimate, abs=1e-12)
        assert interval.high == pytest.approx(interval.estimate, abs=1e-12)


def test_a_lower_level_gives_a_narrower_interval():
    predictions = grouped_predictions(np.random.default_rng(6))
    wide = group_bootstrap(*predictions, level=0.95)["top1"]
    narrow = group_bootstrap(*predictions, level=0.5)["top1"]
    assert wide.low < narrow.low < narrow.high < wide.high


def test_bootstrap_interval_covers_the_truth_where_clips_are_correlated():
    """Two classes; clips of a group share its difficulty. Clip-wise resampling covers 76 %."""
    rng = np.random.default_rng(7)
    groups = np.repeat(np.arange(40), 6)
    truth = scipy.stats.norm.cdf(0.5 / np.sqrt(2))
    covered = 0
    for _ in range(400):
        correct = 0.5 + rng.normal(size=40)[groups] + rng.normal(size=len(groups)) > 0
        probabilities = np.where(correct[:, None], [0.9, 0.1], [0.1, 0.9])
        labels = np.zeros(len(groups), dtype=int)
        interval = group_bootstrap(probabilities, labels, groups, resamples=300)["top1"]
        covered += interval.low <= truth <= interval.high
    assert 0.90 <= covered / 400 <= 0.98


# ---------------------------------------------------------------- sign-flip test


def sign_flip_by_hand(difference, groups):
    """Enumerate every assignment of signs to groups."""
    totals = [difference[groups == group].sum() for group in np.unique(groups)]
    sums = [np.dot(signs, totals) for signs in product([1, -1], repeat=len(totals))]
    return np.mean([abs(total) >= abs(sum(totals)) - 1e-9 for total in sums])


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), n_groups=st.integers(1, 8))
def test_sign_flip_enumerates_all_patterns(seed, n_groups):
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, n_groups, 30)
    student, distilled = rng.integers(0, 2, (2, 30))
    result = sign_flip_test(student, distilled, groups)
    assert result.exact
    assert result.n_groups == len(np.unique(groups))
    assert result.difference == pytest.approx(distilled.mean() - student.mean())
    assert result.p_value == pytest.approx(sign_flip_by_hand(distilled - student, groups))


def test_exact_and_random_flips_agree():
    rng = np.random.default_rng(8)
    groups = np.repeat(np.arange(14), 5)
    student, distilled = correctness(rng, 1, groups, gain=0.8)
    exact = sign_flip_test(student[0], distilled[0], groups)
    random = sign_flip_test(student[0], distilled[0], groups, exact_up_to=0)
    assert exact.exact and not random.exact
    assert 0.02 < exact.p_value < 0.9
    # Four standard errors of a share of 20,000.
    error = 4 * np.sqrt(exact.p_value * (1 - exact.p_value) / 20_000)
    assert random.p_value == pytest.approx(exact.p_value, abs=error)
    assert random == sign_flip_test(student[0], distilled[0], groups, exact_up_to=0)
    assert random != sign_flip_test(student[0], distilled[0], groups, exact_up_to=0, seed=1)


def test_random_flips_never_give_p_of_zero():
    groups = np.arange(60)
    result = sign_flip_test(np.zeros(60), np.ones(60), groups, flips=999)
    assert result.p_value == pytest.approx(1 / 1000)


def test_sign_flip_keeps_its_level_under_the_null():
    """Arms alike up to a taste of their own for each group: clip-wise flips reject 30 % at 5 %."""
    rng = np.random.default_rng(9)
    groups = np.repeat(np.arange(12), 8)
    p_values = []
    for _ in range(800):
        taste = 1.5 * rng.normal(size=(2, 12))[:, groups]
        student, distilled = (taste + rng.normal(size=taste.shape) > 0).astype(int)
        p_values.append(sign_flip_test(student, distilled, groups).p_value)
    for level in (0.05, 0.2):
        rate = np.mean(np.array(p_values) <= level)
        assert 0.6 * level <= rate <= level + 3 * np.sqrt(level * (1 - level) / 800)


def test_sign_flip_finds_a_clear_difference():
    groups = np.repeat(np.arange(40), 6)
    student, distilled = correctness(np.random.default_rng(10), 1, groups, gain=0.8)
    assert sign_flip_test(student[0], distilled[0], groups).p_value < 0.001


def test_identical_arms_do_not_differ():
    correct = np.tile([0, 1, 1], 20)
    result = sign_flip_test(correct, correct, np.arange(60))
    assert astuple(result) == (0.0, 1.0, 60, True)


@given(seed=st.integers(0, 2**32 - 1))
def test_sign_flip_is_blind_to_order_names_and_direction(seed):
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, 7, 40)
    student, distilled = rng.integers(0, 2, (2, 40))
    result = sign_flip_test(student, distilled, groups)
    order = rng.permutation(40)
    renamed = np.array(list("gdafbec"))[groups]
    assert sign_flip_test(student[order], distilled[order], groups[order]) == result
    assert sign_flip_test(student, distilled, renamed) == result
    swapped = sign_flip_test(distilled, student, groups)
    assert (swapped.difference, swapped.p_value) == (-result.difference, result.p_value)


# ---------------------------------------------------------------- seeds x groups


def test_one_clip_a_group_and_one_seed_is_the_t_test():
    values = np.random.default_rng(11).normal(0.3, 1, 25)
    interval = seed_interval(values, np.arange(25))
    expected = scipy.stats.ttest_1samp(values, 0)
    low, high = expected.confidence_interval(0.95)
    assert (interval.low, interval.high) == pytest.approx((low, high))
    assert interval.p_value == pytest.approx(expected.pvalue)
    assert interval.df == pytest.approx(24)
    assert interval.sources == ("groups",)


def test_one_group_is_the_paired_t_test_over_seeds():
    student, distilled = np.random.default_rng(12).random((2, 4, 10))
    interval = paired_seed_interval(student, distilled, ["v1"] * 10)
    expected = scipy.stats.ttest_rel(distilled.mean(axis=1), student.mean(axis=1))
    low, high = expected.confidence_interval(0.95)
    assert (interval.low, interval.high) == pytest.approx((low, high))
    assert interval.p_value == pytest.approx(expected.pvalue)
    assert interval.df == pytest.approx(3)
    assert interval.sources == ("seeds",)
    assert interval.se_groups == 0


def test_both_parts_add_up_with_satterthwaites_degrees_of_freedom():
    """Groups of 1, 2 and 3 clips, two seeds; worked out by hand."""
    values = np.array([[1, 0, 0, 1, 1, 0], [1, 1, 0, 1, 1, 1]], dtype=float)
    interval = seed_interval(values, ["a", "b", "b", "c", "c", "c"])
    mean = (3 / 6 + 5 / 6) / 2
    seed_variance = np.var([3 / 6, 5 / 6], ddof=1) / 2
    residual = np.array([1 - mean, 0.5 - 2 * mean, 2.5 - 3 * mean])
    group_variance = 3 / 2 * np.sum(residual**2) / 36
    total = seed_variance + group_variance
    df = total**2 / (seed_variance**2 / 1 + group_variance**2 / 2)
    half_width = scipy.stats.t.ppf(0.975, df) * np.sqrt(total)
    assert asdict(interval) == pytest.approx(
        {
            "estimate": mean,
            "low": mean - half_width,
            "high": mean + half_width,
            "se_seeds": np.sqrt(seed_variance),
            "se_groups": np.sqrt(group_variance),
            "df": df,
            "n_seeds": 2,
            "n_groups": 3,
            "p_value": 2 * scipy.stats.t.sf(mean / np.sqrt(total), df),
        }
    )
    assert interval.sources == ("seeds", "groups")


@pytest.mark.parametrize(
    ("n_seeds", "seed_sd", "group_sd", "least", "most"),
    [
        (5, 0.3, 0.3, 0.92, 0.985),  # both matter
        (5, 0.3, 0.0, 0.92, 0.985),  # seeds do
        (5, 0.0, 0.7, 0.92, 0.985),  # groups do
        (5, 0.0, 0.0, 0.96, 0.997),  # neither: counted twice, hence wide
        (3, 0.3, 0.3, 0.88, 0.985),  # three seeds: a little short of 95 %
    ],
)
def test_interval_of_the_effect_covers_the_truth(n_seeds, seed_sd, group_sd, least, most):
    rng = np.random.default_rng(13)
    groups = np.repeat(np.arange(40), 5)
    spread = np.sqrt(2 + seed_sd**2)
    truth = scipy.stats.norm.cdf(0.3 / np.hypot(spread, group_sd)) - 0.5
    covered = excluded = 0
    for _ in range(800):
        arms = correctness(rng, n_seeds, groups, 0.3, seed_sd, group_sd)
        interval = paired_seed_interval(*arms, groups)
        covered += interval.low <= truth <= interval.high
        outside = not interval.low <= 0 <= interval.high
        excluded += outside == (interval.p_value < 0.05)
    assert least <= covered / 800 <= most
    assert excluded == 800  # the interval and its p-value say the same


@given(seed=st.integers(0, 2**32 - 1))
def test_seed_interval_is_blind_to_order_and_names(seed):
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 2, (3, 30))
    groups = rng.integers(0, 6, 30)
    clips, seeds = rng.permutation(30), rng.permutation(3)
    expected = asdict(seed_interval(values, groups))
    shuffled = seed_interval(values[seeds][:, clips], groups[clips])
    renamed = seed_interval(values, np.array(list("gdafbe"))[groups])
    assert asdict(shuffled) == pytest.approx(expected, abs=1e-9)
    assert asdict(renamed) == pytest.approx(expected, abs=1e-9)


@given(seed=st.integers(0, 2**32 - 1), scale=st.floats(0.01, 100), shift=st.floats(-10, 10))
def test_seed_interval_moves_and_scales_with_its_values(seed, scale, shift):
    rng = np.random.default_rng(seed)
    values, groups = rng.normal(size=(3, 20)), np.arange(20) // 2
    plain = seed_interval(values, groups)
    moved = seed_interval(scale * values + shift, groups)
    assert moved.low == pytest.approx(scale * plain.low + shift, rel=1e-6, abs=1e-9)
    assert moved.high == pytest.approx(scale * plain.high + shift, rel=1e-6, abs=1e-9)
    assert moved.df == pytest.approx(plain.df, rel=1e-6)


@pytest.mark.parametrize("n_seeds", [1, 3])
@pytest.mark.parametrize("groups", [["v1"] * 12, list("abcdefabcdef")])
def test_identical_arms_give_no_difference(n_seeds, groups):
    correct = np.random.default_rng(14).integers(0, 2, (n_seeds, 12))
    interval = paired_seed_interval(correct, correct, groups)
    assert (interval.estimate, interval.low, interval.high, interval.p_value) == (0, 0, 0, 1)
    assert np.isfinite(astuple(interval)).all()


def test_one_seed_and_one_group_cover_nothing_and_say_so():
    interval = paired_seed_interval([[0, 0, 1]], [[1, 1, 1]], ["v1"] * 3)
    assert interval.sources == ()
    assert interval.low == interval.high == interval.estimate
    assert (interval.p_value, interval.df) == (1, 0)


def test_one_same_difference_everywhere_is_no_p_of_zero():
    interval = paired_seed_interval(np.zeros((3, 8)), np.ones((3, 8)), np.arange(8))
    assert (interval.low, interval.high) == (1, 1)
    assert interval.p_value == 0.25  # three seeds, two of eight sign patterns


# ---------------------------------------------------------------- seeds x groups, any metric


def several_runs(rng, n_seeds, skill=1.0):
    groups = np.repeat(np.arange(25), 6)
    labels = np.arange(len(groups)) % 6
    easy = rng.normal(size=25)[groups]
    runs = []
    for _ in range(n_seeds):
        logits = rng.normal(size=(len(groups), 6))
        logits[np.arange(len(groups)), labels] += skill + easy
        odds = np.exp(logits)
        runs.append(odds / odds.sum(axis=1, keepdims=True))
    return runs, labels, groups


def test_metric_intervals_of_top1_agree_with_the_closed_form():
    rng = np.random.default_rng(15)
    runs, labels, groups = several_runs(rng, 3)
    baseline, _, _ = several_runs(rng, 3, skill=0.3)
    correct, correct_baseline = (np.array([run.argmax(axis=1) == labels for run in arm]) for arm in (runs, baseline))
    pairs = [
        (
            metric_seed_intervals(runs, labels, groups, resamples=4000),
            seed_interval(correct, groups),
        ),
        (
            metric_seed_intervals(runs, labels, groups, baseline=baseline, resamples=4000),
            paired_seed_interval(correct_baseline, correct, groups),
        ),
    ]
    for bootstrapped, closed in pairs:
        top1 = bootstrapped["top1"]
        assert top1.estimate == pytest.approx(closed.estimate)
        assert top1.se_seeds == pytest.approx(closed.se_seeds)
        assert top1.se_groups == pytest.approx(closed.se_groups, rel=0.04)
        assert (top1.low, top1.high) == pytest.approx((closed.low, closed.high), abs=0.005)


def test_metric_intervals_are_about_the_mean_over_seeds():
    runs, labels, groups = several_runs(np.random.default_rng(16), 4)
    intervals = metric_seed_intervals(runs, labels, groups, resamples=300)
    assert tuple(intervals) == METRICS
    each = [compute_metrics(run, labels) for run in runs]
    for name, interval in intervals.items():
        values = [metrics[name] for metrics in each]
        assert interval.estimate == pytest.approx(np.mean(values))
        assert interval.se_seeds == pytest.approx(np.std(values, ddof=1) / 2)
        assert (interval.n_seeds, interval.n_groups) == (4, 25)
        assert interval.se_groups > 0
    assert intervals == metric_seed_intervals(runs, labels, groups, resamples=300)


def test_group_part_of_a_single_run_is_the_spread_of_its_bootstrap():
    runs, labels, groups = several_runs(np.random.default_rng(17), 1)
    intervals = metric_seed_intervals(runs, labels, groups, resamples=4000)
    bootstrap = group_bootstrap(runs[0], labels, groups, resamples=4000)
    for name, interval in intervals.items():
        spread = (bootstrap[name].high - bootstrap[name].low) / (2 * 1.96)
        assert interval.se_groups == pytest.approx(spread * np.sqrt(25 / 24), rel=0.1)
        assert interval.sources == ("groups",)


def test_an_arm_against_itself_has_no_difference_in_any_metric():
    runs, labels, groups = several_runs(np.random.default_rng(18), 2)
    intervals = metric_seed_intervals(runs, labels, groups, baseline=runs, resamples=50)
    for interval in intervals.values():
        assert (interval.estimate, interval.low, interval.high, interval.p_value) == (0, 0, 0, 1)


# ---------------------------------------------------------------- Holm


def test_the_interval_of_a_median_is_between_order_statistics():
    values = [5.0, 1, 2, 9, 4, 3, 8]
    assert median_interval(values) == Interval(4, 1, 9) == median_interval(values, level=0.975)
    assert median_interval(values[:6]) == Interval(3.5, 1, 9) and median_interval(values[:6], level=0.975) is None
    assert median_interval(values[:5]) is None and median_interval([]) is None


def test_the_interval_of_a_median_covers_as_often_as_it_says():
    drawn = np.random.default_rng(3).exponential(size=(2000, 15))
    covered = [interval.low <= np.log(2) <= interval.high for interval in map(median_interval, drawn)]
    assert 0.95 <= np.mean(covered) <= 0.99  # 96.5 % by the binomial; four standard errors are 1.6 %


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == pytest.approx([1, 1])
    assert holm([]).shape == (0,)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.randoms())
def test_holm_laws(p_values, random):
    adjusted = holm(p_values)
    assert (adjusted >= p_values).all() and (adjusted <= 1).all()
    assert adjusted.min() == min(1, len(p_values) * min(p_values))
    order = random.sample(range(len(p_values)), len(p_values))
    np.testing.assert_array_equal(holm(np.array(p_values)[order]), adjusted[order])
    ranked = adjusted[np.argsort(p_values, kind="stable")]
    assert (np.diff(ranked) >= 0).all()


# ---------------------------------------------------------------- wrong input


HALF = [[0.5, 0.5], [0.5, 0.5]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: group_bootstrap(HALF, [0, 1], ["a"]), "2 clips, 1 groups"),
        (lambda: group_bootstrap(HALF, [0, 1], ["a", None]), "clip 1 has no group"),
        (lambda: group_bootstrap(HALF, [0, 1], ["a", np.nan]), "clip 1 has no group"),
        (lambda: group_bootstrap(HALF, [0, 2], ["a", "b"]), "label 2"),
        (lambda: group_bootstrap(HALF, [0, 1], ["a", "b"], level=95), "level"),
        (lambda: group_bootstrap(HALF, [0, 1], ["a", "b"], resamples=1), "resamples"),
        (lambda: sign_flip_test([0, 1], [0, 1, 1], ["a", "b"]), "same seeds and clips"),
        (lambda: sign_flip_test([1], [0, 1, 1], ["a", "b", "c"]), "same seeds and clips"),
        (lambda: sign_flip_test([], [], []), "student must be .* not empty"),
        (lambda: sign_flip_test([0, np.nan], [0, 1], ["a", "b"]), "student .* not finite"),
        (lambda: sign_flip_test([0, 1], [0, 1], ["a"]), "2 clips, 1 groups"),
        (lambda: sign_flip_test([0], [1], ["a"], flips=0), "flips"),
        (lambda: paired_seed_interval([[0, 1]], [[0, 1]] * 2, ["a", "b"]), "same seeds"),
        (lambda: paired_seed_interval([[np.inf]], [[0]], ["a"]), "student .* not finite"),
        (lambda: seed_interval(np.empty((2, 0)), []), "not empty"),
        (lambda: seed_interval([[0, 1]], ["a"]), "2 clips, 1 groups"),
        (lambda: seed_interval([[0, 1]], ["a", "b"], level=1.0), "level"),
        (lambda: metric_seed_intervals([], [0, 1], ["a", "b"]), "no seed"),
        (
            lambda: metric_seed_intervals([HALF], [0, 1], ["a", "b"], baseline=[HALF, HALF]),
            "same seeds",
        ),
        (lambda: holm([0.1, np.nan]), "0..1"),
        (lambda: holm([1.1]), "0..1"),
    ],
)
def test_wrong_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_mean_over_splits_is_the_mean_of_their_means():
    rng = np.random.default_rng(0)
    large, small = rng.random((3, 90)), rng.random((3, 30))
    found = split_mean_interval([large, small], [np.arange(90), np.arange(90, 120)])
    assert found.estimate == pytest.approx((large.mean() + small.mean()) / 2)
    assert found.n_seeds == 3 and found.n_groups == 120


def test_a_split_twice_is_no_more_certain_than_once():
    """The same groups in both splits: no new clips, so no narrower interval."""
    values, groups = np.random.default_rng(1).integers(0, 2, (3, 60)), np.repeat(np.arange(20), 3)
    once = seed_interval(values, groups)
    twice = split_mean_interval([values, values], [groups, groups])
    other = split_mean_interval([values, values], [groups, groups + 20])
    assert (twice.low, twice.high) == pytest.approx((once.low, once.high))
    assert other.se_groups == pytest.approx(once.se_groups / 2**0.5, rel=0.05)


def test_splits_with_other_numbers_of_seeds_are_refused():
    with pytest.raises(ValueError, match="3, 2 seeds"):
        split_mean_interval([np.ones((3, 4)), np.ones((2, 4))], [range(4), range(4)])
