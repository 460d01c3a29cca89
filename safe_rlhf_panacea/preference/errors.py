"""The error of preference vectors."""

from __future__ import annotations


class PreferenceError(ValueError):
    """A preference vector, grid or sampler is not as it must be; the message is one line."""
