"""Clips that are made up, for what trains without videos."""

from __future__ import annotations

import numpy as np
import torch

from dvfl.config import InputConfig

CLASSES = 3


class Views:
    """Stands for a ClipDataset: clip i of class i mod 3 is bright in channel i mod 3."""

    classes = ("blue", "green", "red")
    input = InputConfig()

    def __init__(self, count: int = 12, seed: int = 0):
        self.labels = np.arange(count) % CLASSES
        noise = torch.Generator().manual_seed(seed)
        self.views = torch.randint(0, 120, (count, 2, 3, 8, 8), generator=noise, dtype=torch.uint8)
        for i, label in enumerate(self.labels):
            self.views[i, :, label] += 100

    def __len__(self) -> int:
        return len(self.labels)

    def training_view(self, i: int, epoch: int) -> torch.Tensor:
        return self.views[i].roll(epoch, -1)

    def new_views(self, i: int, epoch: int) -> torch.Tensor:
        return self.training_view(i, epoch)[None]

    def is_kept(self, i: int, epoch: int) -> bool:
        return False

    def keep(self, i: int, epoch: int, views: torch.Tensor) -> None:
        pass
