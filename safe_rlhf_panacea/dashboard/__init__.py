"""What is shown of a run while it trains: the growing front, in files, wandb and TensorBoard."""
