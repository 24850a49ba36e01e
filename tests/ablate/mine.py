"""A config of one distilled student, for studies of it; no clip of it is there."""

from __future__ import annotations

from typing import Any

MINE: dict[str, Any] = {
    "datasets": ["mine"],
    "dataset_definitions": {"mine": {"kind": "folder", "root": "/clips"}},
    "teacher": {"model": "video_focalnet_small"},
    "student": {"model": "video_focalnet_tiny"},
    "arms": {"teacher": {"network": "teacher"}, "distilled": {"network": "student", "distil_from": "teacher"}},
}
