"""Three objectives: what is reached over the triangle of λ; more: parallel coordinates."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from figure_program import Draw, Report, add_runs, figure_main, of_fronts, read_fronts

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.fronts.result import FrontResult
from safe_rlhf_panacea.show.plots import front_figure, literal, new_figure

CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, np.sqrt(3) / 2]])  # of λ1, λ2, λ3


def draw_triangles(fronts: Sequence[FrontResult], labels: Sequence[str], title: str) -> Any:
    """A row per method, a triangle per objective, coloured by what is reached at each λ."""
    figure = new_figure(4.3 * 3, 0.6 + 3.9 * len(fronts))
    figure.suptitle(literal(title), fontsize=12)
    panels = figure.subplots(len(fronts), 3, squeeze=False)
    stacked = np.concatenate([front.values for front in fronts])
    for row, front in zip(panels, fronts, strict=True):
        for index, axes in enumerate(row):
            limits = stacked[:, index].min(), stacked[:, index].max()
            points = _triangle(axes, front, index, limits)
            axes.set_title(literal(f"{front.label}: {front.objectives[index]}"), fontsize=10)
            bar = figure.colorbar(points, ax=axes, fraction=0.045, pad=0.02)
            bar.set_label(f"{literal(labels[index])} – better ↑", fontsize=9)
    return figure


def _triangle(axes: Any, front: FrontResult, index: int, limits: tuple[float, float]) -> Any:
    """One objective over the simplex."""
    spots = front.preferences @ CORNERS
    axes.fill(*CORNERS.T, facecolor="none", edgecolor="0.6", linewidth=1)
    style = {"cmap": "cividis", "vmin": limits[0], "vmax": limits[1]}
    points = axes.scatter(*spots.T, c=front.values[:, index], s=150, edgecolors="0.3", **style)
    places = [(-0.02, -0.07, "left"), (1.02, -0.07, "right"), (0.5, CORNERS[2, 1] + 0.05, "center")]
    for name, (x, y, side) in zip(front.objectives, places, strict=True):
        axes.text(x, y, f"only {literal(name)}", ha=side, va="center", fontsize=9)
    axes.set(xlim=(-0.1, 1.1), ylim=(-0.15, 1.0), aspect="equal")
    axes.axis("off")
    return points


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of this program."""
    add_runs(parser, "evaluations of three objectives or more")
    parser.add_argument("--style", choices=("triangle", "parallel"), help="default: by m")


def make(args: argparse.Namespace, _: Path) -> tuple[Report, Draw]:
    """Read the fronts of three objectives or more."""
    fronts = read_fronts(args)
    count = len(fronts[0].objectives)
    style = args.style or ("triangle" if count == 3 else "parallel")
    if count < 3 or (style == "triangle" and count > 3):
        raise UserError(
            f"{args.runs[0]} has {count} objectives: a triangle has 3, others 3 or more"
        )
    names = ", ".join(fronts[0].objectives)
    reading = {
        "triangle": "Each point is a λ: the nearer a corner, the more weight on its objective.",
        "parallel": "Each line is a λ, coloured by its first weight.",
    }
    report = Report(
        figure=f"Beyond the paper: {count} objectives",
        title=f"One model for {names}",
        caption=f"{reading[style]} The colour or height is the mean reward there.",
        **of_fronts(fronts),
    )
    if style == "triangle":
        return report, lambda: draw_triangles(fronts, fronts[0].axis_labels, report.title)
    return report, lambda: front_figure(fronts, report.title)


main = figure_main(__file__, __doc__, "--runs runs/evaluation/three-objectives", add_flags, make)

if __name__ == "__main__":
    main()
