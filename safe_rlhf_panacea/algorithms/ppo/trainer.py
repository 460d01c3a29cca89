"""Panacea-PPO (Algorithm 1 with Eq. 12 and 13): m rewards score one rollout at λ."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from safe_rlhf_panacea.algorithms import served
from safe_rlhf_panacea.algorithms.ppo.critic import RewardCritic, shared_copy, value_model
from safe_rlhf_panacea.algorithms.rewarded import PanaceaRewarded
from safe_rlhf_panacea.base.engine import init_eval_engine
from safe_rlhf_panacea.base.rl_data import Rollout, steps_per_epoch
from safe_rlhf_panacea.distributed import all_reduce_means, unwrap
from safe_rlhf_panacea.errors import UserError

if TYPE_CHECKING:  # at run time Safe-RLHF's own, where it is installed
    from safe_rlhf_panacea.base.ppo import PPOTrainer as HookedPPOTrainer
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

    # Safe-RLHF's hook for the loss is told neither of the micro-batch nor what else is logged.
    _learnt_from: Rollout
    _mismatch: dict[str, Tensor]

    # -- models -----------------------------------------------------------------------

    def init_actor(self) -> None:
        super().init_actor()
        self.policy_backbone = shared_copy(self.actor_model.base_model)  # as yet without adapter
        self.panacea.attach(self.actor_model, "policy", self.template)

    def init_rewards(self) -> None:
        normalize = self.args.normalize_reward
        self.load_rewards(functools.partial(self.load_scorer, normalize=normalize))

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
        """Make the engines; a reward model that carries the critic belongs to the critic's.

        Raises:
            UserError: all rollouts would share updates, and so one λ, for a whole epoch.
        """
        super().init_engines()
        critic, args = self.reward_critic_model, self.args
        if (
            args.update_iters > 1
            and args.preference_scope != "sample"
            and not args.fixed_preference
        ):
            # Several passes over a rollout are not cut where an update ends: a short last rollout
            # may leave one open that no whole one closes.
            sampler: Any = self.prompt_only_dataloader.sampler  # torch's type has no length
            epoch = steps_per_epoch(len(sampler), args)
            rollout = steps_per_epoch(args.per_device_prompt_batch_size, args)
            common = math.gcd(rollout, critic.gradient_accumulation_steps())
            if epoch % common and self.total_steps > epoch:
                raise UserError(
                    f"an epoch has {epoch} training steps, no multiple of {common}: with "
                    f"--update_iters {args.update_iters} one λ would serve all rollouts of the "
                    "next; choose --preference_scope sample, or prompts that fill whole prompt "
                    "batches"
                )

        def engine(model: Any) -> Any:
            if model is getattr(unwrap(critic), "reward_model", None):
                return functools.partial(critic, role="reward")
            return init_eval_engine(model, self.ds_eval_config)

        self.rewards.place(engine)

    # -- rollout and updates ----------------------------------------------------------

    def post_rollout(self, prompt: Tensor, sequence: Tensor, attention_mask: Tensor) -> Rollout:
        """The base's batch, which calls ``score``, with the λ that it was drawn at."""
        batch = super().post_rollout(prompt, sequence, attention_mask)
        preference, _ = self.panacea.held
        return {**batch, **self.sampled(), "preference": preference}

    def rl_step(self, rl_batch: Rollout) -> dict[str, float]:
        """Take the base's step, which calls ``actor_loss_fn``, at the batch's λ."""
        self._learnt_from, self._mismatch = rl_batch, {}
        with self.panacea.at(rl_batch["preference"]):
            info = super().rl_step(rl_batch)
        named = all_reduce_means({**self.by_name(rl_batch), **self._mismatch})
        info |= {f"train/{name}": mean for name, mean in named.items()}
        return self.logged("train") | info | self.panacea.progress_metrics(self.actor_model)

    def actor_loss_fn(
        self,
        log_probs: Tensor,  # size = (B, T)
        old_log_probs: Tensor,  # size = (B, T)
        advantages: Tensor,  # size = (B, T)
        mask: Tensor,  # size = (B, T)
        *count: Any,  # the port's, size = (); Safe-RLHF has none
    ) -> Tensor:
        """PPO's loss, with the penalty on U and V if asked for."""
        self._mismatch = served.mismatch(self._learnt_from, old_log_probs, mask)
        weights = served.token_weights(self.args, self._learnt_from, old_log_probs)
        if weights is not None:
            advantages = advantages * weights
        loss = super().actor_loss_fn(log_probs, old_log_probs, advantages, mask, *count)
        return loss + self.panacea.penalty()
