"""Measuring a front, during training and after it, on all processes at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch

from safe_rlhf_panacea.data import IGNORE_INDEX
from safe_rlhf_panacea.data.template import ChatTemplate
from safe_rlhf_panacea.distributed import all_gather_objects, get_rank, get_world_size
from safe_rlhf_panacea.forward import NotFiniteError
from safe_rlhf_panacea.fronts.measurement import Measurement
from safe_rlhf_panacea.fronts.over_grid import (
    Policy,
    Prompt,
    Rewards,
    Sampled,
    likelihoods_over_grid,
    margins_over_grid,
    over_rows,
    sample_rewards,
)
from safe_rlhf_panacea.runs.divergence import finite_on_all

PROMPTS_OF_PAIRS = 16  # that are responded to for the KL, where there are pairs only


@torch.no_grad()
def measure(
    policy: Policy,
    grid: torch.Tensor,  # size = (N, m)
    *,
    prompts: Sequence[Prompt] | None = None,  # to respond to; None: a few of those of ``pairs``
    rewards: Rewards | None = None,
    pairs: Any = None,  # a ``PreferenceDataset``, where accuracies are wanted
    texts: Any = None,  # supervised text of the objectives, where log-likelihoods are wanted
    base: Sampled | None = None,  # of ``sample_base`` on the same prompts
    margin_scale: float = 1.0,  # DPO's β
    label: str = "",  # beside the bars
) -> Measurement:
    """Measure a policy at every λ of a grid, on all processes together.

    torch's own random numbers are as they were afterwards; the model is in evaluation mode. On all
    processes alike a ``NotFiniteError`` tells of a NaN or an infinity among what was found, or of
    an objective that counts for no response, pair or text.
    """
    if prompts is None:
        prompts = prompts_of_pairs(pairs)
    policy.model.eval()
    kind, margins, labels, likelihoods = "reward", None, None, None
    found = []
    if texts is not None:
        kind, rows = "log-likelihood", 2 * policy.pairs_per_batch
        each, labelled = _of_all(policy, likelihoods_over_grid, texts, grid, rows, label)
        likelihoods = each.unsqueeze(-1).where(labelled.bool(), torch.nan)  # size = (1 + N, Q, m)
        found.append(each)
    if pairs is not None:
        kind, rows = "accuracy", policy.pairs_per_batch
        margins, labels = _of_all(policy, margins_over_grid, pairs, grid, rows, label)
        found.append(margins)
    sampled = _sample(policy, rewards, prompts, grid, label)
    earned = [sampled.rewards] if base is None else [sampled.rewards, base.rewards]
    is_finite = all(tensor.isfinite().all() for tensor in [*found, sampled.log_ratios])
    if not is_finite or any(tensor.isinf().any() for tensor in earned):
        raise NotFiniteError("the policy or its rewards are not finite")
    for tensor in earned:
        check_counted(tensor, "response to the prompts")
    names = [prompt.text for prompt in prompts]
    about = (margins, labels, margin_scale, kind, likelihoods)
    measured = Measurement(grid, names, sampled, base, *about)
    if kind != "reward":
        check_counted(measured.unit_values(), "pair" if kind == "accuracy" else "text")
    return measured


def check_counted(values: torch.Tensor, unit: str) -> None:
    """Raise ``NotFiniteError`` if an objective of values, size = (N, U, m), has only NaN at a λ."""
    without = values.isnan().all(dim=1).any(dim=0)  # size = (m,)
    if without.any():
        number = int(without.nonzero()[0]) + 1
        raise NotFiniteError(f"objective {number} of {len(without)} counts for no {unit}")


def _of_all(
    policy: Policy,
    over_grid: Callable[..., torch.Tensor],
    data: Any,
    grid: torch.Tensor,
    rows: int,
    label: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What ``over_rows`` finds for all rows of ``data``, which all processes share."""
    if policy.adapter is None:
        raise ValueError("pairs and texts are measured against an adapter switched off: none given")
    inputs = (over_grid, policy.model, policy.adapter, data, _own_share(len(data)), grid)
    values, labels = over_rows(*inputs, rows=rows, label=label, progress=policy.progress)
    return _together(values, 1, len(data)), _together(labels, 0, len(data))


@torch.no_grad()
def sample_base(policy: Policy, rewards: Rewards, prompts: Sequence[Prompt]) -> Sampled:
    """Responses of the model with its adapter off, N = 1, from the same random numbers."""
    policy.model.eval()
    with policy.adapter.disabled() if policy.adapter is not None else nullcontext():
        # One row in place of a λ that the model without its adapter does not see.
        return _sample(replace(policy, adapter=None), rewards, prompts, torch.empty(1, 0), "base")


def _sample(
    policy: Policy,
    rewards: Rewards | None,
    prompts: Sequence[Prompt],
    grid: torch.Tensor,
    label: str,
) -> Sampled:
    """This process samples its share; returned is what all have found."""
    device = next(policy.model.parameters()).device
    seed, mine = policy.seed + get_rank(), [prompts[i] for i in _own_share(len(prompts))]
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)  # transformers' sampling (top_p and the like) knows no generator
        generator = torch.Generator(device=device).manual_seed(seed)
        found = finite_on_all(lambda: sample_rewards(policy, rewards, mine, grid, generator, label))
    count, world = len(prompts), get_world_size()
    texts, extra = (
        [[part[i % world][n][i // world] for i in range(count)] for n in range(len(grid))]
        for part in map(all_gather_objects, (found.texts, found.extra))  # by rank, λ and its share
    )
    earned, log_ratios = (_together(v, 1, count) for v in (found.rewards, found.log_ratios))
    return Sampled(texts, earned, log_ratios, extra)


def _own_share(total: int) -> list[int]:
    """Indices that this process works on; all have equally many, so a few may come twice."""
    world = get_world_size()
    return [i % total for i in range(get_rank(), math.ceil(total / world) * world, world)]


def _together(part: torch.Tensor, dim: int, total: int) -> torch.Tensor:
    """What all processes found for their shares, in the order of the whole."""
    parts = all_gather_objects(part)
    return torch.stack(parts, dim=dim + 1).flatten(dim, dim + 1).narrow(dim, 0, total)


def different_prompts(
    template: ChatTemplate,
    rows: Iterable[tuple[torch.Tensor, Mapping[str, Any] | None]],  # token ids, size = (S,)
    most: int | None,
) -> list[Prompt]:
    """At most so many prompts, or all for None; no more are read than needed.

    Rows whose raw samples are known are different ones already. Of the others none is taken twice.
    """
    found: dict[str | int, Prompt] = {}
    for ids, example in rows:
        prompt = Prompt(template.shown(ids.tolist()), tuple(ids.tolist()), example)
        found.setdefault(prompt.text if example is None else len(found), prompt)
        if len(found) == most:
            break
    return list(found.values())


def prompts_of_pairs(pairs: Any, most: int = PROMPTS_OF_PAIRS) -> list[Prompt]:
    """The first different prompts of a ``PreferenceDataset``."""
    rows = (pairs[i] for i in range(len(pairs)))
    starts = ((row["better_input_ids"][: int(row["prompt_length"])], None) for row in rows)
    return different_prompts(pairs.template, starts, most)


def prompts_of_texts(texts: Any, most: int = PROMPTS_OF_PAIRS) -> list[Prompt]:
    """A few different prompts from all over supervised text."""
    rows = (texts[i] for i in range(0, len(texts), max(1, len(texts) // most)))
    starts = ((row["input_ids"][row["labels"].eq(IGNORE_INDEX)], None) for row in rows)
    return different_prompts(texts.template, starts, most)
