"""Constants that data, models and trainers share; the values are Safe-RLHF's."""

from __future__ import annotations

IGNORE_INDEX: int = -100  # a label that no loss counts

PROMPT_BEGIN: str = "BEGINNING OF CONVERSATION: "
PROMPT_USER: str = "USER: {input} "
# No space at the end: the answer follows directly.
PROMPT_ASSISTANT: str = "ASSISTANT:"
PROMPT_INPUT: str = PROMPT_BEGIN + PROMPT_USER + PROMPT_ASSISTANT
