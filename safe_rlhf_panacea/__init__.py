"""Panacea on Safe-RLHF: one language model that holds the whole Pareto front."""

__version__ = "0.1.0"
