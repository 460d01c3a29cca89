"""Panacea's own algorithms."""
