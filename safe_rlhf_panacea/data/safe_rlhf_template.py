"""Safe-RLHF's template: ``BEGINNING OF CONVERSATION: USER: ... ASSISTANT:``."""

from __future__ import annotations

from typing import ClassVar

from safe_rlhf_panacea.base.configs.constants import PROMPT_ASSISTANT, PROMPT_BEGIN, PROMPT_USER
from safe_rlhf_panacea.data.template import SAFE_RLHF, ChatTemplate, Turns, as_turns
from safe_rlhf_panacea.errors import UserError

# What Safe-RLHF writes before and after the words of a single turn.
SAFE_RLHF_MARKS = (f"{PROMPT_BEGIN}{PROMPT_USER.split('{input}')[0]}".strip(), PROMPT_ASSISTANT)


def format_prompt(input: Turns, eos_token: str | None = None) -> str:
    """Write a conversation in Safe-RLHF's template, ready for the assistant's answer.

    Args:
        input: the user's text, or turns that alternate user, assistant, ..., user.
        eos_token: closes each earlier answer of the assistant; only several turns need it.

    Raises:
        UserError: an even number of turns, or several turns and no ``eos_token``.
    """
    turns = as_turns(input)
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


def without_template(prompt: str) -> str:
    """A prompt as people read it, of an earlier result, which has it in Safe-RLHF's template."""
    before, after = SAFE_RLHF_MARKS
    if not (prompt.startswith(before) and prompt.endswith(after)):
        return prompt
    return prompt.removeprefix(before).removesuffix(after).strip()


class SafeRlhfTemplate(ChatTemplate):
    """Safe-RLHF's, in which a token across the boundary belongs to the answer, as it does there."""

    JOINED: ClassVar[bool] = True
    recorded = SAFE_RLHF

    def prompt(self, turns: Turns, system: str | None = None) -> str:
        if system is not None:
            raise UserError(
                "Safe-RLHF's template has no place for a system prompt: choose another "
                "--chat_template, or leave the system prompt out"
            )
        said = [self.said(turn) for turn in as_turns(turns)]
        return format_prompt(said, eos_token=self.tokenizer.eos_token)
