"""Training: the optimiser and its schedule, checkpoints, the loop, and the job that turns a run into files."""
