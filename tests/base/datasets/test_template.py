from __future__ import annotations

import pytest

from safe_rlhf_panacea.base.datasets.template import format_prompt
from safe_rlhf_panacea.errors import UserError


def test_one_turn() -> None:
    assert format_prompt("hi") == "BEGINNING OF CONVERSATION: USER: hi ASSISTANT:"


def test_braces_in_the_input_are_text() -> None:
    assert format_prompt("{x} {input}") == (
        "BEGINNING OF CONVERSATION: USER: {x} {input} ASSISTANT:"
    )


def test_earlier_answers_are_closed_by_eos() -> None:
    assert format_prompt(["hi", "hello", "how are you"], eos_token="</s>") == (
        "BEGINNING OF CONVERSATION: USER: hi ASSISTANT:hello</s>USER: how are you ASSISTANT:"
    )


def test_a_conversation_must_end_with_the_user() -> None:
    with pytest.raises(UserError, match="2 turns does not end with the user's"):
        format_prompt(["hi", "hello"], eos_token="</s>")


def test_several_turns_need_eos() -> None:
    with pytest.raises(UserError, match="needs eos_token"):
        format_prompt(["hi", "hello", "bye"])
