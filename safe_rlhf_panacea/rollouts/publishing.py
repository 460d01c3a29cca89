"""The adapter as servers get it: one folder for each update, from which they make LoRAs."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

import torch

from safe_rlhf_panacea.export.vllm_resolver import VERSION

NAME = "rollouts"  # of the adapter, in the servers' PANACEA_ADAPTERS
KEPT = 2  # versions: the newest, and the one that responses still to come may be of


def model_name(name: str, objectives: tuple[str, ...], preference: torch.Tensor) -> str:
    """The model to ask for at λ, size = (m,), which the name has to its last float32 bit."""
    if not objectives:
        return name
    values = zip(objectives, preference.tolist(), strict=True)
    return f"{name}@{','.join(f'{objective}={value:.9g}' for objective, value in values)}"


class Publisher:
    """Writes versions of an adapter below a folder that the servers read.

    A run draws a name for itself when it starts, so that a version that was written before a crash,
    with other weights, is never asked for again.

    Attributes:
        folder: as this machine sees it.
        run: this start of the run, eight hexadecimal digits.
        versions: those that lie there, oldest first.
    """

    def __init__(self, folder: Path, run: str | None = None) -> None:
        """Write nothing as yet."""
        self.folder = folder
        self.run = run or secrets.token_hex(4)
        self.versions: list[str] = []

    def publish(self, number: int, write: Callable[[Path], None] | None) -> list[str]:
        """Write a version, and remove those that are too old.

        Args:
            number: of the update that it follows.
            write: an adapter's ``save``, whose last file is the one that readers look for first;
                None on processes that do not write.

        Returns:
            The names of the versions that were removed, ``NAME/VERSION``.
        """
        version = f"{self.run}-{number}"
        if write is not None:
            write(self.folder / version)
        self.versions.append(version)
        removed, self.versions = self.versions[:-KEPT], self.versions[-KEPT:]
        if write is not None:
            self._remove(removed)
        return [f"{NAME}/{old}" for old in removed]

    @property
    def latest(self) -> str:
        """The newest version's name, without λ."""
        return f"{NAME}/{self.versions[-1]}"

    def clear(self) -> None:
        """Remove what earlier starts of the run have left in a folder that is the run's own."""
        if self.folder.is_dir():
            found = [path.name for path in self.folder.iterdir() if VERSION.fullmatch(path.name)]
            self._remove(found)

    def close(self) -> None:
        """Remove what is left of this run."""
        self._remove(self.versions)

    def _remove(self, versions: list[str]) -> None:
        for version in versions:
            shutil.rmtree(self.folder / version, ignore_errors=True)
