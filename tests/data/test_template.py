from __future__ import annotations

import pytest

from safe_rlhf_panacea.data.safe_rlhf_template import format_prompt, without_template
from safe_rlhf_panacea.data.template import ChatTemplate
from safe_rlhf_panacea.errors import UserError
from tests.tiny import tiny_tokenizer


def test_one_turn() -> None:
    assert format_prompt("hi") == "BEGINNING OF CONVERSATION: USER: hi ASSISTANT:"


def test_braces_in_the_input_are_text() -> None:
    assert format_prompt("{x} {input}") == (
        "BEGINNING OF CONVERSATION: USER: {x} {input} ASSISTANT:"
    )


def test_earlier_answers_are_closed_by_eos() -> None:
    text = "BEGINNING OF CONVERSATION: USER: hi ASSISTANT:hello</s>USER: how are you ASSISTANT:"
    turns = ["hi", "hello", "how are you"]
    assert format_prompt(turns, eos_token="</s>") == text
    assert ChatTemplate.of("auto", tiny_tokenizer()).prompt(turns) == text


def test_a_conversation_must_end_with_the_user() -> None:
    with pytest.raises(UserError, match="2 turns does not end with the user's"):
        format_prompt(["hi", "hello"], eos_token="</s>")


def test_several_turns_need_eos() -> None:
    with pytest.raises(UserError, match="needs eos_token"):
        format_prompt(["hi", "hello", "bye"])


@pytest.mark.parametrize(
    ("choice", "turns", "system", "message"),
    [
        ("none", ["hi", "hello", "bye"], None, "none .* has no way to write 3 turns"),
        ("none", "hi", "be brief", "none .* has no way to write a system prompt"),
        ("safe-rlhf", "hi", "be brief", "Safe-RLHF's template has no place for a system prompt"),
    ],
)
def test_what_a_template_has_no_place_for(
    choice: str, turns: list[str] | str, system: str | None, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        ChatTemplate.of(choice, tiny_tokenizer()).prompt(turns, system)


@pytest.mark.parametrize("choice", ["safe-rlhf", "none"])
def test_people_are_shown_the_users_words(choice: str) -> None:
    template = ChatTemplate.of(choice, tiny_tokenizer())
    assert template.shown(template.prompt_ids("how are you?")) == "how are you?"


def test_a_models_own_list_of_end_tokens_counts() -> None:
    template = ChatTemplate.of("safe-rlhf", tiny_tokenizer())

    class Model:
        class generation_config:
            eos_token_id = (7, 2, 9)

    assert template.stop_ids(Model) == (2, 7, 9)
    assert template.stop_ids() == (2,)


def test_an_earlier_result_has_prompts_in_safe_rlhfs_template() -> None:
    assert without_template("BEGINNING OF CONVERSATION: USER: hi you ASSISTANT:") == "hi you"
    assert without_template("hi you") == "hi you"
