"""What convolutions and matrix products cost a network here: where they take all the time, no more can be saved."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

SIDE, CALLS = 2048, 8  # 17 GFLOP a call, tenths of a second
PRODUCTS = ("conv", "mm", "linear", "matmul", "fullyconnected")  # in the names that PyTorch and runtimes give them


@cache
def product_rate(threads: int) -> float:
    """Operations a second of the best of some square products by PyTorch, float32, with so many threads."""
    import torch

    torch.set_num_threads(threads)
    one, other, out = (torch.ones(SIDE, SIDE) for _ in range(3))
    spent = []
    for _ in range(CALLS):
        begin = time.perf_counter()
        torch.mm(one, other, out=out)
        spent.append(time.perf_counter() - begin)
    return 2 * SIDE**3 / min(spent)


def count_operations(model: nn.Module, clips: Tensor) -> float:
    """Of the products in a forward pass over clips (B, T, 3, S, S): two for each multiply-add."""
    from dvfl.profile.compute import count_compute

    macs = count_compute(model, clips[:1]).macs_by_operator
    return 2.0 * len(clips) * sum(number for name, number in macs.items() if "norm" not in name)


def seconds_in_pytorch(work: Callable[[], Any]) -> float:
    """Of the products in a call, by PyTorch's profiler."""
    from torch.profiler import ProfilerActivity, profile

    with _native_errors_unsaid(), profile(activities=[ProfilerActivity.CPU]) as profiler:
        work()
    return of_products({event.key: event.self_cpu_time_total / 1e6 for event in profiler.key_averages()})


@contextmanager
def _native_errors_unsaid() -> Iterator[None]:
    """PyTorch's profiler announces itself on file descriptor 2, amid a progress bar, and has no setting against it."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def of_products(seconds: Mapping[str, float]) -> float:
    """The part of times by kind of operator that products have."""
    return sum(value for kind, value in seconds.items() if any(name in kind.lower() for name in PRODUCTS))
