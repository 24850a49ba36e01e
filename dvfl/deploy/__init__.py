"""Trained networks as ONNX files that other programs run: written, checked against the original, quantised."""
