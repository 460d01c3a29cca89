"""Drawing λ and putting it where it acts: shared by the Panacea trainers."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from safe_rlhf_panacea.adapter import PanaceaAdapter
from safe_rlhf_panacea.base.distributed import all_gather_objects, get_rank, get_world_size
from safe_rlhf_panacea.preference import PreferenceSampler, parse_preference

DRAWN_BINS = 10


class PreferenceSource:
    """Where a training step gets its λ from: a sampler on the simplex, or one fixed vector.

    Attributes:
        fixed: the fixed vector, size = (m,), or None.
        drawn: how often this process drew each tenth of [0, 1] for λ_i, size = (m, 10).
    """

    def __init__(self, args: argparse.Namespace, objectives: tuple[str, ...]) -> None:
        """Read the flags; ranks that share a λ share the sampler's seed."""
        self.device = args.device
        self.fixed = None
        if args.fixed_preference is not None:
            self.fixed = parse_preference(args.fixed_preference, objectives).to(self.device)
        self.drawn = torch.zeros(len(objectives), DRAWN_BINS, dtype=torch.int64)
        options = {}
        if args.dirichlet_alpha is not None:
            options["alpha"] = args.dirichlet_alpha
        if args.vertex_probability is not None:
            options["vertex_probability"] = args.vertex_probability
        self.sampler = PreferenceSampler(
            len(objectives),
            kind=args.preference_sampler,
            scope=args.preference_scope,
            seed=args.seed,
            rank=get_rank(),
            world_size=get_world_size(),
            **options,
        )

    def draw(self, batch_size: int) -> torch.Tensor:
        """The next λ: size = (m,) for scope ``batch``, (B, m) for scope ``sample``."""
        if self.fixed is not None:
            return self.fixed
        preference = self.sampler.sample(batch_size)
        self._count(preference)
        return preference.to(self.device)

    def _count(self, preference: torch.Tensor) -> None:
        rows = preference.reshape(-1, self.drawn.size(0))
        bins = (rows * DRAWN_BINS).long().clamp(0, DRAWN_BINS - 1)  # size = (B, m)
        self.drawn.scatter_add_(1, bins.T, torch.ones_like(bins.T))

    def state_dict(self) -> dict[str, Any]:
        """Every process's place in its stream, and how often each λ was drawn."""
        ranks = all_gather_objects({**self.sampler.state_dict(), "drawn": self.drawn})
        return {**self.sampler.state_dict(), "ranks": ranks}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where a checkpoint left off."""
        own = state["ranks"][get_rank()]
        self.sampler.load_state_dict(own)
        self.drawn.copy_(own["drawn"])


def set_preference(
    adapter: PanaceaAdapter, preference: torch.Tensor, copies: int = 1, *, tiled: bool = False
) -> None:
    """Put λ into an adapter for a batch in which every sample stands ``copies`` times.

    Args:
        adapter: left alone if it has no preference part.
        preference: size = (m,) or (B, m).
        copies: rows per sample.
        tiled: the copies are whole blocks (B rows, then B rows again) and not neighbours.
    """
    if adapter.pref_dim == 0:
        return
    if preference.dim() == 2 and copies > 1:
        preference = (
            preference.repeat(copies, 1) if tiled else preference.repeat_interleave(copies, dim=0)
        )
    adapter.set_preference(preference)


@contextmanager
def as_reference(adapter: PanaceaAdapter, module: nn.Module) -> Iterator[None]:
    """The policy as its own reference: adapter off, dropout off."""
    was_training = module.training
    if was_training:
        module.eval()
    try:
        with adapter.disabled():
            yield
    finally:
        if was_training:
            module.train()
