"""Panacea-PPO (Algorithm 1 with Eq. 12 and 13): draw λ, set it, aggregate, delegate."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from safe_rlhf_panacea.algorithms.panacea import Panacea
from safe_rlhf_panacea.algorithms.part import PanaceaPart
from safe_rlhf_panacea.algorithms.ppo.critic import RewardCritic
from safe_rlhf_panacea.algorithms.preference_source import check_shared
from safe_rlhf_panacea.base import (
    Batch,
    all_reduce_means,
    init_eval_engine,
    is_main_process,
    unwrap,
)
from safe_rlhf_panacea.base.tokenizers import is_same_tokenizer
from safe_rlhf_panacea.base.trainers.rollout import Rollout
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.fronts.measure import different_prompts, measure, sample_base
from safe_rlhf_panacea.fronts.measurement import Measurement
from safe_rlhf_panacea.fronts.reward_front import Sampled
from safe_rlhf_panacea.printing import say
from safe_rlhf_panacea.rewards.ensemble import RewardEnsemble
from safe_rlhf_panacea.rewards.scorers import (
    Scorer,
    function_scorer,
    model_scorer,
    retokenizing_scorer,
)

if TYPE_CHECKING:  # at run time Safe-RLHF's own, where it is installed
    from safe_rlhf_panacea.base.algorithms.ppo import PPOTrainer as HookedPPOTrainer
else:
    from safe_rlhf_panacea.base import HookedPPOTrainer


class PanaceaRollout(Rollout):
    """A rollout at its λ.

    Attributes:
        preference: λ of each row, size = (B, m).
        rewards: the m rewards that ``reward`` aggregates, size = (B, m).
    """

    preference: torch.Tensor
    rewards: torch.Tensor


class PanaceaPPOTrainer(HookedPPOTrainer):
    """PPO for m rewards.

    Holds 1 + m backbones: the policy, which with its adapter off is its own reference, and m
    reward models, of which the first with the policy's tokens also carries the critic. A reward
    that is a function needs no backbone.
    """

    TRAINING_TYPE: ClassVar[str] = "panacea-ppo"

    initial: Sampled | None = None  # the initial model on the evaluation prompts, once measured

    def __init__(self, args: argparse.Namespace, *ds_configs: dict[str, Any]) -> None:
        """Make what the hooks attach to, then run them."""
        objectives = tuple(spec.name for spec in args.reward_specs)
        self.panacea = Panacea(args, objectives, args.actor_model_name_or_path)
        self.part = PanaceaPart(self)
        super().__init__(args, *ds_configs)

    # -- models -----------------------------------------------------------------------

    def init_actor(self) -> None:
        """Load the policy and inject the adapter."""
        super().init_actor()
        self.panacea.attach(self.actor_model, "policy", self.template)

    def init_reference(self) -> None:
        """The policy is its own reference."""
        self.actor_reference_model = None

    def init_rewards(self) -> None:
        """Load every reward model once; functions are found now and not after the loading."""
        self.reward_model = None  # the base's single one
        specs = self.args.reward_specs
        stops = self.template.stop_ids(self.actor_model)
        normalize = self.args.normalize_reward
        self.scorers: dict[str, Scorer] = {
            spec.name: function_scorer(spec.path, self.tokenizer, stops)
            for spec in specs
            if spec.is_function
        }
        self.reward_models, self.reward_tokenizers = {}, {}
        for spec in specs:
            if not spec.is_function:
                loaded = self.load_scorer(spec.path, spec.role, normalize=normalize)
                self.reward_models[spec.name], self.reward_tokenizers[spec.name] = loaded

    def init_critic(self) -> None:
        """Put the critic on the first reward model that reads the policy's tokens."""
        own = [
            name
            for name, tokenizer in self.reward_tokenizers.items()
            if is_same_tokenizer(self.tokenizer, tokenizer)
        ]
        if not own:
            raise UserError(
                "the critic needs one reward model with the tokenizer of "
                f"{self.args.actor_model_name_or_path}: none of --reward_models has it"
            )
        self.critic_objective = own[0]
        self.reward_critic_model = RewardCritic(
            self.reward_models[own[0]],
            self.panacea.attach(self.reward_models[own[0]], "critic", self.template),
        )

    def init_engines(self) -> None:
        """Make the engines; the critic's reward model belongs to the critic's."""
        super().init_engines()
        accumulated = self.reward_critic_model.gradient_accumulation_steps()
        check_shared(self.args, len(self.prompt_only_dataloader.sampler), accumulated)
        for name, model in self.reward_models.items():
            self.scorers[name] = self._model_scorer(name, model)
        specs = self.args.reward_specs
        self.rewards = RewardEnsemble(specs, [self.scorers[spec.name] for spec in specs])

    def _model_scorer(self, name: str, model: Any) -> Scorer:
        if name == self.critic_objective:
            return self._critics_reward
        engine = init_eval_engine(model.to(self.args.device), self.ds_eval_config)
        tokenizer = self.reward_tokenizers[name]
        if is_same_tokenizer(self.tokenizer, tokenizer):
            return model_scorer(engine)
        if is_main_process():
            say(f"{name}: its reward model has other tokens; responses are tokenised anew for it")
        stops = self.template.stop_ids(unwrap(self.actor_model))
        return retokenizing_scorer(engine, self.tokenizer, tokenizer, stops)

    def _critics_reward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, prompt_length: int
    ) -> torch.Tensor:
        del prompt_length
        output = self.reward_critic_model(input_ids, attention_mask, role="reward")
        return output.end_scores.squeeze(-1)  # size = (B,)

    # -- rollout ----------------------------------------------------------------------

    @torch.no_grad()
    def rollout(self, prompt_only_batch: Batch) -> list[PanaceaRollout]:
        """Take λ first: responses, log-probabilities, values and update all see the same one."""
        rows = prompt_only_batch["input_ids"].size(0)
        preference = self.panacea.draw(rows, self.actor_model, self.waiting, self.args.update_iters)
        with self.panacea.at(preference):
            return super().rollout(prompt_only_batch)

    def generate(self, prompt_only_batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Responses at λ; every response of a prompt at that prompt's λ.

        One λ is merged into the weights in float32. Not in lower precision, where merging rounds
        the update away, nor with sharded weights.
        """
        single = next(unwrap(self.actor_model).parameters()).dtype == torch.float32
        may_merge = single and self.args.zero_stage < 3
        with self.panacea.generation(self.args.num_return_sequences, may_merge=may_merge):
            return super().generate(prompt_only_batch)

    def post_rollout(
        self, prompt: torch.Tensor, sequence: torch.Tensor, attention_mask: torch.Tensor
    ) -> PanaceaRollout:
        """Score a batch and keep its λ with it."""
        batch = super().post_rollout(prompt, sequence, attention_mask)
        return {**batch, "preference": self.panacea.preference}

    @contextmanager
    def reference(self) -> Iterator[Any]:
        """The policy with its adapter off."""
        with self.panacea.reference(unwrap(self.actor_model)):
            yield self.actor_model

    def score(
        self, sequence: torch.Tensor, attention_mask: torch.Tensor, prompt_length: int
    ) -> Batch:
        """All m rewards, size = (B, m), and their aggregate at λ, size = (B,)."""
        rewards = self.rewards(sequence, attention_mask, prompt_length)
        return {"reward": self.panacea.reward(rewards), "rewards": rewards}

    # -- updates ----------------------------------------------------------------------

    def rl_step(self, rl_batch: PanaceaRollout) -> dict[str, float]:
        """Take the step at the batch's λ."""
        with self.panacea.at(rl_batch["preference"]):
            info = super().rl_step(rl_batch)
        rewards = rl_batch["rewards"].mean(dim=0)  # size = (m,)
        named = {
            **self.panacea.by_name("reward", rewards),
            **self.panacea.by_name("raw_reward", self.rewards.raw(rewards)),
            **self.panacea.by_name("preference", rl_batch["preference"]),
        }
        return {**info, **{f"train/{k}": v for k, v in all_reduce_means(named).items()}}

    def actor_loss_fn(self, *args: torch.Tensor, **kwargs: torch.Tensor) -> torch.Tensor:
        """PPO's loss, with the penalty on U and V if asked for."""
        return super().actor_loss_fn(*args, **kwargs) + self.panacea.penalty()

    def ptx_step(self, ptx_batch: Batch) -> dict[str, float]:
        """Supervised text at the λ of the rollout; its rows take the rollout's in turn."""
        preference = self.panacea.latest
        rows = torch.arange(ptx_batch["input_ids"].size(0), device=preference.device)
        with self.panacea.at(preference, rows % len(preference)):
            return super().ptx_step(ptx_batch)

    @torch.no_grad()
    def eval_rollout(
        self, prompt: torch.Tensor, sequence: torch.Tensor, attention_mask: torch.Tensor
    ) -> Batch:
        """Every objective's reward."""
        rewards = self.rewards(sequence, attention_mask, prompt.size(-1))
        names = self.panacea.objectives
        return {f"eval/reward_{name}": rewards[:, i] for i, name in enumerate(names)}

    # -- evaluation -------------------------------------------------------------------

    def measure_front(self) -> Measurement:
        """Rewards of responses to the evaluation prompts."""
        args, data = self.args, self.eval_dataloader.dataset
        names = ("temperature", "top_p", "repetition_penalty")
        sampling = {name: getattr(args, name) for name in names}
        policy = self.part.watch.measured_policy(self.actor_model, **sampling)
        ids = (data[i]["input_ids"] for i in range(len(data)))
        prompts = different_prompts(self.template, ids, args.eval_prompts)
        if self.initial is None:
            self.initial = sample_base(policy, self.rewards, prompts)
        return measure(
            policy,
            self.part.watch.grid,
            prompts=prompts,
            rewards=self.rewards,
            base=self.initial,
        )
