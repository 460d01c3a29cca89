"""Panacea-GRPO: groups of responses at each prompt's λ, compared with each other, and no critic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from safe_rlhf_panacea.algorithms.grpo.groups import (
    GroupRollout,
    compare,
    of_response,
    response_mask,
)
from safe_rlhf_panacea.algorithms.grpo.losses import grpo_loss
from safe_rlhf_panacea.algorithms.panacea import Panacea
from safe_rlhf_panacea.algorithms.rewarded import RewardedPart
from safe_rlhf_panacea.base.actor import load_actor
from safe_rlhf_panacea.base.engine import init_eval_engine, learning_rate, unwrap
from safe_rlhf_panacea.base.losses import summed_log_ratios
from safe_rlhf_panacea.base.rl import Batch, RLTrainer
from safe_rlhf_panacea.base.rl_data import prompts_of_whole_updates
from safe_rlhf_panacea.base.rollout import OldNumbers
from safe_rlhf_panacea.configs.algorithms import GRPOConfig
from safe_rlhf_panacea.distributed import (
    all_reduce_max,
    all_reduce_means,
    all_reduce_sum,
    own_device,
)
from safe_rlhf_panacea.forward import log_probs, response_tokens, side_by_side
from safe_rlhf_panacea.fronts.measurement import Measurement


class PanaceaGRPOTrainer(RLTrainer[GroupRollout]):
    """GRPO for m rewards, on the port.

    Holds the policy, which with its adapter off is its own reference, and the reward models.
    """

    TRAINING_TYPE: ClassVar[str] = "panacea-grpo"
    PROGRAM: ClassVar[str] = "safe_rlhf_panacea.algorithms.grpo"
    WHOLE_GROUPS: ClassVar[bool] = True

    part: RewardedPart

    def __init__(self, args: GRPOConfig, *ds_configs: dict[str, Any]) -> None:
        """Make what the hooks attach to, then run them."""
        objectives = tuple(spec.name for spec in args.reward_specs)
        self.panacea = Panacea(args, objectives, args.actor_model_name_or_path)
        self.part = RewardedPart(self)
        super().__init__(args, *ds_configs)

    # -- models -----------------------------------------------------------------------

    def init_actor(self) -> None:
        """Load the policy and inject the adapter."""
        self.actor_model, self.tokenizer = load_actor(self.args)
        self.panacea.attach(self.actor_model, "policy", self.template)

    def init_reference(self) -> None:
        """The policy is its own reference."""
        self.actor_reference_model = None

    def init_rewards(self) -> None:
        """Find the functions and load the reward models."""
        self.reward_model = None  # the base's single one
        self.rewards = self.part.load()

    def init_datasets(self) -> None:
        """Load the data, which must have the columns that functions ask for."""
        super().init_datasets()
        self.part.check_columns()

    def init_engines(self) -> None:
        """Make the policy's engine, and place the reward models."""
        super().init_engines()
        self.rewards.place(self._place)

    def _place(self, model: Any) -> Any:
        return init_eval_engine(model.to(own_device()), self.ds_eval_config)

    # -- rollout ----------------------------------------------------------------------

    @property
    def on_policy(self) -> bool:
        """The base's, unless the rewards need the divergence before the training step."""
        return super().on_policy and self.args.kl_in == "loss"

    def micro_batches(self, prompt_only_batch: Batch) -> list[Batch]:
        """As much of a prompt batch as fills whole updates, which is all of a full one."""
        taken = prompts_of_whole_updates(len(prompt_only_batch["input_ids"]), self.args)
        return super().micro_batches({k: v[:taken] for k, v in prompt_only_batch.items()})

    @torch.no_grad()
    def rollout(self, prompt_only_batch: Batch) -> list[GroupRollout]:
        """Take λ first: responses, log-probabilities and update all see the same one."""
        with self.part.at_drawn(prompt_only_batch):
            return super().rollout(prompt_only_batch)

    def generate(self, prompt_only_batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Responses at λ; every response of a prompt at that prompt's λ."""
        if self.part.drawing is not None:
            return self.part.collect(prompt_only_batch)
        with self.part.generation(prompt_only_batch):
            return super().generate(prompt_only_batch)

    def post_rollout(
        self, prompt: torch.Tensor, sequence: torch.Tensor, attention_mask: torch.Tensor
    ) -> GroupRollout:
        """Score groups, each row at its prompt's λ, and keep that with it."""
        copies = self.args.num_return_sequences
        preference = self.panacea.preference.repeat_interleave(copies, dim=0)
        start = prompt.size(-1) - 1
        with self.panacea.at(preference):
            old: OldNumbers = {}
            if not self.on_policy:
                old["log_probs"] = self.log_probs(sequence, attention_mask, start)
            with self.panacea.reference(unwrap(self.actor_model)):
                ref_log_probs = self.log_probs(sequence, attention_mask, start)
            return {
                "prompt": prompt,
                "input_ids": sequence,
                "attention_mask": attention_mask,
                "ref_log_probs": ref_log_probs,
                **old,
                **self.part.score(sequence, attention_mask, prompt.size(-1)),
                **self.part.sampled(),
                "preference": preference,
            }

    def log_probs(
        self, sequence: torch.Tensor, attention_mask: torch.Tensor, start: int
    ) -> torch.Tensor:
        """Under the policy as it is held and sampled, each prompt read once; size = (B, L - 1)."""
        counted = response_tokens(attention_mask, start)
        groups = side_by_side(len(sequence), self.args.num_return_sequences)
        inputs = self.actor_model, sequence, attention_mask, counted, groups
        return log_probs(*inputs, temperature=self.temperature)

    # -- updates ----------------------------------------------------------------------

    def loss(self, rl_batch: GroupRollout) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The loss at the λ that holds, and the log-probabilities now and before, (B, T) each."""
        start = rl_batch["prompt"].size(-1) - 1
        now = self.log_probs(rl_batch["input_ids"], rl_batch["attention_mask"], start)
        old = of_response(rl_batch, rl_batch.get("log_probs", now.detach()))  # on-policy: the same
        now = of_response(rl_batch, now)
        loss = grpo_loss(
            now,
            old,
            of_response(rl_batch, rl_batch["ref_log_probs"]),
            rl_batch["advantages"],
            response_mask(rl_batch),
            clip_range=self.clip_range_ratio,
            kl_coeff=self.kl_coeff if self.args.kl_in == "loss" else 0.0,
            tokens=rl_batch["tokens"],
            token_weights=self.part.token_weights(rl_batch, old),
        )
        return loss + self.panacea.penalty(), now.detach(), old

    def of_update(self, rollouts: Sequence[GroupRollout]) -> list[GroupRollout]:
        """Compare the responses of all micro-batches of an update."""
        return compare(rollouts, self.panacea, self.args)

    def rl_step(self, rl_batch: GroupRollout) -> dict[str, float]:
        """One backward pass at the batch's λ."""
        self.waiting = 0
        with self.panacea.at(rl_batch["preference"]):
            loss, now, old = self.loss(rl_batch)
            self.actor_model.backward(loss)
            self.actor_model.step()
        mask = response_mask(rl_batch)
        lengths = mask.sum(dim=-1).float()  # size = (B,)
        clipped = ((now - old).exp() - 1).abs() > self.clip_range_ratio
        reference = of_response(rl_batch, rl_batch["ref_log_probs"])
        means = {
            "actor_loss": loss,
            "reward": rl_batch["reward"],
            "kl_divergence": summed_log_ratios(old, reference, mask),
            "clipped_tokens": clipped[mask].float(),
            "mean_generated_length": lengths,
            **self.part.by_name(rl_batch),
            **self.part.mismatch(rl_batch, old, mask),
            **self.panacea.by_name("weight", rl_batch["weights"]),
        }
        flat = rl_batch["without_spread"].sum() / self.args.num_return_sequences
        return {
            **self.part.logged("train"),
            **{f"train/{key}": value for key, value in all_reduce_means(means).items()},
            "train/groups_without_spread": all_reduce_sum(flat).item(),
            "train/max_generated_length": all_reduce_max(lengths.max()).item(),
            "train/actor_lr": learning_rate(self.actor_model),
            **self.panacea.progress_metrics(self.actor_model),
        }

    def ptx_step(self, ptx_batch: Batch) -> dict[str, float]:
        """Supervised text at the λ of the rollout; its rows take the rollout's in turn."""
        with self.panacea.at_latest(ptx_batch["input_ids"].size(0)):
            info = super().ptx_step(ptx_batch)
        return info | self.panacea.progress_metrics(self.actor_model)

    @torch.no_grad()
    def eval_rollout(
        self, prompt: torch.Tensor, sequence: torch.Tensor, attention_mask: torch.Tensor
    ) -> Batch:
        """Every objective's reward."""
        return self.part.evaluated(prompt, sequence, attention_mask)

    def measure_front(self) -> Measurement:
        """Rewards of responses to the evaluation prompts."""
        return self.part.measure_front()
