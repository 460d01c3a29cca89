"""The rules by the address that command lines give: ``safe_rlhf_panacea.reward_functions:...``."""

from __future__ import annotations

from safe_rlhf_panacea.rewards.rules import concise, length, matches, positive, refuses

__all__ = ["concise", "length", "matches", "positive", "refuses"]
