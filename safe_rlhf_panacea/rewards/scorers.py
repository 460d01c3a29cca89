"""What scores a sequence for one objective: a reward model, or a function of one's own.

A scorer takes the policy's token ids and mask, size = (B, L) each, and the width of the prompts,
after which the responses begin; it returns one score per row, size = (B,).
"""

from __future__ import annotations

import importlib
import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import torch

from safe_rlhf_panacea.base.generation import is_end
from safe_rlhf_panacea.base.models.score_output import last_attended
from safe_rlhf_panacea.errors import UserError

Scorer = Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]
GIVEN = ("prompts", "responses", "response_lengths")
FUNCTION = re.compile(r"([A-Za-z_][\w.]*):([A-Za-z_]\w*)(?:\?(.*))?")


def is_function(path: str) -> bool:
    """Whether a reward is given as ``module:function`` or ``module:function?name=number,...``."""
    return FUNCTION.fullmatch(path) is not None and not Path(path).exists()


def model_scorer(model: Any) -> Scorer:
    """The end scores of a model that reads the policy's tokens."""

    def score(
        input_ids: torch.Tensor, attention_mask: torch.Tensor, prompt_length: int
    ) -> torch.Tensor:
        del prompt_length
        return model(input_ids, attention_mask=attention_mask).end_scores.squeeze(-1)

    return score


def retokenizing_scorer(
    model: Any, policy_tokenizer: Any, tokenizer: Any, stop_ids: Sequence[int]
) -> Scorer:
    """The end scores of a model that reads other tokens than the policy's.

    As in Safe-RLHF, sequences are decoded without special tokens, the model's own end token is
    put behind those that had ended, at one of the policy's ``stop_ids``, and all are encoded anew,
    padded on the right.
    """

    def score(
        input_ids: torch.Tensor, attention_mask: torch.Tensor, prompt_length: int
    ) -> torch.Tensor:
        del prompt_length
        mask = attention_mask.bool()
        rows = [ids[kept] for ids, kept in zip(input_ids, mask, strict=True)]
        texts = policy_tokenizer.batch_decode(rows, skip_special_tokens=True)
        last = input_ids.gather(-1, last_attended(mask).to(input_ids.device).unsqueeze(-1))
        ended = is_end(last.squeeze(-1), stop_ids).tolist()
        ends = [tokenizer.eos_token if has_ended else "" for has_ended in ended]
        encoded = tokenizer(
            [text + end for text, end in zip(texts, ends, strict=True)],
            padding=True,
            padding_side="right",
            truncation=True,
            return_tensors="pt",
            return_token_type_ids=False,
        ).to(input_ids.device)
        own_ids, own_mask = encoded["input_ids"], encoded["attention_mask"].bool()
        return model(own_ids, attention_mask=own_mask).end_scores.squeeze(-1)

    return score


def function_scorer(path: str, tokenizer: Any, stop_ids: Sequence[int]) -> Scorer:
    """The scores that a Python function gives.

    It is called with those of these keyword arguments that it names, and its options:
    ``prompts`` (B strings, with the template, as the policy reads them), ``responses``
    (B strings), ``response_lengths`` (tokens without the end token, int64, size = (B,)). It
    returns B finite numbers.

    Args:
        path: ``module:function``, with options ``?name=number,name=number`` if it has some.
        tokenizer: the policy's.
        stop_ids: the policy's tokens that end a response.

    Raises:
        UserError: the module cannot be imported, has no such function, or the function does
            not take the options, or needs other arguments.
    """
    function, options = _load_function(path)
    wanted = _parameters(function, path)
    _check_signature(wanted, options, path)

    def score(
        input_ids: torch.Tensor, attention_mask: torch.Tensor, prompt_length: int
    ) -> torch.Tensor:
        responses = input_ids[:, prompt_length:]
        is_text = attention_mask[:, prompt_length:].bool() & ~is_end(responses, stop_ids)
        arguments: dict[str, Callable[[], Any]] = {
            "prompts": lambda: _decode(tokenizer, input_ids[:, :prompt_length]),
            "responses": lambda: _decode(tokenizer, responses),
            "response_lengths": lambda: is_text.sum(dim=-1),
        }
        given = {name: make() for name, make in arguments.items() if name in wanted}
        return _checked(function(**given, **options), path, input_ids)

    return score


def _decode(tokenizer: Any, tokens: torch.Tensor) -> list[str]:
    return [text.strip() for text in tokenizer.batch_decode(tokens, skip_special_tokens=True)]


def _checked(values: Any, path: str, like: torch.Tensor) -> torch.Tensor:
    if not isinstance(values, torch.Tensor):
        values = _numbers(values, path)
    if values.is_complex():
        raise UserError(f"{path} returned complex numbers")
    scores = values.to(dtype=torch.float32, device=like.device)
    if scores.shape != like.shape[:1]:
        raise UserError(f"{path} returned shape {tuple(scores.shape)} for {len(like)} responses")
    if not scores.isfinite().all():
        row = int(scores.isfinite().logical_not().nonzero()[0])
        raise UserError(f"{path} returned a score that is not finite: {scores[row]:g} in row {row}")
    return scores


def _numbers(values: Any, path: str) -> torch.Tensor:
    """A sequence of numbers as a tensor, or which of its rows is none."""
    try:
        return torch.as_tensor(values, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        rows = values if isinstance(values, (list, tuple)) else ()
    odd = next((i for i, value in enumerate(rows) if not isinstance(value, Real)), None)
    what = f"a {type(values).__name__}" if odd is None else f"{rows[odd]!r} in row {odd}"
    raise UserError(f"{path} returned {what}; one number per response is wanted")


def _load_function(path: str) -> tuple[Callable[..., Any], dict[str, float]]:
    match = FUNCTION.fullmatch(path)
    if match is None:
        raise UserError(f"{path}: not of the form module:function")
    module_name, name, text = match.groups()
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UserError(f"{path}: {module_name} cannot be imported: {error}") from None
    function = getattr(module, name, None)
    if not callable(function):
        raise UserError(f"{path}: {module_name} has no function {name}")
    options = _options(text or "", path)
    parameters = _parameters(function, path)
    for option in options:
        if option not in parameters:
            raise UserError(f"{path}: {name} takes no {option}; it takes {', '.join(parameters)}")
    return function, options


def _parameters(function: Callable[..., Any], path: str) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):  # some that are written in C
        raise UserError(f"{path} does not say which arguments it takes") from None


def _check_signature(
    parameters: Mapping[str, inspect.Parameter], options: dict[str, float], path: str
) -> None:
    """Refuse now what could only fail at the first response."""
    for name, parameter in parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        is_given = name in GIVEN or name in options
        if parameter.kind == parameter.POSITIONAL_ONLY and is_given:
            raise UserError(f"{path}: {name} must be an argument that can be given by name")
        if parameter.default is parameter.empty and not is_given:
            raise UserError(
                f"{path} needs {name}: it is none of {', '.join(GIVEN)}, and no option gives it"
            )


def _options(text: str, path: str) -> dict[str, float]:
    options = {}
    for item in filter(None, text.split(",")):
        name, _, value = item.partition("=")
        try:
            options[name] = float(value)
        except ValueError:
            raise UserError(f"{path}: {item!r} is not of the form name=number") from None
        if not math.isfinite(options[name]):
            raise UserError(f"{path}: {item!r} is not finite")
    return options
