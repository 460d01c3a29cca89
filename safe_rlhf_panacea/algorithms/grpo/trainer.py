"""Panacea-GRPO: groups of responses at each prompt's λ, compared with each other, and no critic."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch

from safe_rlhf_panacea.algorithms.grpo.groups import (
    GroupRollout,
    compare,
    of_response,
    response_mask,
)
from safe_rlhf_panacea.algorithms.grpo.losses import grpo_loss
from safe_rlhf_panacea.algorithms.panacea import Panacea, snapshot_folder
from safe_rlhf_panacea.algorithms.preference_source import begins_update, check_shared
from safe_rlhf_panacea.algorithms.rewarded import PanaceaRollout, Rewarded
from safe_rlhf_panacea.algorithms.watching import FrontWatch
from safe_rlhf_panacea.base.checkpoint import TrainingState
from safe_rlhf_panacea.base.distributed import all_reduce_max, all_reduce_means, all_reduce_sum
from safe_rlhf_panacea.base.engine import learning_rate, unwrap
from safe_rlhf_panacea.base.log_probs import response_log_probs
from safe_rlhf_panacea.base.losses import log_ratios
from safe_rlhf_panacea.base.trainers.rl import Batch, RLTrainer
from safe_rlhf_panacea.fronts.measurement import Measurement


class PanaceaGRPOTrainer(RLTrainer):
    """GRPO for m rewards, on the port.

    Holds the policy, which with its adapter off is its own reference, and the reward models.
    """

    TRAINING_TYPE: ClassVar[str] = "panacea-grpo"
    WHOLE_GROUPS: ClassVar[bool] = True

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
        """Find the functions and load the reward models."""
        self.reward_model = None  # the base's single one
        self.rewarded.load(self.tokenizer, self.load_scorer)

    def init_engines(self) -> None:
        """Make the policy's engine, and place the reward models."""
        super().init_engines()
        accumulated = self.actor_model.gradient_accumulation_steps() // (1 + self.use_ptx)
        check_shared(self.args, self.steps_per_rollout, len(self.data_sampler), accumulated)
        self.rewards = self.rewarded.ensemble(self.ds_eval_config)

    # -- rollout ----------------------------------------------------------------------

    @property
    def on_policy(self) -> bool:
        """The base's, unless the rewards need the divergence before the training step."""
        return super().on_policy and self.args.kl_in == "loss"

    def split_rl_micro_batches(self, prompt_only_batch: Batch) -> list[GroupRollout]:
        """Roll out a prompt batch, then compare the responses of each update."""
        rollouts = super().split_rl_micro_batches(prompt_only_batch)
        passes, iters = 1 + self.use_ptx, self.args.update_iters
        updates: list[list[PanaceaRollout]] = []
        for number, rollout in enumerate(rollouts):
            if not updates or begins_update(self.actor_model, number * passes, iters):
                updates.append([])
            updates[-1].append(rollout)
        return [r for update in updates for r in compare(update, self.panacea, self.args)]

    @torch.no_grad()
    def rollout(self, prompt_only_batch: Batch) -> list[PanaceaRollout]:
        """Take λ first: responses, log-probabilities and update all see the same one."""
        rows = prompt_only_batch["input_ids"].size(0)
        preference = self.panacea.draw(rows, self.actor_model, self.waiting, self.args.update_iters)
        with self.panacea.at(preference):
            return super().rollout(prompt_only_batch)

    def generate(self, prompt_only_batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Responses at λ; every response of a prompt at that prompt's λ."""
        with self.rewarded.generation(self.actor_model):
            return super().generate(prompt_only_batch)

    def post_rollout(
        self, prompt: torch.Tensor, sequence: torch.Tensor, attention_mask: torch.Tensor
    ) -> PanaceaRollout:
        """Score groups, each row at its prompt's λ, and keep that with it."""
        copies = self.args.num_return_sequences
        preference = self.panacea.preference.repeat_interleave(copies, dim=0)
        start = prompt.size(-1) - 1
        with self.panacea.at(preference):
            batch = {
                "prompt": prompt,
                "input_ids": sequence,
                "attention_mask": attention_mask,
                "ref_log_probs": self.reference_log_probs(sequence, attention_mask, start),
                "preference": preference,
                **self.rewarded.score(self.rewards, sequence, attention_mask, prompt.size(-1)),
            }
            if not self.on_policy:
                batch["log_probs"] = response_log_probs(
                    self.actor_model, sequence, attention_mask, start
                )
        return batch

    @contextmanager
    def reference(self) -> Iterator[Any]:
        """The policy with its adapter off."""
        with self.panacea.reference(unwrap(self.actor_model)):
            yield self.actor_model

    # -- updates ----------------------------------------------------------------------

    def rl_step(self, rl_batch: GroupRollout) -> dict[str, float]:
        """One backward pass at the batch's λ."""
        self.waiting = 0
        input_ids, attention_mask = rl_batch["input_ids"], rl_batch["attention_mask"]
        start, mask = rl_batch["prompt"].size(-1) - 1, response_mask(rl_batch)
        reference = of_response(rl_batch, rl_batch["ref_log_probs"])  # size = (B, T)
        with self.panacea.at(rl_batch["preference"]):
            log_probs = response_log_probs(self.actor_model, input_ids, attention_mask, start)
            old = of_response(rl_batch, rl_batch.get("log_probs", log_probs.detach()))
            log_probs = of_response(rl_batch, log_probs)
            loss = grpo_loss(
                log_probs,
                old,
                reference,
                rl_batch["advantages"],
                mask,
                clip_range=self.clip_range_ratio,
                kl_coeff=self.kl_coeff if self.args.kl_in == "loss" else 0.0,
                tokens=rl_batch["tokens"],
            )
            self.actor_model.backward(loss + self.panacea.penalty())
            self.actor_model.step()
        clipped = ((log_probs.detach() - old).exp() - 1).abs() > self.clip_range_ratio
        lengths = mask.sum(dim=-1).float()  # size = (B,)
        means = {
            "actor_loss": loss,
            "reward": rl_batch["reward"],
            "kl_divergence": log_ratios(old, reference, mask),
            "clipped_tokens": (clipped & mask).sum() / mask.sum().clamp(min=1),
            "mean_generated_length": lengths,
            **self.rewarded.by_name(self.rewards, rl_batch),
            **self.panacea.by_name("weight", rl_batch["weights"]),
        }
        flat = rl_batch["without_spread"].sum() / self.args.num_return_sequences
        return {
            **{f"train/{key}": value for key, value in all_reduce_means(means).items()},
            "train/groups_without_spread": all_reduce_sum(flat).item(),
            "train/max_generated_length": all_reduce_max(lengths.max()).item(),
            "train/actor_lr": learning_rate(self.actor_model),
        }

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
