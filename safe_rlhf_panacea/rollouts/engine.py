"""A trainer's rollouts, drawn by vLLM servers from the adapter as it was when they were asked."""

from __future__ import annotations

import hashlib
import shutil
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from safe_rlhf_panacea.configs.algorithms import RewardedConfig
from safe_rlhf_panacea.distributed import get_rank
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.export.vllm_resolver import VERSION
from safe_rlhf_panacea.forward import SamplingConfig
from safe_rlhf_panacea.rollouts.checks import LocalServer, Needed, check_vllm, probe
from safe_rlhf_panacea.rollouts.completions import Asked, Completion, Pool, model_name, request
from safe_rlhf_panacea.rollouts.server import Server

NAME = "rollouts"  # of the adapter, in the servers' PANACEA_ADAPTERS
KEPT = 2  # versions: the newest, and the one that responses still to come may be of
PROBED = 16  # tokens by which a server's model is told from another one


def row_seed(seed: int, batch: int, row: int) -> int:
    """The seed of a prompt's responses: of the run's, and of the prompt's place in it.

    It does not depend on what else draws random numbers, nor on which server answers.
    """
    text = f"{seed}/{get_rank()}/{batch}/{row}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")


def remove_versions(folder: Path, versions: Sequence[str] | None = None) -> None:
    """Remove versions of an adapter from a folder; None: all that lie there."""
    if versions is None:
        found = folder.iterdir() if folder.is_dir() else ()
        versions = [path.name for path in found if VERSION.fullmatch(path.name)]
    for version in versions:
        shutil.rmtree(folder / version, ignore_errors=True)


class Rollouts:
    """Hands over the adapter, and asks for responses ahead of their use.

    ``run`` names this start of the run: a version that was written before a crash, with other
    weights, is never asked for again.
    """

    def __init__(
        self,
        urls: Sequence[str],
        args: RewardedConfig,
        needed: Needed,
        objectives: tuple[str, ...],  # none where the adapter does not depend on λ
        config: SamplingConfig,
        folder: Path,  # where servers find versions of the adapter, a folder each
        run: str,  # eight hexadecimal digits
    ) -> None:
        self.pool = Pool([Server(url, args.rollout_timeout) for url in urls])
        self.needed, self.objectives, self.config, self.seed = needed, objectives, config, args.seed
        self.folder, self.run = folder, run
        self.own_server: LocalServer | None = None  # that this run has started
        self.versions: list[str] = []  # that lie in the folder, oldest first
        # λ, size = (B, m), and responses of micro-batches that are not taken yet, oldest first.
        self.waiting: deque[tuple[Tensor, Asked]] = deque()
        self._asked_names: set[str] = set()

    def publish(self, number: int, write: Callable[[Path], None] | None) -> None:
        """Hand over the adapter as it is after so many updates, unless that was done.

        ``write`` is its ``save``, whose last file is the one that readers look for first; None on
        processes that do not write. Versions that are too old are removed. Servers that were left
        out are looked at again: one that was started anew may be well.
        """
        version = f"{self.run}-{number}"
        if version in self.versions:
            return
        if write is not None:
            write(self.folder / version)
        self.versions.append(version)
        removed, self.versions = self.versions[:-KEPT], self.versions[-KEPT:]
        if write is not None:
            remove_versions(self.folder, removed)
        self.pool.take_back(lambda server: check_vllm(server, self.needed))
        gone = {f"{NAME}/{version}" for version in removed}
        old = {name for name in self._asked_names if name.partition("@")[0] in gone}
        self._asked_names -= old

        def unload() -> None:
            """Let servers forget names; what goes wrong with that does no harm."""
            for server in self.pool.serving():
                for name in sorted(old):
                    with suppress(UserError):
                        server.post("/v1/unload_lora_adapter", {"lora_name": name})

        if old:
            threading.Thread(target=unload, daemon=True).start()

    def _name(self, preference: Tensor) -> str:
        """The newest version at λ, size = (m,), which is remembered to be unloaded."""
        name = model_name(f"{NAME}/{self.versions[-1]}", self.objectives, preference)
        self._asked_names.add(name)
        return name

    def probes(self, prompt: Sequence[int], preference: Tensor) -> list[Completion]:
        """A short response of each server to a prompt at λ, size = (m,), or a ``UserError``."""
        config = replace(self.config, num_return_sequences=1, top_p=1.0, repetition_penalty=1.0)
        most = max(1, min(PROBED, config.max_length - len(prompt)))
        body = request(self._name(preference), prompt, config, most=most, seed=self.seed)
        return [probe(server, self.needed, body) for server in self.pool.serving()]

    def ask(
        self, batches: Sequence[dict[str, Any]], preferences: Sequence[Tensor], number: int
    ) -> None:
        """Ask for the responses to the micro-batches of the run's prompt batch with this number.

        ``preferences`` are λ of the rows of each of them, size = (B, m).
        """
        row = 0
        for batch, preference in zip(batches, preferences, strict=True):
            prompts, mask = batch["input_ids"], batch["attention_mask"]
            names = [self._name(own) for own in preference.cpu()]
            seeds = [row_seed(self.seed, number, row + i) for i in range(len(names))]
            row += len(names)
            asked = Asked(self.pool, names, prompts, mask, seeds, self.config)
            self.waiting.append((preference, asked))

    def close(self) -> None:
        """Remove what was handed over, and end the server that was started."""
        remove_versions(self.folder, self.versions)
        if self.own_server is not None:
            self.own_server.end()
