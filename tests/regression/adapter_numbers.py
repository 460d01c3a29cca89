"""A recorded adapter and the numbers that it gives on fixed tokens."""

from __future__ import annotations

import torch

from safe_rlhf_panacea.adapter import load_adapter, load_soup
from safe_rlhf_panacea.data import PreferenceCollator
from safe_rlhf_panacea.fronts.measurement import agreement, labelled_statistics, towards_labels
from safe_rlhf_panacea.fronts.over_grid import margins_over_grid, over_rows
from tests.regression.tiny_base import tiny_base


class FixedPairs:
    """Labelled pairs of token ids as a data set, in the form ``over_rows`` reads."""

    def __init__(self, pairs, objectives):
        self.pairs = pairs
        self.objectives = objectives

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, index):
        pair = self.pairs[index]
        return {
            "better_input_ids": torch.tensor(pair["better"]),
            "worse_input_ids": torch.tensor(pair["worse"]),
            "labels": torch.tensor(pair["labels"], dtype=torch.float32),
            "prompt_length": 0,
        }

    def get_collator(self):
        return PreferenceCollator(pad_token_id=0)


def load_recorded(folder, values):
    """The base model that a reference describes, and the adapter or soup in its folder."""
    model = tiny_base(values["base"])
    if not values["ingredients"]:
        return model, load_adapter(model, folder)
    folders = [folder / name for name in values["ingredients"]]
    return model, load_soup(model, folders, values["objectives"])


def at(preference):
    return f"λ = ({', '.join(f'{value:g}' for value in preference)})"


@torch.no_grad()
def measure(model, adapter, probe):
    """Logits after the last token of each row with λ set in every way, and a front.

    Args:
        model: the adapted model.
        adapter: its adapter.
        probe: ``input_ids``, size = (B, L); ``shared``, vectors that all rows have, one after the
            other; ``per_row``, a vector for each row; ``merged``, a vector; ``pairs`` and
            ``grid`` of the front.
    """
    input_ids = torch.tensor(probe["input_ids"])

    def logits():
        last = model(input_ids).logits[:, -1].float()  # size = (B, V)
        return [[round(value, 6) for value in row] for row in last.tolist()]

    numbers = {}
    with adapter.disabled():
        numbers["logits, adapter off"] = logits()
    for preference in probe["shared"]:
        adapter.set_preference(torch.tensor(preference))
        numbers[f"logits, {at(preference)}"] = logits()
    adapter.set_preference(torch.tensor(probe["per_row"]))
    numbers["logits, a λ per row"] = logits()
    with adapter.merged(torch.tensor(probe["merged"])):
        numbers[f"logits, merged at {at(probe['merged'])}"] = logits()
    pairs = FixedPairs(probe["pairs"], adapter.objectives)
    grid, places = torch.tensor(probe["grid"]), range(len(pairs))
    # Small batches, so that the pairs are split over several.
    measured = over_rows(
        margins_over_grid, model, adapter, pairs, places, grid, rows=5, progress=False
    )
    accuracies, _, _ = labelled_statistics(agreement(towards_labels(*measured)))
    numbers["front of accuracies"] = [[round(v, 6) for v in row] for row in accuracies.tolist()]
    return numbers
