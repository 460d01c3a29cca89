"""DeepSpeed configurations."""
