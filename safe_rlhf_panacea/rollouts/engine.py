"""A trainer's rollouts, drawn by vLLM servers from the adapter as it was when they were asked."""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch

from safe_rlhf_panacea.configs.algorithms import RewardedConfig
from safe_rlhf_panacea.distributed import get_rank
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.forward import SamplingConfig
from safe_rlhf_panacea.rollouts.checks import Needed, check_close, check_vllm, probe
from safe_rlhf_panacea.rollouts.completions import Completion, as_sampled, read_answer, request
from safe_rlhf_panacea.rollouts.pool import Pool
from safe_rlhf_panacea.rollouts.publishing import Publisher, model_name
from safe_rlhf_panacea.rollouts.server import Server

Batch = dict[str, Any]
PROBED = 16  # tokens by which a server's model is told from another one


def row_seed(seed: int, batch: int, row: int) -> int:
    """The seed of a prompt's responses: of the run's, and of the prompt's place in it.

    It does not depend on what else draws random numbers, nor on which server answers.
    """
    text = f"{seed}/{get_rank()}/{batch}/{row}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")


@dataclass
class Asked:
    """A micro-batch of prompts whose responses are on their way.

    Attributes:
        preference: λ of each prompt, size = (B, m).
        prompts: token ids, size = (B, S), left-padded.
        mask: size = (B, S).
        answers: to each prompt; none where there is no room for a response.
        config: how responses are drawn.
    """

    preference: torch.Tensor
    prompts: torch.Tensor
    mask: torch.Tensor
    answers: list[Future[Any]]
    config: SamplingConfig

    def collect(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Wait for the responses.

        Returns:
            Sequences and mask, size = (B·n, L) each, and the engine's log-probabilities, size =
            (B·n, L - 1).

        Raises:
            NoResponsesError: a response cannot be had from any server.
        """
        copies = self.config.num_return_sequences
        found: list[Completion] = []
        for answer in self.answers:
            drawn = read_answer(answer.result(), 1 if self.config.temperature == 0 else copies)
            found += drawn * (copies // len(drawn))  # greedy: the same one for each
        if not found:
            found = [Completion([], [])] * (len(self.prompts) * copies)
        return as_sampled(self.prompts, self.mask, found, self.config)


class Rollouts:
    """Asks for responses ahead of their use.

    Attributes:
        pool: the servers.
        publisher: hands them the adapter.
        needed: what each of them must run.
        waiting: micro-batches that were asked for and not taken, oldest first.
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
        """Ask nobody as yet.

        Args:
            urls: of servers.
            args: the run's flags.
            needed: what each server must run.
            objectives: names of what λ weights; none where the adapter does not depend on it.
            config: how responses are drawn.
            publisher: of the adapter.
        """
        self.pool = Pool([Server(url, args.rollout_timeout) for url in urls])
        self.publisher, self.needed = publisher, needed
        self.objectives, self.config, self.seed = objectives, config, args.seed
        self.waiting: deque[Asked] = deque()
        self._published: int | None = None
        self._asked_names: set[str] = set()

    # -- before the training ----------------------------------------------------------

    def check(self) -> None:
        """Refuse servers that are not what is needed.

        Raises:
            UserError: naming the first one.
        """
        for server in self.pool.serving():
            check_vllm(server, self.needed)

    def probes(self, prompt: Sequence[int], preference: torch.Tensor) -> list[Completion]:
        """A short response of each server to a prompt at λ, size = (m,).

        Raises:
            UserError: a server has no plugin, or refuses the adapter.
        """
        body = self._probe(prompt, preference)
        return [probe(server, self.needed, body)[0] for server in self.pool.serving()]

    def check_close(self, found: Iterable[tuple[Completion, list[float], list[float]]]) -> None:
        """Refuse a server whose log-probabilities are not the policy's.

        Args:
            found: of each server: its response, and the policy's own log-probabilities of that, at
                the temperature of sampling and at 1.
        """
        for server, (theirs, own, at_one) in zip(self.pool.serving(), found, strict=True):
            check_close(server, self.needed, theirs, own, at_one, self.config.temperature or 1.0)

    def _probe(self, prompt: Sequence[int], preference: torch.Tensor) -> dict[str, Any]:
        config = replace(self.config, num_return_sequences=1, top_p=1.0, repetition_penalty=1.0)
        most = max(1, min(PROBED, config.max_length - len(prompt)))
        name = model_name(self.publisher.latest, self.objectives, preference)
        self._asked_names.add(name)
        return request(name, prompt, config, most=most, seed=self.seed)

    # -- each update ------------------------------------------------------------------

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
        old = {n for n in self._asked_names if n.partition("@")[0] in removed}
        self._asked_names -= old
        if old:
            threading.Thread(target=self._unload, args=(sorted(old),), daemon=True).start()

    def _unload(self, names: Sequence[str]) -> None:
        """Let servers forget names; what goes wrong with that does no harm."""
        for server in self.pool.serving():
            for name in names:
                with suppress(UserError):
                    server.post("/v1/unload_lora_adapter", {"lora_name": name})

    def ask(
        self, batches: Sequence[Batch], preferences: Sequence[torch.Tensor], number: int
    ) -> None:
        """Ask for the responses to a prompt batch, in its micro-batches.

        Args:
            batches: of prompts.
            preferences: λ of each row of each of them, size = (B, m).
            number: of the prompt batch in the run.
        """
        config, row = self.config, 0
        if config.temperature == 0:
            config = replace(config, num_return_sequences=1)
        for batch, preference in zip(batches, preferences, strict=True):
            prompts, mask = batch["input_ids"], batch["attention_mask"]
            most, bodies = config.max_length - prompts.size(1), []
            for ids, there, own in zip(
                prompts.tolist(), mask.tolist(), preference.cpu(), strict=True
            ):
                name = model_name(self.publisher.latest, self.objectives, own)
                self._asked_names.add(name)
                prompt = [token for token, real in zip(ids, there, strict=True) if real]
                seed = row_seed(self.seed, number, row)
                bodies.append(request(name, prompt, config, most=most, seed=seed))
                row += 1
            answers = self.pool.submit(bodies) if most > 0 else []
            self.waiting.append(Asked(preference, prompts, mask, answers, self.config))

    def close(self) -> None:
        """Remove what was published."""
        self.publisher.close()
