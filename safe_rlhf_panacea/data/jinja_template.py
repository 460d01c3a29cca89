"""Chat templates in jinja, as models bring them. ``rendering.py`` renders them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from safe_rlhf_panacea.data.control_tokens import as_text, control_pattern
from safe_rlhf_panacea.data.rendering import RenderingError, render
from safe_rlhf_panacea.data.template import NAMES, ChatTemplate, Turns, as_turns
from safe_rlhf_panacea.errors import UserError

Messages = list[dict[str, str]]
_QUESTION, _ANSWER = "7question0", "7answer0"  # no template has these words


def read_text(path: str) -> str:
    """The text of a template's file; ``UserError`` if it is missing or no text."""
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: no such chat template ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 text; a chat template is a jinja file") from None
    if not text.strip():
        raise UserError(f"{path}: the chat template is empty")
    return text


def check_choice(choice: str) -> str:
    """Refuse a template file that does not render a conversation, before a model is loaded.

    Raises:
        UserError: with file and line.
    """
    if choice in NAMES:
        return choice
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    tokens = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    empty = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), **tokens)
    read_template(choice, empty).check()
    return choice


def read_template(path: str, tokenizer: Any) -> JinjaTemplate:
    """The template in a file."""
    return JinjaTemplate(read_text(path), tokenizer, path)


def own_template(tokenizer: Any) -> JinjaTemplate | None:
    """The tokenizer's own, if it has one.

    Raises:
        UserError: it has several, and none of them is the default.
    """
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


class JinjaTemplate(ChatTemplate):
    """A jinja template, which writes special tokens itself."""

    ADDS_SPECIAL_TOKENS: ClassVar[bool] = False

    jinja: str

    def __init__(self, text: str, tokenizer: Any, source: str) -> None:
        """Hold a template's text; ``source`` (a file, or its owner) is for messages."""
        super().__init__(tokenizer)
        self.recorded = self.jinja = text
        self.source = source

    def check(self) -> None:
        """Render a conversation; ``UserError`` with file and line if the template fails."""
        if _QUESTION not in self.prompt(_QUESTION):
            raise UserError(f"{self.source}: the chat template leaves out what the user says")
        _ = self._closing

    def _render(self, messages: Messages, *, answering: bool) -> str:
        try:
            tokens = self.tokenizer.special_tokens_map
            return render(self.jinja, messages, tokens, answering=answering, now=self.now)
        except RenderingError as error:
            place = self.source if error.line is None else f"{self.source}:{error.line}"
            reason = " ".join(str(error).split())
            roles = ", ".join(message["role"] for message in messages)
            raise UserError(
                f"{place}: the chat template fails on a conversation of {roles}: {reason}"
            ) from None

    def said(self, text: str, role: str = "assistant") -> str:
        """The words of somebody in a ``role``, cut as in every template.

        The words of users and of system prompts are also cut where they spell another token that
        was added to the vocabulary and that the template writes, as some models mark turns with
        such tokens. Answers are not, since they may hold some, such as ``<think>``.
        """
        return super().said(text) if role == "assistant" else as_text(text, self._named)

    @cached_property
    def _named(self) -> re.Pattern[str]:
        added = map(str, self.tokenizer.added_tokens_decoder.values())
        # Not words that were added: they are no mark-up wherever they stand in the template.
        marks = {token for token in added if re.search(r"[^\w\s]", token)}
        if marks := marks.difference(self.special_tokens):
            written = self.jinja + "".join(self._samples())
            marks = {token for token in marks if token in written}
        return control_pattern(marks.union(self.special_tokens))

    def _samples(self) -> Iterator[str]:
        """Rendered conversations, which show tokens that the template composes of parts.

        An example is ``'<|' + role + '|>'``. Conversations that it refuses are left out.
        """
        for roles in (("user",), ("user", "assistant", "user"), ("system", "user")):
            messages = [{"role": role, "content": _QUESTION} for role in roles]
            with suppress(UserError):
                yield self._render(messages, answering=True)

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

        Where a conversation with its answer does not begin with the prompt, the answer follows the
        prompt as it is, since that is what the model sees when it answers.
        """
        answer = self.said(answer)
        messages = [*self._messages(turns, system), {"role": "assistant", "content": answer}]
        whole = self._render(messages, answering=False)
        if not (whole.startswith(prompt) and whole.endswith(self._closing)):
            return answer + self.answer_end
        return whole[len(prompt) : len(whole) - len(self._closing)] + self.answer_end

    @cached_property
    def _closing(self) -> str:
        """The text that the template writes after the last answer."""
        messages = [*self._messages(_QUESTION, None), {"role": "assistant", "content": _ANSWER}]
        _, found, after = self._render(messages, answering=False).rpartition(_ANSWER)
        if not found:
            raise UserError(f"{self.source}: the chat template leaves out what the assistant says")
        return after

    @cached_property
    def _end(self) -> tuple[str, str]:
        """What is written after an answer with the end token, and that token."""
        places = {self._closing.find(token): token for token in self.special_tokens}
        places.pop(-1, None)
        if not places:  # nothing that a model could stop at
            return self.tokenizer.eos_token, self.tokenizer.eos_token
        place = min(places)
        return self._closing[:place] + places[place], places[place]

    @property
    def end_token(self) -> str:
        return self._end[1]

    @property
    def answer_end(self) -> str:
        return self._end[0]
