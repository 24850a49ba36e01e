"""Tables of frame numbers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dvfl.data.sampling import (
    centre_segment_indices,
    random_segment_indices,
    test_view_indices,
)


@pytest.mark.parametrize(
    ("frames", "segments", "expected"),
    [
        (16, 8, [1, 3, 5, 7, 9, 11, 13, 15]),
        (8, 8, [0, 1, 2, 3, 4, 5, 6, 7]),
        (100, 4, [12, 37, 62, 87]),
        (3, 8, [0, 0, 0, 1, 1, 2, 2, 2]),
        (1, 4, [0, 0, 0, 0]),
        (7, 1, [3]),
    ],
)
def test_centres(frames, segments, expected):
    assert centre_segment_indices(frames, segments).tolist() == expected
    assert test_view_indices(frames, segments, 1).tolist() == [expected]


@pytest.mark.parametrize(
    ("frames", "segments", "clips", "expected"),
    [
        (16, 4, 2, [[1, 5, 9, 13], [3, 7, 11, 15]]),
        (16, 2, 4, [[1, 9], [3, 11], [5, 13], [7, 15]]),
        (1, 2, 3, [[0, 0], [0, 0], [0, 0]]),
    ],
)
def test_temporal_clips(frames, segments, clips, expected):
    assert test_view_indices(frames, segments, clips).tolist() == expected


@given(st.integers(1, 400), st.integers(1, 40), st.integers(1, 10), st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_every_index_lies_in_its_segment(frames, segments, clips, seed):
    drawn = random_segment_indices(frames, segments, np.random.default_rng(seed))
    edges = np.arange(segments + 1) * frames / segments
    for indices in (drawn, *test_view_indices(frames, segments, clips)):
        assert indices.shape == (segments,)
        assert indices.dtype == np.int64
        assert (np.diff(indices) >= 0).all()
        assert (edges[:-1] - 1 < indices).all()
        assert (indices < edges[1:]).all()
    if frames >= segments:
        assert (np.diff(drawn) > 0).all()


def test_random_frames_cover_their_segments():
    rng = np.random.default_rng(0)
    drawn = np.array([random_segment_indices(10, 3, rng) for _ in range(300)])
    assert [sorted(set(column.tolist())) for column in drawn.T] == [
        [0, 1, 2],
        [3, 4, 5],
        [6, 7, 8, 9],
    ]


@pytest.mark.parametrize(("frames", "segments", "clips"), [(0, 8, 1), (8, 0, 1), (8, 8, 0)])
def test_impossible_requests(frames, segments, clips):
    with pytest.raises(ValueError):
        test_view_indices(frames, segments, clips)
