"""A trainer's rollouts, drawn by vLLM servers from the adapter as it was when they were asked."""

from __future__ import annotations

import hashlib
import secrets
import shutil
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from safe_rlhf_panacea.configs.algorithms import RewardedConfig
from safe_rlhf_panacea.distributed import get_rank
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.export.vllm_resolver import VERSION
from safe_rlhf_panacea.forward.generation import SamplingConfig
from safe_rlhf_panacea.rollouts.checks import Needed, check_vllm, probe
from safe_rlhf_panacea.rollouts.completions import Asked, Completion, Pool, model_name, request
from safe_rlhf_panacea.rollouts.server import Server

Batch = dict[str, Any]
NAME = "rollouts"  # of the adapter, in the servers' PANACEA_ADAPTERS
KEPT = 2  # versions: the newest, and the one that responses still to come may be of
PROBED = 16  # tokens by which a server's model is told from another one


def row_seed(seed: int, batch: int, row: int) -> int:
    """The seed of a prompt's responses: of the run's, and of the prompt's place in it.

    It does not depend on what else draws random numbers, nor on which server answers.
    """
    text = f"{seed}/{get_rank()}/{batch}/{row}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")


class Publisher:
    """Writes versions of an adapter, each a folder below one that the servers read.

    A run draws a name for itself when it starts, so that a version that was written before a crash,
    with other weights, is never asked for again.

    Attributes:
        folder: as this machine sees it.
        run: this start of the run, eight hexadecimal digits.
        versions: those that lie there, oldest first.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.run = folder, secrets.token_hex(4)
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
        found = self.folder.iterdir() if self.folder.is_dir() else ()
        self._remove([path.name for path in found if VERSION.fullmatch(path.name)])

    def close(self) -> None:
        """Remove what is left of this run."""
        self._remove(self.versions)

    def _remove(self, versions: list[str]) -> None:
        for version in versions:
            shutil.rmtree(self.folder / version, ignore_errors=True)


class Rollouts:
    """Asks for responses ahead of their use.

    Args:
        urls: of servers.
        args: the run's flags.
        needed: what each server must run.
        objectives: names of what λ weights; none where the adapter does not depend on it.
        config: how responses are drawn.
        publisher: of the adapter.

    Attributes:
        waiting: λ, size = (B, m), and the responses to come, of micro-batches that were asked for
            and not taken, oldest first.
    """

    def __init__(
        self,
        urls: Sequence[str],
        args: RewardedConfig,
        needed: Needed,
        objectives: tuple[str, ...],
        config: SamplingConfig,
        publisher: Publisher,
    ) -> None:
        self.pool = Pool([Server(url, args.rollout_timeout) for url in urls])
        self.publisher, self.needed = publisher, needed
        self.objectives, self.config, self.seed = objectives, config, args.seed
        self.waiting: deque[tuple[torch.Tensor, Asked]] = deque()
        self._published: int | None = None
        self._asked_names: set[str] = set()

    def probes(self, prompt: Sequence[int], preference: torch.Tensor) -> list[Completion]:
        """A short response of each server to a prompt at λ, size = (m,).

        Raises:
            UserError: a server has no plugin, or refuses the adapter.
        """
        config = replace(self.config, num_return_sequences=1, top_p=1.0, repetition_penalty=1.0)
        most = max(1, min(PROBED, config.max_length - len(prompt)))
        body = request(self._name(preference), prompt, config, most=most, seed=self.seed)
        return [probe(server, self.needed, body) for server in self.pool.serving()]

    def publish(self, number: int, write: Callable[[Any], None] | None) -> None:
        """Hand over the adapter as it is after so many updates, unless that was done.

        Servers that were left out are looked at again: one that was started anew may be well.

        Args:
            number: of updates.
            write: its ``save``; None on processes that do not write.
        """
        if number == self._published:
            return
        removed = self.publisher.publish(number, write)
        self._published = number
        self.pool.take_back(lambda server: check_vllm(server, self.needed))
        old = {name for name in self._asked_names if name.partition("@")[0] in removed}
        self._asked_names -= old

        def unload() -> None:
            """Let servers forget names; what goes wrong with that does no harm."""
            for server in self.pool.serving():
                for name in sorted(old):
                    with suppress(UserError):
                        server.post("/v1/unload_lora_adapter", {"lora_name": name})

        if old:
            threading.Thread(target=unload, daemon=True).start()

    def ask(
        self, batches: Sequence[Batch], preferences: Sequence[torch.Tensor], number: int
    ) -> None:
        """Ask for the responses to a prompt batch, in its micro-batches.

        Args:
            batches: of prompts.
            preferences: λ of each row of each of them, size = (B, m).
            number: of the prompt batch in the run.
        """
        row = 0
        for batch, preference in zip(batches, preferences, strict=True):
            prompts, mask = batch["input_ids"], batch["attention_mask"]
            names = [self._name(own) for own in preference.cpu()]
            seeds = [row_seed(self.seed, number, row + i) for i in range(len(names))]
            row += len(names)
            asked = Asked(self.pool, names, prompts, mask, seeds, self.config)
            self.waiting.append((preference, asked))

    def _name(self, preference: torch.Tensor) -> str:
        """The newest version at λ, size = (m,), which is remembered to be unloaded."""
        name = model_name(self.publisher.latest, self.objectives, preference)
        self._asked_names.add(name)
        return name
