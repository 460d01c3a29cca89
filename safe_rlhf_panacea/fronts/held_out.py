"""Labelled pairs and held-out texts at every λ of a grid, and statistics of what is found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from safe_rlhf_panacea.adapter import PanaceaAdapter
from safe_rlhf_panacea.base.dpo import Pairs
from safe_rlhf_panacea.forward import answer_log_probs
from safe_rlhf_panacea.runs.progress import progress_bar


@torch.no_grad()
def margins_over_grid(
    model: Any, adapter: PanaceaAdapter, batch: dict[str, torch.Tensor], grid: torch.Tensor
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
    pairs = Pairs.of(batch)
    with adapter.disabled():
        reference = pairs.log_probs(model).sum(dim=-1)  # size = (2B,)
    sums = []
    for preference in grid:
        with adapter.at(preference):
            # Cut as the reference was: at W0 every margin is a tie, to the last bit.
            sums.append(pairs.log_probs(model).sum(dim=-1))
    better_ratios, worse_ratios = (torch.stack(sums) - reference).chunk(2, dim=1)  # (N, B) each
    return better_ratios - worse_ratios


@torch.no_grad()
def likelihoods_over_grid(
    model: Any, adapter: PanaceaAdapter, batch: dict[str, torch.Tensor], grid: torch.Tensor
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
def over_rows(
    over_grid: Callable[..., torch.Tensor],
    model: Any,
    adapter: PanaceaAdapter,
    dataset: Any,
    indices: Sequence[int],
    grid: torch.Tensor,
    *,
    rows: int,
    label: str = "",
    progress: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What one of the functions above finds for chosen rows of a data set, and their labels.

    Args:
        over_grid: ``margins_over_grid`` or ``likelihoods_over_grid``.
        model: the policy.
        adapter: its adapter.
        dataset: a ``PreferenceDataset``, or supervised texts.
        indices: Q of its rows.
        grid: preference vectors, size = (N, m).
        rows: of a batch, at most.
        label: beside the bar.
        progress: whether to show the bar.

    Returns:
        Margins, size = (N, Q), and labels (+1, -1, or 0 for none), size = (Q, m); or likelihoods,
        size = (1 + N, Q), and whether they count (1 or 0). Both float64 on the CPU.
    """
    device = next(model.parameters()).device
    grid, collate = grid.to(device), dataset.get_collator()
    found, labels = [], []
    key = "labels" if over_grid is margins_over_grid else "labelled"
    bar = progress_bar(total=len(indices), desc=f"Evaluating {label}".strip(), disable=not progress)
    for start in range(0, len(indices), rows):
        part = [dataset[index] for index in indices[start : start + rows]]
        batch = {name: tensor.to(device) for name, tensor in collate(part).items()}
        found.append(over_grid(model, adapter, batch, grid).double().cpu())
        labels.append(batch[key].double().cpu())
        bar.update(len(part))
    bar.close()
    return torch.cat(found, dim=1), torch.cat(labels)


def agreement(margins: torch.Tensor) -> torch.Tensor:
    """1 where a margin towards the label is positive, 0 where negative, ½ where it is a tie.

    Every margin is a tie before the first step. NaN, where there is no label, stays NaN.
    """
    return ((margins.sign() + 1) / 2).masked_fill(margins.isnan(), float("nan"))


def towards_labels(margins: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Margins in the direction of each label, size = (N, Q, m); NaN where there is none.

    Args:
        margins: size = (N, Q).
        labels: +1, -1, or 0 where there is none, size = (Q, m).
    """
    return (margins.unsqueeze(-1) * labels).masked_fill(labels.eq(0), float("nan"))


def labelled_statistics(
    values: torch.Tensor, correction: int = 1
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean, standard deviation and count of each objective's units.

    Args:
        values: size = (..., Q, m), NaN where a unit does not count for an objective.
        correction: what the count is lessened by under the squares; 0 for shares.

    Returns:
        size = (..., m) each; a standard deviation is 0 where there is one unit.
    """
    counts = values.isnan().logical_not().sum(dim=-2)
    means = values.nanmean(dim=-2)
    squares = (values - means.unsqueeze(-2)).square().nansum(dim=-2)
    return means, (squares / (counts - correction).clamp(min=1)).sqrt(), counts
