"""Proximal policy optimisation against one reward, with a critic and a PTX loss (Eq. 1)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor

from safe_rlhf_panacea.base.engine import Batch, average, init_eval_engine, learning_rate
from safe_rlhf_panacea.base.losses import (
    clipped_surrogate,
    clipped_value_errors,
    generalized_advantages,
    kl_penalised_rewards,
    masked_mean,
    moments,
    row_means,
    summed_log_ratios,
    whiten,
)
from safe_rlhf_panacea.base.rl import RLTrainer
from safe_rlhf_panacea.base.rl_data import Rollout
from safe_rlhf_panacea.base.setup import model_dtype
from safe_rlhf_panacea.configs.algorithms import PPOConfig
from safe_rlhf_panacea.distributed import all_reduce_max, all_reduce_means, all_reduce_sum
from safe_rlhf_panacea.forward import log_probs, response_tokens
from safe_rlhf_panacea.models.pretrained import check_same_tokenizer, load_score_model


class PPOTrainer(RLTrainer):
    """PPO with actor, reference, reward model and critic."""

    TRAINING_TYPE: ClassVar[str] = "ppo"
    TRAINED: ClassVar[dict[str, str]] = {"actor": "actor_model", "critic": "reward_critic_model"}

    reward_critic_model: Any

    def __init__(
        self, args: PPOConfig, ds_train_config: dict[str, Any], ds_eval_config: dict[str, Any]
    ) -> None:
        super().__init__(args, ds_train_config, ds_eval_config)
        self.clip_range_score = args.clip_range_score
        self.clip_range_value = args.clip_range_value
        self.gamma = 1.0
        self.gae_lambda = 0.95

    def init_models(self) -> None:
        super().init_models()
        self.init_critic()

    def init_reference(self) -> None:
        self.actor_reference_model, _ = self.load_policy()

    def init_rewards(self) -> None:
        self.reward_model = self._load_checked(
            self.args.reward_model_name_or_path, "reward", normalize=self.args.normalize_reward
        )

    def init_critic(self) -> None:
        """Load the critic, from the reward model unless told otherwise."""
        path = self.args.reward_critic_model_name_or_path or self.args.reward_model_name_or_path
        self.reward_critic_model = self._load_checked(path, "critic")

    def load_scorer(self, path: str, role: str, *, normalize: bool = False) -> tuple[Any, Any]:
        return load_score_model(
            path,
            role,
            max_length=self.args.max_length,
            normalize=normalize,
            dtype=model_dtype(self.args),
            trust_remote_code=self.args.trust_remote_code,
        )

    def _load_checked(self, path: str, role: str, **options: bool) -> Any:
        model, tokenizer = self.load_scorer(path, role, **options)
        check_same_tokenizer(self.tokenizer, tokenizer, self.args.actor_model_name_or_path, path)
        return model

    def init_engines(self) -> None:
        super().init_engines()
        for name in ("actor_reference_model", "reward_model"):
            if (model := getattr(self, name)) is not None:
                setattr(self, name, init_eval_engine(model, self.ds_eval_config))

    # -- rollout ----------------------------------------------------------------------

    def reference(self) -> AbstractContextManager[Any]:
        """A context that gives the reference model."""
        return nullcontext(self.actor_reference_model)

    def log_probs(self, model: Any, sequence: Tensor, attention_mask: Tensor, start: int) -> Tensor:
        """Log-probabilities of responses at the temperature of sampling, size = (B, L - 1)."""
        counted = response_tokens(attention_mask, start)
        return log_probs(model, sequence, attention_mask, counted, temperature=self.temperature)

    def score(self, sequence: Tensor, attention_mask: Tensor, prompt_length: int) -> Rollout:
        """The reward of each sequence, size = (B, L), under ``reward``, size = (B,)."""
        scores = self.reward_model(sequence, attention_mask=attention_mask).end_scores
        return {"reward": scores.squeeze(-1)}

    def critic_values(self, sequence: Tensor, attention_mask: Tensor) -> Tensor:
        """The critic's values before each next token, size = (B, L - 1), float32."""
        scores = self.reward_critic_model(sequence, attention_mask=attention_mask).scores
        return scores.squeeze(-1)[:, :-1].float()

    @property
    def on_policy(self) -> bool:
        """The base's, unless whitening needs the advantages before the training step."""
        return super().on_policy and not self.args.whiten_advantages

    @torch.no_grad()
    def post_rollout(self, prompt: Tensor, sequence: Tensor, attention_mask: Tensor) -> Rollout:
        """Rewards, and log-probabilities and values as they were when the batch was drawn.

        On policy the actor's training step gives the log-probabilities. The values are computed
        here all the same: actor and critic never both hold what a backward pass needs.
        """
        start = prompt.size(-1) - 1
        with self.reference() as model:
            ref_log_probs = self.log_probs(model, sequence, attention_mask, start)
        rollout: Rollout = {
            "prompt": prompt,
            "input_ids": sequence,
            "attention_mask": attention_mask,
            "ref_log_probs": ref_log_probs,
            "reward_values": self.critic_values(sequence, attention_mask),
            **self.score(sequence, attention_mask, prompt.size(-1)),
        }
        if not self.on_policy:
            log_probs = self.log_probs(self.actor_model, sequence, attention_mask, start)
            rollout["log_probs"] = log_probs
        return rollout

    # -- the losses -------------------------------------------------------------------

    def add_kl_divergence_regularization(
        self,
        reward: Tensor,  # size = (B,)
        prompt: Tensor,  # size = (B, S)
        log_probs: Tensor,  # size = (B, L - 1)
        ref_log_probs: Tensor,  # size = (B, L - 1)
        sequence_mask: Tensor,  # size = (B, L - 1)
    ) -> Tensor:
        """Rewards less the KL penalty, by token, size = (B, L - 1)."""
        return kl_penalised_rewards(
            reward, log_probs, ref_log_probs, sequence_mask, self.kl_coeff, self.clip_range_score
        )

    def get_advantages_and_returns(
        self, values: Tensor, rewards: Tensor, sequence_mask: Tensor, start: int
    ) -> tuple[Tensor, Tensor]:
        """Advantages and returns of the response, (B, L - 1 - start) each, of (B, L - 1) each."""
        values, rewards, mask = values[:, start:], rewards[:, start:], sequence_mask[:, start:]
        return generalized_advantages(values, rewards, mask, self.gamma, self.gae_lambda)

    def actor_loss_fn(
        self,
        log_probs: Tensor,
        old_log_probs: Tensor,
        advantages: Tensor,
        mask: Tensor,
        count: Tensor | None = None,
    ) -> Tensor:
        """The mean clipped surrogate, to be minimised; (B, T) each, ``count`` of a rollout, ()."""
        surrogate = clipped_surrogate(log_probs, old_log_probs, advantages, self.clip_range_ratio)
        return -masked_mean(surrogate, mask, count)

    def critic_loss_fn(
        self,
        values: Tensor,
        old_values: Tensor,
        returns: Tensor,
        mask: Tensor,
        count: Tensor | None = None,
    ) -> Tensor:
        """The mean error of the values, to be minimised; sizes as those of ``actor_loss_fn``."""
        errors = clipped_value_errors(values, old_values, returns, self.clip_range_value)
        return masked_mean(errors, mask, count)

    # -- updates ----------------------------------------------------------------------

    @torch.no_grad()
    def _estimated(self, rl_batch: Rollout, old_log_probs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rewards by token, advantages and returns, size = (B, L - 1) and (B, T) twice."""
        prompt, sequence_mask = rl_batch["prompt"], rl_batch["attention_mask"][:, 1:]
        rewards = self.add_kl_divergence_regularization(
            rl_batch["reward"], prompt, old_log_probs, rl_batch["ref_log_probs"], sequence_mask
        )
        start = prompt.size(-1) - 1
        return rewards, *self.get_advantages_and_returns(
            rl_batch["reward_values"], rewards, sequence_mask, start
        )

    def of_update(self, rollouts: Sequence[Rollout]) -> list[Rollout]:
        """With the number of responses, and the moments of advantages that are to be whitened."""
        masks = [r["attention_mask"][:, r["prompt"].size(-1) :] for r in rollouts]
        count = average([mask.any(dim=-1).sum() for mask in masks])
        found = [copy.copy(rollout) for rollout in rollouts]
        for rollout in found:
            rollout["count"] = count
        if self.args.whiten_advantages:
            advantages = [self._estimated(r, r["log_probs"])[1] for r in rollouts]
            both = moments(list(zip(advantages, masks, strict=True)), all_reduce_sum)
            for rollout in found:
                rollout["moments"] = both
        return found

    def rl_step(self, rl_batch: Rollout) -> dict[str, float]:
        self.waiting = 0
        input_ids, attention_mask = rl_batch["input_ids"], rl_batch["attention_mask"]
        start = rl_batch["prompt"].size(-1) - 1
        mask = attention_mask[:, 1 + start :]  # size = (B, T)
        count = rl_batch.get("count")

        log_probs = self.log_probs(self.actor_model, input_ids, attention_mask, start)
        old_log_probs = rl_batch.get("log_probs", log_probs.detach())  # on-policy: the same
        rewards, advantages, returns = self._estimated(rl_batch, old_log_probs)
        weights = advantages
        if self.args.whiten_advantages:
            weights = whiten(advantages, mask, rl_batch.get("moments"))
        actor_loss = self.actor_loss_fn(
            log_probs[:, start:], old_log_probs[:, start:], weights, mask, count
        )
        self.actor_model.backward(actor_loss)
        self.actor_model.step()

        values = self.critic_values(input_ids, attention_mask)[:, start:]
        old_values = rl_batch["reward_values"][:, start:]
        critic_loss = self.critic_loss_fn(values, old_values, returns, mask, count)
        self.reward_critic_model.backward(critic_loss)
        self.reward_critic_model.step()

        lengths, there = mask.sum(dim=-1).float(), mask.any(dim=-1)  # size = (B,)
        means = {
            "actor_loss": actor_loss,
            "reward_critic_loss": critic_loss,
            "reward": rl_batch["reward"],
            "reward_with_kl_penalty": (rewards[:, start:] * mask).sum(dim=-1),
            "reward_advantage": row_means(advantages, mask)[there],
            "reward_return": row_means(returns, mask)[there],
            "reward_value": row_means(values.detach(), mask)[there],
            "kl_divergence": summed_log_ratios(
                old_log_probs[:, start:], rl_batch["ref_log_probs"][:, start:], mask
            ),
            "mean_generated_length": lengths,
        }
        return {
            **{f"train/{key}": value for key, value in all_reduce_means(means).items()},
            "train/max_generated_length": all_reduce_max(lengths.max()).item(),
            "train/actor_lr": learning_rate(self.actor_model),
            "train/reward_critic_lr": learning_rate(self.reward_critic_model),
        }

    def eval_rollout(self, prompt: Tensor, sequence: Tensor, attention_mask: Tensor) -> Batch:
        """``eval_step``, which Safe-RLHF's subclasses have, and which is not told of the prompt."""
        return self.eval_step(sequence, attention_mask)

    @torch.no_grad()
    def eval_step(self, input_ids: Tensor, attention_mask: Tensor) -> Batch:
        scores = self.reward_model(input_ids, attention_mask=attention_mask).end_scores
        return {"eval/reward": scores.squeeze(-1)}
