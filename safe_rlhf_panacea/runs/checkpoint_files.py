"""The files of a checkpoint: whole by their checksums, and read without running what they hold."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safe_rlhf_panacea.distributed import all_gather_objects, get_rank, get_world_size
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.io import atomic_write_text

BLOCK = 1 << 20
# torch's own switches: the first makes every torch.load read tensors and plain values only.
SAFE, UNSAFE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


def checksum_file(checkpoints: Path, step: int | str) -> Path:
    """Where the checksums of a step are, in the format of ``sha256sum``; a pattern has ``*``."""
    return checkpoints / f"step-{step}.sha256"


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def own_part(items: list[str]) -> list[str]:
    """What this process looks at; the processes share the work."""
    return items[get_rank() :: get_world_size()]


def write_checksums(checkpoints: Path, step: int, engines: Iterable[str]) -> None:
    """Note down the checksum of every file of a step; all processes call it."""
    names = [
        str(path.relative_to(checkpoints))
        for engine in engines
        for path in sorted((checkpoints / engine / f"step-{step}").rglob("*"))
        if path.is_file()
    ]
    names = all_gather_objects(names)[0]  # as one process sees the folder
    parts = all_gather_objects({name: _sha256(checkpoints / name) for name in own_part(names)})
    if get_rank() == 0:
        sums = {name: value for part in parts for name, value in part.items()}
        lines = [f"{sums[name]}  {name}\n" for name in names]
        atomic_write_text(checksum_file(checkpoints, step), "".join(lines))


def check_checksums(checkpoints: Path, step: int) -> None:
    """Whether a step's files are as they were written; all processes call it.

    A checkpoint of a version that noted no checksums is not checked.

    Raises:
        UserError: naming a file that is missing or was changed.
    """
    file = checksum_file(checkpoints, step)
    if not file.is_file():
        return
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    problem = next(filter(None, (_problem(checkpoints, line) for line in own_part(lines))), None)
    found = next(filter(None, all_gather_objects(problem)), None)
    if found is not None:
        raise UserError(f"{checkpoints}: step-{step} cannot be loaded: {found}")


def _problem(checkpoints: Path, line: str) -> str | None:
    expected, _, name = line.partition("  ")
    if not name:
        return f"its list of checksums is damaged: {line!r}"
    path = checkpoints / name
    if not path.is_file():
        return f"{name} is missing"
    return None if _sha256(path) == expected else f"{name} is damaged: its checksum is another"


@contextmanager
def tensors_only() -> Iterator[None]:
    """Have ``torch.load`` read tensors, plain values and DeepSpeed's few classes, and run nothing.

    DeepSpeed asks for whole pickles, which can run code; torch lets the environment overrule it.
    """
    import torch
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
