"""The names of an earlier interface, until nothing uses them."""

from __future__ import annotations

from safe_rlhf_panacea.forward.log_probs import grouped_log_probs

__all__ = ["grouped_log_probs"]
