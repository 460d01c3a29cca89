from __future__ import annotations

import pytest

from safe_rlhf_panacea.data.template import ChatTemplate
from safe_rlhf_panacea.data.templates import without_template
from safe_rlhf_panacea.errors import UserError
from tests.tiny import tiny_tokenizer

BEGIN = "BEGINNING OF CONVERSATION: USER:"


@pytest.mark.parametrize(
    ("turns", "text"),
    [
        ("hi", f"{BEGIN} hi ASSISTANT:"),
        ("{x} {input}", f"{BEGIN} {{x}} {{input}} ASSISTANT:"),
        (["a", "b", "c"], f"{BEGIN} a ASSISTANT:b</s>USER: c ASSISTANT:"),
    ],
)
def test_safe_rlhfs_template(turns, text):
    assert ChatTemplate.of("auto", tiny_tokenizer()).prompt(turns) == text


def test_a_conversation_must_end_with_the_user():
    with pytest.raises(UserError, match="2 turns does not end with the user's"):
        ChatTemplate.of("safe-rlhf", tiny_tokenizer()).prompt(["hi", "hello"])


@pytest.mark.parametrize(
    ("choice", "turns", "system", "message"),
    [
        ("none", ["hi", "hello", "bye"], None, "none .* has no way to write 3 turns"),
        ("none", "hi", "be brief", "none .* has no way to write a system prompt"),
        ("safe-rlhf", "hi", "be brief", "Safe-RLHF's template has no place for a system prompt"),
    ],
)
def test_what_a_template_has_no_place_for(choice, turns, system, message):
    with pytest.raises(UserError, match=message):
        ChatTemplate.of(choice, tiny_tokenizer()).prompt(turns, system)


@pytest.mark.parametrize("choice", ["safe-rlhf", "none"])
def test_people_are_shown_the_users_words(choice):
    template = ChatTemplate.of(choice, tiny_tokenizer())
    assert template.shown(template.prompt_ids("how are you?")) == "how are you?"


def test_a_models_own_list_of_end_tokens_counts():
    template = ChatTemplate.of("safe-rlhf", tiny_tokenizer())

    class Model:
        class generation_config:
            eos_token_id = (7, 2, 9)

    assert template.stop_ids(Model) == (2, 7, 9)
    assert template.stop_ids() == (2,)


def test_an_earlier_result_has_prompts_in_safe_rlhfs_template():
    assert without_template("BEGINNING OF CONVERSATION: USER: hi you ASSISTANT:") == "hi you"
    assert without_template("hi you") == "hi you"
