"""How sure the numbers are: intervals and tests that know about source videos and seeds.

Clips cut from one source video (or rendered with one appearance) resemble each other: they form a
*group*, and groups, not clips, are the independent units of a test set. Trainings that differ in
the seed alone differ in their accuracy: seeds are the independent units of a method. Two questions
follow, and each has its own answer here:

*How good are these weights, on clips like these?* Only the groups are random. `group_bootstrap`
resamples them; `sign_flip_test` compares two sets of weights, here student and distilled.

*How good is this method?* Seeds and groups are both random. Let d_kg be a quantity, such as the
difference in accuracy of distilled and student, at seed k in group g:

    d_kg = mu + a_k + b_g + e_kg,    a, b, e independent with mean 0,    k = 1..n,  g = 1..G

(crossed random effects). The variance of the mean over both is var(a)/n + var(b)/G + var(e)/(nG).
The variance over seeds of the test-set mean estimates its first and third term, the variance over
groups of the seed mean its second and third; `seed_interval` adds the two. The third is counted
twice, so the interval errs on the wide side: by a factor sqrt(2) at most, where neither seeds nor
groups have an effect of their own, and not at all where either dominates. Student's t with
Welch-Satterthwaite degrees of freedom makes up for few seeds or few groups, with one known weak
spot: where seeds matter most and are few, their estimated variance is now and then small by luck,
and the interval then trusts the many groups. In simulations (probit, 30 to 100 groups) a 95 %
interval covered 86 to 89 % of the time with two such seeds, 91 to 94 % with three, 94 to 96 % with
five. Run three seeds at least, better five.

What is assumed: seeds are drawn independently of each other, groups too; the mean is near normal
(rare with fewer than about ten groups of 0/1 values close to 0 or 1); with very unequal groups the
linearised variance is a little small. What is *not* covered: a choice made after seeing the test
set; another training set; the teacher, if all seeds were distilled from one teacher. The interval
then holds for that teacher, and whoever prints it must say so. With one seed it covers the groups
alone, with one group the seeds alone: `SeedInterval.sources` tells.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array
from scipy.special import stdtr, stdtrit

from dvfl.evaluate.metrics import METRICS, clip_sums, metrics_of

# Random weights and signs are drawn in blocks of about this many, so that memory stays small.
_BLOCK = 4_000_000

# Differences of fractions that are equal on paper come out this close to each other.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Interval:
    """An estimate and its confidence interval."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class SignFlip:
    """The result of `sign_flip_test`: `difference` is the mean over clips, distilled - student."""

    difference: float
    p_value: float
    n_groups: int
    exact: bool


@dataclass(frozen=True)
class SeedInterval:
    """A mean over seeds and clips, its t interval, and where its uncertainty comes from.

    `p_value` tests the mean against 0 (two-sided); it means something for differences only.
    """

    estimate: float
    low: float
    high: float
    se_seeds: float
    se_groups: float
    df: float
    n_seeds: int
    n_groups: int
    p_value: float

    @property
    def sources(self) -> tuple[str, ...]:
        """What the interval covers: "seeds", "groups", both, or nothing, when it has no width."""
        counts = {"seeds": self.n_seeds, "groups": self.n_groups}
        return tuple(name for name, count in counts.items() if count > 1)


def group_bootstrap(
    probabilities: ArrayLike,
    labels: ArrayLike,
    groups: ArrayLike,
    *,
    resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Interval]:
    """Return each metric of `METRICS` with its percentile interval for given weights.

    probabilities (N, C), labels (N,), groups (N,). As many groups as there are are drawn with
    replacement, each with all its clips. The same seed gives the same interval, whatever the order
    of the clips. With one group the interval has no width. A resample has fewer distinct clips
    than the test set and so looks less even: where clips per class or per bin are few, the interval
    of `macro_f1` lies somewhat low and that of `ece` somewhat high, and may miss the value itself.
    """
    _check_settings(level, resamples)
    sums = _group_sums(clip_sums(probabilities, labels), groups)
    value = metrics_of(sums.sum(axis=0))
    draws = _bootstrap(sums, resamples, seed)
    tail = (1 - level) / 2
    return {
        name: Interval(float(value[name]), *map(float, np.quantile(draws[name], [tail, 1 - tail]))) for name in METRICS
    }


def sign_flip_test(
    student: ArrayLike,
    distilled: ArrayLike,
    groups: ArrayLike,
    *,
    flips: int = 20_000,
    seed: int = 0,
    exact_up_to: int = 16,
) -> SignFlip:
    """Test two sets of weights for a difference, clip by clip on one test set.

    student, distilled: (N,) correctness, or any value of each clip; groups (N,). Were the two
    alike, they could be swapped in any group: the sign of the group's summed difference would be
    random. The two-sided p-value is the share of sign patterns whose total is at least as far from
    0 as the observed one: of all patterns if at most `exact_up_to` groups differ (a group without
    a difference has no sign), else of `flips` random ones and the observed one (the +1 keeps the
    test valid: Phipson and Smyth 2010). It speaks of these weights, not of the method.
    """
    if flips < 1:
        raise ValueError(f"flips must be at least 1, got {flips}")
    difference = _paired_difference(student, distilled, ndim=1)
    codes, n_groups = _group_codes(groups, len(difference))
    totals = np.bincount(codes, weights=difference, minlength=n_groups)
    moving = totals[totals != 0]
    # Sums of the same floats in another order must still count as equal.
    threshold = abs(totals.sum()) - 1e-9 * np.abs(totals).sum()
    exact = len(moving) <= exact_up_to
    if exact:
        patterns = np.zeros(1)
        for total in moving:
            patterns = np.concatenate([patterns + total, patterns - total])
        p_value = float(np.mean(np.abs(patterns) >= threshold))
    else:
        rng = np.random.Generator(np.random.Philox(seed))
        extreme = 0
        for block in _blocks(flips, len(moving)):
            signs = 2 * rng.integers(0, 2, size=(block, len(moving)), dtype=np.int8) - 1
            extreme += int(np.sum(np.abs(signs @ moving) >= threshold))
        p_value = (extreme + 1) / (flips + 1)
    return SignFlip(float(difference.mean()), p_value, n_groups, exact)


def paired_seed_interval(
    student: ArrayLike, distilled: ArrayLike, groups: ArrayLike, *, level: float = 0.95
) -> SeedInterval:
    """Return the method's effect: `seed_interval` of distilled minus student.

    student, distilled: (n seeds, N clips), row k of both from seed k; groups (N,).
    """
    difference = _paired_difference(student, distilled, ndim=2)
    return seed_interval(difference, groups, level=level)


def seed_interval(values: ArrayLike, groups: ArrayLike, *, level: float = 0.95) -> SeedInterval:
    """Return the mean of a per-clip quantity over seeds and clips, with its t interval.

    values (n seeds, N clips), or (N,) for one seed: correctness, a difference of two arms'
    correctness, a loss, ...; groups (N,). Groups differ in size, so the mean over clips is a ratio
    of two group totals; the group part of its variance is the linearised one (Cochran 1977,
    eq. 6.13): G / (G - 1) * sum_g (total_g - mean * size_g)^2 / N^2.
    """
    return split_mean_interval([values], [groups], level=level)


def split_mean_interval(
    values: Sequence[ArrayLike], groups: Sequence[ArrayLike], *, level: float = 0.95
) -> SeedInterval:
    """Return the mean over splits, as papers give it over official splits, with its t interval.

    values: one (n seeds, N_s clips) array a split; groups: one (N_s,) array a split. Splits weigh the same, whatever
    their size. A group that several splits test is one group; it adds (sum_s (total_gs - mean_s * size_gs) / (S N_s))^2
    to the variance. Row k is one training on each split: their mean varies with the seed. Not covered: trainings
    on several splits share clips, so their mean varies more than the test clips show (no unbiased estimate of that
    exists: Bengio and Grandvalet 2004).
    """
    _check_settings(level)
    arrays = [_values(each, "values", ndim=2) for each in values]
    if not arrays or len(arrays) != len(groups):
        raise ValueError(f"one array of groups a split: {len(arrays)} splits, {len(groups)} arrays of groups")
    if len({len(each) for each in arrays}) > 1:
        raise ValueError(f"splits have the same seeds: {', '.join(str(len(each)) for each in arrays)} seeds were given")
    for each, names in zip(arrays, groups, strict=True):
        _group_codes(names, each.shape[1])
    joined = np.concatenate([np.asarray(names, dtype=object) for names in groups])
    codes, n_groups = _group_codes(joined, len(joined))
    seed_means = [each.mean(axis=0) for each in arrays]
    residuals = [(mean - mean.mean()) / (len(arrays) * len(mean)) for mean in seed_means]
    by_group = np.bincount(codes, weights=np.concatenate(residuals), minlength=n_groups)
    variance = np.sum(by_group**2) * _small_sample(n_groups)
    per_seed = np.mean([each.mean(axis=1) for each in arrays], axis=0)
    return _t_interval(per_seed, variance, n_groups, level)


def metric_seed_intervals(
    probabilities: Sequence[ArrayLike],
    labels: ArrayLike,
    groups: ArrayLike,
    *,
    baseline: Sequence[ArrayLike] | None = None,
    resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, SeedInterval]:
    """Return each metric of `METRICS`, averaged over seeds, with its t interval.

    The like of `seed_interval` for metrics that are no mean over clips, such as macro F1 and ECE:
    the group part of the variance is that of the seed mean over bootstrap resamples of groups, the
    same groups for every seed. probabilities: one (N, C) array a seed. With `baseline`, the same
    for another arm, paired by seed, everything is about probabilities minus baseline.
    """
    _check_settings(level, resamples)
    if not len(probabilities):
        raise ValueError("no seed was given")
    if baseline is not None and len(baseline) != len(probabilities):
        raise ValueError(f"paired arms have the same seeds: {len(probabilities)}, baseline {len(baseline)}")

    def arm(runs: Sequence[ArrayLike]) -> tuple[NDArray, NDArray]:
        """Return the metrics of each seed (n, M) and of each resample's seed mean (R, M)."""
        sums = [_group_sums(clip_sums(run, labels), groups) for run in runs]
        values = [metrics_of(each.sum(axis=0)) for each in sums]
        draws = [_bootstrap(each, resamples, seed) for each in sums]
        per_seed = np.array([[run[name] for name in METRICS] for run in values])
        return per_seed, np.mean([[run[name] for name in METRICS] for run in draws], axis=0).T

    per_seed, draws = arm(probabilities)
    if baseline is not None:
        per_seed_baseline, draws_baseline = arm(baseline)
        per_seed, draws = per_seed - per_seed_baseline, draws - draws_baseline
    n_groups = _group_codes(groups, len(np.asarray(labels)))[1]
    variance = draws.var(axis=0, ddof=1) * _small_sample(n_groups)
    return {
        name: _t_interval(per_seed[:, column], variance[column], n_groups, level) for column, name in enumerate(METRICS)
    }


def median_interval(values: ArrayLike, *, level: float = 0.95) -> Interval | None:
    """The median of independent values, (n,), with the order statistics that enclose the true one.

    Holds for any distribution, and errs on the wide side. None where the values are too few for the level: under 6 for
    95 %, under 7 for 97.5 %.
    """
    _check_settings(level)
    given = np.asarray(values, dtype=np.float64)
    if not len(given):
        return None
    from scipy.stats import quantile_test  # half a second, which most that use this module need not wait

    low, high = quantile_test(given, q=0, p=0.5).confidence_interval(level)
    return None if np.isnan(low) or np.isnan(high) else Interval(float(np.median(given)), float(low), float(high))


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Return Holm's (1979) adjusted p-values, in the order given.

    The i-th smallest of m, i = 0.., is multiplied by m - i, never falls below a smaller one's
    adjusted value, and stops at 1. Those at most 0.05 are claims that hold together at 5 %.
    """
    p_values = np.asarray(p_values, dtype=np.float64)
    if p_values.ndim != 1 or not np.all((p_values >= 0) & (p_values <= 1)):
        raise ValueError(f"p-values must be a list of numbers in 0..1, got {p_values}")
    order = np.argsort(p_values, kind="stable")
    steps = p_values[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted


def _t_interval(per_seed: NDArray[np.float64], group_variance: float, n_groups: int, level: float) -> SeedInterval:
    """Join the seed and the group part of the variance (module docstring) into an interval."""
    n_seeds = len(per_seed)
    estimate = float(per_seed.mean())
    seed_variance = float(per_seed.var(ddof=1)) / n_seeds if n_seeds > 1 else 0.0
    parts = [(seed_variance, n_seeds - 1), (float(group_variance), n_groups - 1)]
    parts = [(variance, df) for variance, df in parts if df > 0]
    error = sum(variance for variance, _ in parts) ** 0.5
    if error > _ROUNDING:
        df = 1 / sum((variance / error**2) ** 2 / df for variance, df in parts)
        half_width = float(stdtrit(df, (1 + level) / 2)) * error
        p_value = 2 * float(stdtr(df, -abs(estimate) / error))
    else:
        # Nothing varies, so t has no scale. If every unit shows one same difference, the
        # sign-flip test over the fewer units still has a p-value: 2 of its 2^units patterns.
        df = float(min((df for _, df in parts), default=0))
        half_width = 0.0
        p_value = 2.0**-df if abs(estimate) > _ROUNDING else 1.0
    return SeedInterval(
        estimate=estimate,
        low=estimate - half_width,
        high=estimate + half_width,
        se_seeds=seed_variance**0.5,
        se_groups=float(group_variance) ** 0.5,
        df=df,
        n_seeds=n_seeds,
        n_groups=n_groups,
        p_value=p_value,
    )


def _group_codes(groups: ArrayLike, clips: int) -> tuple[NDArray[np.int64], int]:
    """Number the groups in sorted order: code of each clip (N,) and number of groups."""
    names = pd.Series(groups)
    if len(names) != clips:
        raise ValueError(f"one group a clip: {clips} clips, {len(names)} groups")
    codes, found = pd.factorize(names, sort=True)
    if (codes < 0).any():
        raise ValueError(f"clip {int((codes < 0).argmax())} has no group")
    return codes, len(found)


def _group_sums(sums: csr_array, groups: ArrayLike) -> csr_array:
    """Add up rows of `clip_sums` (N, S) by group: (G, S)."""
    codes, n_groups = _group_codes(groups, sums.shape[0])
    clips = np.arange(len(codes))
    members = csr_array((np.ones(len(codes)), (codes, clips)), shape=(n_groups, len(codes)))
    return members @ sums


def _bootstrap(sums: csr_array, resamples: int, seed: int) -> dict[str, NDArray[np.float64]]:
    """Return the metrics (R,) of resamples of the groups whose sums (G, S) are given.

    How often each group is drawn is multinomial. The product is sparse: K400 has some 20,000
    groups of five numbers each. It is also free of BLAS, whose rounding depends on the machine.
    """
    n_groups = sums.shape[0]
    rng = np.random.Generator(np.random.Philox(seed))
    share = np.full(n_groups, 1 / n_groups)
    blocks = []
    for block in _blocks(resamples, n_groups):
        weights = rng.multinomial(n_groups, share, size=block).astype(np.float64)
        blocks.append(metrics_of((sums.T @ weights.T).T))
    return {name: np.concatenate([each[name] for each in blocks]) for name in METRICS}


def _blocks(rows: int, columns: int) -> Iterator[int]:
    """Cut `rows` into block lengths, so that a block holds about `_BLOCK` numbers."""
    length = max(1, _BLOCK // columns)
    for start in range(0, rows, length):
        yield min(length, rows - start)


def _small_sample(n_groups: int) -> float:
    """G / (G - 1): a variance of G group totals has G - 1 degrees of freedom; 0 for one group."""
    return n_groups / (n_groups - 1) if n_groups > 1 else 0.0


def _values(values: ArrayLike, name: str, ndim: int) -> NDArray[np.float64]:
    """Return a finite, non-empty (N,) or (n, N) float64 array; (N,) becomes (1, N) where ndim 2."""
    values = np.array(values, dtype=np.float64, ndmin=ndim)
    if values.ndim != ndim or values.size == 0:
        shape = "(clips,)" if ndim == 1 else "(seeds, clips)"
        raise ValueError(f"{name} must be {shape} and not empty, got shape {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError(f"{name} holds values that are not finite")
    return values


def _paired_difference(student: ArrayLike, distilled: ArrayLike, ndim: int) -> NDArray[np.float64]:
    """Return distilled minus student; both must be of the same clips (and seeds)."""
    student = _values(student, "student", ndim)
    distilled = _values(distilled, "distilled", ndim)
    if student.shape != distilled.shape:
        raise ValueError(
            f"paired arms have the same seeds and clips: student is {student.shape}, distilled {distilled.shape}"
        )
    return distilled - student


def _check_settings(level: float, resamples: int = 2) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}")
    if resamples < 2:
        raise ValueError(f"resamples must be at least 2, got {resamples}")
