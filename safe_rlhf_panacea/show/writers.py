"""Where a dashboard is shown; each writer gets the same content."""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from safe_rlhf_panacea.base.run_record import EVALUATIONS_FILE, REPORT_FILE, RESULTS_FILE
from safe_rlhf_panacea.fronts.evaluations import append_evaluation
from safe_rlhf_panacea.fronts.indicators import non_dominated_mask
from safe_rlhf_panacea.io import atomic_write_json, atomic_write_text, cut_half_line
from safe_rlhf_panacea.show.content import Content, histograms
from safe_rlhf_panacea.show.page import render


class Writer(Protocol):
    """Shows content."""

    def write(self, content: Content) -> None:
        """Show an evaluation that has just been made."""

    def finish(self, content: Content) -> None:
        """Show that no further one will come."""


class FileWriter:
    """``evaluations.jsonl``, ``results.json`` (the latest evaluation) and ``report.html``."""

    def __init__(self, folder: Path) -> None:
        """``folder`` exists; what an interruption left of a line there is taken away."""
        self.folder = folder
        cut_half_line(folder / EVALUATIONS_FILE)

    def write(self, content: Content) -> None:
        """Append, then replace."""
        append_evaluation(self.folder, content.latest)
        atomic_write_json(self.folder / RESULTS_FILE, content.latest.result)
        atomic_write_text(self.folder / REPORT_FILE, render(self.folder, content, running=True))

    def finish(self, content: Content) -> None:
        """The page no longer reads itself again."""
        atomic_write_text(self.folder / REPORT_FILE, render(self.folder, content, running=False))


class WandbWriter:
    """Tables, pictures, histograms and a chart of the front in a run of wandb."""

    def __init__(self, run: Any) -> None:
        """``run`` is open."""
        self.run = run

    def write(self, content: Content) -> None:
        """Log under the latest evaluation's step."""
        import wandb
        from PIL import Image

        logged: dict[str, Any] = {}
        for name, table in content.tables.items():
            logged[f"{name}_table"] = wandb.Table(columns=table.columns, data=table.rows)
        for name, png in content.pictures.items():
            logged[f"{name}_picture"] = wandb.Image(Image.open(io.BytesIO(png)))
        for name, values in histograms(content.latest).items():
            logged[name] = wandb.Histogram(values)
        logged |= self._charts(content)
        self.run.log(logged, step=content.latest.step)

    def _charts(self, content: Content) -> dict[str, Any]:
        """Every front so far as lines through its non-dominated points, pair by pair."""
        import wandb

        charts = {}
        names = content.latest.objectives
        for (i, first), (j, second) in itertools.combinations(enumerate(names), 2):
            xs, ys, keys = [], [], []
            for evaluation in content.evaluations:
                values = evaluation.front.values
                kept = values[non_dominated_mask(values)]
                kept = kept[np.argsort(kept[:, i])]
                xs.append(kept[:, i].tolist())
                ys.append(kept[:, j].tolist())
                keys.append(f"step {evaluation.step}")
            charts[f"front/{first}_{second}"] = wandb.plot.line_series(
                xs, ys, keys=keys, title=f"Front: {second} against {first}", xname=first
            )
        return charts

    def finish(self, content: Content) -> None:
        """Nothing: the logger closes the run."""


class TensorboardWriter:
    """Pictures, histograms, and tables as text."""

    def __init__(self, writer: Any) -> None:
        """``writer`` is a ``SummaryWriter``."""
        self.writer = writer

    def write(self, content: Content) -> None:
        """Add under the latest evaluation's step."""
        from PIL import Image

        step = content.latest.step
        for name, png in content.pictures.items():
            pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
            self.writer.add_image(name, pixels, global_step=step, dataformats="HWC")
        for name, values in histograms(content.latest).items():
            self.writer.add_histogram(name, np.asarray(values), global_step=step)
        for name, table in content.tables.items():
            self.writer.add_text(name, table.markdown(), global_step=step)
        self.writer.flush()

    def finish(self, content: Content) -> None:
        """Nothing: the logger closes the writer."""


def writers_for(folder: Path, logger: Any) -> Sequence[Writer]:
    """Files always, and wherever the run's logger logs, Safe-RLHF's or the port's."""
    found: list[Writer] = [FileWriter(folder)]
    if logger.wandb is not None:
        found.append(WandbWriter(logger.wandb))
    if logger.writer is not None:
        found.append(TensorboardWriter(logger.writer))
    return found
