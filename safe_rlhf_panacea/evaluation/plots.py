"""Pictures of fronts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from safe_rlhf_panacea.evaluation.front import Front
from safe_rlhf_panacea.evaluation.indicators import non_dominated_mask

# Okabe and Ito's palette: told apart by colour-blind readers, and in grey by their markers.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
ANNOTATED = 6  # λ labels along a front


def plot_fronts(
    fronts: Sequence[Front],
    path: str | os.PathLike[str],
    title: str,
    reference_point: Sequence[float] | None = None,
    axis_labels: Sequence[str] | None = None,
) -> None:
    """Draw fronts into one picture: a plane for two objectives, parallel axes for more.

    Args:
        fronts: of the same objectives; λ is written along the first one.
        path: ends in ``.png`` or ``.pdf``.
        title: above the picture.
        reference_point: named below the picture, m numbers.
        axis_labels: one per objective; default: the objectives' names.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    labels = list(axis_labels or fronts[0].objectives)
    figure, axes = plt.subplots(figsize=(7.5, 5.2), layout="constrained")
    if len(labels) == 2:
        _draw_plane(axes, fronts, labels)
    else:
        _draw_parallel(axes, fronts, labels)
    axes.set_title(title, fontsize=11)
    if reference_point is not None:
        text = ", ".join(f"{value:g}" for value in reference_point)
        figure.supxlabel(f"hypervolume measured from ({text})", fontsize=8, color="0.4")
    _save(figure, Path(path))
    plt.close(figure)


def _draw_plane(axes: Any, fronts: Sequence[Front], labels: Sequence[str]) -> None:
    for index, front in enumerate(fronts):
        colour = COLOURS[index % len(COLOURS)]
        marker = MARKERS[index % len(MARKERS)]
        _draw_front(axes, front, colour, marker)
    _annotate(axes, fronts[0], COLOURS[0])
    axes.set_xlabel(f"{labels[0]} →")
    axes.set_ylabel(f"{labels[1]} →")
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.margins(0.1)
    note = f"numbers: λ of {fronts[0].objectives[0]}"
    axes.legend(loc="lower left", framealpha=0.9, fontsize=9, title=note, title_fontsize=9)


def _draw_front(axes: Any, front: Front, colour: str, marker: str) -> None:
    values, errors = front.values, front.errors
    kept = non_dominated_mask(values)
    order = np.argsort(values[kept, 0])
    axes.errorbar(
        values[:, 0],
        values[:, 1],
        xerr=errors[:, 0],
        yerr=errors[:, 1],
        fmt="none",
        ecolor=colour,
        alpha=0.25,
        linewidth=1,
    )
    axes.plot(*values[kept][order].T, color=colour, linewidth=1.6, alpha=0.8, zorder=2)
    style = {"marker": marker, "linestyle": "none", "color": colour, "markersize": 6, "zorder": 3}
    axes.plot(*values[kept].T, label=front.label, **style)
    if not kept.all():
        axes.plot(
            *values[~kept].T,
            **style,
            markerfacecolor="white",
            label=f"{front.label}, dominated" if front.label else "dominated",
        )


def _annotate(axes: Any, front: Front, colour: str) -> None:
    """Write λ beside a few points, away from the line."""
    count = len(front.points)
    chosen = sorted({round(i * (count - 1) / (ANNOTATED - 1)) for i in range(ANNOTATED)})
    for index in chosen:
        axes.annotate(
            f"{front.preferences[index, 0]:g}",
            front.values[index],
            xytext=(7, 7),
            textcoords="offset points",
            fontsize=8.5,
            color=colour,
        )


def _draw_parallel(axes: Any, fronts: Sequence[Front], labels: Sequence[str]) -> None:
    """Objectives side by side, each scaled to its range over all fronts."""
    stacked = np.concatenate([front.values for front in fronts])
    low, high = stacked.min(axis=0), stacked.max(axis=0)
    span = np.where(high > low, high - low, 1.0)
    positions = np.arange(len(labels))
    for index, front in enumerate(fronts):
        colour = COLOURS[index % len(COLOURS)]
        for number, row in enumerate((front.values - low) / span):
            label = front.label if number == 0 else None
            axes.plot(positions, row, color=colour, alpha=0.45, linewidth=1.2, label=label)
    ticks = [f"{t}\n{a:.3g} … {b:.3g}" for t, a, b in zip(labels, low, high, strict=True)]
    axes.set_xticks(positions, ticks)
    axes.set_ylabel("share of each objective's range")
    axes.grid(axis="x", alpha=0.4)
    axes.legend(framealpha=0.9, fontsize=9)


def _save(figure: Any, path: Path) -> None:
    temporary = path.with_name(f".{path.name}.part")
    figure.savefig(temporary, dpi=150, format=path.suffix.lstrip("."))
    os.replace(temporary, path)
