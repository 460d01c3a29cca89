"""A run's folder: its record, checkpoints, resuming, logs."""
