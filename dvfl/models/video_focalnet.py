"""VideoFocalNet: the family of the teacher (Video-FocalNet) and of the student (VFL-Net).

Read from top to bottom: patch embedding, MLP, block, stage, network. Inside the network tokens are
(B, T, H, W, C): clips, frames, rows, columns, channels. The registered sizes are in ``registry``.
"""

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dvfl.models.focal_modulation import FocalModulation


class PatchEmbed(nn.Module):
    """Embed patches of tokens (or of pixels) into fewer, wider tokens: a convolution, a LayerNorm.

    Args:
        in_dim: channels in.
        out_dim: channels out.
        patch_size: stride in height and width, and the kernel as well unless it is given.
        tubelet_size: kernel and stride in time; above 1, patches become space-time tubelets.
        kernel_size, padding: given together for patches that overlap.
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        patch_size: int,
        tubelet_size: int = 1,
        kernel_size: int | None = None,
        padding: int = 0,
    ) -> None:
        super().__init__()
        kernel = kernel_size or patch_size
        self.tubelet_size = tubelet_size
        # One frame at a time is a 2-D convolution, as in image FocalNets, so their weights fit.
        if tubelet_size == 1:
            self.proj = nn.Conv2d(in_dim, out_dim, kernel, patch_size, padding)
        else:
            self.proj = nn.Conv3d(
                in_dim,
                out_dim,
                kernel_size=(tubelet_size, kernel, kernel),
                stride=(tubelet_size, patch_size, patch_size),
                padding=(0, padding, padding),
            )
        self.norm = nn.LayerNorm(out_dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, H, W, C) -> (B, T / tubelet_size, H / patch_size, W / patch_size, C')."""
        if self.tubelet_size == 1:
            frames = self.proj(x.flatten(0, 1).permute(0, 3, 1, 2))
            x = frames.permute(0, 2, 3, 1).unflatten(0, x.shape[:2])
        else:
            x = self.proj(x.permute(0, 4, 1, 2, 3)).permute(0, 2, 3, 4, 1)
        return self.norm(x)


class Mlp(nn.Module):
    """fc2(GELU(fc1(x))), on each token by itself."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        return self.fc2(F.gelu(self.fc1(x)))


class DropPath(nn.Module):
    """Stochastic depth: in training, skip a residual branch with probability ``rate``.

    Each frame is drawn by itself, as in Video-FocalNet, where frames lie in the batch dimension.
    What is kept is divided by the probability of keeping it, so the expectation is unchanged.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, H, W, C) -> (B, T, H, W, C)."""
        if self.rate == 0.0 or not self.training:
            return x
        keep = 1.0 - self.rate
        return x * x.new_empty(*x.shape[:2], 1, 1, 1).bernoulli_(keep).div_(keep)

    def extra_repr(self) -> str:
        return f"rate={self.rate:.3f}"


class Block(nn.Module):
    """Two residual branches: focal modulation mixes tokens, the MLP mixes channels.

    Pre-norm: x + branch(norm(x)). With ``use_postln``: x + norm(branch(x)).

    Args:
        dim: channels C.
        modulation: the token mixer.
        mlp_ratio: hidden channels of the MLP over C.
        drop_path: rate of stochastic depth of both branches.
        use_postln: normalise after each branch instead of before it.
        layerscale_value: initial value of the per-channel factors ``gamma_1`` and ``gamma_2`` on
            the branches; None for no such factors.
    """

    def __init__(
        self,
        dim: int,
        modulation: FocalModulation,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        use_postln: bool = False,
        layerscale_value: float | None = None,
    ) -> None:
        super().__init__()
        self.use_postln = use_postln
        self.norm1 = nn.LayerNorm(dim)
        self.modulation = modulation
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.drop_path = DropPath(drop_path)
        if layerscale_value is None:
            self.gamma_1 = self.gamma_2 = None
        else:
            self.gamma_1 = nn.Parameter(torch.full((dim,), layerscale_value))
            self.gamma_2 = nn.Parameter(torch.full((dim,), layerscale_value))

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, H, W, C) -> (B, T, H, W, C)."""
        x = x + self._branch(x, self.modulation, self.norm1, self.gamma_1)
        return x + self._branch(x, self.mlp, self.norm2, self.gamma_2)

    def _branch(self, x: Tensor, mix: nn.Module, norm: nn.Module, gamma: Tensor | None) -> Tensor:
        x = norm(mix(x)) if self.use_postln else mix(norm(x))
        return self.drop_path(x if gamma is None else gamma * x)


class Stage(nn.Module):
    """Blocks at one resolution, then (except after the last stage) a downsampling."""

    def __init__(self, blocks: Sequence[Block], downsample: PatchEmbed | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample
        self.grad_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, H, W, C) -> (B, T, H / 2, W / 2, 2 C), or the same shape in the last stage."""
        again = self.grad_checkpointing and torch.is_grad_enabled()
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if again else block(x)
        return x if self.downsample is None else self.downsample(x)


class VideoFocalNet(nn.Module):
    """Logits of a clip by spatio-temporal focal modulation.

    A stem cuts frames into 4x4 patches; stages of blocks follow, each at half the resolution and
    twice the width of the one before; the head is mean over tokens, mean over frames, linear.

    Args:
        img_size: height and width the model is meant for. No weight depends on it, and clips of
            another height and width are accepted.
        num_classes: number of logits.
        embed_dim: width d of the first stage.
        depths: blocks per stage.
        num_frames: frames of a clip. No weight depends on it.
        focal_levels: focal levels, per stage.
        focal_windows: kernel size of the first focal level, per stage.
        focal_factor: how much wider the window gets per level.
        mlp_ratio: hidden width of the MLPs over their width.
        drop_path_rate: stochastic depth of the last block; it grows linearly from 0.
        tubelet_size: frames that the stem fuses into one.
        use_conv_embed: patches that overlap, in the stem and the downsamplings.
        use_layerscale: scale residual branches per channel, from ``layerscale_value``.
        layerscale_value: see ``use_layerscale``.
        use_postln: normalise after each residual branch instead of before it.
        use_postln_in_modulation: normalise the modulated query before its projection.
        normalize_modulator: divide gated sums by their number of terms.
        in_chans: channels of a frame.
        init: how the weights start. ``paper``: linear weights of std 0.02, as in the paper's code. ``narrow``: std
            1 / sqrt(inputs), and modulators that start around one instead of zero (the biases of h and h_temporal).
            In very narrow networks 0.02 nearly silences every layer, and a product of three factors near zero passes
            hardly any gradient to each: they would stay at chance for long.

    Raises:
        ValueError: for arguments that no network can have.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        embed_dim: int,
        depths: Sequence[int],
        num_frames: int = 8,
        img_size: int = 224,
        focal_levels: Sequence[int] = (2, 2, 2, 2),
        focal_windows: Sequence[int] = (3, 3, 3, 3),
        focal_factor: int = 2,
        mlp_ratio: float = 4.0,
        drop_path_rate: float = 0.0,
        tubelet_size: int = 1,
        use_conv_embed: bool = False,
        use_layerscale: bool = False,
        layerscale_value: float = 1e-4,
        use_postln: bool = False,
        use_postln_in_modulation: bool = False,
        normalize_modulator: bool = False,
        in_chans: int = 3,
        init: Literal["paper", "narrow"] = "paper",
    ) -> None:
        super().__init__()
        _check_arguments(
            num_classes, embed_dim, depths, num_frames, focal_levels, focal_windows,
            drop_path_rate, tubelet_size, init,
        )  # fmt: skip
        self.num_classes = num_classes
        self.num_frames = num_frames
        self.in_chans = in_chans
        self.num_features = embed_dim * 2 ** (len(depths) - 1)
        self.min_size = 4 * 2 ** (len(depths) - 1)  # the last stage needs one token
        if img_size < self.min_size:
            raise ValueError(f"img_size {img_size} is too small: {len(depths)} stages need at least {self.min_size}")
        self.img_size = img_size

        stem_overlap = {"kernel_size": 7, "padding": 2} if use_conv_embed else {}
        stage_overlap = {"kernel_size": 3, "padding": 1} if use_conv_embed else {}
        drop_paths = _linear_growth(drop_path_rate, steps=sum(depths))

        def block(dim: int, stage: int) -> Block:
            modulation = FocalModulation(
                dim,
                focal_level=focal_levels[stage],
                focal_window=focal_windows[stage],
                focal_factor=focal_factor,
                use_postln_in_modulation=use_postln_in_modulation,
                normalize_modulator=normalize_modulator,
            )
            return Block(
                dim,
                modulation,
                mlp_ratio=mlp_ratio,
                drop_path=next(drop_paths),
                use_postln=use_postln,
                layerscale_value=layerscale_value if use_layerscale else None,
            )

        self.patch_embed = PatchEmbed(in_chans, embed_dim, patch_size=4, tubelet_size=tubelet_size, **stem_overlap)
        self.layers = nn.ModuleList()
        for stage, depth in enumerate(depths):
            dim = embed_dim * 2**stage
            blocks = [block(dim, stage) for _ in range(depth)]
            last = stage == len(depths) - 1
            downsample = None if last else PatchEmbed(dim, 2 * dim, patch_size=2, **stage_overlap)
            self.layers.append(Stage(blocks, downsample))
        self.norm = nn.LayerNorm(self.num_features)
        self.head = nn.Linear(self.num_features, num_classes)
        self._init_weights(init)

    def _init_weights(self, init: str) -> None:
        """Draw the linear weights; convolutions and norms keep PyTorch's defaults."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                std = 0.02 if init == "paper" else module.in_features**-0.5
                nn.init.trunc_normal_(module.weight, std=std)
                nn.init.zeros_(module.bias)
            elif isinstance(module, FocalModulation) and init == "narrow":
                nn.init.ones_(module.h.bias)
                nn.init.ones_(module.h_temporal.bias)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Whether blocks compute their activations again in the backward pass instead of keeping them."""
        for stage in self.layers:
            stage.grad_checkpointing = enable

    def forward_features(self, clip: Tensor) -> Tensor:
        """Features of each frame, the mean over its tokens.

        Args:
            clip: (B, T, in_chans, H, W); H and W may differ from ``img_size``.

        Returns:
            (B * T / tubelet_size, num_features), the frames of a clip in sequence.

        Raises:
            ValueError: if the clip is not of that shape.
        """
        if not torch.jit.is_tracing():  # traced sizes are no Python numbers
            self._check_clip(clip)
        x = self.patch_embed(clip.movedim(2, -1).contiguous())  # the stem gives tokens in the layout that it is given
        for stage in self.layers:
            x = stage(x)
        return self.norm(x).mean((2, 3)).flatten(0, 1)

    def forward(self, clip: Tensor) -> Tensor:
        """(B, T, in_chans, H, W) -> logits (B, num_classes)."""
        features = self.forward_features(clip)
        return self.head(features.unflatten(0, (clip.shape[0], -1)).mean(1))

    def _check_clip(self, clip: Tensor) -> None:
        expected = f"(batch, {self.num_frames} frames, {self.in_chans} channels, height, width)"
        if clip.ndim != 5:
            raise ValueError(
                f"expected {expected}, got {clip.ndim} dimensions, {tuple(clip.shape)}; "
                "add a batch dimension with clip.unsqueeze(0) if it is missing"
            )
        _, frames, channels, height, width = clip.shape
        if channels != self.in_chans:
            raise ValueError(
                f"expected {expected}, got {channels} channels in {tuple(clip.shape)}; frames come before channels"
            )
        if frames != self.num_frames:
            raise ValueError(
                f"expected {expected}, got {frames} frames; sample {self.num_frames} frames or "
                f"build the model with num_frames={frames} (the weights fit any number)"
            )
        if min(height, width) < self.min_size:
            raise ValueError(
                f"frames of {height}x{width} are too small: the last stage sees "
                f"1/{self.min_size} of it; resize to at least {self.min_size}x{self.min_size}"
            )


def _linear_growth(last: float, steps: int) -> Iterator[float]:
    """``steps`` values from 0 to ``last``, evenly spaced."""
    return (last * step / max(steps - 1, 1) for step in range(steps))


def _check_arguments(
    num_classes: int,
    embed_dim: int,
    depths: Sequence[int],
    num_frames: int,
    focal_levels: Sequence[int],
    focal_windows: Sequence[int],
    drop_path_rate: float,
    tubelet_size: int,
    init: str,
) -> None:
    """Refuse what no network can be built from, saying what is wrong and what would do."""
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2, got {num_classes}")
    if embed_dim < 1:
        raise ValueError(f"embed_dim must be at least 1, got {embed_dim}")
    if not depths or min(depths) < 1:
        raise ValueError(f"depths needs at least one block per stage, got {list(depths)}")
    for name, values in {"focal_levels": focal_levels, "focal_windows": focal_windows}.items():
        if len(values) != len(depths):
            raise ValueError(
                f"{name} and depths must have one value per stage, got {len(values)} in {name} "
                f"({list(values)}) and {len(depths)} in depths ({list(depths)})"
            )
    if num_frames < 1:
        raise ValueError(f"num_frames must be at least 1, got {num_frames}")
    if tubelet_size < 1 or num_frames % tubelet_size:
        raise ValueError(
            f"num_frames must be a multiple of tubelet_size, got {num_frames} frames and tubelets of {tubelet_size}"
        )
    if not 0.0 <= drop_path_rate < 1.0:
        raise ValueError(f"drop_path_rate must be in [0, 1), got {drop_path_rate}")
    if init not in ("paper", "narrow"):
        raise ValueError(f"init must be paper or narrow, got {init!r}")
