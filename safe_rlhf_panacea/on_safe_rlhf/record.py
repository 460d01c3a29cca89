"""What the trainers on Safe-RLHF share: the run's record, and repairs of their engines."""

from __future__ import annotations

import datetime
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, ClassVar

from safe_rlhf.models import load_pretrained_models
from safe_rlhf.trainers.base import TrainerBase

from safe_rlhf_panacea.base.engine import with_own_rates
from safe_rlhf_panacea.data.template import ChatTemplate
from safe_rlhf_panacea.distributed import is_main_process
from safe_rlhf_panacea.models.loading import check_positions
from safe_rlhf_panacea.runs.checkpoint import TrainingClock
from safe_rlhf_panacea.runs.divergence import DivergenceCheck
from safe_rlhf_panacea.runs.run_folder import claim_folder
from safe_rlhf_panacea.runs.run_record import write_run_record


class Recorded(TrainerBase):
    """Claims the output folder, as the port does, and records the run in it.

    The methods of the port's ``TrainerBase`` that Panacea's trainers override are here too.
    """

    PROGRAM: ClassVar[str] = ""
    LOGS_BEFORE_COUNTING: ClassVar[bool] = False  # whether a step is logged before it is counted

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
            write_run_record(args.output_dir, args, {**about, **self.about()})
        super().init_logger()
        self.opened()

    def about(self) -> dict[str, Any]:
        return {}

    def about_batch(self) -> str:
        return ""

    def opened(self) -> None:
        """The output folder is claimed and the logger open."""

    def trained(self) -> None:
        """The last step was taken."""

    def train(self) -> None:
        with self._checked_log():
            super().train()
        self.trained()

    @contextmanager
    def _checked_log(self) -> Iterator[None]:
        """Inside, a step that is not finite is refused when it is logged: Safe-RLHF saves later.

        Safe-RLHF has one logger for all trainers of a process, which must not keep this one alive.
        """
        log, own = self.logger.log, vars(self.logger).get("log")

        def checked(metrics: dict[str, Any], step: int) -> None:
            training = {k: v for k, v in metrics.items() if k.startswith("train/")}
            number = step + self.LOGS_BEFORE_COUNTING
            DivergenceCheck().check(number, training, {}, self.about_batch())
            log(metrics, step=step)

        self.logger.log = checked
        try:
            yield
        finally:
            del self.logger.log
            if own is not None:  # somebody's, which the logger had before
                self.logger.log = own

    def eval(self) -> dict[str, Any]:
        return self.evaluate()

    def evaluate(self) -> dict[str, Any]:
        """Safe-RLHF's own evaluation."""
        return super().eval()


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


def load_policy(args: Any, path: str) -> tuple[Any, Any]:
    """A policy and its tokenizer, which pads on the left.

    Whole on every rank, also under ZeRO 3: an adapter is made to measure for whole weights.
    ``gradient_checkpointing_enable()``, as Safe-RLHF calls it, then chooses the kind that works:
    the re-entrant one, transformers' default, gives no gradient at all where the inputs of a layer
    need none: always, with a frozen embedding.
    """
    model, tokenizer = load_pretrained_models(
        path,
        model_max_length=args.max_length,
        padding_side="left",
        trust_remote_code=args.trust_remote_code,
    )
    check_positions(model, args.max_length, path)
    enable = type(model).gradient_checkpointing_enable
    model.gradient_checkpointing_enable = functools.partial(enable, model, {"use_reentrant": False})
    return model, tokenizer
