"""How a conversation becomes text and tokens, in a template of ``templates.py``.

What is said never becomes a control token such as ``<|im_end|>``: ``as_text`` puts the character
``CUT`` inside each spelling of one, and ``tokenize`` tokenises the parts between them apart.
"""

from __future__ import annotations

import abc
import datetime
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, ClassVar

from safe_rlhf_panacea.errors import UserError

AUTO, SAFE_RLHF, NONE, RAW = "auto", "safe-rlhf", "none", "raw"
NAMES = (AUTO, SAFE_RLHF, NONE, RAW)
CUT = "\ufdd0"  # of the characters that Unicode reserves for the inside of programs
_WORDS = "7The1words0"  # stand in for a turn; no template has them

Turns = str | Sequence[str]


def special_tokens(tokenizer: Any) -> list[str]:
    """The spellings of a tokenizer's special tokens, the shortest first."""
    added = tokenizer.added_tokens_decoder.values()
    special = {str(token) for token in added if token.special}
    return sorted(special | set(tokenizer.all_special_tokens), key=len)


def control_pattern(tokens: Iterable[str]) -> re.Pattern[str]:
    """Matches the first character of each spelling of tokens that can be cut, overlapping too."""
    spellings = "|".join(re.escape(token) for token in tokens if len(token) > 1)
    return re.compile(f"(?s:(?={spellings or '(?!)'}).)")  # (?!) matches nothing


def as_text(text: str, control: re.Pattern[str]) -> str:
    """``text`` with a ``CUT`` after the first character of each spelling of a control token."""
    return control.sub(rf"\g<0>{CUT}", text.replace(CUT, ""))


def tokenize(
    tokenizer: Any, texts: Sequence[str], add_special_tokens: bool = True
) -> list[list[int]]:
    """Token ids of each text, in which each ``CUT`` separates what is tokenised apart."""

    def encode(texts: Sequence[str], special: bool = False) -> list[list[int]]:
        if not texts:
            return []
        return tokenizer(
            list(texts),
            add_special_tokens=special,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,  # it would warn of texts that are truncated later
        )["input_ids"]

    def joined(text: str) -> list[int]:
        # Some tokenizers put a space before a text. So each part but the first is tokenised behind
        # a line break, which is then taken away, unless the part's beginning joins with it.
        first, *others = (part for part in text.split(CUT) if part)
        (line_break, ids), behind = encode(["\n", first]), encode(["\n" + part for part in others])
        for part, found in zip(others, behind, strict=True):
            joins = found[: len(line_break)] != line_break
            ids += encode([part])[0] if joins else found[len(line_break) :]
        return ids

    whole = iter(encode([text for text in texts if CUT not in text], add_special_tokens))
    if not any(CUT in text for text in texts):
        return list(whole)
    (plain,), (framed,) = encode(["a"]), encode(["a"], add_special_tokens)
    before = next(i for i in range(len(framed)) if framed[i : i + len(plain)] == plain)
    start, end = framed[:before], framed[before + len(plain) :]
    return [[*start, *joined(text), *end] if CUT in text else next(whole) for text in texts]


def as_turns(turns: Turns) -> list[str]:
    """Turns that alternate user, assistant, ..., user; a ``UserError`` if not."""
    turns = [turns] if isinstance(turns, str) else list(turns)
    if len(turns) % 2 == 0:
        raise UserError(
            f"a conversation of {len(turns)} turns does not end with the user's: "
            "turns alternate user, assistant, ..., user"
        )
    return turns


def own_end_ids(model: Any) -> tuple[int, ...]:
    """The tokens at which a model's ``generation_config.eos_token_id`` ends a response."""
    config: Any = getattr(model, "generation_config", None)
    ids = getattr(config, "eos_token_id", None)
    if isinstance(ids, int):
        # transformers may have copied it from the model's configuration, where it is often the
        # default of an architecture, and an ordinary token of this tokenizer.
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

    ADDS_SPECIAL_TOKENS: ClassVar[bool] = True  # whether the tokenizer adds its own, such as BOS
    # Whether prompt and answer are always tokenised as one text, as Safe-RLHF does.
    JOINED: ClassVar[bool] = False

    recorded: str
    jinja: str | None = None
    now: datetime.datetime | None = None

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    @staticmethod
    def of(choice: str, tokenizer: Any, now: datetime.datetime | None = None) -> ChatTemplate:
        """The template that ``--chat_template`` names, for the model of a tokenizer.

        It is ``auto`` (the tokenizer's own, else Safe-RLHF's), ``safe-rlhf``, ``none``, ``raw``, or
        the path of a jinja file.
        """
        from safe_rlhf_panacea.data import templates

        if choice == AUTO:
            own = templates.own_template(tokenizer)
            template: ChatTemplate = own or templates.SafeRlhfTemplate(tokenizer)
        elif choice in NAMES:
            template = ChatTemplate.as_recorded(choice, tokenizer)
        else:
            template = templates.read_template(choice, tokenizer)
        template.now = now
        return template

    @staticmethod
    def as_recorded(recorded: str, tokenizer: Any) -> ChatTemplate:
        """The template that an adapter was trained with."""
        from safe_rlhf_panacea.data import templates

        for kind in (templates.SafeRlhfTemplate, templates.PlainTemplate, templates.RawTemplate):
            if recorded == kind.recorded:
                return kind(tokenizer)
        return templates.JinjaTemplate(recorded, tokenizer, "the adapter's chat template")

    @staticmethod
    def chosen(choice: str | None, recorded: str, tokenizer: Any) -> ChatTemplate:
        """The template that ``choice`` names, else the one recorded with the adapter."""
        if choice is None:
            return ChatTemplate.as_recorded(recorded, tokenizer)
        return ChatTemplate.of(choice, tokenizer)

    def keep(self, tokenizer: Any) -> None:
        """Set the chat template of a tokenizer that is about to be saved to this one."""
        tokenizer.chat_template = self.jinja

    @abc.abstractmethod
    def prompt(self, turns: Turns, system: str | None = None) -> str:
        """The conversation up to where the answer begins, for ``encode``.

        ``turns`` are the user's words, or alternate user, assistant, ..., user. A ``UserError``
        says that the template has no place for the system prompt, or for several turns.
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

    def stop_ids(self, model: Any = None) -> tuple[int, ...]:
        """The tokens that end a response: the template's, the tokenizer's and the model's own."""
        token = self.tokenizer.convert_tokens_to_ids(self.end_token)
        return tuple(dict.fromkeys((token, self.tokenizer.eos_token_id, *own_end_ids(model))))

    @cached_property
    def special_tokens(self) -> list[str]:
        """The tokenizer's special tokens, which include the end token; the shortest first."""
        return special_tokens(self.tokenizer)

    def encode(self, prompts: Sequence[str], *rests: Sequence[str]) -> list[list[list[int]]]:
        """Token ids of prompts and, column by column, of each prompt with what follows it."""
        texts = [*prompts, *(p + r for rest in rests for p, r in zip(prompts, rest, strict=True))]
        ids = tokenize(self.tokenizer, texts, self.ADDS_SPECIAL_TOKENS)
        count = len(prompts)
        starts, *wholes = (ids[i : i + count] for i in range(0, len(ids), count))
        for whole, rest in zip(wholes, () if self.JOINED else rests, strict=False):
            pairs = enumerate(zip(starts, whole, strict=True))
            apart = [i for i, (start, found) in pairs if found[: len(start)] != start]
            # The two parts by themselves are what the model sees when it answers.
            own = tokenize(self.tokenizer, [rest[i] for i in apart], False)
            for i, tokens in zip(apart, own, strict=True):
                whole[i] = starts[i] + tokens
        return [starts, *wholes]

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
