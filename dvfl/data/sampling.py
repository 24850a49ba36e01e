"""Which frames of a clip make a view. Pure functions of numbers.

A clip of n frames is cut into S equal segments, as temporal segment networks do. Where n is no
multiple of S, a random view takes segment k to hold frames floor(k n / S) to
floor((k + 1) n / S) - 1, and a test view takes the frame that is shown at a moment of the segment.
With fewer frames than segments, frames repeat, in order.
"""

from __future__ import annotations

import numpy as np


def random_segment_indices(num_frames: int, segments: int, rng: np.random.Generator) -> np.ndarray:
    """One random frame of each segment: int64 (segments,), never decreasing. For training."""
    edges = _checked(num_frames, segments) * np.arange(segments + 1) // segments
    return rng.integers(edges[:-1], np.maximum(edges[1:], edges[:-1] + 1))


def centre_segment_indices(num_frames: int, segments: int) -> np.ndarray:
    """The middle frame of each segment: int64 (segments,)."""
    return test_view_indices(num_frames, segments, 1)[0]


def test_view_indices(num_frames: int, segments: int, clips: int) -> np.ndarray:
    """Frames of the temporal clips of a test: int64 (clips, segments).

    Clip j takes every segment at (2 j + 1) / (2 clips) of its length: the clips are spread evenly
    and without chance; a single one takes the centres.
    """
    _checked(num_frames, segments)
    if clips < 1:
        raise ValueError(f"at least one clip is needed, not {clips}")
    offset = 2 * np.arange(clips)[:, None] + 1
    segment = np.arange(segments)[None, :]
    return (2 * clips * segment + offset) * num_frames // (2 * clips * segments)


test_view_indices.__test__ = False  # a function of the library that pytest would take for a test


def _checked(num_frames: int, segments: int) -> int:
    if num_frames < 1 or segments < 1:
        raise ValueError(f"{num_frames} frames cannot be cut into {segments} segments")
    return num_frames
