"""The loop of reinforcement learning from rewards: roll out, then update."""

from __future__ import annotations

import abc
import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from safe_rlhf_panacea.base import rl_data
from safe_rlhf_panacea.base.engine import (
    Batch,
    by_update,
    counted,
    means_of_evaluation,
    passes_since_update,
)
from safe_rlhf_panacea.base.losses import next_token_loss
from safe_rlhf_panacea.base.rl_data import Rollout
from safe_rlhf_panacea.base.rl_setup import RLSetup
from safe_rlhf_panacea.base.supervised import to_device
from safe_rlhf_panacea.data import IGNORE_INDEX
from safe_rlhf_panacea.distributed import all_reduce_means, own_device, unwrap
from safe_rlhf_panacea.forward import (
    NoResponsesError,
    NotFiniteError,
    answer_log_probs,
    answer_tokens,
    generate,
    of_each_token,
)
from safe_rlhf_panacea.runs.divergence import DivergedError, finite_on_all
from safe_rlhf_panacea.runs.logger import progress_bar


def text_labels(ptx_batch: Batch) -> Tensor:
    """The labels of supervised text, none on padding, size = (B, L)."""
    padding = ~ptx_batch["attention_mask"].bool()
    return ptx_batch["labels"].masked_fill(padding, IGNORE_INDEX)


def text_count(ptx_batch: Batch) -> Tensor:
    """How many tokens of supervised text are labelled, size = ()."""
    return answer_tokens(text_labels(ptx_batch)).sum()


class RLTrainer(RLSetup):
    """Base of the reinforcement-learning trainers.

    Hooks for subclasses, besides those of the set-up: ``post_rollout``, ``rl_step``, ``ptx_step``
    and ``eval_rollout`` do the work.

    Attributes:
        waiting: the actor's backward passes to come on what was rolled out since the last step.
        ahead: how many prompt batches are taken before the one whose responses are used, so that
            ``ask`` can ask for them; None: they are taken one by one, and ``ask`` is not called.
    """

    waiting: int = 0
    ahead: int | None = None

    # -- hooks ------------------------------------------------------------------------

    def ask(self, batches: list[Batch]) -> None:
        """Ask for the responses to the micro-batches of a prompt batch."""

    def streams(self) -> dict[str, Any]:
        """The entries of a training state's ``panacea`` that ``ask`` changes."""
        return {}

    @abc.abstractmethod
    def post_rollout(self, prompt: Tensor, sequence: Tensor, attention_mask: Tensor) -> Rollout:
        """Score a rolled-out batch."""

    def of_update(self, rollouts: Sequence[Rollout]) -> list[Rollout]:
        """The micro-batches of an update, with what they must know of each other."""
        return list(rollouts)

    @abc.abstractmethod
    def rl_step(self, rl_batch: Rollout) -> dict[str, float]:
        """One step of all that is trained; the result has ``train/reward``."""

    def ptx_step(self, ptx_batch: Batch) -> dict[str, float]:
        """One backward pass of the actor on supervised text, weighted by ``ptx_coeff``.

        ``counts`` in the batch are the labelled tokens of an average batch of its update, over
        which the loss is then a mean. What is logged is the mean over this batch's tokens.
        """
        labels, mask = text_labels(ptx_batch), ptx_batch["attention_mask"].bool()
        found = answer_log_probs(self.actor_model, ptx_batch["input_ids"], labels, mask)
        loss = next_token_loss(*found, ptx_batch.get("counts"))
        self.actor_model.backward(self.ptx_coeff * loss)
        self.actor_model.step()
        means = all_reduce_means({"ptx_loss": -of_each_token(*found)})
        return {f"train/{name}": mean for name, mean in means.items()}

    @abc.abstractmethod
    def eval_rollout(self, prompt: Tensor, sequence: Tensor, attention_mask: Tensor) -> Batch:
        """Values to average over the evaluation prompts, size = (B,) each; NaN: none there."""

    # -- rollouts ---------------------------------------------------------------------

    def micro_batches(self, prompt_only_batch: Batch) -> list[Batch]:
        """A prompt batch as it is rolled out."""
        rows = rl_data.prompts_of_micro_batch(self.args, self.WHOLE_GROUPS)
        return rl_data.split_rows(prompt_only_batch, rows)

    def split_rl_micro_batches(self, prompt_only_batch: Batch) -> list[Rollout]:
        """Roll out a prompt batch in micro-batches."""
        batches = self.micro_batches(prompt_only_batch)
        return [rollout for batch in batches for rollout in self.rollout(batch)]

    def split_ptx_micro_batches(self, ptx_batch: Batch) -> list[Batch]:
        """Cut a supervised batch to the size of one backward pass."""
        return rl_data.split_rows(ptx_batch, self.args.per_device_train_batch_size)

    @property
    def on_policy(self) -> bool:
        """Whether the next micro-batch to roll out is used once, and before the next update.

        Then the forward pass of its training step gives the numbers of the models that it was
        rolled out with, which are all updated together.
        """
        before = passes_since_update(self.actor_model) + self.waiting
        return self.used_once and before < self.actor_model.gradient_accumulation_steps()

    def generate(self, prompt_only_batch: Batch) -> tuple[Tensor, Tensor]:
        """Responses to a batch of prompts, size = (B·n, L), and their mask.

        Raises:
            NotFiniteError: the policy's logits are not finite, on this process or on another one.
        """
        ids, mask = prompt_only_batch["input_ids"], prompt_only_batch["attention_mask"]
        model = unwrap(self.actor_model)
        return finite_on_all(lambda: generate(model, ids, mask, self.generation_config))

    @torch.no_grad()
    def rollout(self, prompt_only_batch: Batch) -> list[Rollout]:
        """Draw responses and gather what the update needs.

        Raises:
            DivergedError: the policy's logits are not finite.
        """
        try:
            sequences, mask = self.generate(prompt_only_batch)
        except NotFiniteError as error:
            raise DivergedError(
                f"step {self.global_step + 1} ({self.about_batch()}): {error}; the last "
                "checkpoint is kept; try a lower learning rate"
            ) from None
        copies, prompt = self.args.num_return_sequences, prompt_only_batch["input_ids"]
        parts = [slice(i, None, copies) for i in range(copies)]
        if self.WHOLE_GROUPS:
            prompt, parts = prompt.repeat_interleave(copies, dim=0), [slice(None)]
        batches: list[Rollout] = []
        for part in parts:
            batches.append(self.post_rollout(prompt, sequences[part], attention_mask=mask[part]))
            self.waiting += 1 + self.use_ptx
        return batches

    def _roll_out(self, prompts: Batch) -> list[Rollout]:
        """The micro-batches of a prompt batch.

        Raises:
            NoResponsesError: nobody gives the responses; what was learnt before is kept.
        """
        try:
            rl_batches = self.split_rl_micro_batches(to_device(prompts, own_device()))
        except NoResponsesError as error:
            self.save_between_updates()
            kept = "there is no checkpoint yet"
            if self.saved_at:
                kept = (
                    f"the checkpoint of step {self.saved_at} is kept, from which --resume goes on "
                    "when a server is up"
                )
            raise NoResponsesError(f"step {self.global_step + 1}: {error}; {kept}") from None
        if self.places:
            self.places.popleft()
        self.text_place = None
        return rl_batches

    # -- the loop ---------------------------------------------------------------------

    def _prompt_batches(self) -> Iterator[Batch]:
        while self.global_step < self.total_steps:
            self.data_sampler.set_epoch(self.epoch)
            yield from self.prompt_only_dataloader if self.ahead is None else self._asked()
            self.epoch += 1
            self.log_evaluation(self.args.eval_strategy == "epoch")

    def _asked(self) -> Iterator[Batch]:
        """An epoch's prompt batches; the responses are asked for ``ahead`` batches before."""
        batches, waiting = iter(self.prompt_only_dataloader), deque[Batch]()
        while self.global_step + sum(map(self._steps_on, waiting)) < self.total_steps:
            place = self.data_sampler.state_dict(), self.streams()
            if (batch := next(batches, None)) is None:
                break
            waiting.append(to_device(batch, own_device()))
            self.places.append(place)
            self.ask(self.micro_batches(waiting[-1]))
            if len(waiting) > (self.ahead or 0):
                self._note_text()
                yield waiting.popleft()
        while waiting:
            self._note_text()
            yield waiting.popleft()

    def _note_text(self) -> None:
        self.text_place = self.ptx_sampler.state_dict() if self.use_ptx else None

    def _steps_on(self, prompts: Batch) -> int:
        """How many training steps there are on the responses to a prompt batch."""
        each = 1 if self.WHOLE_GROUPS else self.args.num_return_sequences
        return len(self.micro_batches(prompts)) * each * self.args.update_iters

    def _texts(self) -> Iterator[Batch | None]:
        """Batches of supervised text, epoch after epoch; None without any."""
        if self.ptx_dataloader is None:
            yield from itertools.repeat(None)
        else:
            for epoch in itertools.count(self.ptx_sampler.epoch):
                self.ptx_sampler.set_epoch(epoch)
                yield from self.ptx_dataloader

    def train(self) -> None:
        """Train until the last step."""
        title = f"Training {self.TRAINING_TYPE}"
        bar = progress_bar(total=self.total_steps, desc=title, disable=not self.args.progress)
        bar.update(self.global_step)
        self.log_evaluation(self.global_step == 0)
        for prompts, ptx in zip(self._prompt_batches(), self._texts(), strict=False):
            if self.global_step >= self.total_steps:
                break
            self.go_on()
            self.set_eval()
            rl_batches = self._roll_out(prompts)
            ptx_batches: list[Batch | None] = [None] * len(rl_batches)
            if ptx is not None:
                ptx_batches = list(self.split_ptx_micro_batches(to_device(ptx, own_device())))
            self.set_train()
            steps = list(zip(rl_batches, itertools.cycle(ptx_batches))) * self.args.update_iters
            steps = steps[: self.total_steps - self.global_step]
            for update in by_update(steps, self.actor_model, 1 + self.use_ptx):
                self._update(update, bar)
            self.save_if_due()
        bar.close()
        self.trained()

    def _update(self, steps: Sequence[tuple[Rollout, Batch | None]], bar: Any) -> None:
        rl_batches = self.of_update([rl_batch for rl_batch, _ in steps])
        ptx_batches: Sequence[Batch | None] = [None] * len(steps)
        if self.use_ptx:
            texts = [ptx_batch for _, ptx_batch in steps if ptx_batch is not None]
            ptx_batches = counted(texts, text_count, own_device())
        for rl_batch, ptx_batch in zip(rl_batches, ptx_batches, strict=True):
            info = self.rl_step(rl_batch)
            if ptx_batch is not None:
                info |= self.ptx_step(ptx_batch)
            self.global_step += 1
            info["train/epoch"] = self.global_step / self.steps_per_epoch
            self.logger.log(info, step=self.global_step)
            self.check_step(info)
            bar.set_postfix_str(f"reward {info['train/reward']:.3f}", refresh=False)
            bar.update(1)
            due = self.global_step % self.args.eval_interval == 0
            self.log_evaluation(self.args.eval_strategy == "steps" and due)

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Mean scores of responses to the evaluation prompts, drawn as in training."""
        if self.eval_dataloader is None:
            return {}
        self.set_eval()
        collected: dict[str, list[Tensor]] = {}
        for batch in self.eval_dataloader:
            batch = to_device(batch, own_device())
            sequences, mask = self.generate(batch)
            found = self.eval_rollout(batch["input_ids"], sequences, attention_mask=mask)
            for key, values in found.items():
                collected.setdefault(key, []).append(values)
        self.set_train()
        return means_of_evaluation(collected)
