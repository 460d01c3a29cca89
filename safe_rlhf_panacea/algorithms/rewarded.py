"""What Panacea trainers that learn from rewards have in common: a part that they hold."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from safe_rlhf_panacea.algorithms.panacea import Panacea
from safe_rlhf_panacea.base import Batch, init_eval_engine, is_main_process, unwrap
from safe_rlhf_panacea.base.tokenizers import is_same_tokenizer
from safe_rlhf_panacea.printing import say
from safe_rlhf_panacea.rewards.ensemble import RewardEnsemble
from safe_rlhf_panacea.rewards.scorers import (
    Scorer,
    function_scorer,
    model_scorer,
    retokenizing_scorer,
)


class Rewarded:
    """Reward models and functions, responses at λ, and what is logged of both.

    Attributes:
        models: objective to reward model, of those that no function scores.
        tokenizers: their tokenizers.
    """

    def __init__(self, args: argparse.Namespace, panacea: Panacea) -> None:
        """Nothing is loaded yet."""
        self.args, self.panacea = args, panacea
        self.models: dict[str, Any] = {}
        self.tokenizers: dict[str, Any] = {}

    def load(self, policy_tokenizer: Any, load_scorer: Callable[..., tuple[Any, Any]]) -> None:
        """Load every reward model once; functions are found now and not after the loading."""
        self.policy_tokenizer = policy_tokenizer
        specs = self.args.reward_specs
        self._functions: dict[str, Scorer] = {
            spec.name: function_scorer(spec.path, policy_tokenizer)
            for spec in specs
            if spec.is_function
        }
        for spec in specs:
            if not spec.is_function:
                self.models[spec.name], self.tokenizers[spec.name] = load_scorer(
                    spec.path, spec.role, normalize=self.args.normalize_reward
                )

    def with_policys_tokens(self) -> list[str]:
        """The objectives whose reward models read the policy's tokens."""
        return [name for name in self.models if self._reads_policys_tokens(name)]

    def _reads_policys_tokens(self, name: str) -> bool:
        return is_same_tokenizer(self.policy_tokenizer, self.tokenizers[name])

    def ensemble(
        self, ds_eval_config: dict[str, Any], others: Mapping[str, Scorer] | None = None
    ) -> RewardEnsemble:
        """All rewards as one, the models in their places.

        Args:
            ds_eval_config: DeepSpeed's, for frozen models.
            others: objective to scorer, where a model is placed already.
        """
        scorers = {**self._functions, **(others or {})}
        for name, model in self.models.items():
            if name not in scorers:
                engine = init_eval_engine(model.to(self.args.device), ds_eval_config)
                scorers[name] = self._model_scorer(name, engine)
        specs = self.args.reward_specs
        return RewardEnsemble(specs, [scorers[spec.name] for spec in specs])

    def _model_scorer(self, name: str, engine: Any) -> Scorer:
        if self._reads_policys_tokens(name):
            return model_scorer(engine)
        if is_main_process():
            say(f"{name}: its reward model has other tokens; responses are tokenised anew for it")
        return retokenizing_scorer(engine, self.policy_tokenizer, self.tokenizers[name])

    # -- rollouts ---------------------------------------------------------------------

    @contextmanager
    def generation(self, engine: Any) -> Iterator[None]:
        """While responses are drawn, every one of a prompt at that prompt's λ.

        One λ is merged into the weights in float32. Not in lower precision, where merging rounds
        the update away, nor with sharded weights.
        """
        single = next(unwrap(engine).parameters()).dtype == torch.float32
        may_merge = single and self.args.zero_stage < 3
        with self.panacea.generation(self.args.num_return_sequences, may_merge=may_merge):
            yield

    def score(
        self,
        rewards: RewardEnsemble,
        sequence: torch.Tensor,
        attention_mask: torch.Tensor,
        prompt_length: int,
    ) -> Batch:
        """All m rewards, size = (B, m), and their aggregate at λ, size = (B,)."""
        found = rewards(sequence, attention_mask, prompt_length)
        return {"reward": self.panacea.reward(found), "rewards": found}

    # -- what is logged ---------------------------------------------------------------

    def by_name(self, rewards: RewardEnsemble, rollout: Batch) -> dict[str, torch.Tensor]:
        """Mean rewards, what was said before sign, scale and shift, and λ, by objective."""
        means = rollout["rewards"].mean(dim=0)  # size = (m,)
        return {
            **self.panacea.by_name("reward", means),
            **self.panacea.by_name("raw_reward", rewards.raw(means)),
            **self.panacea.by_name("preference", rollout["preference"]),
        }

    def evaluated(
        self,
        rewards: RewardEnsemble,
        prompt: torch.Tensor,
        sequence: torch.Tensor,
        attention_mask: torch.Tensor,
    ) -> Batch:
        """Every objective's reward of evaluation responses, size = (B,) each."""
        found = rewards(sequence, attention_mask, prompt.size(-1))
        return {
            f"eval/reward_{name}": found[:, i] for i, name in enumerate(self.panacea.objectives)
        }
