"""The front of log-likelihoods of held-out texts: every λ while they are at hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from safe_rlhf_panacea.adapter import PanaceaAdapter
from safe_rlhf_panacea.base.log_probs import answer_log_probs
from safe_rlhf_panacea.fronts.batches import batches_of
from safe_rlhf_panacea.fronts.front import Front, grid_points


@torch.no_grad()
def likelihoods_over_grid(
    model: Any,
    adapter: PanaceaAdapter,
    batch: dict[str, torch.Tensor],
    grid: torch.Tensor,
) -> torch.Tensor:
    """Mean log-probability per token of every answer: adapter off, then at every λ.

    Args:
        model: the policy.
        adapter: its adapter.
        batch: collated texts, B of them.
        grid: preference vectors, size = (N, m).

    Returns:
        size = (1 + N, B).
    """
    texts = [batch[key] for key in ("input_ids", "labels", "attention_mask")]  # size = (B, L)
    with adapter.disabled():
        sums, tokens = answer_log_probs(model, *texts)
    found = [sums]
    for preference in grid:
        with adapter.at(preference):
            found.append(answer_log_probs(model, *texts)[0])
    return torch.stack(found) / tokens


@torch.no_grad()
def likelihoods_of_texts(
    model: Any,
    adapter: PanaceaAdapter,
    dataset: Any,
    indices: Sequence[int],
    grid: torch.Tensor,
    *,
    texts_per_batch: int,
    label: str = "",
    progress: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:
    """``likelihoods_over_grid`` of chosen texts, and which objectives they count for.

    Returns:
        size = (1 + N, Q), and size = (Q, m), both float64 on the CPU.
    """
    device = next(model.parameters()).device
    grid, found, labelled = grid.to(device), [], []
    for batch in batches_of(dataset, indices, texts_per_batch, device, label, progress):
        values = likelihoods_over_grid(model, adapter, batch, grid)
        found.append(values.double().cpu())
        labelled.append(batch["labelled"].double().cpu())
    return torch.cat(found, dim=1), torch.cat(labelled)


def by_objective(values: torch.Tensor, labelled: torch.Tensor) -> torch.Tensor:
    """Values of texts, size = (N, Q), as size = (N, Q, m): NaN where one does not count."""
    return values.unsqueeze(-1).where(labelled.bool(), torch.nan)


def labelled_statistics(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean, standard deviation and count of each objective's texts.

    Args:
        values: size = (..., Q, m), NaN where a text does not count for an objective.

    Returns:
        size = (..., m) each; a standard deviation is 0 where there is one text.
    """
    counts = values.isnan().logical_not().sum(dim=-2)
    means = values.nanmean(dim=-2)
    squares = (values - means.unsqueeze(-2)).square().nansum(dim=-2)
    return means, (squares / (counts - 1).clamp(min=1)).sqrt(), counts


def likelihood_front(
    values: torch.Tensor, grid: torch.Tensor, objectives: Sequence[str], label: str = ""
) -> Front:
    """Mean over an objective's texts of the log-probability per token, with its standard error.

    Args:
        values: size = (N, Q, m), NaN where a text does not count for an objective.
        grid: size = (N, m).
        objectives: names, in the order of λ.
        label: the front's name.
    """
    means, spreads, counts = labelled_statistics(values)
    points = grid_points(grid, means, spreads / counts.sqrt())
    return Front(list(objectives), points, label, {"labelled_texts": counts[0].tolist()})
