"""What the trainers on Safe-RLHF share: the run's record and part, and repairs of their engines."""

from __future__ import annotations

import datetime
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, ClassVar

from safe_rlhf.trainers.base import TrainerBase

from safe_rlhf_panacea.base.engine import with_own_rates
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

    @functools.cached_property
    def template(self) -> ChatTemplate:
        now = datetime.datetime.now()
        return ChatTemplate.of(self.args.chat_template, self.tokenizer, now)

    @property
    def total_steps(self) -> int:
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
                "template_date": str(self.template.now),
            }
            write_run_record(args.output_dir, args, {**about, **self.part.about()})
        super().init_logger()
        self.part.opened()

    def train(self) -> None:
        super().train()
        self.part.trained()

    def eval(self) -> dict[str, Any]:
        return self.part.evaluate(self.evaluate)

    def evaluate(self) -> dict[str, Any]:
        """Safe-RLHF's own evaluation."""
        return super().eval()

    def save(self, model: Any = None, ds_config: dict[str, Any] | None = None) -> None:
        if not self.part.save():
            super().save(model=model, ds_config=ds_config)

    def checked(self, info: dict[str, Any]) -> dict[str, Any]:
        """What is logged of the present step, if it is finite: Safe-RLHF saves after it.

        Raises:
            DivergedError: naming the step, what is not finite and the batch.
        """
        DivergenceCheck().check(self.global_step + 1, info, {}, self.part.about_batch())
        return info


@contextmanager
def own_rates(trainers: ModuleType, lr: float) -> Iterator[None]:
    """Inside, parameters with an ``lr_multiplier`` come in optimiser groups with their own rate.

    ``trainers`` is Safe-RLHF's module that calls ``get_optimizer_grouped_parameters``, and ``lr``
    the learning rate of the other parameters.
    """
    original = trainers.get_optimizer_grouped_parameters

    def split(*args: Any, **kwargs: Any) -> list[dict[str, Any]]:
        return with_own_rates(original(*args, **kwargs), lr)

    vars(trainers)["get_optimizer_grouped_parameters"] = split
    try:
        yield
    finally:
        vars(trainers)["get_optimizer_grouped_parameters"] = original


def recompute_without_reentry(model: Any) -> None:
    """Let ``gradient_checkpointing_enable()``, as Safe-RLHF calls it, choose the kind that works.

    The re-entrant kind, transformers' default, gives no gradient at all where the inputs of a
    layer need none: always, with a frozen embedding.
    """
    enable = type(model).gradient_checkpointing_enable
    model.gradient_checkpointing_enable = functools.partial(enable, model, {"use_reentrant": False})
