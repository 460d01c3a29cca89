"""Trainer base classes."""
