"""Panacea with direct preference optimisation."""
