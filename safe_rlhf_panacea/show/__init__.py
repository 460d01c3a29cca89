"""What is shown of fronts: pictures, tables, pages, wandb, TensorBoard."""
