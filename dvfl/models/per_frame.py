"""timm's image models as video models: every frame by itself, the logits averaged over frames.

Such a network cannot tell the order of frames: as a baseline it shows what a data set's classes owe to motion.
"""

from __future__ import annotations

import difflib
import warnings
from typing import Any

from torch import Tensor, nn

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # of torch, about torch.jit.script in timm: no user's to mend
    import timm


class PerFrame(nn.Module):
    """The mean over frames of an image network's logits. Its weights stand under the prefix `network.`."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, clips: Tensor) -> Tensor:
        """(B, T, 3, H, W) -> (B, num_classes)."""
        return self.network(clips.flatten(0, 1)).unflatten(0, clips.shape[:2]).mean(1)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """As timm's own; AssertionError or AttributeError for a network that does not know it."""
        self.network.set_grad_checkpointing(enable)


def check_timm_name(name: str) -> None:
    """Raises ValueError for a name, or a tag after its dot, that timm does not know."""
    architecture = name.partition(".")[0]
    if not timm.is_model(architecture):
        nearest = difflib.get_close_matches(architecture, timm.list_models(), n=1, cutoff=0.0)[0]
        raise ValueError(f"is no image model of timm {timm.__version__}; did you mean 'timm/{nearest}'?")
    try:
        timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        raise ValueError(f"is no image model of timm {timm.__version__}: {error}") from error


def timm_per_frame(name: str, *, num_classes: int, num_frames: int, img_size: int, **overrides: Any) -> nn.Module:
    """One of timm's image models with initial weights, on frames; `overrides` are arguments of timm's builder.

    Networks that are made for one size of image (transformers with positions, mostly) are made for `img_size`.
    """
    config = timm.get_pretrained_cfg(name)
    if config is not None and config.fixed_input_size:
        overrides = {"img_size": img_size, **overrides}
    return PerFrame(timm.create_model(name, pretrained=False, num_classes=num_classes, **overrides))
