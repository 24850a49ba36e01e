"""Studies: trials by name in an Optuna storage, and the choice that a study makes."""
