"""What a benchmark compares, and how: two ways of doing the same, in turn, in one process.

A pair is prepared (networks built, clips rendered), its two sides are compared, and only where they agree are they
timed: slow, fast, slow, fast, ... so that whatever else the machine does hits both. The ratio is that of each round,
its spread the quartiles over rounds. To add a pair, decorate a function that gives its `Sides` with `pair`, in one of
MODULES.
"""

from __future__ import annotations

import importlib
import math
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from dvfl.bench.products import product_rate
from dvfl.errors import UserError

MODULES = ("models", "deployed", "targets", "loading", "program", "ablation")  # those that register pairs
ROUNDS = 5  # of every pair, of one that takes minutes, too
TAKES = 3  # of what products have of a call: one alone has been longer than the median of all calls


class Disagreement(UserError):
    """The two sides of a pair do not give the same result, so their times say nothing."""


class Unavailable(Exception):
    """This machine lacks what a pair needs; the message says what."""


@dataclass(frozen=True)
class Sizes:
    """How large a comparison is; those of the paper, unless it is a test."""

    frames: int = 8
    img_size: int = 224
    short_side: int = 256
    num_classes: int = 101
    step_batch: int = 8
    clip_frames: int = 180  # the mean of UCF101
    clip_height: int = 240
    large_frames: int = 250  # 10 s
    large_height: int = 720
    clips: int = 8
    own_clips: str | None = None  # folder of <class>/<clip>, of the pairs that are about the user's clips
    threads: int = 2


@dataclass(frozen=True)
class Sides:
    """A pair that is ready: each call does the work once.

    slow, fast: do it; what they return is ignored but by `amount`. deviation: the largest difference between what the
    two give, in the unit that the pair's tolerance has; a function of it is asked after the rounds, for calls that take
    minutes; None where nothing is compared. amount: measures one call; seconds unless given. note: what the numbers
    alone do not say. ceiling: the largest ratio that there can be. products: measures the seconds that convolutions and
    matrix products have of a fast call, once the rounds are over; operations: how many these do, where they are in
    float32. threads: that compute, where a pair does not follow its sizes.
    """

    slow: Callable[[], Any] | None  # None: only the fast side is measured, against the pair's limit
    fast: Callable[[], Any]
    deviation: float | Callable[[], float] | None
    note: str = ""
    amount: Callable[[Callable[[], Any]], float] | None = None
    ceiling: float | None = None
    products: Callable[[], float] | None = None
    operations: float | None = None
    threads: int | None = None


@dataclass(frozen=True)
class Pair:
    """`target`: the least ratio slow / fast; `share`: the same as a share of the sides' ceiling, from 0 to 1.

    `limit`: the most that the fast side may take, in `unit`.
    """

    name: str
    what: str
    slow: str
    fast: str
    prepare: Callable[[Sizes], Sides]
    target: float | None = None
    share: float | None = None
    limit: float | None = None
    tolerance: float = 0.0
    unit: str = "s"
    quick: bool = False


_PAIRS: dict[str, Pair] = {}


def pair(name: str, **about: Any) -> Callable[[Callable[[Sizes], Sides]], Callable[[Sizes], Sides]]:
    """Registers the decorated function as what prepares the pair `name`; `about` are fields of `Pair`."""

    def register(prepare: Callable[[Sizes], Sides]) -> Callable[[Sizes], Sides]:
        if name in _PAIRS:
            raise ValueError(f"a pair named {name!r} is registered already")
        _PAIRS[name] = Pair(name=name, prepare=prepare, **about)
        return prepare

    return register


def all_pairs() -> dict[str, Pair]:
    """Every pair by its name."""
    for module in MODULES:
        importlib.import_module(f"dvfl.bench.{module}")
    return dict(_PAIRS)


def chosen(names: Sequence[str] = (), quick: bool = False) -> list[Pair]:
    """Pairs whose names begin with one of `names`; those of `quick`, or all, where none is given.

    Raises UserError for a name that no pair begins with.
    """
    pairs = all_pairs()
    for name in names:
        if not any(each.startswith(name) for each in pairs):
            raise UserError(f"no pair is called {name!r}; there are {', '.join(pairs)}")
    if names:
        return [pairs[each] for each in pairs if each.startswith(tuple(names))]
    return [each for each in pairs.values() if each.quick or not quick]


@dataclass(frozen=True)
class Result:
    """One row of the table; ratios are slow / fast, `met` is None where nothing was asked.

    cpu_ratio: of the medians of CPU seconds, of this process and those that it waited for: what is left of the ratio
    where other work on the machine takes its cores away, with one thread at least (more of them spin while they wait).
    """

    name: str
    what: str
    slow_side: str
    fast_side: str
    unit: str
    slow: float
    fast: float
    ratio: float
    ratio_q1: float
    ratio_q3: float
    cpu_ratio: float
    rounds: int
    target: str
    met: bool | None
    deviation: float
    tolerance: float
    threads: int
    note: str

    def as_row(self) -> dict[str, Any]:
        return asdict(self)


def measure(pair: Pair, sizes: Sizes) -> Result:
    """Compares, then times. Raises Disagreement, or Unavailable."""
    sides = pair.prepare(sizes)
    if not callable(sides.deviation):
        _require_agreement(pair, sides.deviation)
    amount, both = sides.amount or seconds, [sides.slow, sides.fast]
    if sides.amount is None:
        for side in filter(None, both):  # kernels are chosen and caches filled
            side()
    rounds, cpu = [], []
    for _ in range(ROUNDS):
        measured = []
        for side in both:
            begin = cpu_seconds()
            measured.append((math.nan, math.nan) if side is None else (amount(side), cpu_seconds() - begin))
        rounds.append([value for value, _ in measured])
        cpu.append([value for _, value in measured])
    deviation = sides.deviation() if callable(sides.deviation) else sides.deviation
    _require_agreement(pair, deviation)
    rounds, cpu = np.array(rounds), np.median(cpu, axis=0)
    slow, fast = np.median(rounds, axis=0)
    q1, ratio, q3 = np.quantile(rounds[:, 0] / rounds[:, 1], (0.25, 0.5, 0.75))
    return Result(
        name=pair.name,
        what=pair.what,
        slow_side=pair.slow,
        fast_side=pair.fast,
        unit=pair.unit,
        slow=float(slow),
        fast=float(fast),
        ratio=float(ratio),
        ratio_q1=float(q1),
        ratio_q3=float(q3),
        cpu_ratio=float(cpu[0] / cpu[1]) if cpu[1] else math.nan,
        rounds=len(rounds),
        target=_target(pair, sides.ceiling),
        met=_met(pair, sides.ceiling, ratio, fast),
        deviation=math.nan if deviation is None else float(deviation),
        tolerance=pair.tolerance,
        threads=sides.threads or sizes.threads,
        note="; ".join(filter(None, _notes(sides, sizes, slow, ratio))),
    )


def _require_agreement(pair: Pair, deviation: float | None) -> None:
    if deviation is not None and not deviation <= pair.tolerance:  # a NaN agrees with nothing
        raise Disagreement(
            f"{pair.name}: the sides differ by {deviation:.3g}, and at most {pair.tolerance:.3g} is allowed; "
            f"what is wrong must be mended before their times say anything"
        )


def seconds(work: Callable[[], Any]) -> float:
    """Wall time of one call."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def cpu_seconds() -> float:
    """CPU time that this process and its ended children have taken."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)  # not os.times(), which counts in 10 ms
    return time.process_time() + ended.ru_utime + ended.ru_stime


def _target(pair: Pair, ceiling: float | None) -> str:
    if pair.share is not None and ceiling is not None:
        return f">= {pair.share:.0%} of {ceiling:.3g}x"
    if pair.target is not None:
        return f">= {pair.target:.3g}x"
    return "" if pair.limit is None else f"<= {pair.limit:g} {pair.unit}"


def _met(pair: Pair, ceiling: float | None, ratio: float, fast: float) -> bool | None:
    if pair.share is not None and ceiling is not None:
        return bool(ratio >= pair.share * ceiling)
    if pair.target is not None:
        return bool(ratio >= pair.target)
    return None if pair.limit is None else bool(fast <= pair.limit)


def _notes(sides: Sides, sizes: Sizes, slow: float, ratio: float) -> Iterator[str]:
    """What the numbers alone do not say; limits first."""
    if sides.ceiling is not None:
        yield f"{ratio / sides.ceiling:.0%} of the ceiling of {sides.ceiling:.3g}x"
    if sides.products is not None:
        spent, rate = statistics.median(sides.products() for _ in range(TAKES)), ""
        if sides.operations is not None:
            rate = (
                f", {sides.operations / 1e9:.3g} GFLOP at {sides.operations / spent / 1e9:.3g} GFLOP/s (PyTorch's "
                f"product of square matrices reaches {product_rate(sizes.threads) / 1e9:.3g})"
            )
        yield f"products take {spent:.3g} s of a call{rate}; were all else free, {slow / spent:.3g}x"
    yield sides.note
