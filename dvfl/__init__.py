"""Reproducibility pipeline for DVFL-Net: distil any video recogniser, and say how sure the result is."""

__version__ = "0.1.0"
