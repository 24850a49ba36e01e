"""Measured comparisons: each speed that is claimed, beside the plain way of doing the same."""
