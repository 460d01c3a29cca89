"""Means over an update: over all of its micro-batches, on all processes.

An engine takes the mean of the losses of an update's micro-batches and of all processes. If each
of these were a mean of its own, a label among few would count for more than one among many. So a
loss here is its micro-batch's sum, divided by what an *average micro-batch of the update* counts:
the engine's mean is then the sum over the update, divided by the count over the update.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from safe_rlhf_panacea.base.engine import learning_rate, passes_since_update
from safe_rlhf_panacea.distributed import all_reduce_means, all_reduce_sum, get_world_size

Batch = dict[str, Any]


def average(counts: Sequence[torch.Tensor]) -> torch.Tensor:
    """What an average micro-batch of an update counts, over all processes.

    ``counts`` are the labels, tokens or rows of each micro-batch on this process, all of one size;
    the result is of that size, in float32. Every process has as many micro-batches.
    """
    total = torch.stack(list(counts)).sum(dim=0).float()
    return all_reduce_sum(total) / (len(counts) * get_world_size())


def counted(
    batches: Sequence[Batch], count: Callable[[Batch], torch.Tensor], device: torch.device
) -> list[Batch]:
    """The batches of an update, each with ``counts``: what an average one of them counts."""
    counts = average([count(batch).to(device) for batch in batches])
    return [{**batch, "counts": counts} for batch in batches]


def step_info(values: dict[str, torch.Tensor], engine: Any) -> dict[str, float]:
    """What is logged of a step: the mean of each value over all processes, and the rate."""
    info = {f"train/{name}": mean for name, mean in all_reduce_means(values).items()}
    return {**info, "train/lr": learning_rate(engine)}


def means_of_evaluation(collected: Mapping[str, Sequence[torch.Tensor]]) -> dict[str, float]:
    """Means over the evaluation prompts of all processes.

    ``collected`` has the values of every batch, size = (B,) each, by name; NaN is left out.
    """
    joined = {name: torch.cat([*values]) for name, values in collected.items()}
    return all_reduce_means({name: one[~one.isnan()] for name, one in joined.items()})


def by_update(steps: Sequence[Any], engine: Any, passes: int = 1) -> list[Sequence[Any]]:
    """The training steps to come, cut where the engine's updates end.

    The first part may belong to an update that earlier steps have begun, and the last one to an
    update that later steps will end. Each step makes ``passes`` backward passes of the engine.
    """
    size = engine.gradient_accumulation_steps() // passes
    begun = passes_since_update(engine) // passes
    cuts = [0, *range(size - begun, len(steps), size), len(steps)]
    return [steps[start:end] for start, end in itertools.pairwise(cuts) if start < end]
