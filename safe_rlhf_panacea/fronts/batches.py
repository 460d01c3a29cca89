"""Reading chosen rows of a data set in batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from safe_rlhf_panacea.base.progress import progress_bar


def batches_of(
    dataset: Any,
    indices: Sequence[int],
    rows: int,
    device: torch.device,
    label: str = "",
    progress: bool = True,
) -> Iterator[dict[str, torch.Tensor]]:
    """Collated batches of at most so many rows, behind a bar.

    Args:
        dataset: with ``get_collator``.
        indices: which of its rows, in this order.
        rows: of a batch.
        device: where the tensors go.
        label: beside the bar.
        progress: whether to show the bar.
    """
    collate = dataset.get_collator()
    bar = progress_bar(total=len(indices), desc=f"Evaluating {label}".strip(), disable=not progress)
    for start in range(0, len(indices), rows):
        part = [dataset[index] for index in indices[start : start + rows]]
        yield {key: value.to(device) for key, value in collate(part).items()}
        bar.update(len(part))
    bar.close()
