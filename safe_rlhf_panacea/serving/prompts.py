"""From the words of a request to tokens."""

from __future__ import annotations

from collections.abc import Sequence

from safe_rlhf_panacea.base.datasets import format_prompt
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.respond import PanaceaModel
from safe_rlhf_panacea.serving.errors import ApiError
from safe_rlhf_panacea.serving.schema import Message

SYSTEM = ("system", "developer")


def split_system(messages: Sequence[Message]) -> tuple[str | None, list[str]]:
    """The system prompt, if there is one, and the turns.

    Raises:
        ApiError: they do not alternate user, assistant, ..., user.
    """
    turns = list(messages)
    system = turns.pop(0).text if turns[0].role in SYSTEM else None
    for place, message in enumerate(turns):
        wanted = ("user", "assistant")[place % 2]
        if message.role != wanted:
            raise ApiError(
                400,
                f"a message is of the {message.role} where one of the {wanted} belongs: after the "
                "system's, messages alternate user, assistant, ..., user",
                param="messages",
            )
    if len(turns) % 2 == 0:
        raise ApiError(400, "the last message must be the user's", param="messages")
    return system, [message.text for message in turns]


def chat_ids(model: PanaceaModel, turns: Sequence[str], system: str | None) -> list[int]:
    """The tokens of a conversation, up to where the answer begins.

    Raises:
        UserError: the adapter's template has no way to write it.
    """
    if system is not None:
        raise UserError("the adapter's template has no place for a system prompt")
    return text_ids(model, format_prompt(turns, model.tokenizer.eos_token))


def text_ids(model: PanaceaModel, text: str) -> list[int]:
    """The tokens of a text as it is."""
    return model.tokenizer(text)["input_ids"]


def stop_ids(model: PanaceaModel) -> frozenset[int]:
    """The tokens that end an answer."""
    return frozenset({model.tokenizer.eos_token_id})
