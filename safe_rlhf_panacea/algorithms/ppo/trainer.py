"""Panacea-PPO (Algorithm 1 with Eq. 12 and 13): draw λ, set it, aggregate, delegate."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from safe_rlhf_panacea.algorithms.panacea import Panacea, snapshot_folder
from safe_rlhf_panacea.algorithms.ppo.critic import RewardCritic
from safe_rlhf_panacea.algorithms.preference_source import check_shared
from safe_rlhf_panacea.algorithms.rewarded import Rewarded
from safe_rlhf_panacea.algorithms.watching import FrontWatch
from safe_rlhf_panacea.base import (
    Batch,
    TrainingState,
    all_reduce_means,
    unwrap,
)
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.fronts.measurement import Measurement

if TYPE_CHECKING:  # at run time Safe-RLHF's own, where it is installed
    from safe_rlhf_panacea.base.algorithms.ppo import PPOTrainer as HookedPPOTrainer
else:
    from safe_rlhf_panacea.base import HookedPPOTrainer


class PanaceaPPOTrainer(HookedPPOTrainer):
    """PPO for m rewards.

    Holds 1 + m backbones: the policy, which with its adapter off is its own reference, and m
    reward models, of which the first with the policy's tokens also carries the critic. A reward
    that is a function needs no backbone.
    """

    TRAINING_TYPE: ClassVar[str] = "panacea-ppo"

    def __init__(self, args: argparse.Namespace, *ds_configs: dict[str, Any]) -> None:
        """Make what the hooks attach to, then run them."""
        objectives = tuple(spec.name for spec in args.reward_specs)
        self.panacea = Panacea(args, objectives, args.actor_model_name_or_path)
        self.rewarded = Rewarded(args, self.panacea)
        super().__init__(args, *ds_configs)

    # -- models -----------------------------------------------------------------------

    def init_actor(self) -> None:
        """Load the policy and inject the adapter."""
        super().init_actor()
        self.panacea.attach(self.actor_model, "policy")

    def init_reference(self) -> None:
        """The policy is its own reference."""
        self.actor_reference_model = None

    def init_rewards(self) -> None:
        """Load every reward model once; functions are found now and not after the loading."""
        self.reward_model = None  # the base's single one
        self.rewarded.load(self.tokenizer, self.load_scorer)

    def init_critic(self) -> None:
        """Put the critic on the first reward model that reads the policy's tokens."""
        own = self.rewarded.with_policys_tokens()
        if not own:
            raise UserError(
                "the critic needs one reward model with the tokenizer of "
                f"{self.args.actor_model_name_or_path}: none of --reward_models has it"
            )
        self.critic_objective = own[0]
        model = self.rewarded.models[own[0]]
        self.reward_critic_model = RewardCritic(model, self.panacea.attach(model, "critic"))

    def init_engines(self) -> None:
        """Make the engines; the critic's reward model belongs to the critic's."""
        super().init_engines()
        accumulated = self.reward_critic_model.gradient_accumulation_steps()
        check_shared(self.args, len(self.prompt_only_dataloader.sampler), accumulated)
        placed = {self.critic_objective: self._critics_reward}
        self.rewards = self.rewarded.ensemble(self.ds_eval_config, placed)

    def _critics_reward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, prompt_length: int
    ) -> torch.Tensor:
        del prompt_length
        output = self.reward_critic_model(input_ids, attention_mask, role="reward")
        return output.end_scores.squeeze(-1)  # size = (B,)

    # -- rollout ----------------------------------------------------------------------

    @torch.no_grad()
    def rollout(self, prompt_only_batch: Batch) -> list[Batch]:
        """Take λ first: responses, log-probabilities, values and update all see the same one."""
        rows = prompt_only_batch["input_ids"].size(0)
        preference = self.panacea.draw(
            rows, self.reward_critic_model, self.waiting, self.args.update_iters
        )
        with self.panacea.at(preference):
            return super().rollout(prompt_only_batch)

    def generate(self, prompt_only_batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Responses at λ; every response of a prompt at that prompt's λ."""
        with self.rewarded.generation(self.actor_model):
            return super().generate(prompt_only_batch)

    def post_rollout(
        self, prompt: torch.Tensor, sequence: torch.Tensor, attention_mask: torch.Tensor
    ) -> Batch:
        """Score a batch and keep its λ, size = (B, m), with it."""
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
        return self.rewarded.score(self.rewards, sequence, attention_mask, prompt_length)

    # -- updates ----------------------------------------------------------------------

    def rl_step(self, rl_batch: Batch) -> dict[str, float]:
        """Take the step at the batch's λ."""
        with self.panacea.at(rl_batch["preference"]):
            info = super().rl_step(rl_batch)
        named = all_reduce_means(self.rewarded.by_name(self.rewards, rl_batch))
        return {**info, **{f"train/{name}": mean for name, mean in named.items()}}

    def actor_loss_fn(self, *args: torch.Tensor, **kwargs: torch.Tensor) -> torch.Tensor:
        """PPO's loss, with the penalty on U and V if asked for."""
        return super().actor_loss_fn(*args, **kwargs) + self.panacea.penalty()

    def ptx_step(self, ptx_batch: Batch) -> dict[str, float]:
        """Supervised text at the λ of the rollout; its rows take the rollout's in turn."""
        with self.panacea.at_latest(ptx_batch["input_ids"].size(0)):
            return super().ptx_step(ptx_batch)

    @torch.no_grad()
    def eval_rollout(
        self, prompt: torch.Tensor, sequence: torch.Tensor, attention_mask: torch.Tensor
    ) -> Batch:
        """Every objective's reward."""
        return self.rewarded.evaluated(self.rewards, prompt, sequence, attention_mask)

    # -- evaluation -------------------------------------------------------------------

    def init_logger(self) -> None:
        """With what shows the front."""
        super().init_logger()
        self.watch = FrontWatch(self)

    def train(self) -> None:
        """Train, and show the last front as well."""
        super().train()
        self.watch.finish(self.eval)

    def about_batch(self) -> str:
        """The batch's λ, or the mean of its rows'."""
        return f"λ {self.panacea.describe_latest()}"

    def eval(self) -> dict[str, Any]:
        """The base's evaluation, then the front."""
        return self.watch.evaluate(super().eval)

    def measure_front(self) -> Measurement:
        """Rewards of responses to the evaluation prompts."""
        return self.watch.measured_rewards(self.actor_model, self.rewards)

    # -- checkpoints ------------------------------------------------------------------

    def training_state(self) -> TrainingState:
        """With the component's."""
        state = super().training_state()
        state.panacea = self.panacea.state_dict()
        return state

    def restore(self, state: TrainingState) -> None:
        """With the component's."""
        super().restore(state)
        self.panacea.load_state_dict(state.panacea)

    def save_checkpoint(self) -> None:
        """With the adapter as it is now, ready to be loaded and evaluated."""
        super().save_checkpoint()
        self.panacea.save(self.tokenizer, snapshot_folder(self.args.output_dir, self.global_step))

    def save(self, model: Any = None, ds_config: dict[str, Any] | None = None) -> None:
        """Write the policy's adapter and the tokenizer."""
        del model, ds_config
        self.panacea.save(self.tokenizer, self.args.output_dir)
        self.logger.print(f'Saved the adapter to "{self.args.output_dir}".')
