"""What an objective may be called."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from safe_rlhf_panacea.preference.errors import PreferenceError

LONGEST = 64
RULE = "letters, digits, _, - and . (the last two not in front), at most 64 of them"


def check_objective_names(names: Sequence[str]) -> None:
    """Check that the names can be written in λ (``name=0.3``) and be folders.

    Letters may be of any script. So no name has a space, a path separator or one of ``=,:@``.

    Raises:
        PreferenceError: naming the first that is not as it must be.
    """
    for name in names:
        if not 0 < len(name) <= LONGEST or name[0] in "-." or not all(map(_is_allowed, name)):
            shown = name if len(name) <= LONGEST else f"{name[:LONGEST]}…"
            raise PreferenceError(f"objective name {shown!r}: a name has {RULE}")


def _is_allowed(character: str) -> bool:
    # Marks: the vowel signs of many scripts are no letters of their own.
    return character in "_-." or unicodedata.category(character)[0] in "LMN"
