"""Safe-RLHF's PPO trainer with hooks for the reference, the rewards and the critic."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from safe_rlhf.algorithms.ppo.trainer import PPOTrainer
from safe_rlhf.models import AutoModelForScore, load_pretrained_models
from safe_rlhf.trainers import rl_trainer
from torch import Tensor

from safe_rlhf_panacea.base.engine import Batch, by_update, counted, means_of_evaluation
from safe_rlhf_panacea.base.rl import text_count
from safe_rlhf_panacea.base.rl_data import Rollout
from safe_rlhf_panacea.distributed import own_device
from safe_rlhf_panacea.forward import up_to_end
from safe_rlhf_panacea.forward.ways import by_generate, first_fitting
from safe_rlhf_panacea.models.auto import check_saved_head
from safe_rlhf_panacea.models.loading import check_positions
from safe_rlhf_panacea.on_safe_rlhf.datasets import templated
from safe_rlhf_panacea.on_safe_rlhf.record import Recorded, load_policy, own_rates


class Slot:
    """Stands where Safe-RLHF keeps a model of its own; holds none."""

    def __init__(self, forward: Callable[..., Any]) -> None:
        self.forward = forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.forward(*args, **kwargs)

    def eval(self) -> None:
        """There is nothing to set."""


class HookedPPOTrainer(Recorded, PPOTrainer):
    """Safe-RLHF's ``PPOTrainer``: its loop, rollout, advantages, losses, updates and logger.

    A subclass brings the hooks of the port's ``PPOTrainer``: the models (``init_reference``,
    ``init_rewards``, ``init_critic``), the reference (``reference``), what scores a response
    (``score``) and what is averaged over evaluation prompts (``eval_rollout``). The critic reads
    the policy's tokens.
    """

    LOGS_BEFORE_COUNTING: ClassVar[bool] = True

    # The actor's backward passes to come on what was rolled out since the last training step.
    waiting: int = 0
    ptx_coeff: float
    eval_dataloader: Any

    def __init__(self, *args: Any) -> None:
        """Safe-RLHF's, and all tokens that end a response.

        Raises:
            UserError: padded prompts change the policy's answers; Safe-RLHF has no other way.
        """
        super().__init__(*args)
        first_fitting(self.actor_model.module, [by_generate])
        stops = self.template.stop_ids(self.actor_model.module)
        self.generation_config.eos_token_id = list(stops)

    def init_engines(self) -> None:
        """Safe-RLHF's, which doubles a flag with PTX: what the user gave stays as it is."""
        given = self.args.gradient_accumulation_steps
        try:
            super().init_engines()
        finally:
            self.args.gradient_accumulation_steps = given

    def init_datasets(self) -> None:
        with templated(self.template):
            super().init_datasets()

    # -- models -----------------------------------------------------------------------

    def init_models(self) -> None:
        """Load actor, reference, rewards and critic, in this order."""
        self.init_actor()
        self.init_reference()
        self.init_rewards()
        self.init_critic()
        self.reward_tokenizer = self.reward_critic_tokenizer = self.tokenizer
        self.actor_reference_model = Slot(self._reference_forward)
        self.reward_model = Slot(self._reward_forward)

    def init_actor(self) -> None:
        args = self.args
        self.actor_model, self.tokenizer = load_policy(args, args.actor_model_name_or_path)

    def load_scorer(self, path: str, role: str, *, normalize: bool = False) -> tuple[Any, Any]:
        check_saved_head(path)
        model, tokenizer = load_pretrained_models(
            path,
            model_max_length=self.args.max_length,
            padding_side="right",
            auto_model_type=AutoModelForScore,
            trust_remote_code=self.args.trust_remote_code,
            auto_model_kwargs={"score_type": role, "do_normalize": normalize},
        )
        check_positions(model, self.args.max_length, path)
        model.set_normalize(normalize)
        return model, tokenizer

    def _init_train_engine(self, *args: Any, lr: float, **kwargs: Any) -> Any:
        """Safe-RLHF's, which knows one learning rate for all parameters."""
        with own_rates(rl_trainer, lr):
            return super()._init_train_engine(*args, lr=lr, **kwargs)

    def _init_eval_engine(self, model: Any, ds_config: Batch) -> Any:
        """No engine for a slot."""
        return model if isinstance(model, Slot) else super()._init_eval_engine(model, ds_config)

    def _reference_forward(self, *args: Any, **kwargs: Any) -> Any:
        with self.reference() as model:
            return model(*args, **kwargs)

    def _reward_forward(self, sequence: Tensor, attention_mask: Tensor) -> Any:
        self._scored = self.score(sequence, attention_mask, self._prompt.size(-1))
        return SimpleNamespace(end_scores=self._scored["reward"].unsqueeze(-1))  # size = (B, 1)

    # -- rollout ----------------------------------------------------------------------

    def post_rollout(self, prompt: Tensor, sequence: Tensor, attention_mask: Tensor) -> Rollout:
        """Safe-RLHF's batch, and all that ``score`` found."""
        self._prompt = prompt  # for the slot in the reward model's place, which is not told
        mask = self._attended(sequence, attention_mask)
        batch: Rollout = super().post_rollout(prompt, sequence, mask)
        self.waiting += 1 + self.use_ptx
        return {**batch, **self._scored}

    def _attended(self, sequence: Tensor, attention_mask: Tensor) -> Tensor:
        """Safe-RLHF's mask, or a right one where padding looks like the end of a turn."""
        stops, pad = self.generation_config.eos_token_id, self.tokenizer.pad_token_id
        if not {pad, self.tokenizer.unk_token_id} & set(stops):
            return attention_mask
        width = self._prompt.size(-1)
        begun = sequence[:, :width].ne(pad).cumsum(dim=-1) > 0  # padded on the left
        return torch.cat([begun, up_to_end(sequence[:, width:], stops)], dim=-1)

    def rl_step(self, rl_batch: Rollout) -> dict[str, Any]:
        self.waiting = 0
        return super().rl_step(rl_batch)

    def split_ptx_micro_batches(self, ptx_batch: Batch) -> list[Batch]:
        """Safe-RLHF's, each with ``counts`` of the part of its update that is among them."""
        batches = super().split_ptx_micro_batches(ptx_batch)
        parts = by_update(batches, self.actor_model, passes=2)
        return [b for part in parts for b in counted(part, text_count, own_device())]

    def ptx_step(self, ptx_batch: Batch) -> dict[str, Any]:
        """Safe-RLHF's step on supervised text; its mean as that over the update."""
        before = self.ptx_coeff
        if "counts" in ptx_batch:
            self.ptx_coeff = before * (text_count(ptx_batch) / ptx_batch["counts"]).item()
        try:
            return super().ptx_step(ptx_batch)
        finally:
            self.ptx_coeff = before

    # -- evaluation -------------------------------------------------------------------

    def evaluate(self) -> Batch:
        """Safe-RLHF's evaluation, over batches that are noted down for ``eval_step``.

        Its means are taken anew, without what does not count.
        """
        self._found: dict[str, list[Tensor]] = {}
        loader = self.eval_dataloader
        self.eval_dataloader = None if loader is None else self._noting(loader)
        try:
            info = super().evaluate()
        finally:
            self.eval_dataloader = loader
        means = means_of_evaluation(self._found) if self._found else {}
        return {name: mean for name, mean in info.items() if name not in self._found} | means

    def _noting(self, loader: Any) -> Iterator[Batch]:
        for batch in loader:
            self._prompt = batch["input_ids"]
            yield batch

    def eval_step(self, input_ids: Tensor, attention_mask: Tensor) -> Batch:
        """The hook that also knows where the responses begin."""
        mask = self._attended(input_ids, attention_mask)
        found = self.eval_rollout(self._prompt, input_ids, mask)
        for key, values in found.items():
            self._found.setdefault(key, []).append(values)
        return found
