"""The text that a model sees of a conversation."""

from __future__ import annotations

from collections.abc import Sequence

from safe_rlhf_panacea.base.configs.constants import PROMPT_ASSISTANT, PROMPT_BEGIN, PROMPT_USER
from safe_rlhf_panacea.errors import UserError


def format_prompt(input: str | Sequence[str], eos_token: str | None = None) -> str:
    """Write a conversation that ends with the user's turn, ready for the assistant's answer.

    Args:
        input: the user's text, or turns that alternate user, assistant, ..., user.
        eos_token: closes each earlier answer of the assistant; only several turns need it.

    Raises:
        UserError: an even number of turns, or several turns and no ``eos_token``.
    """
    turns = [input] if isinstance(input, str) else list(input)
    if len(turns) % 2 == 0:
        raise UserError(
            f"a conversation of {len(turns)} turns does not end with the user's: "
            "turns alternate user, assistant, ..., user"
        )
    if len(turns) > 1 and eos_token is None:
        raise UserError("a conversation of several turns needs eos_token to close the answers")
    parts = [PROMPT_BEGIN]
    for index, turn in enumerate(turns):
        if index % 2 == 0:
            # Not str.format: the user's own braces are text.
            parts += [PROMPT_USER.replace("{input}", turn), PROMPT_ASSISTANT]
        else:
            parts += [turn, eos_token or ""]
    return "".join(parts)


def plain_prompt(prompt: str) -> str:
    """The user's words, without the template around a single turn."""
    head = PROMPT_BEGIN + PROMPT_USER.split("{input}")[0].rstrip()
    return prompt.removeprefix(head).strip().removesuffix(PROMPT_ASSISTANT).strip()
