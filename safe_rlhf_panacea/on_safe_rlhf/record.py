"""A run's record beside Safe-RLHF's own logs."""

from __future__ import annotations

import datetime
from functools import cached_property
from typing import Any, ClassVar

from safe_rlhf.trainers.base import TrainerBase

from safe_rlhf_panacea.base.part import Part
from safe_rlhf_panacea.data.template import ChatTemplate
from safe_rlhf_panacea.distributed import is_main_process
from safe_rlhf_panacea.runs.checkpoint import TrainingClock
from safe_rlhf_panacea.runs.divergence import DivergenceCheck
from safe_rlhf_panacea.runs.run_folder import claim_folder
from safe_rlhf_panacea.runs.run_record import write_run_record


class Recorded(TrainerBase):
    """Claims the output folder, as the port does, and records the run in it; holds a part."""

    PROGRAM: ClassVar[str] = ""
    part: Part = Part()

    @cached_property
    def template(self) -> ChatTemplate:
        """How this run writes conversations, once the tokenizer is loaded."""
        now = datetime.datetime.now()
        return ChatTemplate.of(self.args.chat_template, self.tokenizer, now)

    @property
    def total_steps(self) -> int:
        """Training steps of the run."""
        return self.args.total_training_steps

    def init_logger(self) -> None:
        """Record the run, then open Safe-RLHF's logger."""
        self.clock = TrainingClock()
        args = self.args
        if is_main_process():
            claim_folder(args.output_dir, overwrite=args.overwrite)
            about = {
                "program": f"python -m {self.PROGRAM or type(self).__module__}",
                "chat_template": self.template.recorded,
            }
            about["template_date"] = str(self.template.now)
            write_run_record(args.output_dir, args, {**about, **self.part.about()})
        super().init_logger()
        self.part.opened()

    def train(self) -> None:
        """Safe-RLHF's loop, and what the part does after it."""
        super().train()
        self.part.trained()

    def eval(self) -> dict[str, Any]:
        """Evaluate, with the part."""
        return self.part.evaluate(self.evaluate)

    def evaluate(self) -> dict[str, Any]:
        """Safe-RLHF's evaluation."""
        return super().eval()

    def save(self, model: Any = None, ds_config: dict[str, Any] | None = None) -> None:
        """What the part saves, else what Safe-RLHF does."""
        if not self.part.save():
            super().save(model=model, ds_config=ds_config)

    def checked(self, info: dict[str, Any]) -> dict[str, Any]:
        """What is logged of the present step, if it is finite: Safe-RLHF saves after it.

        Raises:
            DivergedError: naming the step, what is not finite and the batch.
        """
        DivergenceCheck().check(self.global_step + 1, info, {}, self.about_batch())
        return info

    def about_batch(self) -> str:
        """What an error says of the batch of the present step."""
        return self.part.about_batch()
