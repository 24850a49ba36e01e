"""The models: spatio-temporal focal modulation, VideoFocalNet, and a registry of sizes by name."""

from typing import TYPE_CHECKING, Any

from dvfl.models.registry import create_model, model_names, register_model

if TYPE_CHECKING:
    from dvfl.models.video_focalnet import VideoFocalNet

__all__ = ["VideoFocalNet", "create_model", "model_names", "register_model"]


def __getattr__(name: str) -> Any:
    """Import VideoFocalNet, and torch with it, only when it is asked for."""
    if name == "VideoFocalNet":
        from dvfl.models.video_focalnet import VideoFocalNet

        return VideoFocalNet
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
