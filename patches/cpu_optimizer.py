"""An optimiser that has to be compiled for a GPU.

Breaks: deepspeed's ``FusedAdam`` is compiled on first use: a minute, and an error without a
compiler; on a CPU it has no advantage.
Where: ``safe_rlhf.trainers.supervised_trainer`` and ``safe_rlhf.trainers.rl_trainer``.
Since: always.
Not needed when: there is an accelerator.
"""

from __future__ import annotations

from typing import Any

import torch

BEFORE_IMPORT = False


def needed() -> bool:
    """Whether this machine has a CPU only."""
    return not torch.accelerator.is_available()


def adam(parameters: Any, **kwargs: Any) -> torch.optim.AdamW:
    """torch's AdamW: the same update, to 1e-7."""
    return torch.optim.AdamW(parameters, fused=True, **{"weight_decay": 0.0, **kwargs})


def apply() -> None:
    """Let Safe-RLHF's trainers make torch's AdamW in place of DeepSpeed's."""
    import safe_rlhf.trainers.rl_trainer as rl
    import safe_rlhf.trainers.supervised_trainer as supervised

    for place in (supervised, rl):
        place.FusedAdam = adam
