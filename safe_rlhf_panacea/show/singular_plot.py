"""The picture of learned singular values: |σ| beside |s · λ|, matrix by matrix."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from safe_rlhf_panacea.show.plots import COLOURS, new_figure

# In the order in which a layer uses them; others follow in alphabetical order.
KINDS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def place(module: str) -> tuple[int, int, str]:
    """Layer number, place of the kind and kind, for sorting and labelling."""
    kind = module.rsplit(".", 1)[-1]
    number = re.search(r"\.(\d+)\.", f".{module}.")
    rank = KINDS.index(kind) if kind in KINDS else len(KINDS)
    return int(number[1]) if number else 0, rank, kind


def singular_values_figure(matrices: dict[str, tuple[np.ndarray, np.ndarray]], title: str) -> Any:
    """A column of dots per matrix: its |σ|, and |s|, which is |s · λ| at a vertex."""
    modules = sorted(matrices, key=lambda m: (*place(m), m))
    figure = new_figure(max(7.0, 0.16 * len(modules) + 2), 4.4)
    axes = figure.subplots()
    for x, module in enumerate(modules):
        sigma, s = matrices[module]
        first = {"label": "|σ|, one dot each"} if x == 0 else {}
        axes.plot(np.full(len(sigma), x), np.abs(sigma), "o", ms=3.5, color=COLOURS[0], **first)
        first = {"label": "|s| = |s · λ| at a vertex"} if x == 0 else {}
        axes.plot(np.full(len(s), x), np.abs(s), "D", ms=6, color=COLOURS[1], mec="white", **first)
    if any(np.any(values) for pair in matrices.values() for values in pair):
        axes.set_yscale("log")  # zeros, as before the first step, have no place on it
    axes.set_ylabel("singular value")
    places = [place(module) for module in modules]
    if len(modules) <= 60:
        axes.set_xticks(range(len(modules)), [kind for *_, kind in places], rotation=90, fontsize=7)
    else:
        axes.set_xticks([])
    starts = [x for x, p in enumerate(places) if x == 0 or p[0] != places[x - 1][0]]
    step = max(1, len(starts) // 16)
    for index, x in enumerate(starts):
        axes.axvline(x - 0.5, color="0.85", linewidth=0.8, zorder=0)
        if index % step == 0:
            where = (x - 0.3, 1.01)
            axes.annotate(
                f"layer {places[x][0]}", where, xycoords=axes.get_xaxis_transform(), fontsize=8
            )
    axes.set_xlim(-0.8, len(modules) - 0.2)
    axes.set_title(title, fontsize=11, pad=18)
    axes.legend(fontsize=8, loc="lower right")
    axes.grid(axis="y", alpha=0.25)
    return figure
