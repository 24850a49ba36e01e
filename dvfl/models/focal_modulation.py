"""Spatio-temporal focal modulation: the token mixer of the VideoFocalNet family.

Attention first compares a query with every token and then aggregates. Focal modulation does the
opposite: it first aggregates context around each token, at several focal levels, then lets the
query interact with the result (the modulator) by one element-wise product:

    out = proj(query * h(spatial modulator) * h_temporal(temporal modulator))

Two branches gather the context. The spatial one looks at the neighbourhood of a token inside its
frame, the temporal one at the same pixel in the neighbouring frames.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn.grad import conv2d_input, conv2d_weight

# Tokens are (B, T, H, W, C) throughout: the linear maps, gates and means want channels last. Convolutions see the same
# memory as (N, C, rows, columns) with its dimensions permuted, which is channels-last to them: nothing is moved.


class TemporalConv(nn.Conv1d):
    """A dense convolution over time, applied to every pixel's sequence of frames.

    The parameters are those of ``nn.Conv1d`` (released checkpoints hold them so), but the input is
    (B, C, T, H*W): a 2-D convolution whose kernel is one pixel wide gives the same numbers and
    spares the two transposes that would carry pixels into the batch dimension and back.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, N) -> (B, C, T, N)."""
        return F.conv2d(x, self.weight.unsqueeze(-1), self.bias, padding=(*self.padding, 0))


class DepthwiseConv(nn.Conv2d):
    """A convolution over height and width, each channel by itself."""

    def __init__(self, dim: int, kernel: int) -> None:
        super().__init__(dim, dim, kernel, padding=kernel // 2, groups=dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        if x.dtype == torch.bfloat16 and x.device.type == "cpu" and self.weight.requires_grad:
            return _BfloatDepthwise.apply(x, self.weight)
        return super().forward(x)


class _BfloatDepthwise(torch.autograd.Function):
    """The same with the weight's gradient in float32: for kernels above 3, PyTorch's in bfloat16 takes six times as
    long on CPUs (a quarter of a training step)."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight.to(x.dtype), padding=weight.shape[-1] // 2, groups=len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        options = {"padding": weight.shape[-1] // 2, "groups": len(weight)}
        of_x = conv2d_input(x.shape, weight.to(x.dtype), grad, **options)
        of_weight = conv2d_weight(x.float(), weight.shape, grad.float(), **options)
        return of_x, of_weight.to(weight.dtype)


def split_linear(layer: nn.Linear, x: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """``layer(x).split(sizes, -1)``, each part a map of its own and so contiguous, as convolutions want it."""
    parts = [slice(end - size, end) for size, end in zip(sizes, accumulate(sizes), strict=True)]
    return [F.linear(x, layer.weight[part], layer.bias[part]) for part in parts]


def over_space(layer: nn.Module, tokens: Tensor) -> Tensor:
    """Apply a layer of images (B*T, C, H, W) to each frame: (B, T, H, W, C) -> (B, T, H, W, C)."""
    images = tokens.flatten(0, 1).permute(0, 3, 1, 2)
    return layer(images).permute(0, 2, 3, 1).unflatten(0, tokens.shape[:2])


def over_time(layer: nn.Module, tokens: Tensor) -> Tensor:
    """Apply a layer of sequences (B, C, T, H*W) to each pixel: (B, T, H, W, C) -> (B, T, H, W, C)."""
    sequences = tokens.flatten(2, 3).permute(0, 3, 1, 2)
    return layer(sequences).permute(0, 2, 3, 1).unflatten(2, tokens.shape[2:4])


def gated_context(
    context: Tensor, gates: Tensor, focal_layers: Iterable[Callable[[Tensor], Tensor]], extent: tuple[int, ...]
) -> Tensor:
    """Gather context level by level and weigh each level by its gate.

    Each focal layer widens the context of the level before it; the last level is the mean over
    the whole extent:

        sum over levels l < L of gate_l * context_l  +  gate_L * GELU(mean(context_{L-1}))

    Args:
        context: (..., C), the projected tokens.
        gates: (..., L + 1), one map for each of the L focal levels and one for the mean.
        focal_layers: the L layers, each a convolution followed by GELU, on tokens.
        extent: the dimensions of ``context`` that the mean runs over.

    Returns:
        The modulator, of the shape of ``context``.
    """
    *level_gates, global_gate = gates.split(1, dim=-1)
    modulator = None
    for layer, gate in zip(focal_layers, level_gates, strict=True):
        context = layer(context)
        modulator = gate * context if modulator is None else torch.addcmul(modulator, gate, context)
    return torch.addcmul(modulator, global_gate, F.gelu(context.mean(extent, keepdim=True)))


class FocalModulation(nn.Module):
    """Modulate each token by the context around it in space and in time.

    Args:
        dim: channels C.
        focal_level: number L of focal levels, each with one convolution in space and one in time.
        focal_window: kernel size of the first level; odd, so that a window has a centre.
        focal_factor: how much wider the window gets per level; even, so that windows stay odd.
        use_postln_in_modulation: normalise the product (``ln``) before ``proj``.
        normalize_modulator: divide both gated sums by their number of terms, L + 1.
    """

    def __init__(
        self,
        dim: int,
        focal_level: int = 2,
        focal_window: int = 3,
        focal_factor: int = 2,
        use_postln_in_modulation: bool = False,
        normalize_modulator: bool = False,
    ) -> None:
        super().__init__()
        if focal_level < 1:
            raise ValueError(f"focal_level must be at least 1, got {focal_level}")
        if focal_window < 1 or focal_window % 2 == 0:
            raise ValueError(f"focal_window must be odd and positive, got {focal_window}")
        if focal_factor < 0 or focal_factor % 2 == 1:
            raise ValueError(f"focal_factor must be even and not negative, got {focal_factor}")
        self.dim = dim
        self.num_gates = focal_level + 1
        self.normalize_modulator = normalize_modulator
        kernels = [focal_window + focal_factor * level for level in range(focal_level)]

        self.f = nn.Linear(dim, 2 * dim + self.num_gates)
        self.h = nn.Conv2d(dim, dim, kernel_size=1)
        self.focal_layers = nn.ModuleList(nn.Sequential(DepthwiseConv(dim, kernel), nn.GELU()) for kernel in kernels)

        self.f_temporal = nn.Linear(dim, dim + self.num_gates)
        self.h_temporal = TemporalConv(dim, dim, kernel_size=1)
        self.focal_layers_temporal = nn.ModuleList(
            nn.Sequential(TemporalConv(dim, dim, kernel, padding=kernel // 2, bias=False), nn.GELU())
            for kernel in kernels
        )

        self.ln = nn.LayerNorm(dim) if use_postln_in_modulation else nn.Identity()
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, H, W, C) -> (B, T, H, W, C)."""
        query, context, gates = split_linear(self.f, x, (self.dim, self.dim, self.num_gates))
        spatial = self.spatial_modulator(context, gates)
        context, gates = split_linear(self.f_temporal, x, (self.dim, self.num_gates))
        temporal = self.temporal_modulator(context, gates)
        return self.proj(self.ln(query * spatial * temporal))

    def spatial_modulator(self, context: Tensor, gates: Tensor) -> Tensor:
        """h(gated context) within each frame: depth-wise convolutions over height and width.

        Args:
            context: (B, T, H, W, C).
            gates: (B, T, H, W, L + 1).

        Returns:
            (B, T, H, W, C).
        """
        layers = [partial(over_space, layer) for layer in self.focal_layers]
        modulator = gated_context(context, gates, layers, extent=(2, 3))
        return over_space(self.h, self._normalized(modulator))

    def temporal_modulator(self, context: Tensor, gates: Tensor) -> Tensor:
        """h_temporal(gated context) along each pixel's frames: dense convolutions over time.

        Args:
            context: (B, T, H, W, C).
            gates: (B, T, H, W, L + 1).

        Returns:
            (B, T, H, W, C).
        """
        layers = [partial(over_time, layer) for layer in self.focal_layers_temporal]
        modulator = gated_context(context, gates, layers, extent=(1,))
        return over_time(self.h_temporal, self._normalized(modulator))

    def _normalized(self, modulator: Tensor) -> Tensor:
        return modulator / self.num_gates if self.normalize_modulator else modulator
