"""The same network, computed another way that is faster on CPUs where no gradient is asked for.

Two things change, and no number but by rounding (the gain is in `dvfl/bench/README.md`):

- The dense convolutions over time, over a third of the arithmetic, take fewer multiplications by the short-convolution
  algorithm of Toom and Cook (Winograd's, in one dimension): four frames of output at once from products of transformed
  frames with transformed weights, 8 products in place of 20 for a kernel of 5 and 6 in place of 12 for one of 3.
- The MLPs take a piece of the tokens at a time, so that their hidden layer, four times as wide, never leaves the cache.
"""

from __future__ import annotations

import copy
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dvfl.models.focal_modulation import TemporalConv
from dvfl.models.video_focalnet import Mlp, VideoFocalNet

OUTPUTS = 4  # frames that one application of the short convolution gives
POINTS = (0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5)  # and infinity: small, so that little is lost by rounding
LONGEST = len(POINTS) + 2 - OUTPUTS  # the most taps that these points are enough for
NARROWEST = 96  # channels below which products are too cheap for the transforms to pay
PIXELS, TOKENS = 196, 1024  # of a piece: large enough for products at full speed, small enough for the cache


def for_inference(model: nn.Module) -> nn.Module:
    """The model, in evaluation mode, as it is to be asked on a CPU; other devices and other families get it as it is.

    Parameters are shared with the model but for the transformed weights of convolutions over time, which are those of
    now: make it again when the model has learned more. Where gradients are enabled it computes as the model does.
    """
    model.eval()
    parameters = list(model.parameters())
    if not isinstance(model, VideoFocalNet) or any(each.device.type != "cpu" for each in parameters):
        return model
    same = {id(tensor): tensor for tensor in [*parameters, *model.buffers()]}
    model = copy.deepcopy(model, memo=same)
    frames = model.num_frames // model.patch_embed.tubelet_size
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, Mlp) and child.fc1.in_features >= NARROWEST:
                setattr(parent, name, PiecewiseMlp(child))
            elif isinstance(child, nn.Sequential) and ShortConv.pays(child[0]):  # a focal layer
                setattr(parent, name, ShortConv(child[0], frames))
    return model


def _plain(x: Tensor) -> bool:
    """Neither gradients, which transformed weights do not have, nor autocast, which `out=` does not heed."""
    return not torch.is_grad_enabled() and not torch.is_autocast_enabled(x.device.type)


class PiecewiseMlp(nn.Module):
    """An `Mlp` on some tokens at a time."""

    def __init__(self, mlp: Mlp) -> None:
        super().__init__()
        self.mlp = mlp

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        if not _plain(x):
            return self.mlp(x)
        tokens = x.reshape(-1, x.shape[-1])
        out = torch.empty_like(tokens)
        for some, result in zip(tokens.split(TOKENS), out.split(TOKENS), strict=True):
            torch.addmm(self.mlp.fc2.bias, F.gelu(self.mlp.fc1(some)), self.mlp.fc2.weight.T, out=result)
        return out.view(x.shape)


class ShortConv(nn.Module):
    """GELU of a `TemporalConv` over `frames` frames, by products with transformed weights (see `transforms`)."""

    def __init__(self, conv: TemporalConv, frames: int) -> None:
        super().__init__()
        self.conv = conv
        (taps,) = conv.kernel_size
        of_frames, of_weight, back = transforms(frames, taps)
        weight = conv.weight.detach()
        by_tap = weight.permute(2, 1, 0).reshape(taps, -1)
        self.weight = (of_weight.float() @ by_tap).view(-1, *weight.shape[1::-1])  # (products, C in, C out)
        self.of_frames, self.back = of_frames.float(), back.float()

    @staticmethod
    def pays(layer: nn.Module) -> bool:
        """Whether it is worth it; in bfloat16, where products are cheap and rounding is not, it never is."""
        if not isinstance(layer, TemporalConv) or layer.weight.dtype != torch.float32:
            return False
        return layer.in_channels >= NARROWEST and 1 < layer.kernel_size[0] <= LONGEST

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, N) -> (B, C, T, N), channels last in memory."""
        if not _plain(x):
            return F.gelu(self.conv(x))
        tokens = x.permute(0, 2, 3, 1)
        out = torch.empty_like(tokens)
        for clip, result in zip(tokens, out, strict=True):  # (T, N, C)
            for pixels, part in zip(clip.split(PIXELS, 1), result.split(PIXELS, 1), strict=True):
                frames = pixels.reshape(len(pixels), -1)
                points = (self.of_frames @ frames).view(len(self.weight), -1, x.shape[1])
                products = torch.bmm(points, self.weight)
                part.copy_(F.gelu(self.back @ products.view(self.back.shape[1], -1)).view(part.shape))
        return out.permute(0, 3, 1, 2)


@cache
def transforms(frames: int, taps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Matrices I, W, O with conv(x, w) = O ((W w) * (I x)) for x of `frames` frames, zero around them, and odd `taps`.

    Shapes (P * tiles, frames), (P, taps), (frames, P * tiles), float64, for P = OUTPUTS + taps - 1 products of each
    tile of OUTPUTS frames. Polynomials whose coefficients are OUTPUTS and `taps` numbers have a product that is known
    by its values at P points; the matrices of that product, transposed, are a convolution's.
    """
    products, padding, tiles = OUTPUTS + taps - 1, taps // 2, -(-frames // OUTPUTS)

    def values(coefficients: int) -> np.ndarray:
        """At each point, of a polynomial; at infinity it is the last coefficient."""
        finite = np.vander(POINTS[: products - 1], coefficients, increasing=True)
        return np.vstack([finite, np.eye(coefficients)[-1]])

    interpolate = np.linalg.inv(values(products)).T
    of_frames = np.zeros((products, tiles, frames))
    back = np.zeros((frames, products, tiles))
    for tile in range(tiles):
        first = tile * OUTPUTS
        for k in range(products):
            if 0 <= first + k - padding < frames:
                of_frames[:, tile, first + k - padding] = interpolate[:, k]
        last = min(first + OUTPUTS, frames)
        back[first:last, :, tile] = values(OUTPUTS).T[: last - first]
    shaped = of_frames.reshape(-1, frames), values(taps), back.reshape(frames, -1)
    return tuple(torch.from_numpy(np.ascontiguousarray(each)) for each in shaped)
