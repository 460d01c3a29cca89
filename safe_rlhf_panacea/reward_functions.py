"""Rewards that are rules, for ``--reward_models name=safe_rlhf_panacea.reward_functions:...``."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Any

import torch

from safe_rlhf_panacea.errors import UserError


def concise(
    response_lengths: torch.Tensor,
    max_length: float,
    max_reward: float = 1.0,
    min_length: float = 0.0,
    min_reward: float = -1.0,
) -> torch.Tensor:
    """Full reward up to a length, falling linearly beyond it, size = (B,), float32.

    With c = ``max_length`` tokens: r_max if length ≤ c, else r_max + 1 - length / c, the
    conciseness objective of the paper's later version (NeurIPS 2024), continuous at c.

    Without a floor the empty response is the best one. With ``min_length``, a response shorter
    than it gets ``min_reward``, and this is the worst value: longer ones do not fall below it.
    """
    if not max_length > 0:
        raise UserError(f"concise: max_length {max_length:g} must be positive")
    if min_length > max_length:
        raise UserError(f"concise: min_length {min_length:g} is above max_length {max_length:g}")
    lengths = response_lengths.float()
    rewards = max_reward + (1 - lengths / max_length).clamp(max=0)
    if min_length <= 0:
        return rewards
    return rewards.clamp(min=min_reward).masked_fill(lengths < min_length, min_reward)


def length(response_lengths: torch.Tensor) -> torch.Tensor:
    """The response's length in tokens, without its end token; size = (B,), float32."""
    return response_lengths.float()


def matches(responses: Sequence[str], pattern: str) -> list[float]:
    """1 where a regular expression is found in the response, else 0.

    The pattern has Python's syntax; ``(?i)`` in front ignores case.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise UserError(f"pattern {pattern!r} is no regular expression: {error}") from None
    return [float(expression.search(text) is not None) for text in responses]


def refuses(responses: Sequence[str], pattern: str) -> list[float]:
    """0 where a regular expression is found in the response, else 1; see ``matches``."""
    return [1.0 - found for found in matches(responses, pattern)]


def positive(responses: Sequence[str]) -> list[float]:
    """How positive a response sounds, from -1 to 1: ``compound`` of the package vaderSentiment."""
    analyzer = _sentiment_analyzer()
    return [analyzer.polarity_scores(text)["compound"] for text in responses]


@functools.cache
def _sentiment_analyzer() -> Any:
    try:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
    except ImportError:
        raise UserError("positive needs a package: pip install vaderSentiment") from None
    return SentimentIntensityAnalyzer()
