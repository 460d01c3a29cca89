"""λ from the draw to the singular values, and the m objectives back to one number."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from safe_rlhf_panacea.adapter import PanaceaAdapter, inject_adapter
from safe_rlhf_panacea.adapter.fingerprint import check_unchanged
from safe_rlhf_panacea.adapter.model import coverage
from safe_rlhf_panacea.aggregation import (
    IdealPoint,
    aggregate_losses,
    aggregate_rewards,
    best_of_each,
    objective_weights,
)
from safe_rlhf_panacea.algorithms.adapter_progress import AdapterProgress
from safe_rlhf_panacea.algorithms.preference_source import PreferenceSource
from safe_rlhf_panacea.base.engine import passes_since_update
from safe_rlhf_panacea.configs.panacea import PanaceaConfig, adapter_config
from safe_rlhf_panacea.data.template import ChatTemplate
from safe_rlhf_panacea.distributed import all_reduce_max, all_reduce_sum
from safe_rlhf_panacea.models.loading import LoadedModel
from safe_rlhf_panacea.preference_sampler import label_weights

SMOOTH_MU = 0.1


class Panacea:
    """What makes a trainer Panacea's, whatever the algorithm.

    It exists before the trainer loads its models; they get their adapters from it.

    Attributes:
        objectives: names, in the order of λ.
        adapters: by role, ``policy`` first.
        source: where λ is drawn.
        ideal_point: z of the Tchebycheff aggregation of rewards (Eq. 13).
        progress: follows the policy's adapter; None where the adapter does not depend on λ, and
            in float16, where a changing loss scale multiplies the gradients.
        coverage: how much of the policy is adapted; there once its adapter is.
        latest: the λ that holds, or held last, size = (B, m): a step on supervised text follows
            its rollout's.
    """

    def __init__(self, args: PanaceaConfig, objectives: tuple[str, ...], base_model: Any) -> None:
        """Read the options; ``base_model`` is the model's name, folder, or ``LoadedModel``."""
        self.objectives = objectives
        name = base_model.name if isinstance(base_model, LoadedModel) else base_model
        self.config = adapter_config(args, objectives, name)
        self.adapters: dict[str, PanaceaAdapter] = {}
        self.source = PreferenceSource(args, objectives)
        self.method = args.aggregation
        self.smooth_mu = getattr(args, "smooth_mu", None) or SMOOTH_MU
        self.ideal_point = IdealPoint(len(objectives))
        self.orthogonality_coeff = args.orthogonality_coeff
        self.scaling_lr_multiplier = args.scaling_lr_multiplier
        self.scaled = args.fp16
        self.progress: AdapterProgress | None = None
        self._held: tuple[Tensor, bool] | None = None  # λ, (B, m), and whether it is shared
        self.latest = self.centre

    def attach(self, model: nn.Module, role: str, template: ChatTemplate) -> PanaceaAdapter:
        """Inject the adapter of a role, ``policy`` or another, into a model, in place.

        The adapter keeps ``template``, in which the run writes conversations.
        """
        config = replace(self.config, chat_template=template.recorded)
        adapter = self.adapters[role] = inject_adapter(model, config)
        for layer in adapter.layers.values():
            if layer.lora_s is not None:
                # what ``engine.py`` reads
                object.__setattr__(layer.lora_s, "lr_multiplier", self.scaling_lr_multiplier)
        if role == "policy":
            self.coverage = coverage(adapter)  # now: an engine may shard the weights
            if config.pref_dim > 0 and not self.scaled:
                self.progress = AdapterProgress(adapter)
        return adapter

    @property
    def policy(self) -> PanaceaAdapter:
        """The adapter that is trained for, saved and evaluated."""
        return self.adapters["policy"]

    def counted(self, args: PanaceaConfig, specs: Any) -> tuple[str, ...]:
        """The objectives of which a row of data has to count for one.

        In a training at a fixed λ these are the objectives with a weight: rows that count for
        others alone would teach nothing. Evaluation data, and data of which a part is split off
        for evaluation, may count for any. The ``specs`` of training data are the very object in
        ``args``.
        """
        split_off = args.need_eval and args.eval_datasets is None
        if self.source.fixed is None or split_off or specs is not args.train_datasets:
            return self.objectives
        weighted = zip(self.objectives, self.source.fixed.tolist(), strict=True)
        return tuple(name for name, weight in weighted if weight > 0)

    # -- λ ----------------------------------------------------------------------------

    def draw(
        self,
        rows: int,
        engine: Any,
        waiting: int = 0,
        passes: int = 1,
        labelled: Tensor | None = None,
    ) -> Tensor:
        """λ of a batch, size = (B, m), B = ``rows``.

        In scope ``batch`` one λ holds for all micro-batches whose gradients meet in an update, for
        all responses drawn in one go, and for a whole rollout set with several passes over it. So
        a new λ is drawn for a batch whose first backward pass begins an update, and with several
        passes only for the first batch of a set. Where rollouts and updates do not end together (2
        responses to a prompt and 3 accumulated micro-batches), one λ serves until they do.

        Args:
            rows: B.
            engine: the policy's.
            waiting: its backward passes on micro-batches of the same rollout set that come first.
            passes: over a rollout set.
            labelled: which objectives label each row, bool, size = (B, m).
        """
        before = passes_since_update(engine) + waiting
        begins = before % engine.gradient_accumulation_steps() == 0
        begins = begins and (waiting == 0 or passes == 1)
        return self.source.draw(rows, begins_update=begins, labelled=labelled)

    @property
    def centre(self) -> Tensor:
        """The middle of the simplex, or the one λ of a run for a fixed one; size = (1, m)."""
        if self.source.fixed is not None:
            return self.source.fixed.unsqueeze(0)
        count = len(self.objectives)
        return torch.full((1, count), 1 / count, device=self.source.device)

    @property
    def held(self) -> tuple[Tensor, bool]:
        """The λ that holds, size = (B, m), and whether it is one for all rows.

        Raises:
            RuntimeError: outside ``at``.
        """
        if self._held is None:
            raise RuntimeError("no λ holds here: this must run inside Panacea.at")
        return self._held

    @contextmanager
    def at(
        self, preference: Tensor, rows: Tensor | None = None, *, shared: bool | None = None
    ) -> Iterator[None]:
        """Hold λ for the forward and backward passes inside; nothing else sets it in training.

        Args:
            preference: size = (B, m).
            rows: which of the B vectors each row of a pass has, int64; None: row b has the b-th.
            shared: whether all B are equal; default: as the source draws them.
        """
        shared = self.source.shared if shared is None else shared
        value = preference[0] if shared else preference if rows is None else preference[rows]
        before, self._held = self._held, (preference, shared)
        self.latest = preference
        try:
            with ExitStack() as stack:
                for adapter in self.adapters.values():
                    stack.enter_context(adapter.at(value))
                yield
        finally:
            self._held = before

    @contextmanager
    def generation(self, copies: int, *, may_merge: bool) -> Iterator[None]:
        """While ``copies`` responses to each prompt are drawn, side by side, at the λ that holds.

        With ``may_merge`` one shared λ is merged: W(λ) is written into the weights.
        """
        preference, shared = self.held
        if shared and may_merge:
            with self.policy.merged(self.policy.preference):
                yield
            return
        rows = torch.arange(len(preference), device=preference.device)
        with self.at(preference, rows.repeat_interleave(copies), shared=shared):
            yield

    @contextmanager
    def reference(self, module: nn.Module) -> Iterator[None]:
        """The policy as its own reference: adapter off, dropout off."""
        was_training = module.training
        if was_training:
            module.eval()
        try:
            with self.policy.disabled():
                yield
        finally:
            if was_training:
                module.train()

    # -- m objectives to one ----------------------------------------------------------

    def loss(self, losses: Tensor, labelled: Tensor, counts: Tensor | None = None) -> Tensor:
        """The m losses of a batch, size = (B, m), as one at the λ that holds, with the penalty.

        ``counts`` are ``label_counts`` of an average micro-batch of the update.
        """
        preference, shared = self.held
        weights = preference.to(losses.device).expand_as(losses)
        if self.source.for_labels:
            weights = label_weights(weights, labelled)
        scope = "batch" if shared else "sample"
        inputs = (losses, labelled, weights, self.method, scope)
        return aggregate_losses(*inputs, all_reduce_sum, counts) + self.penalty()

    def reward(self, rewards: Tensor) -> Tensor:
        """The m rewards of each row, (B, m), as one at the λ that holds, size = (B,).

        A reward is NaN where its objective does not count for a row.
        """
        preference = self.held[0].expand_as(rewards)
        if self.method != "ls":
            best = all_reduce_max(best_of_each(rewards))  # the processes share one ideal point
            self.ideal_point.update(best.unsqueeze(0))
        return aggregate_rewards(rewards, preference, *self._aggregation(rewards))

    def weights(self, values: Tensor, preference: Tensor) -> Tensor:
        """How much each objective counts where its mean reward is v, size = (B, m) all.

        The ideal point is as ``reward`` last left it.
        """
        return objective_weights(values, preference, *self._aggregation(values))

    def _aggregation(self, like: Tensor) -> tuple[str, Tensor | None, float]:
        ideal = None if self.method == "ls" else self.ideal_point.value.to(like)
        return self.method, ideal, self.smooth_mu

    def penalty(self) -> Tensor | float:
        """AdaLoRA's penalty on the policy's U and V, if asked for."""
        if self.orthogonality_coeff == 0:
            return 0.0
        return self.orthogonality_coeff * self.policy.orthogonality()

    # -- what is logged and kept ------------------------------------------------------

    def progress_metrics(self, engine: Any) -> dict[str, float]:
        """How fast the adapter's parts move, where the policy's engine has just made an update."""
        if self.progress is None or passes_since_update(engine):
            return {}
        return self.progress.metrics()

    def by_label(self, what: str, values: Tensor, labelled: Tensor) -> dict[str, Tensor]:
        """``what_<objective>`` to its values, (B, m), on the rows that it labels, or on none."""
        columns = zip(self.objectives, values.T, labelled.T, strict=True)
        return {f"{what}_{name}": of[where] for name, of, where in columns}

    def by_name(self, what: str, values: Tensor) -> dict[str, Tensor]:
        """``what_<objective>`` to the mean over all rows; values of size (..., m)."""
        means = values.reshape(-1, len(self.objectives)).mean(dim=0)
        return {f"{what}_{name}": means[i] for i, name in enumerate(self.objectives)}

    def fingerprints(self) -> dict[str, Any]:
        """The base model's fingerprint of every adapter, by role."""
        return {role: adapter.config.base_fingerprint for role, adapter in self.adapters.items()}

    def state_dict(self) -> dict[str, Any]:
        """The place in the stream of λ, the ideal point, the bases; weights are the engines'."""
        return {
            "source": self.source.state_dict(),
            "ideal_point": self.ideal_point.state_dict(),
            "bases": self.fingerprints(),
            "progress": None if self.progress is None else self.progress.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to ``state_dict``; an ``AdapterError`` where a base model has other weights."""
        check_unchanged(state.get("bases", {}), self.fingerprints())  # older: none
        self.source.load_state_dict(state["source"])
        self.ideal_point.load_state_dict(state["ideal_point"])
        if self.progress is not None and state.get("progress") is not None:  # older: none
            self.progress.load_state_dict(state["progress"])
