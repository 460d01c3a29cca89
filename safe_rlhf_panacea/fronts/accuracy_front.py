"""The front of implicit-reward accuracies (section 5.1): every λ while the pairs are there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from safe_rlhf_panacea.adapter import PanaceaAdapter
from safe_rlhf_panacea.base.functional import diverging_mask
from safe_rlhf_panacea.base.joined_rows import across
from safe_rlhf_panacea.base.prefix_sharing import grouped_log_probs
from safe_rlhf_panacea.fronts.batches import batches_of
from safe_rlhf_panacea.fronts.front import Front, grid_points


@torch.no_grad()
def margins_over_grid(
    model: Any,
    adapter: PanaceaAdapter,
    batch: dict[str, torch.Tensor],
    grid: torch.Tensor,
) -> torch.Tensor:
    """log π/π_ref of the better response minus that of the worse, at every λ.

    Args:
        model: the policy.
        adapter: its adapter; switched off it gives the reference, once for all λ.
        batch: collated pairs of ``PreferenceDataset``.
        grid: preference vectors, size = (N, m).

    Returns:
        size = (N, B).
    """
    keys = ("better_input_ids", "better_attention_mask", "worse_input_ids", "worse_attention_mask")
    better, better_mask, worse, worse_mask = (batch[key] for key in keys)
    input_ids = torch.cat([better, worse])  # size = (2B, L)
    attention_mask = torch.cat([better_mask, worse_mask])
    counted = torch.cat(diverging_mask(better, better_mask, worse, worse_mask))
    inputs = input_ids, attention_mask, counted, across(len(input_ids), 2)
    with adapter.disabled():
        log_probs = grouped_log_probs(model, *inputs)
        reference = log_probs.sum(dim=-1)  # size = (2B,)
    sums = []
    for preference in grid:
        with adapter.at(preference):
            # Cut as the reference was: at W0 every margin is a tie, to the last bit.
            log_probs = grouped_log_probs(model, *inputs)
        sums.append(log_probs.sum(dim=-1))
    better_ratios, worse_ratios = (torch.stack(sums) - reference).chunk(2, dim=1)  # (N, B) each
    return better_ratios - worse_ratios


@torch.no_grad()
def margins_of_pairs(
    model: Any,
    adapter: PanaceaAdapter,
    dataset: Any,
    indices: Sequence[int],
    grid: torch.Tensor,
    *,
    pairs_per_batch: int,
    label: str = "",
    progress: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:
    """``margins_over_grid`` of chosen pairs, and their labels.

    Returns:
        Margins, size = (N, P), and labels, size = (P, m), float64 on the CPU.
    """
    device = next(model.parameters()).device
    grid, margins, labels = grid.to(device), [], []
    for batch in batches_of(dataset, indices, pairs_per_batch, device, label, progress):
        found = margins_over_grid(model, adapter, batch, grid)  # (N, B)
        margins.append(found.double().cpu())
        labels.append(batch["labels"].double().cpu())
    return torch.cat(margins, dim=1), torch.cat(labels)


def agreement(margins: torch.Tensor) -> torch.Tensor:
    """1 where a margin towards the label is positive, 0 where negative, ½ where it is a tie.

    Every margin is a tie before the first step.
    """
    return (margins.sign() + 1) / 2


def accuracy_front(
    margins: torch.Tensor,
    labels: torch.Tensor,
    grid: torch.Tensor,
    objectives: Sequence[str],
    label: str = "",
) -> Front:
    """Share of labelled pairs whose margin has the label's sign, with its standard error.

    Args:
        margins: size = (N, P); a tie counts half.
        labels: size = (P, m), +1, -1, or 0 where there is none.
        grid: size = (N, m).
        objectives: names, in the order of λ.
        label: the front's name.
    """
    labelled = labels.ne(0)  # size = (P, m)
    counts = labelled.sum(dim=0)  # size = (m,)
    right = agreement(margins.unsqueeze(-1) * labels) * labelled  # size = (N, P, m)
    accuracies = right.sum(dim=1) / counts
    squares = right.square().sum(dim=1) / counts
    errors = ((squares - accuracies**2).clamp(min=0) / counts).sqrt()
    metadata = {"labelled_pairs": counts.tolist()}
    return Front(list(objectives), grid_points(grid, accuracies, errors), label, metadata)
