"""What is shown of a training's evaluations, and where: files, wandb, TensorBoard."""

from __future__ import annotations

import functools
import io
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from safe_rlhf_panacea.base.run_record import EVALUATIONS_FILE, REPORT_FILE, RESULTS_FILE
from safe_rlhf_panacea.fronts.evaluations import Evaluation, append_evaluation
from safe_rlhf_panacea.fronts.indicators import INDICATORS, non_dominated_mask
from safe_rlhf_panacea.io import atomic_write_json, atomic_write_text, cut_half_line
from safe_rlhf_panacea.show import pictures
from safe_rlhf_panacea.show.pages import render
from safe_rlhf_panacea.show.tables import Table, indicators_table, points_table


def vector_name(preference: Sequence[float]) -> str:
    """λ in the name of a series, ``0.25_0.75``."""
    return "_".join(f"{value:.2f}" for value in preference)


def scalars(evaluation: Evaluation) -> dict[str, float]:
    """Time series: indicators, every J and KL by λ, sizes of σ and s."""
    indicators = evaluation.result.indicators
    found = {f"front/{key}": float(indicators[key]) for key in INDICATORS}
    for name, value in zip(evaluation.objectives, indicators["spearman"], strict=True):
        found[f"front/spearman_{name}"] = value
    for point in evaluation.result.points:
        where = vector_name(point.preference)
        for name, value in zip(evaluation.objectives, point.objectives, strict=True):
            found[f"front_{name}/{where}"] = value
        if point.kl is not None:
            found[f"front_kl/{where}"] = point.kl
    for part in ("sigma", "s"):
        sizes = np.abs([v for entry in evaluation.singular_values for v in entry[part]])
        if sizes.size:
            found[f"singular/median_abs_{part}"] = float(np.median(sizes))
            found[f"singular/max_abs_{part}"] = float(sizes.max())
    found["front/seconds"] = evaluation.seconds
    return found


def responses_table(evaluation: Evaluation) -> Table:
    """A few prompts, each answered at every λ."""
    names = evaluation.objectives
    rewarded = bool(evaluation.responses and evaluation.responses[0]["rewards"])
    columns = ["step", "prompt", *(f"λ {n}" for n in names), "response"]
    columns += [*(names if rewarded else []), "log π/π_ref"]
    rows = []
    for entry in evaluation.responses:
        row = [evaluation.step, entry["prompt"], *entry["preference"], entry["response"]]
        rows.append([*row, *entry["rewards"], entry["log_ratio"]])
    return Table(f"Responses at step {evaluation.step}", columns, rows)


def singular_values_table(evaluation: Evaluation) -> Table:
    """Sizes of σ and s, matrix by matrix."""
    columns = ["step", "matrix", "least |σ|", "median |σ|", "largest |σ|", "|s|"]
    rows = []
    for entry in evaluation.singular_values:
        sizes, s = np.abs(entry["sigma"]), np.abs(entry["s"])
        spread = float(sizes.min()), float(np.median(sizes)), float(sizes.max())
        largest = float(s.max()) if s.size else None
        rows.append([evaluation.step, entry["matrix"], *spread, largest])
    return Table("Matrix by matrix", columns, rows)


def histograms(evaluation: Evaluation) -> dict[str, list[float]]:
    """Rewards (or margins) by objective and λ, and all σ and s."""
    found = {}
    for point, values in zip(evaluation.result.points, evaluation.distributions, strict=True):
        for name, column in zip(evaluation.objectives, values, strict=True):
            found[f"values_{name}/{vector_name(point.preference)}"] = list(column)
    for part in ("sigma", "s"):
        found[f"singular/{part}"] = [v for e in evaluation.singular_values for v in e[part]]
    return {name: values for name, values in found.items() if values}


@dataclass(frozen=True)
class Content:
    """All that there is to show; pictures are drawn once, whoever asks for them.

    Attributes:
        evaluations: every evaluation so far, the latest whole.
    """

    evaluations: Sequence[Evaluation]

    @property
    def latest(self) -> Evaluation:
        """The evaluation of now."""
        return self.evaluations[-1]

    @functools.cached_property
    def pictures(self) -> dict[str, bytes]:
        """PNGs by name."""
        latest = self.latest
        drawn = {
            "front/so_far": pictures.fronts_so_far(self.evaluations),
            "front/now": pictures.front_now(latest),
            "front/indicators": pictures.indicators(self.evaluations),
            "front/distributions": pictures.distributions(latest),
            "singular/by_matrix": pictures.singular_values(latest),
        }
        if all(point.kl is not None for point in latest.result.points):
            drawn["front/kl"] = pictures.kl(latest)
        if any(map(any, latest.drawn.values())):
            drawn["preferences/drawn"] = pictures.preferences_drawn(latest)
        return drawn

    @functools.cached_property
    def tables(self) -> dict[str, Table]:
        """Tables by name."""
        results = [one.result for one in self.evaluations]
        seconds = [round(one.seconds, 1) for one in self.evaluations]
        return {
            "front/points": points_table(results, "step"),
            "front/indicators": indicators_table(results, "step", seconds=seconds),
            "responses": responses_table(self.latest),
            "singular/by_matrix": singular_values_table(self.latest),
        }


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
        atomic_write_json(self.folder / RESULTS_FILE, content.latest.result.to_json())
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
                values = evaluation.result.values
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
