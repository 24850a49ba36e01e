"""BatchNorm's running statistics where several processes train: as if one had seen all micro-batches in their order."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dvfl.train.distributed import Processes


class RunningStatistics:
    """Of the BatchNorm layers of a model that are averages over time; there may be none.

    A micro-batch with mean m turns the running mean r into (1 - momentum) r + momentum m. What k of them make of r is
    (1 - momentum)^k r plus something that does not depend on r, so what the processes did side by side, from the same
    r, can be done one after the other.
    """

    def __init__(self, model: nn.Module, processes: Processes) -> None:
        modules = model.modules() if processes.count > 1 else ()
        layers = [module for module in modules if isinstance(module, _BatchNorm)]
        self.layers = [layer for layer in layers if layer.track_running_stats and layer.momentum is not None]
        self.processes = processes
        self.before = self._now()

    def combine(self, seen: int) -> None:
        """After a step in which this process saw `seen` micro-batches; one that it repeated does not count."""
        if not self.layers:
            return
        shares = self.processes.gathered([(seen, self._now())])
        for number, layer in enumerate(self.layers):
            for which, buffer in enumerate((layer.running_mean, layer.running_var)):
                before = value = self.before[number][which].double()
                for count, after in shares:
                    if count:
                        keep = (1 - layer.momentum) ** count
                        value = keep * value + (after[number][which].double() - keep * before)
                buffer.copy_(value)
            layer.num_batches_tracked.copy_(self.before[number][2] + sum(count for count, _ in shares))
        self.before = self._now()

    def _now(self) -> list[tuple[Tensor, ...]]:
        kept = ("running_mean", "running_var", "num_batches_tracked")
        with torch.no_grad():
            return [tuple(getattr(layer, name).detach().cpu().clone() for name in kept) for layer in self.layers]
