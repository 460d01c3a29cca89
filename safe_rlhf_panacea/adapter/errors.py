"""The adapter's own error."""

from __future__ import annotations

from safe_rlhf_panacea.errors import UserError


class AdapterError(UserError):
    """An adapter cannot be made, set or loaded; the message is one line and says why."""
