"""Typed options: what every program can be told, and the one source of its flags."""
