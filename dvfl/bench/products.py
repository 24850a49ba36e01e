"""How fast this machine multiplies matrices, and how much of that a network asks for: a bound that needs no profile."""

from __future__ import annotations

import time
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

SIDE, CALLS = 2048, 8  # 17 GFLOP a call, tenths of a second: no shape in a network is better for the processor


@cache
def fastest_product(threads: int) -> float:
    """Floating-point operations a second of the best of some large square products, float32, with so many threads."""
    import torch

    torch.set_num_threads(threads)
    one, other, out = (torch.ones(SIDE, SIDE) for _ in range(3))
    spent = []
    for _ in range(CALLS):
        begin = time.perf_counter()
        torch.mm(one, other, out=out)
        spent.append(time.perf_counter() - begin)
    return 2 * SIDE**3 / min(spent)


def flops_of_products(model: nn.Module, clips: Tensor) -> float:
    """Of convolutions and matrix products in a forward pass over the clips (B, T, 3, S, S)."""
    from dvfl.profile.compute import count_compute

    macs = count_compute(model, clips[:1]).macs_by_operator
    return 2.0 * len(clips) * sum(number for name, number in macs.items() if "norm" not in name)
