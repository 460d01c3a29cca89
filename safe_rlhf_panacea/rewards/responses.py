"""Responses as scorers see them, and what reward functions are given of them and may return."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import numpy as np
import torch

from safe_rlhf_panacea.distributed import all_gather_objects
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.forward import is_end
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
        if self.examples is not None and len(self.examples) != len(self.input_ids):
            raise ValueError(f"{len(self.examples)} examples for {len(self.input_ids)} rows")

    def __len__(self) -> int:
        return self.input_ids.size(0)

    def once(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What ``make`` returned when it was asked for first."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def prompts(self, tokenizer: Any) -> list[str]:
        """As the policy reads them, with the template, without special tokens."""
        return self._texts(tokenizer, slice(0, self.prompt_length))

    def responses(self, tokenizer: Any) -> list[str]:
        """As text, without special tokens."""
        return self._texts(tokenizer, slice(self.prompt_length, None))

    def _texts(self, tokenizer: Any, part: slice) -> Any:
        def decode() -> list[str]:
            texts = tokenizer.batch_decode(self.input_ids[:, part], skip_special_tokens=True)
            return [text.strip() for text in texts]

        return self.once(("texts", part.stop), decode)

    def prompt_ids(self) -> list[list[int]]:
        """Token ids without padding."""
        return self._ids(slice(0, self.prompt_length))

    def response_ids(self) -> list[list[int]]:
        """Token ids without padding, the end token included."""
        return self._ids(slice(self.prompt_length, None))

    def _ids(self, part: slice) -> Any:
        mask = self.attention_mask[:, part].bool()
        rows = zip(self.input_ids[:, part], mask, strict=True)
        return self.once(("ids", part.stop), lambda: [row[kept].tolist() for row, kept in rows])

    def response_lengths(self, stop_ids: Sequence[int]) -> torch.Tensor:
        """In tokens, without those that end a response, int64, size = (B,)."""
        responses = self.input_ids[:, self.prompt_length :]
        mask = self.attention_mask[:, self.prompt_length :].bool()
        return (mask & ~is_end(responses, stop_ids)).sum(dim=-1)

    def ended(self, stop_ids: Sequence[int]) -> list[bool]:
        """Whether each response came to its end, or was cut off."""
        last = last_attended(self.attention_mask).to(self.input_ids.device).unsqueeze(-1)
        return is_end(self.input_ids.gather(-1, last).squeeze(-1), stop_ids).tolist()

    def raw_prompts(self, tokenizer: Any) -> list[Any]:
        """As the data have them, without the template: B strings, or B lists of messages.

        Where no samples are known they are as the policy reads them.
        """
        if self.examples is None:
            return self.prompts(tokenizer)
        return [_messages(one) if _is_conversation(one) else one["input"] for one in self.examples]

    def completions(self, tokenizer: Any) -> list[Any]:
        """The responses: strings, or, where the prompt is a list of messages, one message each."""
        texts = self.responses(tokenizer)
        examples = self.examples or [{}] * len(texts)
        return [
            [{"role": "assistant", "content": text}] if _is_conversation(example) else text
            for text, example in zip(texts, examples, strict=True)
        ]

    def turns(self) -> list[list[str]]:
        """Of each conversation, without its response: user, assistant, ..., user."""
        return list(map(_turns, self.column("input")))

    @property
    def columns(self) -> set[str]:
        """Of the data set, those that every row has."""
        return set.intersection(*map(set, self.examples)) if self.examples else set()

    def column(self, name: str) -> list[Any]:
        """A column of the data set, B values; a ``UserError`` where a row lacks it."""
        if self.examples is None:
            raise UserError(f"the column {name!r} of the data is not known here")
        for row, example in enumerate(self.examples):
            if name not in example:
                has = ", ".join(example)
                raise UserError(f"the data of row {row} have no column {name!r}; they have: {has}")
        return [example[name] for example in self.examples]

    def log_extra(self, column: str, values: Sequence[Any]) -> None:
        """Keep a column, B values: an evaluation writes it beside the responses."""
        self.extra[column] = list(values)


def _turns(turns: Any) -> list[str]:
    return [turns] if isinstance(turns, str) else list(turns)


def _is_conversation(example: Mapping[str, Any]) -> bool:
    """Whether a sample is one of messages: a list of turns, or with a system prompt."""
    return bool(example.get("system")) or not isinstance(example.get("input", ""), str)


def _messages(example: Mapping[str, Any]) -> list[dict[str, str]]:
    roles = ("user", "assistant")
    said = [(roles[i % 2], text) for i, text in enumerate(_turns(example["input"]))]
    if system := example.get("system"):
        said.insert(0, ("system", system))
    return [{"role": role, "content": text} for role, text in said]


@dataclass
class RewardState:
    """How far the training is, and what reward functions have logged.

    Functions get it as ``trainer_state``, TRL's name.

    Attributes:
        global_step: training steps taken, as ``metrics.jsonl`` counts them; 0 outside a training.
        max_steps: training steps of the whole run; 0 outside a training.
    """

    global_step: int = 0
    max_steps: int = 0
    _logged: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list), repr=False)

    def log_metric(self, name: str, value: float) -> None:
        """Log a number, of which the mean is shown; what is not finite is left out."""
        if math.isfinite(value):
            self._logged[name].append(float(value))

    def logged(self) -> dict[str, float]:
        """The means of what was logged since the last call, over all processes; all must call."""
        found: dict[str, list[float]] = defaultdict(list)
        for logged in all_gather_objects(dict(self._logged)):
            for name, values in logged.items():
                found[name] += values
        self._logged.clear()
        return {name: sum(values) / len(values) for name, values in sorted(found.items())}


Arguments = Mapping[str, Callable[..., Any]]
# By argument, made of the responses, the policy's tokenizer and its tokens that end a response:
# B values each.
OURS: Arguments = {
    "prompts": lambda responses, tokenizer, _: responses.prompts(tokenizer),
    "responses": lambda responses, tokenizer, _: responses.responses(tokenizer),
    "response_lengths": lambda responses, _, stop_ids: responses.response_lengths(stop_ids),
    "prompt_ids": lambda responses, *_: responses.prompt_ids(),
    "response_ids": lambda responses, *_: responses.response_ids(),
    "turns": lambda responses, *_: responses.turns(),
}
TRL: Arguments = {
    "prompts": lambda responses, tokenizer, _: responses.raw_prompts(tokenizer),
    "completions": lambda responses, tokenizer, _: responses.completions(tokenizer),
    "completion_ids": lambda responses, *_: responses.response_ids(),
}
# Made of the responses and the state of the training: one for the whole batch.
OF_RUN: Arguments = {
    "step": lambda _, state: state.global_step,
    "trainer_state": lambda _, state: state,
    "log_metric": lambda _, state: state.log_metric,
    "log_extra": lambda responses, _: responses.log_extra,
}


def checked_scores(values: Any, path: str, like: torch.Tensor) -> torch.Tensor:
    """What the function ``path`` returned as scores, size = (B,), float32; NaN where it gave None.

    ``like``, size = (B, ...), is on the device of the scores. A ``UserError`` says that it did not
    return one finite number or None for each response.
    """
    missing = torch.tensor(False)
    if getattr(values, "dtype", None) == np.dtype(object):
        values = values.tolist()
    if isinstance(values, (list, tuple)):
        missing = torch.tensor([value is None for value in values])
        values = [0.0 if value is None else value for value in values]
    try:
        if not isinstance(values, torch.Tensor):
            values = torch.as_tensor(values, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        rows = values if isinstance(values, (list, tuple)) else ()
        odd = next((i for i, value in enumerate(rows) if not isinstance(value, Real)), None)
        what = f"a {type(values).__name__}" if odd is None else f"{rows[odd]!r} in row {odd}"
        wanted = "one number or None per response is wanted"
        raise UserError(f"{path} returned {what}; {wanted}") from None
    if values.is_complex():
        raise UserError(f"{path} returned complex numbers")
    scores = values.to(dtype=torch.float32, device=like.device)
    if scores.shape != like.shape[:1]:
        raise UserError(f"{path} returned shape {tuple(scores.shape)} for {len(like)} responses")
    if not scores.isfinite().all():
        row = int(scores.isfinite().logical_not().nonzero()[0])
        hint = "; None says that a row does not count" if scores[row].isnan() else ""
        raise UserError(
            f"{path} returned a score that is not finite: {scores[row]:g} in row {row}{hint}"
        )
    return scores.masked_fill(missing.to(scores.device), torch.nan)
