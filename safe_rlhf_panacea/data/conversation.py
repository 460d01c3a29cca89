"""Conversations as people write them: lists of messages, lists of turns, and one text."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from safe_rlhf_panacea.data.raw import RawSample
from safe_rlhf_panacea.data.table import LeaveOut, usable
from safe_rlhf_panacea.errors import UserError

SYSTEM, USER, ASSISTANT = "system", "user", "assistant"
ROLES = {
    **dict.fromkeys(("system", "developer"), SYSTEM),
    **dict.fromkeys(("user", "human", "Human"), USER),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bing", "bard", "Assistant"), ASSISTANT),
}
TOOLS = frozenset({"tool", "function", "function_call", "observation", "ipython"})
BEGINNING = "\n\nHuman:"  # of a dialogue in one text, as hh-rlhf has it
TURN = re.compile(r"\n\n(Human|Assistant):")
NO_TURNS = "speakers that do not take turns"

Said = list[tuple[str, str]]  # role and words of each message


class Conversation(NamedTuple):
    """Turns that alternate user, assistant, ..., and the system prompt, or ``""``."""

    system: str
    turns: list[str]

    def prompt(self, turns: int) -> RawSample:
        """The sample of a prompt that is the first turns, of which the last is the user's."""
        asked = self.turns[:turns]
        sample: RawSample = {"input": asked[0] if turns == 1 else asked}
        return {**sample, "system": self.system} if self.system else sample


def is_dialogue(value: Any) -> bool:
    """Whether a value is a dialogue in one text."""
    return isinstance(value, str) and value.startswith(BEGINNING)


def said_in(dialogue: str) -> Said:
    """Take a text apart in which a blank line and ``Human:`` or ``Assistant:`` begin a turn.

    Raises:
        LeaveOut: there is something before the first turn.
    """
    head, *parts = TURN.split("\n\n" + dialogue.lstrip())
    if head:
        raise LeaveOut(NO_TURNS)
    return [(ROLES[who], turn.strip()) for who, turn in zip(parts[::2], parts[1::2], strict=True)]


def said(value: Any, field: str) -> Said:
    """The messages of a prompt or a conversation.

    Args:
        value: one text of the user's, a dialogue in one text, a list of turns that alternate
            user, assistant, ..., or a list of messages with ``role`` and ``content`` (or ``from``
            and ``value``).
        field: its name, for messages.

    Raises:
        UserError: something else, a tool, or content that is no text.
    """
    if is_dialogue(value):
        turns = said_in(value)
        # A last turn of the assistant without words is the one to be answered.
        return turns[:-1] if turns[-1] == (ASSISTANT, "") else turns
    if isinstance(value, str) or value is None:
        return [(USER, value or "")]
    if not isinstance(value, (list, tuple)):
        raise UserError(f"{field} is {type(value).__name__}; it is text or a list of messages")
    if value and all(isinstance(turn, str) for turn in value):
        return [(USER if i % 2 == 0 else ASSISTANT, turn) for i, turn in enumerate(value)]
    return [_message(message, f"{field}: message {i + 1}") for i, message in enumerate(value)]


def _message(message: Any, where: str) -> tuple[str, str]:
    if not isinstance(message, dict):
        kind = type(message).__name__
        raise UserError(f"{where} is {kind}; it is an object with role and content")
    role = str(message.get("role") or message.get("from"))
    if role in TOOLS or message.get("tool_calls") or message.get("function_call"):
        raise UserError(f"{where} is about a tool, which no data set here has: leave out such rows")
    if role not in ROLES:
        raise UserError(f"{where} has the role {role!r}; roles are system, user and assistant")
    content = message.get("content", message.get("value"))
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        if not all(isinstance(part.get("text"), str) for part in content):
            raise UserError(f"{where} has a part that is no text; only text is read")
        content = "".join(part["text"] for part in content)
    if not isinstance(content, str) and content is not None:
        raise UserError(f"{where}: content is {type(content).__name__}; it is a string")
    return ROLES[role], content or ""


def in_turn(messages: Said, system: Any = None) -> Conversation:
    """The conversation that messages make; ``system`` is used where no message is a system prompt.

    Raises:
        LeaveOut: the speakers do not take turns, user first, or a turn is blank.
        UserError: ``system`` is no text.
    """
    if not isinstance(system, str) and system is not None:
        raise UserError(f"system is {type(system).__name__}; it is a string")
    system = system or ""
    if messages and messages[0][0] == SYSTEM:
        system, messages = messages[0][1], messages[1:]
    expected = [USER if i % 2 == 0 else ASSISTANT for i in range(len(messages))]
    if not messages or [role for role, _ in messages] != expected:
        raise LeaveOut(NO_TURNS)
    *turns, (role, last) = messages
    what = "response" if role == ASSISTANT else "turn" if turns else "prompt"
    words = [usable(turn, "turn") for _, turn in turns]
    return Conversation(system if system.strip() else "", [*words, usable(last, what)])


def parse_dialogue(dialogue: str) -> tuple[list[str], str]:
    """The turns of a dialogue in one text that lead to its last answer, and that answer.

    Raises:
        LeaveOut: the speakers do not take turns, or a turn is blank.
    """
    messages = said_in(dialogue)
    if len(messages) % 2:
        raise LeaveOut(NO_TURNS)
    *turns, answer = in_turn(messages).turns
    return turns, answer
