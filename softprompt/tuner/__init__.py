"""Training: where a prompt starts, recipes, the loop, checkpoints and the run's record."""
