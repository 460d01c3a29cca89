"""Panacea-GRPO: groups of responses at each prompt's λ, compared with each other, and no critic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from safe_rlhf_panacea.algorithms import served
from safe_rlhf_panacea.algorithms.grpo.advantages import (
    mean_rewards,
    normalize_then_sum,
    sum_then_normalize,
)
from safe_rlhf_panacea.algorithms.rewarded import PanaceaRewarded
from safe_rlhf_panacea.base.engine import Batch, average, init_eval_engine, learning_rate
from safe_rlhf_panacea.base.losses import grpo_loss, summed_log_ratios
from safe_rlhf_panacea.base.rl import RLTrainer
from safe_rlhf_panacea.base.rl_data import Rollout, prompts_of_whole_updates
from safe_rlhf_panacea.distributed import all_reduce_max, all_reduce_means, all_reduce_sum
from safe_rlhf_panacea.forward import log_probs, response_tokens, side_by_side


class PanaceaGRPOTrainer(PanaceaRewarded, RLTrainer):
    """GRPO for m rewards, on the port.

    Holds the policy, which with its adapter off is its own reference, and the reward models.
    """

    TRAINING_TYPE: ClassVar[str] = "panacea-grpo"
    PROGRAM: ClassVar[str] = "safe_rlhf_panacea.algorithms.grpo"
    WHOLE_GROUPS: ClassVar[bool] = True

    # -- models -----------------------------------------------------------------------

    def init_actor(self) -> None:
        super().init_actor()
        self.panacea.attach(self.actor_model, "policy", self.template)

    def init_rewards(self) -> None:
        self.load_rewards()

    def init_engines(self) -> None:
        super().init_engines()
        self.rewards.place(lambda model: init_eval_engine(model, self.ds_eval_config))

    # -- rollout ----------------------------------------------------------------------

    @property
    def on_policy(self) -> bool:
        """The base's, unless the rewards need the divergence before the training step."""
        return super().on_policy and self.args.kl_in == "loss"

    def micro_batches(self, prompt_only_batch: Batch) -> list[Batch]:
        """As much of a prompt batch as fills whole updates, which is all of a full one."""
        taken = prompts_of_whole_updates(len(prompt_only_batch["input_ids"]), self.args)
        return super().micro_batches({k: v[:taken] for k, v in prompt_only_batch.items()})

    def log_probs(self, sequence: Tensor, attention_mask: Tensor, start: int) -> Tensor:
        """Under the policy as it is held and sampled, each prompt read once; size = (B, L - 1)."""
        counted = response_tokens(attention_mask, start)
        groups = side_by_side(len(sequence), self.args.num_return_sequences)
        inputs = self.actor_model, sequence, attention_mask, counted, groups
        return log_probs(*inputs, temperature=self.temperature)

    def post_rollout(self, prompt: Tensor, sequence: Tensor, attention_mask: Tensor) -> Rollout:
        """Score groups, each row at its prompt's λ, and keep that with it."""
        copies, start = self.args.num_return_sequences, prompt.size(-1) - 1
        preference = self.panacea.held[0].repeat_interleave(copies, dim=0)
        with self.panacea.at(preference):
            with self.reference():
                ref_log_probs = self.log_probs(sequence, attention_mask, start)
            rollout: Rollout = {
                "prompt": prompt,
                "input_ids": sequence,
                "attention_mask": attention_mask,
                "ref_log_probs": ref_log_probs,
                **self.score(sequence, attention_mask, prompt.size(-1)),
                **self.sampled(),
                "preference": preference,
            }
            if not self.on_policy:
                rollout["log_probs"] = self.log_probs(sequence, attention_mask, start)
        return rollout

    # -- updates ----------------------------------------------------------------------

    @torch.no_grad()
    def of_update(self, rollouts: Sequence[Rollout]) -> list[Rollout]:
        """Compare the responses to each prompt, over all groups of an update on all processes."""
        args, panacea = self.args, self.panacea
        size, counts = args.num_return_sequences, [len(r["rewards"]) for r in rollouts]
        rewards = torch.cat([r["rewards"] for r in rollouts]).unflatten(0, (-1, size))
        preference = torch.cat([r["preference"] for r in rollouts])[::size]  # size = (P, m)
        means = mean_rewards(rewards, shared=panacea.source.shared, reduce=all_reduce_sum)
        weights = panacea.weights(means, preference)
        if args.kl_in == "reward":
            # r_i - β Σ_t (log π - log π_ref) for every objective i, J_i of Eq. 1
            divergences = torch.cat(
                [divergence(r, of_response(r, r["log_probs"])) for r in rollouts]
            )
            rewards = rewards - args.kl_coeff * divergences.view(-1, size, 1)
        if args.advantage == "sum_then_normalize":
            found = sum_then_normalize(rewards, weights)
        else:
            found = normalize_then_sum(
                rewards, weights, equal_steps=args.equal_steps, reduce=all_reduce_sum
            )
        columns = zip(
            found.values.flatten().split(counts),
            weights.repeat_interleave(size, dim=0).split(counts),
            found.without_spread.repeat_interleave(size).split(counts),
            strict=True,
        )
        tokens = average([response_mask(r).sum() for r in rollouts])
        return [
            {**r, "advantages": a, "weights": w, "without_spread": flat, "tokens": tokens}
            for r, (a, w, flat) in zip(rollouts, columns, strict=True)
        ]

    def loss(self, rl_batch: Rollout, log_probs: Tensor, old_log_probs: Tensor) -> Tensor:
        """GRPO's loss and the penalty; log-probabilities now and before, size = (B, T) each."""
        loss = grpo_loss(
            log_probs,
            old_log_probs,
            of_response(rl_batch, rl_batch["ref_log_probs"]),
            rl_batch["advantages"],
            response_mask(rl_batch),
            clip_range=self.clip_range_ratio,
            kl_coeff=self.kl_coeff if self.args.kl_in == "loss" else 0.0,
            tokens=rl_batch["tokens"],
            token_weights=served.token_weights(self.args, rl_batch, old_log_probs),
        )
        return loss + self.panacea.penalty()

    def rl_step(self, rl_batch: Rollout) -> dict[str, float]:
        """One backward pass at the batch's λ."""
        self.waiting = 0
        start, mask = rl_batch["prompt"].size(-1) - 1, response_mask(rl_batch)
        with self.panacea.at(rl_batch["preference"]):
            now = self.log_probs(rl_batch["input_ids"], rl_batch["attention_mask"], start)
            old = rl_batch.get("log_probs", now.detach())[:, start:]  # on-policy: the same
            now = now[:, start:]
            loss = self.loss(rl_batch, now, old)
            self.actor_model.backward(loss)
            self.actor_model.step()
        lengths = mask.sum(dim=-1).float()  # size = (B,)
        clipped = ((now.detach() - old).exp() - 1).abs() > self.clip_range_ratio
        means = {
            "actor_loss": loss,
            "reward": rl_batch["reward"],
            "kl_divergence": divergence(rl_batch, old),
            "clipped_tokens": clipped[mask].float(),
            "mean_generated_length": lengths,
            **self.by_name(rl_batch),
            **served.mismatch(rl_batch, old, mask),
            **self.panacea.by_name("weight", rl_batch["weights"]),
        }
        flat = rl_batch["without_spread"].sum() / self.args.num_return_sequences
        return {
            **self.logged("train"),
            **{f"train/{key}": value for key, value in all_reduce_means(means).items()},
            "train/groups_without_spread": all_reduce_sum(flat).item(),
            "train/max_generated_length": all_reduce_max(lengths.max()).item(),
            "train/actor_lr": learning_rate(self.actor_model),
            **self.panacea.progress_metrics(self.actor_model),
        }


def response_mask(rollout: Rollout) -> Tensor:
    """Which predictions are of a response's tokens, size = (B, T), T = L - S."""
    return rollout["attention_mask"][:, rollout["prompt"].size(-1) :].bool()


def of_response(rollout: Rollout, numbers: Tensor) -> Tensor:
    """The last T of L - 1 numbers of each row, size = (B, T)."""
    return numbers[:, rollout["prompt"].size(-1) - 1 :]


def divergence(rollout: Rollout, log_probs: Tensor) -> Tensor:
    """Σ_t (log π - log π_ref) of each response, size = (B,); ``log_probs`` are (B, T)."""
    reference = of_response(rollout, rollout["ref_log_probs"])
    return summed_log_ratios(log_probs, reference, response_mask(rollout))
