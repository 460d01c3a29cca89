"""The error of preference vectors."""

from __future__ import annotations

from safe_rlhf_panacea.errors import UserError


class PreferenceError(UserError):
    """A preference vector, grid or sampler is not as it must be; the message is one line."""
