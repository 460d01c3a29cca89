"""Log-probabilities and generation: passes over a model, without work on padding."""
