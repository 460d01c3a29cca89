"""The names of an earlier interface, until nothing uses them."""

from __future__ import annotations

from safe_rlhf_panacea.forward.sharing import across, side_by_side

__all__ = ["across", "side_by_side"]
