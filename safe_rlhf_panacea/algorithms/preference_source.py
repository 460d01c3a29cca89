"""Where a training step gets its λ from, and when it gets another one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from safe_rlhf_panacea.base.engine import passes_since_update
from safe_rlhf_panacea.base.rl_data import steps_per_epoch
from safe_rlhf_panacea.configs.algorithms import RewardedConfig
from safe_rlhf_panacea.configs.panacea import PanaceaConfig
from safe_rlhf_panacea.distributed import all_gather_objects, get_rank, get_world_size, own_device
from safe_rlhf_panacea.errors import UserError
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
        self._kept: torch.Tensor | None = None  # size = (1, m)
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
        self, batch_size: int, *, begins_update: bool = True, labelled: torch.Tensor | None = None
    ) -> torch.Tensor:
        """λ of a batch, size = (B, m); in scope ``batch`` its rows are equal.

        In scope ``batch`` an update has one λ (Algorithm 1), however many batches are accumulated
        for it: a batch that does not begin an update keeps the last λ. Checkpoints are saved
        between updates, so the kept λ is no part of the state. ``labelled``, size = (B, m), says
        which objectives label each row, for a λ that is drawn for the labels.
        """
        if self.fixed is not None:
            return self.fixed.expand(batch_size, -1)
        if self.shared:
            if begins_update or self._kept is None:
                self._kept = self._next(1)
            return self._kept.expand(batch_size, -1)
        return self._next(batch_size, labelled if self.for_labels else None)

    def _next(self, rows: int, labelled: torch.Tensor | None = None) -> torch.Tensor:
        """New vectors, size = (rows, m), and a note of them."""
        for name, (start, end) in self._moving.items():
            setattr(self.sampler, name, start + (end - start) * self.run_progress())
        preference = self.sampler.sample(rows, labelled)
        bins = (preference * DRAWN_BINS).long().clamp(0, DRAWN_BINS - 1)  # size = (B, m)
        self.drawn.scatter_add_(1, bins.T, torch.ones_like(bins.T))
        return preference.to(self.device)

    def state_dict(self) -> dict[str, Any]:
        """Every process's place in its stream, and how often each λ was drawn."""
        ranks = all_gather_objects({**self.sampler.state_dict(), "drawn": self.drawn})
        return {**self.sampler.state_dict(), "ranks": ranks}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        own = state["ranks"][get_rank()]
        self.sampler.load_state_dict(own)
        self.drawn.copy_(own["drawn"])


def begins_update(engine: Any, waiting: int = 0, passes: int = 1) -> bool:
    """Whether a batch may have another λ than the one before it, in scope ``batch``.

    One λ holds for all micro-batches whose gradients meet in an optimiser step, for all responses
    drawn in one go, and for a whole rollout set with several passes over it. So a new λ is drawn
    for a batch whose first backward pass begins an update, and with several passes only for the
    first batch of a set. Where rollouts and updates do not end together (2 responses to a prompt
    and 3 accumulated micro-batches), one λ serves all updates until they do.

    Args:
        engine: the policy's.
        waiting: its backward passes on micro-batches of the same rollout set that come first.
        passes: over a rollout set.
    """
    first = waiting == 0 or passes == 1
    before = passes_since_update(engine) + waiting
    return first and before % engine.gradient_accumulation_steps() == 0


def check_shared(args: RewardedConfig, prompts: int, accumulated: int, total_steps: int) -> None:
    """Refuse a run whose rollout sets would all share updates, and so one λ, for a whole epoch.

    This can happen only with several passes over a set, which is not cut where an update ends.
    ``prompts`` are this process's, ``accumulated`` the micro-batches of an update, ``total_steps``
    the training steps of the run.

    Raises:
        UserError: a short last rollout would leave an update open that no whole one closes.
    """
    if args.update_iters == 1 or args.preference_scope == "sample" or args.fixed_preference:
        return
    epoch, rollout = (
        steps_per_epoch(count, args) for count in (prompts, args.per_device_prompt_batch_size)
    )
    common = math.gcd(rollout, accumulated)
    if epoch % common and total_steps > epoch:
        raise UserError(
            f"an epoch has {epoch} training steps, no multiple of {common}: with --update_iters "
            f"{args.update_iters} one λ would serve all rollouts of the next; choose "
            "--preference_scope sample, or prompts that fill whole prompt batches"
        )
