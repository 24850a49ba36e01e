"""Distillation between the modulators of two VideoFocalNets: the context that each token is modulated by.

The paper speaks of transferring local and global context. In a VideoFocalNet that context is in the modulators: gated
sums over focal levels, from a token's neighbours to the whole frame or clip, one in space and one in time. At the end
of each stage the student's, projected to the teacher's width, is drawn to the teacher's: FitNets (Romero et al. 2015)
with the teacher's features normalised (as Wei et al. 2022 do), so that no stage counts for more because its numbers are
big.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dvfl.errors import UserError
from dvfl.models.video_focalnet import VideoFocalNet

BRANCHES = ("spatial", "temporal")


class ModulatorsError(UserError):
    """The two networks have no modulators that could be compared."""


@dataclass
class Modulators:
    """Outputs of `h` and `h_temporal` in the last block of each stage, (B, T, H, W, C) each."""

    spatial: list[Tensor] = field(default_factory=list)
    temporal: list[Tensor] = field(default_factory=list)


@contextmanager
def watched(network: VideoFocalNet) -> Iterator[Modulators]:
    """The modulators of the forward pass inside the block; a second pass would add its own behind them."""
    seen = Modulators()

    def in_space(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen.spatial.append(output)  # (B*T, C, H, W)

    def in_time(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        clips, _, frames, _ = output.shape  # (B, C, T, H*W), after the same block's spatial branch
        seen.spatial[-1] = seen.spatial[-1].unflatten(0, (clips, frames)).movedim(2, -1)
        seen.temporal.append(output.movedim(1, -1).reshape(seen.spatial[-1].shape))

    modulations = [stage.blocks[-1].modulation for stage in network.layers]
    hooks = [modulation.h.register_forward_hook(in_space) for modulation in modulations]
    hooks += [modulation.h_temporal.register_forward_hook(in_time) for modulation in modulations]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


class ModulatorProjection(nn.Module):
    """The projectors from the student's widths to the teacher's, and the distance behind them.

    They are trained with the student and needed no more when it is: no part of its weights.

    Raises:
        ModulatorsError: unless both are VideoFocalNets of as many stages.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module) -> None:
        super().__init__()
        for role, network in (("student", student), ("teacher", teacher)):
            if not isinstance(network, VideoFocalNet):
                raise ModulatorsError(
                    f"distill.features: the {role} is a {type(network).__name__}, which has no modulators; "
                    f"use a VideoFocalNet, or set distill.features.weight: 0"
                )
        stages = len(student.layers), len(teacher.layers)
        if stages[0] != stages[1]:
            raise ModulatorsError(
                f"distill.features: the student has {stages[0]} stages and the teacher {stages[1]}, but modulators are "
                f"compared stage by stage; use networks of as many stages, or set distill.features.weight: 0"
            )
        widths = list(zip(_widths(student), _widths(teacher), strict=True))
        self.spatial = nn.ModuleList(nn.Linear(own, wanted) for own, wanted in widths)
        self.temporal = nn.ModuleList(nn.Linear(own, wanted) for own, wanted in widths)

    def forward(self, student: Modulators, teacher: Modulators) -> dict[str, Tensor]:
        """The mean over stages of the mean squared distance, by branch; 1 is what a projection to zero gets."""
        return {
            branch: torch.stack(
                [
                    _distance(projector, own, wanted)
                    for projector, own, wanted in zip(
                        getattr(self, branch), getattr(student, branch), getattr(teacher, branch), strict=True
                    )
                ]
            ).mean()
            for branch in BRANCHES
        }


def _widths(network: VideoFocalNet) -> list[int]:
    return [stage.blocks[-1].modulation.dim for stage in network.layers]


def _distance(projector: nn.Linear, student: Tensor, teacher: Tensor) -> Tensor:
    """Between maps (B, T, H, W, C) and (B, T', H', W', C'), where both are pooled to the smaller of each extent."""
    extent = tuple(min(sizes) for sizes in zip(student.shape[1:-1], teacher.shape[1:-1], strict=True))
    wanted = _pooled(teacher.detach(), extent).float()
    return F.mse_loss(projector(_pooled(student, extent)).float(), F.layer_norm(wanted, wanted.shape[-1:]))


def _pooled(maps: Tensor, extent: tuple[int, ...]) -> Tensor:
    """Means over frames and pixels: (B, T, H, W, C) -> (B, *extent, C)."""
    if maps.shape[1:-1] == extent:
        return maps
    return F.adaptive_avg_pool3d(maps.movedim(-1, 1), extent).movedim(1, -1)
