"""Panacea-PPO (Algorithm 1 with Eq. 12 and 13): m rewards score one rollout at λ."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from safe_rlhf_panacea.algorithms.ppo.critic import RewardCritic, shared_copy, value_model
from safe_rlhf_panacea.algorithms.preference_source import check_shared
from safe_rlhf_panacea.algorithms.rewarded import PanaceaRewarded, PanaceaRollout, PanaceaScores
from safe_rlhf_panacea.base.engine import init_eval_engine
from safe_rlhf_panacea.distributed import all_reduce_means, unwrap
from safe_rlhf_panacea.errors import UserError

if TYPE_CHECKING:  # at run time Safe-RLHF's own, where it is installed
    from safe_rlhf_panacea.base.ppo import PPOTrainer

    HookedPPOTrainer = PPOTrainer[PanaceaRollout]
else:
    from safe_rlhf_panacea.base import HookedPPOTrainer


class PanaceaPPOTrainer(PanaceaRewarded, HookedPPOTrainer):
    """PPO for m rewards.

    Holds 1 + m backbones: the policy, which with its adapter off is its own reference, and m
    reward models, or fewer where rewards are functions. The first reward model with the policy's
    tokens also carries the critic; where none has them, the policy's backbone does.
    """

    TRAINING_TYPE: ClassVar[str] = "panacea-ppo"
    PROGRAM: ClassVar[str] = "safe_rlhf_panacea.algorithms.ppo"

    # -- models -----------------------------------------------------------------------

    def init_actor(self) -> None:
        super().init_actor()
        self.policy_backbone = shared_copy(self.actor_model.base_model)  # as yet without adapter
        self.panacea.attach(self.actor_model, "policy", self.template)

    def init_rewards(self) -> None:
        self.reward_model = None  # the base's single one
        load = functools.partial(self.load_scorer, normalize=self.args.normalize_reward)
        self.rewards = self.part.load(load)

    def init_critic(self) -> None:
        """Put the critic on the first reward model with the policy's tokens, else on the policy.

        Raises:
            UserError: two engines would shard the same backbone.
        """
        under = self.rewards.for_critic
        if under is not None:
            adapter = self.panacea.attach(under.model, "critic", self.template)
            self.reward_critic_model = RewardCritic(under.model, adapter)
        elif self.args.zero_stage == 3:
            raise UserError(
                "--zero_stage 3 shards weights engine by engine, and the critic would share the "
                "policy's: give a lower stage, or a reward model with the tokenizer of "
                f"{self.args.actor_model_name_or_path}"
            )
        else:
            self.reward_critic_model = value_model(self.policy_backbone)
            self.panacea.attach(self.reward_critic_model, "critic", self.template)
            self.reward_critic_model.score_head.requires_grad_(True)
        del self.policy_backbone

    def init_engines(self) -> None:
        """Make the engines; a reward model that carries the critic belongs to the critic's."""
        super().init_engines()
        accumulated = self.reward_critic_model.gradient_accumulation_steps()
        sampler: Any = self.prompt_only_dataloader.sampler  # torch's type has no length
        check_shared(self.args, len(sampler), accumulated, self.total_steps)
        critic = self.reward_critic_model

        def engine(model: Any) -> Any:
            if model is getattr(unwrap(critic), "reward_model", None):
                return functools.partial(critic, role="reward")
            return init_eval_engine(model, self.ds_eval_config)

        self.rewards.place(engine)

    # -- rollout ----------------------------------------------------------------------

    def post_rollout(
        self, prompt: torch.Tensor, sequence: torch.Tensor, attention_mask: torch.Tensor
    ) -> PanaceaRollout:
        batch = super().post_rollout(prompt, sequence, attention_mask)
        return {**batch, **self.part.sampled(), "preference": self.panacea.preference}

    def score(
        self, sequence: torch.Tensor, attention_mask: torch.Tensor, prompt_length: int
    ) -> PanaceaScores:
        return self.part.score(sequence, attention_mask, prompt_length)

    # -- updates ----------------------------------------------------------------------

    def rl_step(self, rl_batch: PanaceaRollout) -> dict[str, float]:
        """Take the step at the batch's λ."""
        self.part.learnt_from = rl_batch
        with self.panacea.at(rl_batch["preference"]):
            info = super().rl_step(rl_batch)
        named = all_reduce_means({**self.part.by_name(rl_batch), **self.part.found})
        info |= {f"train/{name}": mean for name, mean in named.items()}
        return self.part.logged("train") | info | self.panacea.progress_metrics(self.actor_model)

    def actor_loss_fn(
        self,
        log_probs: torch.Tensor,  # size = (B, T)
        old_log_probs: torch.Tensor,  # size = (B, T)
        advantages: torch.Tensor,  # size = (B, T)
        mask: torch.Tensor,  # size = (B, T)
        *count: Any,  # the port's, size = (); Safe-RLHF has none
    ) -> torch.Tensor:
        """PPO's loss, with the penalty on U and V if asked for."""
        rl_batch = self.part.learnt_from
        self.part.found = self.part.mismatch(rl_batch, old_log_probs, mask)
        if (weights := self.part.token_weights(rl_batch, old_log_probs)) is not None:
            advantages = advantages * weights
        loss = super().actor_loss_fn(log_probs, old_log_probs, advantages, mask, *count)
        return loss + self.panacea.penalty()
