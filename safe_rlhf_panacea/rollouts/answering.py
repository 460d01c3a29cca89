"""A trained adapter's responses from servers: evaluating a front with ``--engine vllm``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from safe_rlhf_panacea.adapter import PanaceaAdapter
from safe_rlhf_panacea.configs.kinds import server_url
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.export.vllm_resolver import DECIMALS
from safe_rlhf_panacea.forward import SamplingConfig
from safe_rlhf_panacea.preference import format_preference
from safe_rlhf_panacea.rollouts import checks
from safe_rlhf_panacea.rollouts.completions import Asked, Pool, model_name, request
from safe_rlhf_panacea.rollouts.server import Server

PROMPT, TOKENS = 8, 16  # of what is asked to tell one base model from another


def check_grid(grid: Tensor) -> None:
    """Refuse, with a ``UserError``, a grid, size = (N, m), with a λ that the plugin refuses."""
    for row in grid:
        if not torch.equal(row, row.round(decimals=DECIMALS)):
            raise UserError(
                f"--engine vllm, λ {format_preference(row)}: a server is asked for λ of at most "
                f"{DECIMALS} decimals: choose a --grid_step such as 0.1, 0.2 or 0.25"
            )


@torch.no_grad()
def answer_by_servers(
    model: Any, adapter: PanaceaAdapter, folder: Path, urls: Sequence[str], config: SamplingConfig
) -> None:
    """Have servers draw the responses of a model, with its adapter, from now on.

    The last part of the adapter's folder is its name at the servers. Every server's
    log-probabilities are held against the model's, at the middle of the simplex.

    Raises:
        UserError: a server will not do: it is no vLLM, of another model, or without the adapter.
    """
    folder = folder.expanduser().absolute()
    base, rank = str(adapter.config.base_model), adapter.config.rank
    needed = checks.Needed(base, f"{folder.name}={folder}", rank, config.max_length)
    pool = Pool([Server(server_url(url)) for url in urls])
    base_name, *_ = {checks.check_vllm(server, needed) for server in pool.serving()}
    name_at = partial(model_name, folder.name, adapter.config.objectives[: adapter.pref_dim])
    middle = torch.full((adapter.pref_dim,), 1 / max(1, adapter.pref_dim)).round(decimals=2)
    middle[-1:] = 1 - middle[:-1].sum()
    prompt, temperature = list(range(4, 4 + PROMPT)), config.temperature or 1.0
    body = request(name_at(middle), prompt, config, most=TOKENS, seed=0)
    device = next(model.parameters()).device
    for server in pool.serving():
        found = checks.probe(server, needed, body)
        with adapter.at(middle.to(device)):
            own = checks.own_log_probs(model, prompt, found.tokens, (temperature, 1.0), device)
        checks.check_close(server, needed, found.log_probs, own, temperature)

    def answer(
        input_ids: Tensor,  # size = (B, S), left-padded
        attention_mask: Tensor,  # size = (B, S)
        config: SamplingConfig,
        generator: torch.Generator | None = None,
        noise_copies: int = 1,
    ) -> tuple[Tensor, Tensor]:
        """What ``forward.generate`` returns, at the λ that the adapter is at."""
        rows, state = len(input_ids), adapter.state
        device = "cpu" if generator is None else generator.device
        shape = (rows // noise_copies,)
        seeds = torch.randint(2**48, shape, generator=generator, device=device).repeat(noise_copies)
        names = [base_name] * rows
        if state.enabled:
            shared = state.value.dim() == 1
            preference = state.value.expand(rows, -1) if shared else state.value  # size = (B, m)
            names = [name_at(own) for own in preference.cpu()]
        asked = Asked(pool, names, input_ids, attention_mask, seeds.tolist(), config)
        sequences, mask, _ = asked.collect()
        return sequences, mask

    model.response_engine = answer
