"""Panacea-SFT: J_i = E[log π(y|x)] over the texts of objective i, aggregated with λ."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from safe_rlhf_panacea.aggregation import label_counts
from safe_rlhf_panacea.algorithms.panacea import Panacea
from safe_rlhf_panacea.algorithms.part import PanaceaPart
from safe_rlhf_panacea.algorithms.sft.data import ObjectiveTexts, read_named_specs
from safe_rlhf_panacea.base.distributed import all_reduce_means
from safe_rlhf_panacea.base.trainers.supervised import SupervisedTrainer
from safe_rlhf_panacea.base.trainers.updates import Batch
from safe_rlhf_panacea.configs.algorithms import SFTConfig
from safe_rlhf_panacea.forward import answer_log_probs, of_each_token
from safe_rlhf_panacea.fronts.measure import PROMPTS_OF_PAIRS, measure, prompts_of_texts
from safe_rlhf_panacea.fronts.measurement import Measurement


class PanaceaSFTTrainer(SupervisedTrainer):
    """Fine-tunes the adapter on texts that count for one objective or for several."""

    TRAINING_TYPE: ClassVar[str] = "panacea-sft"

    part: PanaceaPart

    def __init__(self, args: SFTConfig, ds_train_config: dict[str, Any]) -> None:
        """Make the component, then run the hooks."""
        self.panacea = Panacea(args, tuple(args.objectives or ()), args.model_name_or_path)
        self.part = PanaceaPart(self)
        super().__init__(args, ds_train_config)

    def init_models(self) -> None:
        """Load the model and inject the adapter."""
        super().init_models()
        self.panacea.attach(self.model, "policy", self.template)

    def make_dataset(self, specs: list[str]) -> ObjectiveTexts:
        """Texts with their objectives."""
        return ObjectiveTexts(
            read_named_specs("a data set", specs),
            self.tokenizer,
            self.panacea.objectives,
            seed=self.args.seed,
            counted=self.panacea.counted(self.args, specs),
            template=self.template,
        )

    def init_datasets(self) -> None:
        """Load the data; every objective that counts needs some."""
        super().init_datasets()
        for loader in (self.train_dataloader, self.eval_dataloader):
            if loader is not None:
                texts: Any = loader.dataset  # what ``make_dataset`` made, or a part of it
                texts.check_whole()

    def train_step(self, **batch: torch.Tensor) -> dict[str, Any]:
        """Take the step at the batch's λ, drawn where an update begins."""
        labelled = batch["labelled"].bool()  # size = (B, m)
        preference = self.panacea.draw(len(labelled), self.model, labelled=labelled)
        with self.panacea.at(preference):
            info = super().train_step(**batch)
        drawn = all_reduce_means(self.panacea.by_name("train/preference", preference))
        return {**info, **drawn, **self.panacea.progress_metrics(self.model)}

    def count(self, batch: Batch) -> torch.Tensor:
        """Texts of each objective, and texts."""
        return label_counts(batch["labelled"])

    def loss(
        self,
        input_ids: torch.Tensor,  # size = (B, L)
        labels: torch.Tensor,  # size = (B, L)
        attention_mask: torch.Tensor,  # size = (B, L)
        labelled: torch.Tensor,  # size = (B, m)
        counts: torch.Tensor | None = None,  # size = (m + 1,)
    ) -> dict[str, torch.Tensor]:
        """-log π(y|x) of every text, for the objectives that it counts for, aggregated at λ."""
        log_probs, tokens = answer_log_probs(self.model, input_ids, labels, attention_mask)
        losses = -log_probs.unsqueeze(-1).expand(labelled.shape)  # size = (B, m)
        return {
            "loss": self.panacea.loss(losses, labelled, counts),
            **self.panacea.by_label("loss", losses.detach(), labelled),
            **{
                f"loss_per_token_{name}": of_each_token(losses[own, 0].detach(), tokens[own])
                for name, own in zip(self.panacea.objectives, labelled.T, strict=True)
            },
        }

    # -- evaluation -------------------------------------------------------------------

    def evaluate(self) -> dict[str, Any]:
        """Nothing: the front has every objective's log-likelihood at every λ."""
        return {}

    def measure_front(self) -> Measurement:
        """Log-likelihoods of the evaluation texts; a few of their prompts are responded to."""
        texts, args = self.part.evaluator.data, self.args
        policy = self.part.evaluator.measured_policy(self.model)
        prompts = prompts_of_texts(texts, args.eval_prompts or PROMPTS_OF_PAIRS)
        return measure(policy, self.part.evaluator.grid, prompts=prompts, texts=texts)
