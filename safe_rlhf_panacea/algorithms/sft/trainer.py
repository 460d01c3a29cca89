"""Panacea-SFT: J_i = E[log π(y|x)] over the texts of objective i, aggregated with λ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from safe_rlhf_panacea.aggregation import label_counts
from safe_rlhf_panacea.algorithms.trainer import PanaceaTrainer
from safe_rlhf_panacea.base.engine import Batch, step_info
from safe_rlhf_panacea.base.supervised import SupervisedTrainer
from safe_rlhf_panacea.configs.algorithms import SFTConfig
from safe_rlhf_panacea.data.datasets import SupervisedDataset, read_named_specs
from safe_rlhf_panacea.data.raw import RawSample, labels_for
from safe_rlhf_panacea.data.specs import DatasetSpec
from safe_rlhf_panacea.data.template import ChatTemplate
from safe_rlhf_panacea.data.tokenized import Row, Sample
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.forward import answer_log_probs, of_each_token
from safe_rlhf_panacea.fronts.measure import PROMPTS_OF_PAIRS, measure, prompts_of_texts
from safe_rlhf_panacea.fronts.measurement import Measurement


class ObjectiveTexts(SupervisedDataset):
    """Supervised text, each with the objectives that it counts for: those of its data set.

    A data set of pairs gives each of its objectives the responses that its labels prefer.
    """

    def __init__(
        self,
        named: Mapping[DatasetSpec, Sequence[str]],
        tokenizer: Any,
        objectives: Sequence[str],
        seed: int = 0,
        counted: Sequence[str] | None = None,
        template: ChatTemplate | None = None,
    ) -> None:
        """Read and tokenise ``named``, data sets with the objectives that each counts for.

        ``objectives`` are in the order of λ. A text has to count for one of ``counted``, by
        default for any. The other arguments are those of ``TokenizedDataset``.
        """
        self.objectives = tuple(objectives)
        self.counted = self.objectives if counted is None else tuple(counted)
        self.counts_for = [[name in names for name in objectives] for names in named.values()]
        super().__init__(list(named), tokenizer, seed=seed, template=template)

    def encode(self, rows: list[Row]) -> None:
        texts = [text for row in rows for text in self._texts(row)]
        if not texts:
            names = ", ".join(self.counted)
            raise UserError(f"{self.source}: no pair has a label for one of {names}")
        super().encode(texts)
        self.labelled = torch.tensor([sample.pop("labelled") for sample in self._samples])

    def make(self, row: Row, prompt: list[int], *texts: list[int]) -> Sample:
        return {**super().make(row, prompt, *texts), "labelled": row.labels}

    def __getitem__(self, index: int) -> Sample:
        """With ``labelled``, size = (m,): which objectives the text counts for."""
        return {**super().__getitem__(index), "labelled": self.labelled[self._rows[index]]}

    def _counts(self, counts_for: Sequence[bool]) -> bool:
        named = zip(self.objectives, counts_for, strict=True)
        return any(counts and name in self.counted for name, counts in named)

    def _texts(self, row: Row) -> Iterator[Row]:
        """The texts in a row that count, ``labels`` of which say for which objectives."""
        counts_for = self.counts_for[row.data_set]
        if "other_answer" not in row.sample:
            if self._counts(counts_for):
                yield row._replace(labels=counts_for)
            return
        labels = [labels_for(row.sample, name, where=row.where)[0] for name in self.objectives]
        for side, answer in enumerate((row.sample["answer"], row.sample["other_answer"])):
            better = [label == side for label in labels]
            counts = [a and b for a, b in zip(better, counts_for, strict=True)]
            if self._counts(counts):
                sample: RawSample = {**row.sample, "answer": answer}
                del sample["other_answer"]
                yield row._replace(sample=sample, labels=counts)

    def check_whole(self) -> None:
        """Refuse an objective that counts and has no text left, with a ``UserError``."""
        there = self.labelled[self._rows].any(dim=0).tolist()
        for name, has_any in zip(self.objectives, there, strict=True):
            if name in self.counted and not has_any:
                raise UserError(f"{self.source}: no text is left for objective {name!r}")

    @staticmethod
    def collate(samples: list[Any], pad_token_id: int) -> Sample:
        """With ``labelled``, size = (B, m)."""
        labelled = torch.stack([sample["labelled"] for sample in samples])
        return {**SupervisedDataset.collate(samples, pad_token_id), "labelled": labelled}


class PanaceaSFTTrainer(PanaceaTrainer, SupervisedTrainer):
    """Fine-tunes the adapter on texts that count for one objective or for several."""

    TRAINING_TYPE: ClassVar[str] = "panacea-sft"
    PROGRAM: ClassVar[str] = "safe_rlhf_panacea.algorithms.sft"

    def __init__(self, args: SFTConfig, *ds_configs: dict[str, Any]) -> None:
        self.init_panacea(args, tuple(args.objectives or ()), args.model_name_or_path)
        super().__init__(args, *ds_configs)

    def init_models(self) -> None:
        super().init_models()
        self.panacea.attach(self.model, "policy", self.template)

    def make_dataset(self, specs: list[str]) -> ObjectiveTexts:
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

    def count(self, batch: Batch) -> Tensor:
        """Texts of each objective, and texts."""
        return label_counts(batch["labelled"])

    def train_step(self, **batch: Tensor) -> dict[str, Any]:
        """Draw λ where an update begins, and take the step at it."""
        panacea, labelled = self.panacea, batch["labelled"].bool()  # size = (B, m)
        preference = panacea.draw(len(labelled), self.model, labelled=labelled)  # size = (B, m)
        with panacea.at(preference):
            losses = self.loss(**batch)
            self.model.backward(losses["loss"])
            self.model.step()
        info = step_info({**losses, **panacea.by_name("preference", preference)}, self.model)
        return {**info, **panacea.progress_metrics(self.model)}

    def loss(self, **batch: Tensor) -> dict[str, Tensor]:
        """-log π(y|x) of every text, for the objectives that it counts for, aggregated at λ.

        ``batch`` has token ids, labels and mask, size = (B, L) each; ``labelled``, which objectives
        a text counts for, size = (B, m); ``counts`` of an average micro-batch of the update,
        size = (m + 1,).
        """
        texts = (batch[key] for key in ("input_ids", "labels", "attention_mask"))
        panacea, labelled = self.panacea, batch["labelled"]
        log_probs, tokens = answer_log_probs(self.model, *texts)  # size = (B,) each
        losses = -log_probs.unsqueeze(-1).expand(labelled.shape)  # size = (B, m)
        return {
            "loss": panacea.loss(losses, labelled, batch.get("counts")),
            **panacea.by_label("loss", losses.detach(), labelled),
            **{
                f"loss_per_token_{name}": of_each_token(losses[own, 0].detach(), tokens[own])
                for name, own in zip(panacea.objectives, labelled.T, strict=True)
            },
        }

    def evaluate(self) -> dict[str, Any]:
        """Nothing: the front has every objective's log-likelihood at every λ."""
        return {}

    def measure_front(self) -> Measurement:
        """Log-likelihoods of the evaluation texts; a few of their prompts are responded to."""
        texts, count = self.eval_dataloader.dataset, self.args.eval_prompts or PROMPTS_OF_PAIRS
        policy, prompts = self.measured_policy(self.model), prompts_of_texts(texts, count)
        return measure(policy, self.grid, prompts=prompts, texts=texts)
