"""The models: spatio-temporal focal modulation, VideoFocalNet, weights to start from, a registry of sizes by name."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dvfl.models.registry import create_model, model_names, register_model

if TYPE_CHECKING:
    from dvfl.models.pretrained import load_pretrained
    from dvfl.models.video_focalnet import VideoFocalNet

__all__ = ["VideoFocalNet", "create_model", "load_pretrained", "model_names", "register_model"]

_WITH_TORCH = {"VideoFocalNet": "dvfl.models.video_focalnet", "load_pretrained": "dvfl.models.pretrained"}


def __getattr__(name: str) -> Any:
    """Import what needs torch only when it is asked for."""
    if name in _WITH_TORCH:
        return getattr(import_module(_WITH_TORCH[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
