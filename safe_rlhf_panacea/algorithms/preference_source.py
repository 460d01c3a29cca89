"""Where a training step gets its λ from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from safe_rlhf_panacea.configs.panacea import PanaceaConfig
from safe_rlhf_panacea.distributed import all_gather_objects, get_rank, get_world_size, own_device
from safe_rlhf_panacea.preference import parse_preference
from safe_rlhf_panacea.preference_sampler import PreferenceSampler

DRAWN_BINS = 10
# The sampler's parameters that may change over a run, and the options that give them.
MOVING = {"alpha": "dirichlet_alpha", "vertex_probability": "vertex_probability"}


class PreferenceSource:
    """A sampler on the simplex, or one fixed vector.

    Attributes:
        fixed: the fixed vector, size = (m,), or None.
        shared: whether all rows of a batch have one vector: scope ``batch``, or a fixed one.
        for_labels: whether λ is drawn for the labels of each row.
        drawn: how often this process drew each tenth of [0, 1] for λ_i, size = (m, 10).
    """

    def __init__(self, args: PanaceaConfig, objectives: tuple[str, ...]) -> None:
        """Read the flags; ranks that share a λ share the sampler's seed."""
        self.device = own_device()
        self.fixed = None
        if args.fixed_preference is not None:
            self.fixed = parse_preference(args.fixed_preference, objectives).to(self.device)
        self.shared = self.fixed is not None or args.preference_scope == "batch"
        self.for_labels = getattr(args, "preference_for_labels", False)  # no flag where all count
        self.run_progress: Callable[[], float] = lambda: 0.0  # a trainer sets how far its run is
        self._moving = {
            name: (getattr(args, option), getattr(args, f"{option}_end"))
            for name, option in MOVING.items()
            if getattr(args, f"{option}_end", None) is not None
        }
        self._kept: Tensor | None = None  # size = (1, m)
        self.drawn = torch.zeros(len(objectives), DRAWN_BINS, dtype=torch.int64)
        given = {name: getattr(args, option) for name, option in MOVING.items()}
        self.sampler = PreferenceSampler(
            len(objectives),
            kind=args.preference_sampler,
            scope=args.preference_scope,
            seed=args.seed,
            rank=get_rank(),
            world_size=get_world_size(),
            **{name: value for name, value in given.items() if value is not None},
        )

    def draw(
        self, batch_size: int, *, begins_update: bool = True, labelled: Tensor | None = None
    ) -> Tensor:
        """λ of a batch, size = (B, m); in scope ``batch`` its rows are equal.

        In scope ``batch`` an update has one λ (Algorithm 1), however many batches are accumulated
        for it: a batch that does not begin an update keeps the last λ. Checkpoints are saved
        between updates, so the kept λ is no part of the state. ``labelled``, size = (B, m), says
        which objectives label each row, for a λ that is drawn for the labels.
        """
        if self.fixed is not None:
            return self.fixed.expand(batch_size, -1)
        if self.shared and not begins_update and self._kept is not None:
            return self._kept.expand(batch_size, -1)
        for name, (start, end) in self._moving.items():
            setattr(self.sampler, name, start + (end - start) * self.run_progress())
        rows = 1 if self.shared else batch_size
        new = self.sampler.sample(rows, labelled if self.for_labels and not self.shared else None)
        bins = (new * DRAWN_BINS).long().clamp(0, DRAWN_BINS - 1)  # size = (rows, m)
        self.drawn.scatter_add_(1, bins.T, torch.ones_like(bins.T))
        self._kept = new.to(self.device)
        return self._kept.expand(batch_size, -1)

    def state_dict(self) -> dict[str, Any]:
        """Every process's place in its stream, and how often each λ was drawn."""
        ranks = all_gather_objects({**self.sampler.state_dict(), "drawn": self.drawn})
        return {**self.sampler.state_dict(), "ranks": ranks}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where ``state_dict`` was taken."""
        own = state["ranks"][get_rank()]
        self.sampler.load_state_dict(own)
        self.drawn.copy_(own["drawn"])
