"""From the messages of a request to a conversation."""

from __future__ import annotations

from collections.abc import Sequence

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
