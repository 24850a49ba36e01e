"""Clips: the embedded data set, reading, index, splits, sampling of frames, transforms, views."""
