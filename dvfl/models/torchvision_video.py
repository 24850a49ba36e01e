"""torchvision's video models, for clips whose frames come before their channels, of other sizes than torchvision's.

Weights are torchvision's under the prefix `network.`; where its own models take a clip, these give the same logits.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.models.video.mvit import MViT, PositionalEncoding


class ChannelsFirst(nn.Module):
    """A network of (B, 3, T, H, W), given (B, T, 3, H, W)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, clips: Tensor) -> Tensor:
        """(B, T, 3, H, W) -> (B, num_classes)."""
        return self.network(clips.transpose(1, 2))


class ClippedAvgPool3d(nn.AvgPool3d):
    """Average over windows that are no larger than what there is, so that short and small clips pass."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) -> (B, C, T', H', W')."""
        windows = [min(window, size) for window, size in zip(self.kernel_size, x.shape[2:], strict=True)]
        return F.avg_pool3d(x, windows, self.stride)


def torchvision_video_model(
    name: str, *, num_classes: int, num_frames: int, img_size: int, **overrides: Any
) -> nn.Module:
    """One of torchvision's video models with initial weights; `overrides` are arguments of torchvision's builder."""
    network = torchvision.models.get_model(name, weights=None, num_classes=num_classes, **overrides)
    if isinstance(network, MViT):
        _resize(network, num_frames, img_size)
    elif name == "s3d":
        network.avgpool = ClippedAvgPool3d(network.avgpool.kernel_size, network.avgpool.stride)
    return ChannelsFirst(network)


def _resize(network: MViT, num_frames: int, img_size: int) -> None:
    """Positions of other clips than the 16 x 224 x 224 that torchvision's builders fix.

    What says where a token is within a clip (MViTv1) is made anew; relative positions (MViTv2) are interpolated by
    torchvision itself in every forward pass.
    """
    stride, old = network.conv_proj.stride, network.pos_encoding
    time, rows, columns = (size // step for size, step in zip((num_frames, img_size, img_size), stride, strict=True))
    if (time, (rows, columns)) == (old.temporal_size, tuple(old.spatial_size)):
        return
    network.pos_encoding = PositionalEncoding(
        embed_size=old.class_token.numel(),
        spatial_size=(rows, columns),
        temporal_size=time,
        rel_pos_embed=old.spatial_pos is None,
    )
    for weight in network.pos_encoding.parameters():
        nn.init.trunc_normal_(weight, std=0.02)  # as torchvision does
