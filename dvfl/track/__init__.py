"""MLflow tracking that loses nothing and stops nothing: written to disk, delivered when it can."""

from dvfl.redaction import redact
from dvfl.track.store import prepare
from dvfl.track.tracker import (
    OUTBOXES,
    Tracker,
    deliver_pending,
    delivery_note,
    open_tracker,
    outbox_directory,
    run_id,
)
from dvfl.track.ui import ui_command, ui_environment

__all__ = [
    "OUTBOXES",
    "Tracker",
    "deliver_pending",
    "delivery_note",
    "open_tracker",
    "outbox_directory",
    "prepare",
    "redact",
    "run_id",
    "ui_command",
    "ui_environment",
]
