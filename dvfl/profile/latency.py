"""How long a forward pass takes and how much memory it needs, in this process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dvfl.profile.machine import peak_bytes, resident_bytes

if TYPE_CHECKING:  # other runtimes are timed in processes that have no PyTorch in them
    import torch
    from torch import Tensor, nn

ENOUGH_FOR_P95 = 20  # with fewer passes, the 95th percentile is the slowest one by another name

Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Measurement:
    """Timed forward passes of one batch.

    seconds: of each pass after the warm-up. cpu_seconds: the processor time that this process took for it, of all
    its threads together. peak_memory: bytes, the largest at any time of these
    passes; on a CPU of the whole process (Python and PyTorch, weights, clips, intermediate
    results), on a GPU of what PyTorch allocated there. peak_memory_increase: bytes, how much of
    that was not there before the first pass, when weights and clips were loaded.
    """

    seconds: list[float]
    peak_memory: int
    peak_memory_increase: int
    cpu_seconds: list[float] = field(default_factory=list)

    def summary(self, batch: int) -> dict[str, Any]:
        """Each pass, median and 95th percentile in ms (None where passes are few), clips/s, 10^6 bytes."""
        median = statistics.median(self.seconds)
        p95 = None
        if len(self.seconds) >= ENOUGH_FOR_P95:
            p95 = statistics.quantiles(self.seconds, n=20, method="inclusive")[-1]
        return {
            "batch": batch,
            "repeats": len(self.seconds),
            "latency_ms": round(median * 1e3, 3),
            "latency_p95_ms": None if p95 is None else round(p95 * 1e3, 3),
            "latencies_ms": [round(each * 1e3, 3) for each in self.seconds],
            "clips_per_second": round(batch / median, 3),
            "peak_memory_mb": round(self.peak_memory / 1e6, 1),
            "peak_memory_increase_mb": round(self.peak_memory_increase / 1e6, 1),
        }


def measure(model: nn.Module, clips: Tensor, *, repeats: int, precision: Precision = "float32") -> Measurement:
    """Times `model(clips)` where both lie, with PyTorch's present number of threads.

    Memory is honest in a fresh process only: an allocator keeps what earlier work has returned.
    """
    import torch

    model.eval()
    memory = _CudaMemory(clips.device) if clips.is_cuda else _ProcessMemory()
    bfloat16 = torch.autocast(clips.device.type, torch.bfloat16, enabled=precision == "bfloat16", cache_enabled=False)

    def synchronise() -> None:
        if clips.is_cuda:
            torch.cuda.synchronize(clips.device)

    with torch.inference_mode(), bfloat16:
        return _measured(lambda: model(clips), repeats, memory, synchronise)


def measure_call(call: Callable[[], Any], *, repeats: int, warm_up: int | None = None) -> Measurement:
    """The same of any pass that ends when the call returns, in a process that holds the network and its clips.

    warm_up: untimed passes; by default as many as `repeats` deserves.
    """
    return _measured(call, repeats, _ProcessMemory(), lambda: None, warm_up)


def _measured(
    call: Callable[[], Any],
    repeats: int,
    memory: _ProcessMemory | _CudaMemory,
    synchronise: Callable[[], None],
    warm_up: int | None = None,
) -> Measurement:
    for _ in range(_warm_up(repeats) if warm_up is None else warm_up):
        call()
    passes = [_seconds(call, synchronise) for _ in range(repeats)]
    seconds, cpu_seconds = map(list, zip(*passes, strict=True))
    return Measurement(seconds, memory.peak(), max(0, memory.peak() - memory.before), cpu_seconds)


def _warm_up(repeats: int) -> int:
    """Untimed passes: kernels are chosen and caches filled in the first one."""
    return max(1, repeats // 10)


def _seconds(call: Callable[[], Any], synchronise: Callable[[], None]) -> tuple[float, float]:
    """Wall time and CPU time."""
    synchronise()
    begin, cpu = time.perf_counter(), time.process_time()
    call()
    synchronise()
    return time.perf_counter() - begin, time.process_time() - cpu


class _ProcessMemory:
    """Resident memory of this process, from now on."""

    def __init__(self) -> None:
        with suppress(OSError):  # where it may not be reset, building the model counts, too
            Path("/proc/self/clear_refs").write_text("5")
        self.before = resident_bytes()

    def peak(self) -> int:
        return peak_bytes()


class _CudaMemory:
    """What PyTorch has allocated on a GPU, from now on."""

    def __init__(self, device: torch.device):
        from torch import cuda

        self.cuda, self.device = cuda, device
        cuda.reset_peak_memory_stats(device)
        self.before = cuda.memory_allocated(device)

    def peak(self) -> int:
        return self.cuda.max_memory_allocated(self.device)
