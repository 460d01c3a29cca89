"""The chat templates: Safe-RLHF's, none, and those in jinja, as models bring them."""

from __future__ import annotations

import re
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from safe_rlhf_panacea.data import template
from safe_rlhf_panacea.data.rendering import RenderingError, render
from safe_rlhf_panacea.data.template import ChatTemplate, Turns, as_text, as_turns, control_pattern
from safe_rlhf_panacea.errors import UserError

# What Safe-RLHF writes before and after the words of a single turn.
SAFE_RLHF_MARKS = ("BEGINNING OF CONVERSATION: USER:", "ASSISTANT:")
_QUESTION, _ANSWER = "7question0", "7answer0"  # no template has these words

Messages = list[dict[str, str]]


class PlainTemplate(ChatTemplate):
    """No template: the prompt's text as it is, for base models."""

    recorded = template.NONE

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
    recorded = template.RAW

    def said(self, text: str) -> str:
        return text


class SafeRlhfTemplate(ChatTemplate):
    """``BEGINNING OF CONVERSATION: USER: ... ASSISTANT:``, tokenised as Safe-RLHF does.

    A token across the boundary of prompt and answer belongs to the answer.
    """

    JOINED: ClassVar[bool] = True
    recorded = template.SAFE_RLHF

    def prompt(self, turns: Turns, system: str | None = None) -> str:
        if system is not None:
            raise UserError(
                "Safe-RLHF's template has no place for a system prompt: choose another "
                "--chat_template, or leave the system prompt out"
            )
        text = "BEGINNING OF CONVERSATION: "
        for index, turn in enumerate(map(self.said, as_turns(turns))):
            # The answer follows directly, without a space.
            is_users = index % 2 == 0
            text += f"USER: {turn} ASSISTANT:" if is_users else turn + self.tokenizer.eos_token
        return text


def without_template(prompt: str) -> str:
    """The user's words of a prompt in Safe-RLHF's template; another text as it is."""
    before, after = SAFE_RLHF_MARKS
    if not (prompt.startswith(before) and prompt.endswith(after)):
        return prompt
    return prompt.removeprefix(before).removesuffix(after).strip()


class JinjaTemplate(ChatTemplate):
    """A jinja template, which writes special tokens itself."""

    ADDS_SPECIAL_TOKENS: ClassVar[bool] = False

    jinja: str

    def __init__(self, text: str, tokenizer: Any, source: str) -> None:
        super().__init__(tokenizer)
        self.recorded = self.jinja = text
        self.source = source  # a file, or its owner, for messages

    def _render(self, messages: Messages, *, answering: bool) -> str:
        try:
            tokens = self.tokenizer.special_tokens_map
            return render(self.jinja, messages, tokens, answering=answering, now=self.now)
        except RenderingError as error:
            place = self.source if error.line is None else f"{self.source}:{error.line}"
            roles = ", ".join(message["role"] for message in messages)
            told = f"{place}: the chat template fails on a conversation of {roles}"
            raise UserError(f"{told}: {' '.join(str(error).split())}") from None

    def said(self, text: str, role: str = "assistant") -> str:
        """The words of somebody in a ``role``, cut as in every template.

        Those of users and system prompts are also cut where they spell another added token that the
        template writes, as some mark turns. Answers may hold such tokens, as ``<think>``.
        """
        return super().said(text) if role == "assistant" else as_text(text, self._named)

    @cached_property
    def _named(self) -> re.Pattern[str]:
        added = map(str, self.tokenizer.added_tokens_decoder.values())
        # Not words that were added: they are no mark-up wherever they stand in the template.
        marks = {token for token in added if re.search(r"[^\w\s]", token)}
        if marks := marks.difference(self.special_tokens):
            # Rendered conversations show tokens that it composes, as '<|' + role + '|>'.
            written = self.jinja
            for roles in (("user",), ("user", "assistant", "user"), ("system", "user")):
                messages = [{"role": role, "content": _QUESTION} for role in roles]
                with suppress(UserError):  # it refuses this conversation
                    written += self._render(messages, answering=True)
            marks = {token for token in marks if token in written}
        return control_pattern(marks.union(self.special_tokens))

    def _messages(self, turns: Turns, system: str | None) -> Messages:
        roles = ("user", "assistant")
        said = [(roles[i % 2], turn) for i, turn in enumerate(as_turns(turns))]
        if system is not None:
            said.insert(0, ("system", system))
        return [{"role": role, "content": self.said(text, role)} for role, text in said]

    def prompt(self, turns: Turns, system: str | None = None) -> str:
        text = self._render(self._messages(turns, system), answering=True)
        if system is not None and self.said(system, "system").strip() not in text:
            raise UserError(
                f"{self.source}: the chat template leaves out the system prompt: choose another "
                "--chat_template, or leave the system prompt out of the data"
            )
        return text

    def rest(self, prompt: str, turns: Turns, answer: str, system: str | None = None) -> str:
        """The answer as the template writes it, which may strip white space, and its end.

        The answer follows the prompt as it is where the whole conversation begins otherwise.
        """
        answer = self.said(answer)
        messages = [*self._messages(turns, system), {"role": "assistant", "content": answer}]
        whole = self._render(messages, answering=False)
        if not (whole.startswith(prompt) and whole.endswith(self.closing)):
            return answer + self.answer_end
        return whole[len(prompt) : len(whole) - len(self.closing)] + self.answer_end

    @cached_property
    def closing(self) -> str:
        """The text that the template writes after the last answer."""
        messages = [*self._messages(_QUESTION, None), {"role": "assistant", "content": _ANSWER}]
        _, found, after = self._render(messages, answering=False).rpartition(_ANSWER)
        if not found:
            raise UserError(f"{self.source}: the chat template leaves out what the assistant says")
        return after

    @cached_property
    def end_token(self) -> str:
        """The first special token after an answer; without one, the tokenizer's end token."""
        places = {self.closing.find(token): token for token in self.special_tokens}
        places.pop(-1, None)
        return places[min(places)] if places else self.tokenizer.eos_token

    @property
    def answer_end(self) -> str:
        before, _, _ = self.closing.partition(self.end_token)
        return before + self.end_token if self.end_token in self.closing else self.end_token


def read_template(path: str, tokenizer: Any) -> JinjaTemplate:
    """The template in a file; ``UserError`` if it is missing or no text."""
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: no such chat template ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 text; a chat template is a jinja file") from None
    if not text.strip():
        raise UserError(f"{path}: the chat template is empty")
    return JinjaTemplate(text, tokenizer, path)


def own_template(tokenizer: Any) -> JinjaTemplate | None:
    """The tokenizer's own, if it has one; ``UserError`` if it has several and no default."""
    if not getattr(tokenizer, "chat_template", None):
        return None
    name = tokenizer.name_or_path or "the tokenizer"
    try:
        text = tokenizer.get_chat_template()
    except ValueError:
        names = ", ".join(sorted(tokenizer.chat_template))
        raise UserError(
            f"{name} has several chat templates ({names}) and no default: write the one that you "
            "mean to a file and give that as --chat_template"
        ) from None
    return JinjaTemplate(text, tokenizer, f"{name}'s chat template")


def check_choice(choice: str) -> str:
    """Refuse a template file that does not render a conversation, before a model is loaded."""
    if choice in template.NAMES:
        return choice
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    tokens = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    empty = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), **tokens)
    chosen = read_template(choice, empty)
    if _QUESTION not in chosen.prompt(_QUESTION):
        raise UserError(f"{chosen.source}: the chat template leaves out what the user says")
    _ = chosen.closing  # refuses one that leaves out the answer
    return choice
