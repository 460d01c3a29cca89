"""The one call site: an evaluation goes in, and everything that shows it is brought up to date."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safe_rlhf_panacea.base.distributed import is_main_process
from safe_rlhf_panacea.fronts.evaluations import Evaluation, read_evaluations
from safe_rlhf_panacea.show.writers import Content, Writer, scalars, writers_for


class Dashboard:
    """A run's evaluations and where they are shown; only the main process shows anything.

    Attributes:
        evaluations: all evaluations, those before a resume among them; only the latest is whole.
    """

    def __init__(self, folder: Path, logger: Any) -> None:
        """Go on where the folder's evaluations end.

        Args:
            folder: the run's.
            logger: with ``wandb``, ``writer`` (TensorBoard's) and ``print``.

        Raises:
            UserError: the folder's evaluations are damaged.
        """
        self.logger = logger
        self.evaluations: list[Evaluation] = []
        self.writers: list[Writer] = []
        self._shown = False
        if is_main_process():
            self.evaluations = read_evaluations(folder)
            self.writers = list(writers_for(folder, logger))

    def publish(self, evaluation: Evaluation) -> dict[str, float]:
        """Show an evaluation; returns its time series for the caller to log.

        What goes wrong the first time is raised: the run has only begun. Later it costs a line
        and not the training.
        """
        if is_main_process():
            self.evaluations = [*(s.light() for s in self.evaluations), evaluation]
            content = Content(self.evaluations)
            for writer in self.writers:
                self._try(writer.write, content)
            self._shown = True
        return scalars(evaluation)

    def finish(self) -> None:
        """No further evaluation will come."""
        if self.evaluations:
            content = Content(self.evaluations)
            for writer in self.writers:
                self._try(writer.finish, content)

    def _try(self, action: Any, content: Content) -> None:
        try:
            action(content)
        except Exception as error:
            if not self._shown:
                raise
            name = type(action.__self__).__name__
            self.logger.print(f"dashboard: {name} failed and is left out: {error!r}")
