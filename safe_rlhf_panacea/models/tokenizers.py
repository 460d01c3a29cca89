"""Whether two models read the same tokens."""

from __future__ import annotations

from typing import Any

from safe_rlhf_panacea.errors import UserError


def is_same_tokenizer(one: Any, other: Any) -> bool:
    """Whether two tokenizers give every token the same id."""
    return one is other or (len(one) == len(other) and one.get_vocab() == other.get_vocab())


def check_same_tokenizer(one: Any, other: Any, one_path: str, other_path: str) -> None:
    """Refuse two models whose tokenizers differ.

    Raises:
        UserError: naming both models and the sizes of their vocabularies.
    """
    if not is_same_tokenizer(one, other):
        raise UserError(
            f"the tokenizers of {one_path} ({len(one)} tokens) and {other_path} ({len(other)} "
            "tokens) differ: policy and score models must share one vocabulary"
        )
