"""What an exact resume needs: the state of a run, and the checksums of a checkpoint's files.

DeepSpeed keeps weights, optimiser states, learning-rate schedule and loss scale itself. The rest
goes into its ``client_state``: tensors, numbers, strings, lists and dictionaries only, so that
``torch.load(..., weights_only=True)`` reads it.
"""

from __future__ import annotations

import hashlib
import os
import random
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from safe_rlhf_panacea.distributed import all_gather_objects, get_rank, get_world_size
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.io import atomic_write_text

CLIENT_STATE_KEY = "training_state"
BLOCK = 1 << 20
# torch's own switches: the first makes every torch.load read tensors and plain values only.
SAFE, UNSAFE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


@dataclass
class TrainingState:
    """Where a run stands."""

    global_step: int  # training steps done
    epoch: int  # passes over the data done
    random_state: dict[str, Any]  # of all processes, from capture_random_state
    sampler: dict[str, Any] = field(default_factory=dict)  # place in the data
    panacea: dict[str, Any] = field(default_factory=dict)  # the stream of λ and the ideal point
    ptx_sampler: dict[str, Any] | None = None  # place in the supervised text of PTX
    training_seconds: float = 0.0

    def to_client_state(self) -> dict[str, Any]:
        """For DeepSpeed's ``save_checkpoint(client_state=...)``."""
        return {CLIENT_STATE_KEY: asdict(self)}

    @classmethod
    def from_client_state(cls, client_state: dict[str, Any]) -> TrainingState:
        """From what DeepSpeed's ``load_checkpoint`` returns."""
        state = client_state.get(CLIENT_STATE_KEY)
        if not isinstance(state, dict):
            raise UserError(f"the checkpoint holds no {CLIENT_STATE_KEY}: not one of this package")
        if odd := {f.name for f in fields(cls)} ^ set(state):
            names = ", ".join(sorted(odd))
            raise UserError(f"the checkpoint's {CLIENT_STATE_KEY} is of another version: {names}")
        return cls(**state)


def capture_random_state() -> dict[str, Any]:
    """The random states of every process, all of which must call it."""
    version, words, gauss = random.getstate()
    numpy = np.random.get_state(legacy=False)
    own = {
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
    return {"ranks": all_gather_objects(own)}


def restore_random_state(state: dict[str, Any]) -> None:
    """Go on with the streams of ``capture_random_state``, of as many processes on like devices."""
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


def checksum_file(checkpoints: Path, step: int | str) -> Path:
    """Where the checksums of a step are, in the format of ``sha256sum``; a pattern has ``*``."""
    return checkpoints / f"step-{step}.sha256"


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def write_checksums(checkpoints: Path, step: int, engines: Iterable[str]) -> None:
    """Note down the checksum of every file of a step; all processes call it and share the work."""
    found = (
        p for name in engines for p in sorted((checkpoints / name / f"step-{step}").rglob("*"))
    )
    names = [str(path.relative_to(checkpoints)) for path in found if path.is_file()]
    names = all_gather_objects(names)[0]  # as one process sees the folder
    own = names[get_rank() :: get_world_size()]
    parts = all_gather_objects({name: _sha256(checkpoints / name) for name in own})
    if get_rank() == 0:
        sums = {name: value for part in parts for name, value in part.items()}
        lines = [f"{sums[name]}  {name}\n" for name in names]
        atomic_write_text(checksum_file(checkpoints, step), "".join(lines))


def check_checksums(checkpoints: Path, step: int) -> None:
    """Refuse a step with a file that is missing or was changed; all processes call it.

    A checkpoint of a version that noted no checksums is not checked.
    """
    file = checksum_file(checkpoints, step)
    if not file.is_file():
        return
    own = None
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    for line in lines[get_rank() :: get_world_size()]:
        expected, _, name = line.partition("  ")
        if not name:
            own = f"its list of checksums is damaged: {line!r}"
        elif not (checkpoints / name).is_file():
            own = f"{name} is missing"
        elif _sha256(checkpoints / name) != expected:
            own = f"{name} is damaged: its checksum is another"
        if own:
            break
    if found := next(filter(None, all_gather_objects(own)), None):
        raise UserError(f"{checkpoints}: step-{step} cannot be loaded: {found}")


@contextmanager
def tensors_only() -> Iterator[None]:
    """Have ``torch.load`` read tensors, plain values and DeepSpeed's few classes, and run nothing.

    DeepSpeed asks for whole pickles, which can run code; torch lets the environment overrule it.
    """
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    known = [DynamicLossScaler, LossScaler, ZeroStageEnum, fragment_address]
    before = {name: os.environ.pop(name, None) for name in (SAFE, UNSAFE)}
    os.environ[SAFE] = "1"
    try:
        with torch.serialization.safe_globals(known):
            yield
    finally:
        del os.environ[SAFE]
        os.environ.update({name: value for name, value in before.items() if value is not None})


class TrainingClock:
    """Seconds spent training since ``start``, those ``before`` a resume included."""

    def __init__(self) -> None:
        """Begin now; ``start`` begins anew."""
        self.before = 0.0
        self.start()

    def start(self) -> None:
        """Count from now on; ``before`` is kept."""
        self._since = time.perf_counter()
        self._stopped_at: float | None = None

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Do not count what is done inside, such as an evaluation."""
        self._stopped_at = time.perf_counter()
        try:
            yield
        finally:
            self._since += time.perf_counter() - self._stopped_at
            self._stopped_at = None

    @property
    def seconds(self) -> float:
        """Seconds of training so far."""
        now = time.perf_counter() if self._stopped_at is None else self._stopped_at
        return self.before + now - self._since
