"""Writing a trained adapter."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from safe_rlhf_panacea.adapter import PanaceaAdapter
from safe_rlhf_panacea.base import barrier, gathered, is_main_process
from safe_rlhf_panacea.base.divergence import check_weights


def save_adapter(adapter: PanaceaAdapter, tokenizer: Any, folder: str | os.PathLike[str]) -> None:
    """Write the adapter and the tokenizer from the main process, whole also under ZeRO 3.

    Raises:
        DivergedError: a weight is not finite.
    """
    check_weights(adapter.named_parameters().items(), f"the adapter of {folder}")
    with gathered(adapter.parameters()):
        if is_main_process():
            adapter.save(folder)
            tokenizer.save_pretrained(folder)
    barrier()


def snapshot_folder(output_dir: str | os.PathLike[str], step: int) -> Path:
    """Where a run keeps the adapter of one of its checkpoints."""
    return Path(output_dir) / "checkpoints" / "adapter" / f"step-{step}"
