"""What a scorer sees."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.forward.generation import is_end
from safe_rlhf_panacea.models.score_model import last_attended


@dataclass(eq=False)
class Responses:
    """Responses to prompts, in the policy's tokens; what several scorers want is made once.

    Attributes:
        input_ids: prompts, padded on the left, and responses, size = (B, L).
        attention_mask: true on tokens, with each response's end token, size = (B, L).
        prompt_length: width of the padded prompts, after which the responses begin.
        examples: the raw sample that each row's prompt comes from: ``input``, the turns, and every
            further column of the data set; None where they are not known.
        groups: rows that may begin alike, as those of one prompt, size = (R, G); each of the B
            once, or None.
        extra: columns that reward functions have logged beside the rewards, B values each.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    prompt_length: int
    examples: Sequence[Mapping[str, Any]] | None = None
    groups: torch.Tensor | None = None
    extra: dict[str, list[Any]] = field(default_factory=dict)
    _made: dict[Hashable, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """Hold the examples to the rows."""
        if self.examples is not None and len(self.examples) != len(self.input_ids):
            raise ValueError(f"{len(self.examples)} examples for {len(self.input_ids)} rows")

    def __len__(self) -> int:
        """B."""
        return self.input_ids.size(0)

    def once(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What ``make`` returned when it was asked for first."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def prompts(self, tokenizer: Any) -> list[str]:
        """As the policy reads them, with the template, without special tokens."""
        part = self.input_ids[:, : self.prompt_length]
        return self.once("prompts", lambda: _decode(tokenizer, part))

    def responses(self, tokenizer: Any) -> list[str]:
        """As text, without special tokens."""
        part = self.input_ids[:, self.prompt_length :]
        return self.once("responses", lambda: _decode(tokenizer, part))

    def raw_prompts(self, tokenizer: Any) -> list[Any]:
        """As the data have them, without the template: B strings, or B lists of messages.

        Where no samples are known they are as the policy reads them.
        """
        if self.examples is None:
            return self.prompts(tokenizer)
        return [
            _messages(example) if _is_conversation(example) else example["input"]
            for example in self.examples
        ]

    def completions(self, tokenizer: Any) -> list[Any]:
        """The responses: strings, or, where the prompt is a list of messages, one message each."""
        texts = self.responses(tokenizer)
        examples = self.examples or [{}] * len(texts)
        return [
            [{"role": "assistant", "content": text}] if _is_conversation(example) else text
            for text, example in zip(texts, examples, strict=True)
        ]

    def log_extra(self, column: str, values: Sequence[Any]) -> None:
        """Keep a column, B values: an evaluation writes it beside the responses."""
        self.extra[column] = list(values)

    def response_lengths(self, stop_ids: Sequence[int]) -> torch.Tensor:
        """In tokens, without those that end a response, int64, size = (B,)."""
        responses = self.input_ids[:, self.prompt_length :]
        mask = self.attention_mask[:, self.prompt_length :].bool()
        return (mask & ~is_end(responses, stop_ids)).sum(dim=-1)

    def prompt_ids(self) -> list[list[int]]:
        """Token ids without padding."""
        return self.once("prompt_ids", lambda: self._ids(slice(0, self.prompt_length)))

    def response_ids(self) -> list[list[int]]:
        """Token ids without padding, the end token included."""
        return self.once("response_ids", lambda: self._ids(slice(self.prompt_length, None)))

    def _ids(self, part: slice) -> list[list[int]]:
        mask = self.attention_mask[:, part].bool()
        return [row[kept].tolist() for row, kept in zip(self.input_ids[:, part], mask, strict=True)]

    def ended(self, stop_ids: Sequence[int]) -> list[bool]:
        """Whether each response came to its end, or was cut off."""
        last = last_attended(self.attention_mask).to(self.input_ids.device).unsqueeze(-1)
        return is_end(self.input_ids.gather(-1, last).squeeze(-1), stop_ids).tolist()

    def turns(self) -> list[list[str]]:
        """Of each conversation, without its response: user, assistant, ..., user."""
        inputs = self.column("input")
        return [[turns] if isinstance(turns, str) else list(turns) for turns in inputs]

    @property
    def columns(self) -> set[str]:
        """Of the data set, those that every row has."""
        return set.intersection(*map(set, self.examples)) if self.examples else set()

    def column(self, name: str) -> list[Any]:
        """A column of the data set, B values.

        Raises:
            UserError: a row lacks it, or no columns are known.
        """
        if self.examples is None:
            raise UserError(f"the column {name!r} of the data is not known here")
        for row, example in enumerate(self.examples):
            if name not in example:
                has = ", ".join(example)
                raise UserError(f"the data of row {row} have no column {name!r}; they have: {has}")
        return [example[name] for example in self.examples]


def _is_conversation(example: Mapping[str, Any]) -> bool:
    """Whether a sample is one of messages: a list of turns, or with a system prompt."""
    return bool(example.get("system")) or not isinstance(example.get("input", ""), str)


def _messages(example: Mapping[str, Any]) -> list[dict[str, str]]:
    """The prompt of a sample, as messages."""
    turns = [example["input"]] if isinstance(example["input"], str) else example["input"]
    system = example.get("system")
    messages = [{"role": "system", "content": system}] if system else []
    for place, text in enumerate(turns):
        messages.append({"role": "assistant" if place % 2 else "user", "content": text})
    return messages


def _decode(tokenizer: Any, tokens: torch.Tensor) -> list[str]:
    return [text.strip() for text in tokenizer.batch_decode(tokens, skip_special_tokens=True)]
