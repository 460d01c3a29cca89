"""Figure 3: reward distributions of the initial model and of Panacea at several λ."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from figure_program import Draw, Report, figure_main

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.fronts.evaluations import read_responses
from safe_rlhf_panacea.fronts.measurement import labelled_statistics
from safe_rlhf_panacea.fronts.result import FrontResult
from safe_rlhf_panacea.show.plots import literal, new_figure, spread
from safe_rlhf_panacea.show.tables import Table, vector_text

SHOWN = 5  # λ


def by_preference(rows: Sequence[dict[str, Any]]) -> dict[tuple[float, ...], np.ndarray]:
    """λ to rewards, size = (N, m), NaN where one does not count; the initial model's under ()."""
    grouped: dict[tuple[float, ...], list[list[float]]] = {}
    for row in rows:
        grouped.setdefault(tuple(row["preference"]), []).append(row["rewards"])
    return {key: np.array(values, dtype=np.float64) for key, values in grouped.items()}


def density(values: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """A Gaussian kernel estimate; a constant becomes a narrow peak."""
    spread_of_values = values.std() * 1.06 * len(values) ** -0.2  # Silverman's rule
    width = max(spread_of_values, (grid[-1] - grid[0]) / 200)
    scaled = (grid[:, None] - values[None]) / width
    return np.exp(-0.5 * scaled**2).mean(axis=1) / (width * np.sqrt(2 * np.pi))


def draw(
    groups: dict[str, np.ndarray], colours: Sequence[Any], labels: Sequence[str], title: str
) -> Any:
    """A panel per objective, a curve per model."""
    figure = new_figure(4.6 * len(labels), 4.2)
    figure.suptitle(title, fontsize=11)
    panels = figure.subplots(1, len(labels), squeeze=False)[0]
    for index, (axes, label) in enumerate(zip(panels, labels, strict=True)):
        everything = np.concatenate([values[:, index] for values in groups.values()])
        low, high = np.nanquantile(everything, [0.002, 0.998])
        margin = 0.15 * (high - low or 1.0)
        grid = np.linspace(low - margin, high + margin, 300)
        for (name, values), colour in zip(groups.items(), colours, strict=True):
            column = values[:, index][~np.isnan(values[:, index])]
            style = {"linestyle": "--", "linewidth": 2} if colour == "0.25" else {"linewidth": 1.8}
            axes.plot(grid, density(column, grid), color=colour, label=name, **style)
            axes.axvline(column.mean(), color=colour, linewidth=0.9, alpha=0.6, zorder=1)
        axes.set_xlabel(f"{literal(label)} – better →")
        axes.set_ylim(bottom=0)
        axes.set_yticks([])
    panels[0].set_ylabel("density")
    panels[0].legend(fontsize=8, title="λ; thin lines are means", title_fontsize=8)
    return figure


def make(args: argparse.Namespace, _: Path) -> tuple[Report, Draw]:
    """Read the responses and their rewards."""
    names = FrontResult.load(args.run).objectives
    groups = by_preference(read_responses(args.run, names))
    base = groups.pop((), None)
    if base is None:
        raise UserError(f"{args.run} lacks the initial model: evaluate --with_base true")
    chosen = spread(sorted(groups), SHOWN)
    shown = {"initial model": base} | {vector_text(key): groups[key] for key in chosen}
    rows = []
    for name, values in shown.items():
        above = np.where(np.isnan(values), np.nan, values > np.nanmean(base, axis=0))
        means, spreads, _ = labelled_statistics(torch.from_numpy(values))
        rows.append([name, *means.tolist(), *spreads.tolist(), *np.nanmean(above, axis=0)])
    columns = ["model", *(f"mean {n}" for n in names), *(f"std {n}" for n in names)]
    columns += [f"{n} above the initial mean" for n in names]
    report = Report(
        figure="Figure 3",
        title="Reward distributions of the initial model and of Panacea",
        caption="Rewards of sampled responses to the same prompts, smoothed; vertical lines are "
        f"means. λ is ({', '.join(names)}).",
        paper_says="For every λ, Panacea shifts both reward distributions to the right of the "
        "initial model's; turning λ moves them against each other, finely.",
        tables=[Table("Rewards by λ", columns, rows)],
        numbers={"responses_per_model": len(base)},
    )

    def draw_it() -> Any:
        from matplotlib import colormaps

        colours = ["0.25", *(colormaps["plasma"](x) for x in np.linspace(0.85, 0, len(chosen)))]
        return draw(shown, colours, [f"reward: {name}" for name in names], report.title)

    return report, draw_it


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of this program."""
    parser.add_argument("--run", required=True, help="an evaluation with reward models")


main = figure_main(__file__, __doc__, "--run runs/evaluation/panacea-ppo", add_flags, make)

if __name__ == "__main__":
    main()
