"""Fronts and what is said of them."""
