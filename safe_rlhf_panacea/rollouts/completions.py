"""What a server is asked for and what it answers: token ids and their log-probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from safe_rlhf_panacea.forward import NoResponsesError, SamplingConfig
from safe_rlhf_panacea.records import misfit


@dataclass(frozen=True)
class Completion:
    """A response.

    Attributes:
        tokens: its ids, the end token among them.
        log_probs: of each token, under the engine's policy at the temperature of sampling.
    """

    tokens: list[int]
    log_probs: list[float]


def request(
    model: str, prompt: Sequence[int], config: SamplingConfig, *, most: int, seed: int | None = None
) -> dict[str, Any]:
    """The body of a request for ``config.num_return_sequences`` responses to one prompt.

    Every setting is named: vLLM would take what is missing from the model's own defaults.

    Args:
        model: a name with its λ, or the base model's.
        prompt: token ids.
        config: how to draw; its stop ids alone end a response.
        most: tokens in a response.
        seed: of the first response; the others have the numbers after it.
    """
    return {
        "model": model,
        "prompt": list(prompt),
        "n": config.num_return_sequences,
        "max_tokens": most,
        "temperature": config.temperature,
        "top_p": config.top_p,
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": config.repetition_penalty,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "ignore_eos": True,
        "stop_token_ids": config.stop_ids,
        "logprobs": 0,
        "return_token_ids": True,
        "add_special_tokens": False,
        "seed": seed,
    }


def read_answer(answer: Any, count: int) -> list[Completion]:
    """The responses in an answer, in their order.

    Raises:
        NoResponsesError: it is not the answer of a vLLM that gives token ids and log-probabilities.
    """
    logprobs = {"token_logprobs": [float]}
    shape = [{"index": int, "token_ids": [int], "logprobs": logprobs}, count]
    choices = answer.get("choices") if isinstance(answer, dict) else None
    if odd := misfit(choices, shape, "choices"):
        raise NoResponsesError(
            f"the server's answer is not that of a vLLM of version 0.11 or later: {odd}"
        )
    found = [
        Completion(choice["token_ids"], choice["logprobs"]["token_logprobs"])
        for choice in sorted(choices or (), key=lambda choice: choice["index"])
    ]
    if any(len(one.tokens) != len(one.log_probs) for one in found):
        raise NoResponsesError("the server's answer has not as many log-probabilities as tokens")
    return found


def as_sampled(
    prompts: torch.Tensor,  # size = (B, S), left-padded
    prompt_mask: torch.Tensor,  # size = (B, S)
    completions: Sequence[Completion],  # B·n, those to one prompt side by side
    config: SamplingConfig,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What ``forward.generation.sample`` returns, and the engine's log-probabilities.

    Returns:
        Sequences and mask, size = (B·n, L) each, and log-probabilities of tokens 1 to L - 1,
        float32, size = (B·n, L - 1), 0 where no token of a response stands.
    """
    copies, width = config.num_return_sequences, prompts.size(1)
    length = max((len(one.tokens) for one in completions), default=0)
    tokens = prompts.new_full((len(completions), length), config.pad_token_id)
    there = torch.zeros_like(tokens, dtype=torch.bool)
    log_probs = torch.zeros(len(completions), width + length - 1, device=prompts.device)
    for row, one in enumerate(completions):
        count = len(one.tokens)
        tokens[row, :count] = torch.tensor(one.tokens)
        there[row, :count] = True
        start = width - 1  # number t belongs to token t + 1
        log_probs[row, start : start + count] = torch.tensor(one.log_probs)
    before = prompts.repeat_interleave(copies, dim=0)
    mask = prompt_mask.bool().repeat_interleave(copies, dim=0)
    return torch.cat([before, tokens], dim=1), torch.cat([mask, there], dim=1), log_probs
