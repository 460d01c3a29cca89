"""Constants of the prompt format, and DeepSpeed configurations."""
