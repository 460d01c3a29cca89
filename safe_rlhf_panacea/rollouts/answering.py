"""A trained adapter's responses from servers: evaluating a front with ``--engine vllm``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from safe_rlhf_panacea.adapter import PanaceaAdapter
from safe_rlhf_panacea.forward import SamplingConfig, log_probs, response_tokens
from safe_rlhf_panacea.rollouts.checks import Needed, check_close, check_vllm, probe
from safe_rlhf_panacea.rollouts.completions import as_sampled, read_answer, request
from safe_rlhf_panacea.rollouts.pool import Pool
from safe_rlhf_panacea.rollouts.publishing import model_name
from safe_rlhf_panacea.rollouts.server import Server, server_url

MOST_LORAS = 16
PROMPT, TOKENS = 8, 16  # of what is asked to tell one base model from another


class Answers:
    """Stands for the sampling loop of a model whose adapter servers have: see ``sample``.

    Attributes:
        pool: the servers.
        adapter: of the model; its λ is asked for, and the base model where it is off.
        name: of the adapter, as the servers know it.
        base_name: of the base model there.
    """

    def __init__(
        self, urls: Sequence[str], adapter: PanaceaAdapter, name: str, needed: Needed
    ) -> None:
        """Find out whether the servers will do.

        Raises:
            UserError: one of them will not.
        """
        self.pool = Pool([Server(server_url(url)) for url in urls])
        self.adapter, self.name, self.needed = adapter, name, needed
        names = {check_vllm(server, needed) for server in self.pool.serving()}
        self.base_name = names.pop()

    def check(self, model: Any, config: SamplingConfig) -> None:
        """Hold every server's log-probabilities against the model's, at the middle of the simplex.

        Raises:
            UserError: they are of another model, or the server has not the adapter.
        """
        prompt = [token for token in range(4, 4 + PROMPT)]
        middle = torch.full((self.adapter.pref_dim,), 1 / max(1, self.adapter.pref_dim))
        middle = middle.round(decimals=2)
        middle[-1:] = 1 - middle[:-1].sum()
        body = request(self._name(middle), prompt, config, most=TOKENS, seed=0)
        for server in self.pool.serving():
            (found, *_) = probe(server, self.needed, body)
            device = next(model.parameters()).device
            sequence = torch.tensor([prompt + found.tokens], device=device)
            mask = torch.ones_like(sequence).bool()
            inputs = model, sequence, mask, response_tokens(mask, PROMPT - 1)
            temperatures = config.temperature or 1.0, 1.0
            with torch.no_grad(), self.adapter.at(middle.to(device)):
                own, at_one = (
                    log_probs(*inputs, temperature=t)[0, PROMPT - 1 :].tolist()
                    for t in temperatures
                )
            check_close(server, self.needed, found, own, at_one, temperatures[0])

    def _name(self, preference: torch.Tensor) -> str:
        objectives = self.adapter.config.objectives[: self.adapter.config.pref_dim]
        return model_name(self.name, objectives, preference)

    def __call__(
        self,
        input_ids: torch.Tensor,  # size = (B, S), left-padded
        attention_mask: torch.Tensor,  # size = (B, S)
        config: SamplingConfig,
        generator: torch.Generator | None = None,
        noise_copies: int = 1,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What ``sample`` returns, at the λ that the adapter is at.

        Raises:
            NoResponsesError: no server gives a response.
        """
        rows, state = len(input_ids), self.adapter.state
        device = "cpu" if generator is None else generator.device
        seeds = torch.randint(
            2**48, (rows // noise_copies,), generator=generator, device=device
        ).repeat(noise_copies)
        preference = state.value.cpu().expand(rows, -1) if state.value.dim() == 1 else state.value
        bodies = []
        for ids, there, own, seed in zip(
            input_ids.tolist(), attention_mask.tolist(), preference.cpu(), seeds, strict=True
        ):
            name = self._name(own) if state.enabled else self.base_name
            prompt = [token for token, real in zip(ids, there, strict=True) if real]
            most = config.max_length - input_ids.size(1)
            bodies.append(request(name, prompt, config, most=most, seed=int(seed)))
        copies = config.num_return_sequences
        answers = [read_answer(one.result(), copies) for one in self.pool.submit(bodies)]
        found = [completion for answer in answers for completion in answer]
        sequences, mask, _ = as_sampled(input_ids, attention_mask, found, config)
        return sequences, mask


def answer_by_servers(
    model: Any, adapter: PanaceaAdapter, folder: Path, urls: Sequence[str], config: SamplingConfig
) -> None:
    """Have servers draw the responses of a model from now on.

    Args:
        model: with its adapter.
        adapter: its adapter.
        folder: of the adapter, whose last part is its name at the servers.
        urls: of the servers.
        config: how responses are drawn.

    Raises:
        UserError: a server will not do.
    """
    folder = folder.expanduser().absolute()
    base, rank = str(adapter.config.base_model), adapter.config.rank
    needed = Needed(base, f"{folder.name}={folder}", rank, config.max_length, MOST_LORAS)
    answers = Answers(urls, adapter, folder.name, needed)
    answers.check(model, config)
    model.response_engine = answers
