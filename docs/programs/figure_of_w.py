"""Draws ``docs/figures/w_of_lambda.svg``: how λ enters a weight matrix.

Run it with ``python docs/programs/figure_of_w.py``; another file may be named.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("svg")

from matplotlib import pyplot as plt
from matplotlib.patches import Rectangle

FILE = Path(__file__).resolve().parents[1] / "figures" / "w_of_lambda.svg"
K, M = 8, 2  # singular values that λ does not touch; objectives
SHARED, OWN = "#7b8794", ("#1f77b4", "#d95f02")
FROZEN = "#d9dee3"
PREFERENCES = ((1.0, 0.0), (0.5, 0.5), (0.0, 1.0))
SCALE = 0.9  # s, in units of the largest σ
NAMES = ("helpful", "harmless")


def colour(index: int) -> str:
    """Of a singular value and of its two vectors."""
    return SHARED if index < K else OWN[index - K]


def draw_product(axes: Any) -> None:
    """W0 + factor · U · diag(σ, sλ) · Vᵀ as blocks."""
    axes.add_patch(Rectangle((0, 0), 10, 10, facecolor=FROZEN, edgecolor="black"))
    axes.text(5, 5, "$W_0$\nfrozen", ha="center", va="center")
    axes.text(12, 5, r"$+\ \frac{\mathrm{scaling}}{k}\,\cdot$", ha="center", va="center")
    rank, size = K + M, 0.45
    for index in range(rank):
        left = 14.4 + size * index
        axes.add_patch(Rectangle((left, 0), size, 10, facecolor=colour(index), edgecolor="white"))
        top = 7.25 - size * (index + 1)
        axes.add_patch(Rectangle((20.2 + size * index, top), size, size, facecolor=colour(index)))
        axes.add_patch(Rectangle((26.0, top), 10, size, facecolor=colour(index), edgecolor="white"))
    axes.add_patch(Rectangle((20.2, 2.75), 4.5, 4.5, fill=False, edgecolor="black", linewidth=0.6))
    for x, text in ((16.65, "$U$"), (22.45, r"$\mathrm{diag}(\sigma, s\lambda)$"), (31, "$V^T$")):
        axes.text(x, 10.4, text, ha="center", va="bottom")
    axes.text(19.5, 5, "·", ha="center", va="center")
    axes.text(25.3, 5, "·", ha="center", va="center")
    axes.set(xlim=(-0.3, 36.5), ylim=(-0.4, 12), aspect="equal")
    axes.axis("off")


def draw_values(axes: Any, preference: tuple[float, float]) -> None:
    """The singular values at one λ."""
    sigma = 0.8 * np.exp(-0.25 * np.arange(K))
    values = [*sigma, *(SCALE * weight for weight in preference)]
    axes.bar(range(K + M), values, color=[colour(index) for index in range(K + M)])
    axes.set_title(rf"$\lambda$ = ({preference[0]:g}, {preference[1]:g})", fontsize=10)
    labels = [rf"$\sigma_{{{index + 1}}}$" for index in range(K)]
    labels += [rf"$s\lambda_{{{index + 1}}}$" for index in range(M)]
    axes.set_xticks(range(K + M), labels, fontsize=7)
    axes.set(ylim=(0, 1), yticks=[])
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def draw(file: Path) -> None:
    """Write the figure as SVG, the same bytes each time for one version of matplotlib."""
    settings = {"svg.hashsalt": "panacea", "font.size": 10, "svg.fonttype": "none"}
    with plt.rc_context(settings):
        figure = plt.figure(figsize=(8, 4.6), layout="constrained")
        grid = figure.add_gridspec(2, 3, height_ratios=(1.5, 1))
        draw_product(figure.add_subplot(grid[0, :]))
        for column, preference in enumerate(PREFERENCES):
            draw_values(figure.add_subplot(grid[1, column]), preference)
        handles = [Rectangle((0, 0), 1, 1, facecolor=c) for c in (SHARED, *OWN)]
        figure.legend(
            handles, ["shared by all λ", *NAMES], loc="outside lower center", ncols=3, frameon=False
        )
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, metadata={"Date": None}, facecolor="white")
        plt.close(figure)


if __name__ == "__main__":
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else FILE)
