"""What a killed training needs to go on as if nothing had happened."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from dvfl.files import atomic


class Checkpoint:
    """State after a finished epoch, or within one after a finished optimiser step, written atomically.

    A kill leaves the old one or the new one, never half of one. Random draws need no state of their own, since each is
    a function of its address (dvfl.randomness).
    """

    def __init__(self, directory: Path):
        self.path = directory / "checkpoint.pt"
        self.best: dict[str, torch.Tensor] | None = None  # weights of the best epoch so far, where one is selected
        self.begun: dict[str, Any] | None = None  # how far an unfinished epoch is, plain values

    def save(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        history: list[dict[str, Any]],
        scaler: torch.amp.GradScaler | None = None,
        begun: dict[str, Any] | None = None,
    ) -> None:
        """Raises OutputError where it cannot be written; the one before then still stands."""
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "history": history}
        state |= {} if self.best is None else {"best": self.best}
        state |= {} if begun is None else {"begun": begun}
        state |= {"scaler": scaler.state_dict()} if scaler is not None and scaler.is_enabled() else {}
        written = BytesIO()  # on a full disk torch.save itself ends in an error that does not say so
        torch.save(state, written)
        with atomic(self.path) as partial:
            partial.write_bytes(written.getbuffer())

    def load(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler | None = None,
    ) -> list[dict[str, Any]]:
        """Brings model, optimiser and scaler to the saved state; returns the history so far, empty at a fresh start."""
        if not self.path.exists():
            return []
        state = torch.load(self.path, map_location="cpu", weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        if scaler is not None and "scaler" in state:
            scaler.load_state_dict(state["scaler"])
        self.best = state.get("best")
        self.begun = state.get("begun")
        return state["history"]

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
