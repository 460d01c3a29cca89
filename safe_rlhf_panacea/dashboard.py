"""What is shown of a training's evaluations, and where: files, wandb, TensorBoard.

``python -m safe_rlhf_panacea.dashboard`` draws the page of a run anew from its files.
"""

from __future__ import annotations

import functools
import io
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from safe_rlhf_panacea.configs import Options, Program, option
from safe_rlhf_panacea.distributed import is_main_process
from safe_rlhf_panacea.errors import UserError, one_line_errors
from safe_rlhf_panacea.fronts.evaluations import Evaluation, append_evaluation, read_evaluations
from safe_rlhf_panacea.fronts.indicators import INDICATORS, non_dominated_mask
from safe_rlhf_panacea.io import atomic_write_json, atomic_write_text, check_file, cut_half_line
from safe_rlhf_panacea.printing import say
from safe_rlhf_panacea.runs.run_folder import EVALUATIONS_FILE, REPORT_FILE, RESULTS_FILE
from safe_rlhf_panacea.show import pictures
from safe_rlhf_panacea.show.pages import render
from safe_rlhf_panacea.show.plots import picture_bytes
from safe_rlhf_panacea.show.tables import Table, indicators_table, points_table

PROGRAM = "python -m safe_rlhf_panacea.dashboard"


def _vector_name(preference: Sequence[float]) -> str:
    """λ in the name of a series, ``0.25_0.75``."""
    return "_".join(f"{value:.2f}" for value in preference)


def scalars(evaluation: Evaluation) -> dict[str, float]:
    """Time series: indicators, every J and KL by λ, sizes of σ and s."""
    indicators = evaluation.result.indicators
    found = {f"front/{key}": float(indicators[key]) for key in INDICATORS}
    for name, value in zip(evaluation.objectives, indicators["spearman"], strict=True):
        found[f"front/spearman_{name}"] = value
    for point in evaluation.result.points:
        where = _vector_name(point.preference)
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


def histograms(evaluation: Evaluation) -> dict[str, list[float]]:
    """Rewards (or margins) by objective and λ, and all σ and s."""
    found = {}
    for point, values in zip(evaluation.result.points, evaluation.distributions, strict=True):
        for name, column in zip(evaluation.objectives, values, strict=True):
            found[f"values_{name}/{_vector_name(point.preference)}"] = list(column)
    for part in ("sigma", "s"):
        found[f"singular/{part}"] = [v for e in evaluation.singular_values for v in e[part]]
    return {name: values for name, values in found.items() if values}


@dataclass(frozen=True)
class Content:
    """All that there is to show; pictures are drawn once, whoever asks for them."""

    evaluations: Sequence[Evaluation]  # so far, the latest whole

    @property
    def latest(self) -> Evaluation:
        """The latest evaluation."""
        return self.evaluations[-1]

    @functools.cached_property
    def pictures(self) -> dict[str, bytes]:
        """The pictures of the evaluations, as PNG, by name."""
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
        return {name: picture_bytes(figure) for name, figure in drawn.items()}

    @functools.cached_property
    def tables(self) -> dict[str, Table]:
        """The tables of the evaluations, by name."""
        results = [one.result for one in self.evaluations]
        seconds = [round(one.seconds, 1) for one in self.evaluations]
        latest, names = self.latest, self.latest.objectives
        rewarded = latest.responses and latest.responses[0]["rewards"]
        heads = ["step", "prompt", *(f"λ {n}" for n in names), "response"]
        heads += [*(names if rewarded else []), "log π/π_ref"]
        responses = []
        for entry in latest.responses:
            row = [latest.step, entry["prompt"], *entry["preference"], entry["response"]]
            responses.append([*row, *entry["rewards"], entry["log_ratio"]])
        matrices = []
        for matrix in latest.singular_values:
            sizes, s = np.abs(matrix["sigma"]), np.abs(matrix["s"])
            spread = float(sizes.min()), float(np.median(sizes)), float(sizes.max())
            largest = float(s.max()) if s.size else None
            matrices.append([latest.step, matrix["matrix"], *spread, largest])
        columns = ["step", "matrix", "least |σ|", "median |σ|", "largest |σ|", "|s|"]
        return {
            "front/points": points_table(results, "step"),
            "front/indicators": indicators_table(results, "step", seconds=seconds),
            "responses": Table(f"Responses at step {latest.step}", heads, responses),
            "singular/by_matrix": Table("Matrix by matrix", columns, matrices),
        }


def write_page(folder: Path, content: Content, *, running: bool) -> None:
    """Replace ``report.html``, which reads itself again while the training is running."""
    atomic_write_text(folder / REPORT_FILE, render(folder, content, running=running))


def write_files(folder: Path, content: Content) -> None:
    """Append the latest evaluation to its file, then replace ``results.json`` and the page."""
    cut_half_line(folder / EVALUATIONS_FILE)
    append_evaluation(folder, content.latest)
    atomic_write_json(folder / RESULTS_FILE, content.latest.result.to_json())
    write_page(folder, content, running=True)


def log_wandb(run: Any, content: Content) -> None:
    """Log tables, pictures, histograms and a chart of the front under the latest one's step."""
    import wandb
    from PIL import Image

    logged: dict[str, Any] = {}
    for name, table in content.tables.items():
        logged[f"{name}_table"] = wandb.Table(columns=list(table.columns), data=table.rows)
    for name, png in content.pictures.items():
        logged[f"{name}_picture"] = wandb.Image(Image.open(io.BytesIO(png)))
    for name, values in histograms(content.latest).items():
        logged[name] = wandb.Histogram(values)
    # Every front so far as lines through its non-dominated points, pair by pair.
    keys = [f"step {evaluation.step}" for evaluation in content.evaluations]
    fronts = [evaluation.result.values for evaluation in content.evaluations]
    fronts = [front[non_dominated_mask(front)] for front in fronts]
    for (i, first), (j, second) in itertools.combinations(enumerate(content.latest.objectives), 2):
        lines = [front[np.argsort(front[:, i])] for front in fronts]
        logged[f"front/{first}_{second}"] = wandb.plot.line_series(
            [line[:, i].tolist() for line in lines],
            [line[:, j].tolist() for line in lines],
            keys=keys,
            title=f"Front: {second} against {first}",
            xname=first,
        )
    run.log(logged, step=content.latest.step)


def log_tensorboard(writer: Any, content: Content) -> None:
    """Add pictures, histograms, and tables as Markdown to TensorBoard's ``SummaryWriter``."""
    from PIL import Image

    step = content.latest.step
    for name, png in content.pictures.items():
        pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
        writer.add_image(name, pixels, global_step=step, dataformats="HWC")
    for name, values in histograms(content.latest).items():
        writer.add_histogram(name, np.asarray(values), global_step=step)
    for name, table in content.tables.items():
        writer.add_text(name, table.markdown(), global_step=step)
    writer.flush()


class Dashboard:
    """A run's evaluations and where they are shown; only the main process shows anything.

    It goes on where the evaluations in the run's folder end, and raises a ``UserError`` if these
    are damaged. Files are always written; wandb and TensorBoard where the ``logger`` has them.
    """

    def __init__(self, folder: Path, logger: Any) -> None:
        self.folder, self.logger = folder, logger
        self.evaluations: list[Evaluation] = []  # those before a resume too; only the latest whole
        self.places: dict[str, Callable[[Content], None]] = {}
        self._shown = False
        if is_main_process():
            self.evaluations = read_evaluations(folder)
            self.places["files"] = functools.partial(write_files, folder)
            if logger.wandb is not None:
                self.places["wandb"] = functools.partial(log_wandb, logger.wandb)
            if logger.writer is not None:
                self.places["tensorboard"] = functools.partial(log_tensorboard, logger.writer)

    def publish(self, evaluation: Evaluation) -> dict[str, float]:
        """Show an evaluation; returns its time series for the caller to log.

        What goes wrong the first time is raised: the run has only begun. Later it costs a line
        and not the training.
        """
        if is_main_process():
            self.evaluations = [*(s.light() for s in self.evaluations), evaluation]
            content = Content(self.evaluations)
            for name, show in self.places.items():
                self._try(name, show, content)
            self._shown = True
        return scalars(evaluation)

    def finish(self) -> None:
        """No further evaluation will come: the page no longer reads itself again."""
        if self.evaluations:
            last = functools.partial(write_page, self.folder, running=False)
            self._try("files", last, Content(self.evaluations))

    def _try(self, name: str, show: Callable[[Content], None], content: Content) -> None:
        try:
            show(content)
        except Exception as error:
            if not self._shown:
                raise
            self.logger.print(f"dashboard: {name} failed and is left out: {error!r}")


class DashboardOptions(Options):
    """Options of this program."""

    run: str = option(
        text="folder of a training that evaluates (--need_eval)", required=True, positional=True
    )
    output: str | None = option(text=f"default: {REPORT_FILE} in the run's folder")
    overwrite: bool = option(False, "replace an --output that is there")


COMMAND = Program(
    DashboardOptions,
    PROGRAM,
    f"""
    Draw the page of a run anew from {EVALUATIONS_FILE} and metrics.jsonl: the growing front,
    indicators, distributions, responses, singular values, training curves.
    """,
    f"{PROGRAM} runs/latest/panacea-ppo --output front.html",
)


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Read a run's evaluations, draw its page and write it."""
    options = COMMAND.read(argv)
    evaluations = read_evaluations(options.run)
    if not evaluations:
        raise UserError(f"{options.run} holds no {EVALUATIONS_FILE}: train with --need_eval")
    output = Path(options.output or Path(options.run) / REPORT_FILE)
    if options.output:
        check_file(output, options.overwrite)
    try:
        page = render(Path(options.run).resolve(), Content(evaluations), running=False)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        text = f"{options.run}: its files are not those of this version: {error!r}"
        raise UserError(text) from error
    atomic_write_text(output, page)
    say(f"Written to {output}")


if __name__ == "__main__":
    main()
