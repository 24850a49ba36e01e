"""From test predictions to numbers: metrics, their uncertainty, and `scores.json`."""
