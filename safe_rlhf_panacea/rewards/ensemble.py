"""m rewards as one, in the order of λ."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.rewards.functions import FunctionReward
from safe_rlhf_panacea.rewards.given import RewardState
from safe_rlhf_panacea.rewards.responses import Responses
from safe_rlhf_panacea.rewards.scorers import RewardModel, Scorer
from safe_rlhf_panacea.rewards.spec import RewardSpec


class RewardEnsemble:
    """Scores responses under every objective.

    Attributes:
        specs: one per objective.
        scorers: one per objective.
        models: those that the scorers ask, each once.
        state: of the training; functions read it and log there.
    """

    def __init__(
        self,
        specs: Sequence[RewardSpec],
        scorers: Sequence[Scorer],
        models: Sequence[RewardModel] = (),
        state: RewardState | None = None,
    ) -> None:
        """Hold on to the scorers."""
        if len(specs) != len(scorers):
            raise ValueError(f"{len(specs)} specifications for {len(scorers)} scorers")
        self.specs = list(specs)
        self.scorers = list(scorers)
        self.models = list(models)
        self.state = state or RewardState()

    @property
    def names(self) -> tuple[str, ...]:
        """The objectives, in the order of λ."""
        return tuple(spec.name for spec in self.specs)

    @property
    def may_lack(self) -> bool:
        """Whether an objective may not count for a row: a function may say so."""
        return any(getattr(scorer, "may_lack", False) for scorer in self.scorers)

    def logged(self) -> dict[str, float]:
        """What functions have logged since the last call, as means over all processes."""
        logs = any(getattr(scorer, "logs", False) for scorer in self.scorers)
        return self.state.logged() if logs else {}

    def place(self, engine: Callable[[Any], Any]) -> None:
        """Put every model where it is to run, or into its engine."""
        for model in self.models:
            model.model = engine(model.model)

    @property
    def for_critic(self) -> RewardModel | None:
        """The first model whose backbone a critic can stand on: it scores the policy's tokens."""
        fit = (m for m in self.models if m.reads_policy_tokens and not m.is_classifier)
        return next(fit, None)

    def check_columns(
        self, examples: Sequence[Mapping[str, Any] | None] | None, source: str
    ) -> None:
        """Refuse data that lack a column which a function needs.

        Args:
            examples: the raw samples, None where one is not known; None: Safe-RLHF's own data
                sets, which keep none.
            source: what the data are called.

        Raises:
            UserError: naming function, column and row.
        """
        for function in (one for one in self.scorers if isinstance(one, FunctionReward)):
            for name in function.columns:
                for row, example in enumerate([None] if examples is None else examples):
                    if name not in (example or {}):
                        has = ", ".join(example or {}) or "none"
                        raise UserError(
                            f"{function.path} needs {name}, which is no column of {source} "
                            f"(prompt {row + 1} has: {has}), and no option gives it"
                        )

    @torch.no_grad()
    def __call__(self, responses: Responses) -> torch.Tensor:
        """The m rewards of each response, size = (B, m), float32.

        NaN stands where an objective does not count for a row, which functions alone may say. A
        model's NaN becomes an infinity, so that it shows and is not taken for that. Functions that
        are ``async`` run together, and beside the others.
        """
        columns = []
        with ThreadPoolExecutor() as threads:
            begun = {
                spec.name: threads.submit(scorer, responses)
                for spec, scorer in zip(self.specs, self.scorers, strict=True)
                if getattr(scorer, "is_async", False)
            }
            for spec, scorer in zip(self.specs, self.scorers, strict=True):
                done = begun[spec.name].result() if spec.name in begun else scorer(responses)
                scores = done.float()
                if not getattr(scorer, "may_lack", False):
                    scores = scores.masked_fill(scores.isnan(), torch.inf)
                columns.append(spec.sign * spec.scale * (scores - spec.shift))
        return torch.stack(columns, dim=-1)

    def raw(self, rewards: torch.Tensor) -> torch.Tensor:
        """What the models and functions themselves said, before sign, scale and shift.

        Args:
            rewards: of this ensemble, size = (..., m).
        """
        factors = rewards.new_tensor([spec.sign * spec.scale for spec in self.specs])
        return rewards / factors + rewards.new_tensor([spec.shift for spec in self.specs])
