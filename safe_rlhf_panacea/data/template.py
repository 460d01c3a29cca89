"""How a conversation becomes text and tokens: all formatting of prompts is here.

A template is a model's own (``jinja_template.py``), Safe-RLHF's, or none at all.
"""

from __future__ import annotations

import abc
import datetime
import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

from safe_rlhf_panacea.data.control_tokens import as_text, control_pattern, special_tokens, tokenize
from safe_rlhf_panacea.errors import UserError

AUTO, SAFE_RLHF, NONE, RAW = "auto", "safe-rlhf", "none", "raw"
NAMES = (AUTO, SAFE_RLHF, NONE, RAW)
PROMPT_BEGIN = "BEGINNING OF CONVERSATION: "
PROMPT_USER = "USER: {input} "
PROMPT_ASSISTANT = "ASSISTANT:"  # without a space, as the answer follows directly
# What Safe-RLHF writes before and after the words of a single turn.
SAFE_RLHF_MARKS = (f"{PROMPT_BEGIN}{PROMPT_USER.split('{input}')[0]}".strip(), PROMPT_ASSISTANT)
_WORDS = "7The1words0"  # stand in for a turn; no template has them

Turns = str | Sequence[str]


def as_turns(turns: Turns) -> list[str]:
    """The turns of a conversation, which alternate user, assistant, ..., user.

    Raises:
        UserError: it does not end with the user's.
    """
    turns = [turns] if isinstance(turns, str) else list(turns)
    if len(turns) % 2 == 0:
        raise UserError(
            f"a conversation of {len(turns)} turns does not end with the user's: "
            "turns alternate user, assistant, ..., user"
        )
    return turns


def own_end_ids(model: Any) -> tuple[int, ...]:
    """The tokens at which a model's ``generation_config.eos_token_id`` ends a response.

    One token that transformers only copied from the model's configuration does not count: it is
    often the default of an architecture, and an ordinary token of this tokenizer.
    """
    config: Any = getattr(model, "generation_config", None)
    ids = getattr(config, "eos_token_id", None)
    if isinstance(ids, int):
        return () if config._from_model_config else (ids,)
    return tuple(ids or ())


class ChatTemplate(abc.ABC):
    """How conversations are written for one model.

    Attributes:
        recorded: ``safe-rlhf``, ``none``, ``raw`` or the jinja text: what is kept with an adapter.
        tokenizer: the model's.
        jinja: the text of a jinja template, None for the others.
        now: the date and time that the template may write; None: those of the moment.
    """

    # Whether the tokenizer puts its own special tokens around a text, such as BOS.
    ADDS_SPECIAL_TOKENS: ClassVar[bool] = True
    # Whether prompt and answer are always tokenised as one text, as Safe-RLHF does.
    JOINED: ClassVar[bool] = False

    recorded: str
    jinja: str | None = None
    now: datetime.datetime | None = None

    def __init__(self, tokenizer: Any) -> None:
        """Use a model's tokenizer."""
        self.tokenizer = tokenizer

    @staticmethod
    def of(choice: str, tokenizer: Any, now: datetime.datetime | None = None) -> ChatTemplate:
        """The template that ``--chat_template`` names.

        Args:
            choice: ``auto`` (the tokenizer's own, else Safe-RLHF's), ``safe-rlhf``, ``none``,
                ``raw``, or the path of a jinja file; a ``UserError`` if it does not render.
            tokenizer: of the model that is spoken to.
            now: the date and time that the template may write; None: those of the moment.
        """
        from safe_rlhf_panacea.data.jinja_template import own_template, read_template

        if choice == AUTO:
            template: ChatTemplate = own_template(tokenizer) or SafeRlhfTemplate(tokenizer)
        elif choice in NAMES:
            template = ChatTemplate.as_recorded(choice, tokenizer)
        else:
            template = read_template(choice, tokenizer)
        template.now = now
        return template

    @staticmethod
    def as_recorded(recorded: str, tokenizer: Any) -> ChatTemplate:
        """The template that an adapter was trained with."""
        from safe_rlhf_panacea.data.jinja_template import JinjaTemplate

        for kind in (SafeRlhfTemplate, PlainTemplate, RawTemplate):
            if recorded == kind.recorded:
                return kind(tokenizer)
        return JinjaTemplate(recorded, tokenizer, "the adapter's chat template")

    @staticmethod
    def chosen(choice: str | None, recorded: str, tokenizer: Any) -> ChatTemplate:
        """The template that ``choice`` names, else the one recorded with the adapter."""
        if choice is None:
            return ChatTemplate.as_recorded(recorded, tokenizer)
        return ChatTemplate.of(choice, tokenizer)

    def keep(self, tokenizer: Any) -> None:
        """Set the chat template of a tokenizer that is about to be saved to this one."""
        tokenizer.chat_template = self.jinja

    # -- text -------------------------------------------------------------------------

    @abc.abstractmethod
    def prompt(self, turns: Turns, system: str | None = None) -> str:
        """The conversation up to where the answer begins, for ``encode``.

        The words of users and assistants have a ``CUT`` in each spelling of a control token.

        Args:
            turns: the user's words, or turns that alternate user, assistant, ..., user.
            system: the system prompt, if there is one.

        Raises:
            UserError: the template has no place for the system prompt, or for several turns.
        """

    def rest(self, prompt: str, turns: Turns, answer: str, system: str | None = None) -> str:
        """The text that follows the prompt in training: the answer and its end."""
        del prompt, turns, system
        return self.said(answer) + self.answer_end

    def said(self, text: str) -> str:
        """Words of a user or an assistant, cut so that they give no control token."""
        return as_text(text, self._special)

    @cached_property
    def _special(self) -> re.Pattern[str]:
        return control_pattern(self.special_tokens)

    @property
    def end_token(self) -> str:
        """The token with which the model ends its turn."""
        return self.tokenizer.eos_token

    @property
    def answer_end(self) -> str:
        """The text after an answer, up to and including the end token."""
        return self.end_token

    # -- tokens -----------------------------------------------------------------------

    def stop_ids(self, model: Any = None) -> tuple[int, ...]:
        """The tokens that end a response: the template's, the tokenizer's and the model's own."""
        token = self.tokenizer.convert_tokens_to_ids(self.end_token)
        return tuple(dict.fromkeys((token, self.tokenizer.eos_token_id, *own_end_ids(model))))

    @cached_property
    def special_tokens(self) -> list[str]:
        """The tokenizer's special tokens, which include the end token; the shortest first."""
        return special_tokens(self.tokenizer)

    def encode(self, prompts: Sequence[str], *rests: Sequence[str]) -> list[list[list[int]]]:
        """Token ids of prompts and, column by column, of each prompt with what follows it.

        Where the tokens of the whole do not begin with the prompt's, its two parts are tokenised
        apart, which is what the model sees when it answers. Nothing is truncated.
        """
        columns = ([p + r for p, r in zip(prompts, rest, strict=True)] for rest in rests)
        texts = [*prompts, *(text for column in columns for text in column)]
        ids = tokenize(self.tokenizer, texts, self.ADDS_SPECIAL_TOKENS)
        count = len(prompts)
        starts, *wholes = (ids[i : i + count] for i in range(0, len(ids), count))
        if not self.JOINED:
            for whole, rest in zip(wholes, rests, strict=True):
                self._part(starts, whole, rest)
        return [starts, *wholes]

    def _part(self, starts: list[list[int]], wholes: list[list[int]], rests: Sequence[str]) -> None:
        pairs = enumerate(zip(starts, wholes, strict=True))
        apart = [i for i, (start, whole) in pairs if whole[: len(start)] != start]
        own = tokenize(self.tokenizer, [rests[i] for i in apart], False)
        for i, ids in zip(apart, own, strict=True):
            wholes[i] = starts[i] + ids

    def prompt_ids(self, turns: Turns, system: str | None = None) -> list[int]:
        """The token ids of ``prompt``, as one list."""
        return self.encode([self.prompt(turns, system)])[0][0]

    def conversation_ids(
        self, turns: Turns, answer: str, ended: bool = True, system: str | None = None
    ) -> list[int]:
        """The tokens of a conversation with its answer, which ``ended`` or was cut off."""
        prompt = self.prompt(turns, system)
        rest = self.rest(prompt, turns, answer, system)
        if not ended:
            rest = rest.removesuffix(self.answer_end)
        return self.encode([prompt], [rest])[1][0]

    # -- for people -------------------------------------------------------------------

    @cached_property
    def _around(self) -> tuple[str, str, list[int]]:
        """The text before and after the words of a single turn, and its special tokens."""
        prompt = self.prompt(_WORDS)
        before, _, after = prompt.partition(_WORDS)
        return before.strip(), after.strip(), self._special_ids(self.encode([prompt])[0][0])

    def _special_ids(self, input_ids: Sequence[int]) -> list[int]:
        special = set(self.tokenizer.convert_tokens_to_ids(self.special_tokens))
        return [token for token in input_ids if token in special]

    def shown(self, input_ids: Sequence[int]) -> str:
        """A prompt for people: the user's words if it is a single turn, else all of its text."""
        plain = self.ADDS_SPECIAL_TOKENS
        text = self.tokenizer.decode(input_ids, skip_special_tokens=plain).strip()
        before, after, special = self._around
        if text.startswith(before) and text.endswith(after):
            text = text[len(before) : len(text) - len(after)].strip()
            plain = plain or self._special_ids(input_ids) == special
        if plain:  # a spelling of a control token is then somebody's words
            return text
        parts = re.split("|".join(map(re.escape, self.special_tokens)), text)
        return "\n".join(part.strip() for part in parts if part.strip())


class PlainTemplate(ChatTemplate):
    """No template: the prompt's text as it is, for base models."""

    recorded = NONE

    def prompt(self, turns: Turns, system: str | None = None) -> str:
        turns = as_turns(turns)
        if len(turns) > 1 or system is not None:
            what = "a system prompt" if len(turns) == 1 else f"{len(turns)} turns"
            raise UserError(
                f"--chat_template {self.recorded} writes a single turn as it is, and has no way "
                f"to write {what}: choose another --chat_template"
            )
        return self.said(turns[0])


class RawTemplate(PlainTemplate):
    """No template, for prompts in which one is written already: their control tokens count."""

    ADDS_SPECIAL_TOKENS: ClassVar[bool] = False
    recorded = RAW

    def said(self, text: str) -> str:
        return text


def without_template(prompt: str) -> str:
    """The user's words of a prompt in Safe-RLHF's template; another text as it is."""
    before, after = SAFE_RLHF_MARKS
    if not (prompt.startswith(before) and prompt.endswith(after)):
        return prompt
    return prompt.removeprefix(before).removesuffix(after).strip()


class SafeRlhfTemplate(ChatTemplate):
    """``BEGINNING OF CONVERSATION: USER: ... ASSISTANT:``, tokenised as Safe-RLHF does.

    A token across the boundary of prompt and answer belongs to the answer.
    """

    JOINED: ClassVar[bool] = True
    recorded = SAFE_RLHF

    def prompt(self, turns: Turns, system: str | None = None) -> str:
        if system is not None:
            raise UserError(
                "Safe-RLHF's template has no place for a system prompt: choose another "
                "--chat_template, or leave the system prompt out"
            )
        text = PROMPT_BEGIN
        for index, turn in enumerate(map(self.said, as_turns(turns))):
            if index % 2 == 0:
                # Not str.format: the user's own braces are text.
                text += PROMPT_USER.replace("{input}", turn) + PROMPT_ASSISTANT
            else:
                text += turn + self.tokenizer.eos_token
        return text
