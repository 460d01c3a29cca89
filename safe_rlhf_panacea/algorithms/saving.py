"""Writing a trained adapter."""

from __future__ import annotations

from typing import Any

from safe_rlhf_panacea.adapter import PanaceaAdapter
from safe_rlhf_panacea.base import barrier, gathered, is_main_process


def save_adapter(adapter: PanaceaAdapter, tokenizer: Any, folder: str) -> None:
    """Write the adapter and the tokenizer from the main process, whole also under ZeRO 3."""
    with gathered(adapter.parameters()):
        if is_main_process():
            adapter.save(folder)
            tokenizer.save_pretrained(folder)
    barrier()
