"""The single-objective algorithms that Panacea extends."""
