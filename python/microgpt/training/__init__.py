"""BATCHES -> WEIGHTS: optimizer, schedule, evaluation, checkpoints, and the loop around them."""
