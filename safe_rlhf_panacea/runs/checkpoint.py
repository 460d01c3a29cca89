"""Everything besides weights, optimiser and schedule that an exact resume needs, in one place.

DeepSpeed keeps weights, optimiser states, learning-rate schedule and loss scale itself. The rest
goes into its ``client_state``: tensors, numbers, strings, lists and dictionaries only, so that
``torch.load(..., weights_only=True)`` reads it.
"""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
import torch

from safe_rlhf_panacea.distributed import all_gather_objects, get_rank, get_world_size
from safe_rlhf_panacea.errors import UserError

CLIENT_STATE_KEY = "training_state"


@dataclass
class TrainingState:
    """Where a run stands.

    Attributes:
        global_step: training steps done.
        epoch: passes over the data done.
        random_state: of all processes, from ``capture_random_state``.
        sampler: place in the data, the data sampler's ``state_dict``.
        panacea: place in the stream of λ and the ideal point; empty where no λ is drawn.
        ptx_sampler: place in the supervised text of PTX, likewise; None without.
        training_seconds: spent so far.
    """

    global_step: int
    epoch: int
    random_state: dict[str, Any]
    sampler: dict[str, Any] = field(default_factory=dict)
    panacea: dict[str, Any] = field(default_factory=dict)
    ptx_sampler: dict[str, Any] | None = None
    training_seconds: float = 0.0

    def to_client_state(self) -> dict[str, Any]:
        """For DeepSpeed's ``save_checkpoint(client_state=...)``.

        Raises:
            TypeError: a value that is neither a tensor nor plain; saying which.
        """
        state = asdict(self)
        _check_plain(state, "state")
        return {CLIENT_STATE_KEY: state}

    @classmethod
    def from_client_state(cls, client_state: dict[str, Any]) -> TrainingState:
        """From what DeepSpeed's ``load_checkpoint`` returns.

        Raises:
            UserError: the checkpoint is not one of this package's.
        """
        state = client_state.get(CLIENT_STATE_KEY)
        if not isinstance(state, dict):
            raise UserError(f"the checkpoint holds no {CLIENT_STATE_KEY}: not one of this package")
        known = {f.name for f in fields(cls)}
        if set(state) != known:
            odd = ", ".join(sorted(known ^ set(state)))
            raise UserError(f"the checkpoint's {CLIENT_STATE_KEY} is of another version: {odd}")
        return cls(**state)


def _check_plain(value: Any, where: str) -> None:
    """Refuse whatever ``torch.load(weights_only=True)`` would not read."""
    if isinstance(value, dict):
        for key, item in value.items():
            _check_plain(item, f"{where}[{key!r}]")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            _check_plain(item, f"{where}[{index}]")
    elif type(value) not in (int, float, str, bool, type(None), torch.Tensor):
        raise TypeError(f"{where} is a {type(value).__name__}: neither a tensor nor a plain value")


def _own_random_state() -> dict[str, Any]:
    version, words, gauss = random.getstate()
    numpy = np.random.get_state(legacy=False)
    return {
        "python": {"version": version, "words": torch.tensor(words), "gauss": gauss},
        "numpy": {
            "keys": torch.from_numpy(numpy["state"]["key"].astype(np.int64)),
            "position": int(numpy["state"]["pos"]),
            "has_gauss": int(numpy["has_gauss"]),
            "cached": float(numpy["gauss"]),
        },
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def capture_random_state() -> dict[str, Any]:
    """The random states of Python, NumPy, torch and the process's GPU, of every process.

    All processes must call it: only one of them writes the checkpoint.
    """
    return {"ranks": all_gather_objects(_own_random_state())}


def restore_random_state(state: dict[str, Any]) -> None:
    """Go on with the streams of ``capture_random_state``.

    Raises:
        UserError: it was captured with another number of processes, or on a GPU and there is
            none.
    """
    ranks = state["ranks"]
    if len(ranks) != get_world_size():
        raise UserError(
            f"the checkpoint was written by {len(ranks)} processes and is read by "
            f"{get_world_size()}: an exact resume needs as many"
        )
    own = ranks[get_rank()]
    if (own["cuda"] is not None) != torch.cuda.is_available():
        there, here = ("a GPU", "a CPU") if own["cuda"] is not None else ("a CPU", "a GPU")
        raise UserError(f"the checkpoint was written on {there} and is read on {here}")
    python, numpy = own["python"], own["numpy"]
    random.setstate((python["version"], tuple(python["words"].tolist()), python["gauss"]))
    keys = numpy["keys"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, numpy["position"], numpy["has_gauss"], numpy["cached"]))
    torch.set_rng_state(own["torch"].cpu())
    if own["cuda"] is not None:
        torch.cuda.set_rng_state(own["cuda"].cpu())
