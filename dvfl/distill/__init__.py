"""Distillation: what the student learns from the teacher."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dvfl.distill.divergences import forward_kl

__all__ = ["forward_kl"]


def __getattr__(name: str) -> Any:
    """Import the losses, and torch with them, only when they are asked for."""
    if name == "forward_kl":
        from dvfl.distill.divergences import forward_kl

        return forward_kl
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
