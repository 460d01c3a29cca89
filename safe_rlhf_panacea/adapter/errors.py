"""The adapter's own error."""

from __future__ import annotations


class AdapterError(ValueError):
    """An adapter cannot be made, set or loaded; the message is one line and says why."""
