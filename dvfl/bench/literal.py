"""Video-FocalNet, transcribed line by line: slow and plain, the side that `dvfl.models` must agree with.

Frames lie in the batch dimension, the temporal branch carries every pixel's sequence into it and back, each level is a
call of its own: nothing is arranged for speed. Weights have the same names as in `dvfl.models.video_focalnet`, so one
state dict serves both, and stochastic depth draws the same numbers in the same order. The registered sizes need none of
the family's options, so there are none here.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LiteralModulation(nn.Module):
    """proj(query * h(spatial) * h_temporal(temporal)), with L focal levels of kernel w + 2 l."""

    def __init__(self, dim: int, levels: int = 2, window: int = 3) -> None:
        super().__init__()
        self.dim, self.levels = dim, levels
        kernels = [window + 2 * level for level in range(levels)]
        self.f = nn.Linear(dim, 2 * dim + levels + 1)
        self.focal_layers = nn.ModuleList(
            nn.Sequential(nn.Conv2d(dim, dim, k, padding=k // 2, groups=dim, bias=False), nn.GELU()) for k in kernels
        )
        self.h = nn.Conv2d(dim, dim, 1)
        self.f_temporal = nn.Linear(dim, dim + levels + 1)
        self.focal_layers_temporal = nn.ModuleList(
            nn.Sequential(nn.Conv1d(dim, dim, k, padding=k // 2, bias=False), nn.GELU()) for k in kernels
        )
        self.h_temporal = nn.Conv1d(dim, dim, 1)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, frames: int) -> Tensor:
        """(B*T, H, W, C) -> (B*T, H, W, C)."""
        _, height, width, dim = x.shape

        query, context, gates = torch.split(self.f(x).permute(0, 3, 1, 2), (dim, dim, self.levels + 1), 1)
        total = 0
        for level in range(self.levels):
            context = self.focal_layers[level](context)
            total = total + context * gates[:, level : level + 1]
        everything = F.gelu(context.mean(2, keepdim=True).mean(3, keepdim=True))
        spatial = self.h(total + everything * gates[:, self.levels :])

        tokens = x.reshape(-1, frames, height, width, dim).permute(0, 2, 3, 1, 4).reshape(-1, frames, dim)
        context, gates = torch.split(self.f_temporal(tokens).permute(0, 2, 1), (dim, self.levels + 1), 1)
        total = 0
        for level in range(self.levels):
            context = self.focal_layers_temporal[level](context)
            total = total + context * gates[:, level : level + 1]
        everything = F.gelu(context.mean(2, keepdim=True))
        temporal = self.h_temporal(total + everything * gates[:, self.levels :])
        temporal = temporal.reshape(-1, height, width, dim, frames).permute(0, 4, 3, 1, 2).reshape(spatial.shape)

        return self.proj((query * spatial * temporal).permute(0, 2, 3, 1).contiguous())


class LiteralMlp(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class LiteralBlock(nn.Module):
    """x + modulation(norm(x)), then x + mlp(norm(x)), with stochastic depth of each frame."""

    def __init__(self, dim: int, drop_path: float) -> None:
        super().__init__()
        self.drop_path = drop_path
        self.norm1, self.modulation = nn.LayerNorm(dim), LiteralModulation(dim)
        self.norm2, self.mlp = nn.LayerNorm(dim), LiteralMlp(dim)

    def forward(self, x: Tensor, frames: int) -> Tensor:
        x = x + self._dropped(self.modulation(self.norm1(x), frames))
        return x + self._dropped(self.mlp(self.norm2(x)))

    def _dropped(self, x: Tensor) -> Tensor:
        if not self.training or self.drop_path == 0:
            return x
        keep = 1 - self.drop_path
        return x * x.new_empty(len(x), 1, 1, 1).bernoulli_(keep) / keep


class LiteralPatches(nn.Module):
    """Non-overlapping patches, (N, C, H, W) -> (N, H / p, W / p, C')."""

    def __init__(self, in_dim: int, out_dim: int, patch: int) -> None:
        super().__init__()
        self.proj, self.norm = nn.Conv2d(in_dim, out_dim, patch, patch), nn.LayerNorm(out_dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(x).permute(0, 2, 3, 1).contiguous())


class LiteralStage(nn.Module):
    def __init__(self, dim: int, drop_paths: Sequence[float], last: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(LiteralBlock(dim, rate) for rate in drop_paths)
        self.downsample = None if last else LiteralPatches(dim, 2 * dim, 2)

    def forward(self, x: Tensor, frames: int) -> Tensor:
        for block in self.blocks:
            x = block(x, frames)
        return x if self.downsample is None else self.downsample(x.permute(0, 3, 1, 2).contiguous())


class LiteralVideoFocalNet(nn.Module):
    """(B, T, 3, H, W) -> logits (B, num_classes)."""

    def __init__(self, *, num_classes: int, embed_dim: int, depths: Sequence[int], drop_path_rate: float = 0.0) -> None:
        super().__init__()
        rates = iter(torch.linspace(0, drop_path_rate, sum(depths), dtype=torch.float64).tolist())
        self.patch_embed = LiteralPatches(3, embed_dim, 4)
        self.layers = nn.ModuleList(
            LiteralStage(embed_dim * 2**i, [next(rates) for _ in range(depth)], last=i == len(depths) - 1)
            for i, depth in enumerate(depths)
        )
        width = embed_dim * 2 ** (len(depths) - 1)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, num_classes)

    def forward(self, clips: Tensor) -> Tensor:
        batch, frames = clips.shape[:2]
        x = self.patch_embed(clips.reshape(-1, *clips.shape[2:]))
        for stage in self.layers:
            x = stage(x, frames)
        x = self.norm(x).mean((1, 2))  # over tokens
        return self.head(x.reshape(batch, frames, -1).mean(1))  # over frames
