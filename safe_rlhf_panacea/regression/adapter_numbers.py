"""The numbers that an adapter gives on fixed tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from safe_rlhf_panacea.adapter import PanaceaAdapter
from safe_rlhf_panacea.base.datasets import PreferenceCollator
from safe_rlhf_panacea.fronts.held_out import (
    agreement,
    labelled_statistics,
    margins_over_grid,
    over_rows,
    towards_labels,
)

# Name of a number series to its rows; the front's begins with this.
FRONT = "front"
Numbers = dict[str, list[list[float]]]


class FixedPairs:
    """Labelled pairs of token ids, as ``over_rows`` reads them.

    Attributes:
        objectives: their names, in the order of the labels.
    """

    def __init__(self, pairs: Sequence[Mapping[str, Any]], objectives: Sequence[str]) -> None:
        """Take ``better`` and ``worse`` (ids) and ``labels`` (+1, -1 or 0 per objective)."""
        self.pairs = pairs
        self.objectives = objectives

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        pair = self.pairs[index]
        return {
            "better_input_ids": torch.tensor(pair["better"]),
            "worse_input_ids": torch.tensor(pair["worse"]),
            "labels": torch.tensor(pair["labels"], dtype=torch.float32),
            "prompt_length": 0,
        }

    def get_collator(self) -> PreferenceCollator:
        """What makes a batch."""
        return PreferenceCollator(pad_token_id=0)


def preference_name(preference: Sequence[float]) -> str:
    """λ in words."""
    return f"λ = ({', '.join(f'{value:g}' for value in preference)})"


@torch.no_grad()
def measure(model: Any, adapter: PanaceaAdapter, probe: Mapping[str, Any]) -> Numbers:
    """Logits after the last token of each row, in every way to set λ, and a front.

    Args:
        model: the adapted model.
        adapter: its adapter.
        probe: ``input_ids``, size = (B, L); ``shared``, λ for all rows, one after the other;
            ``per_row``, a λ for each row; ``merged``, a λ; ``pairs`` and ``grid`` of the front.
    """
    input_ids = torch.tensor(probe["input_ids"])

    def logits() -> list[list[float]]:
        last = model(input_ids).logits[:, -1].float()  # size = (B, V)
        return [[round(value, 6) for value in row] for row in last.tolist()]

    numbers: Numbers = {}
    with adapter.disabled():
        numbers["logits, adapter off"] = logits()
    for preference in probe["shared"]:
        adapter.set_preference(torch.tensor(preference))
        numbers[f"logits, {preference_name(preference)}"] = logits()
    adapter.set_preference(torch.tensor(probe["per_row"]))
    numbers["logits, a λ per row"] = logits()
    with adapter.merged(torch.tensor(probe["merged"])):
        numbers[f"logits, merged at {preference_name(probe['merged'])}"] = logits()
    numbers[f"{FRONT} of accuracies"] = _front(model, adapter, probe)
    return numbers


def _front(model: Any, adapter: PanaceaAdapter, probe: Mapping[str, Any]) -> list[list[float]]:
    pairs = FixedPairs(probe["pairs"], adapter.objectives)
    grid = torch.tensor(probe["grid"])
    # Small batches, so that pairs are split over several.
    rows = range(len(pairs))
    measured = over_rows(
        margins_over_grid, model, adapter, pairs, rows, grid, rows=5, progress=False
    )
    accuracies, _, _ = labelled_statistics(agreement(towards_labels(*measured)))
    return [[round(value, 6) for value in row] for row in accuracies.tolist()]
