"""The pictures of a training's evaluations, as figures of matplotlib."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from safe_rlhf_panacea.fronts.evaluations import Evaluation
from safe_rlhf_panacea.fronts.indicators import INDICATORS
from safe_rlhf_panacea.show.plots import (
    COLOURS,
    MARKERS,
    front_figure,
    literal,
    new_figure,
    sequential_colours,
    spread,
)
from safe_rlhf_panacea.show.tables import against, fronts_title

MOST_FRONTS = {2: 8, 3: 4}  # in one picture; with more objectives 3
LINES = ("-", "--", ":", "-.")
SIDE_BY_SIDE = 7  # λ in panels that stand side by side
LABELLED = 15  # λ written below an axis
# In the order in which a layer uses them; others follow in alphabetical order.
MATRICES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
UNITS = {
    "reward": "reward of a response",
    "accuracy": "implicit-reward margin towards the label",
    "log-likelihood": "log-probability per token of a text",
}


def fronts_so_far(evaluations: Sequence[Evaluation]) -> Any:
    """Every front so far, or as many as can be told apart; the later, the darker."""
    latest = evaluations[-1]
    chosen = spread(evaluations, MOST_FRONTS.get(len(latest.objectives), 3))
    fronts = [evaluation.front for evaluation in reversed(chosen)]  # the latest on top, with its λ
    colours = sequential_colours(len(fronts))[::-1]
    left_out = len(evaluations) - len(chosen)
    title = f"The front as it grows: {against(latest.objectives)}"
    title += f" ({left_out} evaluations left out)" if left_out else ""
    return front_figure(fronts, title, colours)


def front_now(evaluation: Evaluation) -> Any:
    """The latest front, in a plane beside the initial model, where that was measured."""
    title = f"{fronts_title([evaluation.result])}, at step {evaluation.step}"
    return front_figure(evaluation.front.beside_initial_model(), title)


def indicators(evaluations: Sequence[Evaluation]) -> Any:
    """A panel per indicator, over the steps of training."""
    names = evaluations[0].objectives
    found = [one.result.indicators for one in evaluations]
    series = {label: [[one[key] for one in found]] for key, label in INDICATORS.items()}
    correlations = [[one["spearman"][i] for one in found] for i in range(len(names))]
    series["Spearman of J and λ ↑"] = correlations
    figure = new_figure(9.5, 4.8)
    steps = [evaluation.step for evaluation in evaluations]
    for axes, (label, lines) in zip(figure.subplots(2, 3).flat, series.items(), strict=True):
        for index, line in enumerate(lines):
            name = literal(names[index]) if len(lines) > 1 else None
            style = {"marker": MARKERS[index % 7], "ls": LINES[index % 4]}  # lines may coincide
            axes.plot(steps, line, ms=4, lw=1.4, color=COLOURS[index % 7], label=name, **style)
        axes.set_title(label, fontsize=10)
        axes.grid(alpha=0.25)
        if label == INDICATORS["dominated"]:
            axes.set_ylim(-0.4, max(4.4, 1.1 * max(lines[0])))
        if len(lines) > 1:
            axes.legend(fontsize=8)
            axes.set_ylim(-1.08, 1.08)
    figure.supxlabel("training step", fontsize=9)
    return figure


def _preference_axis(axes: Any, evaluation: Evaluation) -> None:
    """λ below an axis of one place per grid point."""
    preferences = [point.preference for point in evaluation.result.points]
    places = spread(range(len(preferences)), LABELLED)
    labels = ["(" + ", ".join(f"{v:.2g}" for v in preferences[i]) + ")" for i in places]
    axes.set_xticks(places, labels, rotation=0 if len(places) <= 5 else 60, fontsize=8)
    axes.set_xlabel(f"λ ({literal(', '.join(evaluation.objectives))})", fontsize=9)
    axes.grid(axis="y", alpha=0.25)


def distributions(evaluation: Evaluation) -> Any:
    """Boxes of single values by λ, a panel per objective, the initial model as a band."""
    count = len(evaluation.objectives)
    wide = len(evaluation.distributions) > SIDE_BY_SIDE  # then one below the other
    rows, columns = (count, 1) if wide else (1, count)
    figure = new_figure(9.5 if wide else 3.9 * count + 0.4, 3.9 * rows + 0.3)
    style: dict[str, Any] = {
        "widths": 0.6,
        "whis": (5, 95),
        "showfliers": False,
        "showmeans": True,
        "manage_ticks": False,
        "medianprops": {"color": COLOURS[1]},
        "meanprops": {"marker": "D", "markersize": 4, "markerfacecolor": COLOURS[0]},
    }
    for index, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        values = [row[index] for row in evaluation.distributions]
        axes.boxplot(values, positions=range(len(values)), **style)
        if evaluation.base_distributions:
            base = evaluation.base_distributions[index]
            low, high = np.quantile(base, 0.05), np.quantile(base, 0.95)
            axes.axhspan(low, high, color="0.9", zorder=0, label="initial model, 5 to 95 %")
            mean = float(np.mean(base))
            axes.axhline(mean, color="0.5", ls="--", lw=1, zorder=1, label="its mean")
            axes.legend(fontsize=8)
        axes.set_title(literal(evaluation.objectives[index]), fontsize=10)
        _preference_axis(axes, evaluation)
    figure.supylabel(UNITS[evaluation.result.kind], fontsize=9)
    boxes = "quartiles, 5 to 95 %, median (line), mean (diamond)"
    figure.suptitle(f"By λ at step {evaluation.step}: {boxes}", fontsize=10)
    return figure


def kl(evaluation: Evaluation) -> Any:
    """The KL to the reference at every λ, with its standard error."""
    points = evaluation.result.points
    figure = new_figure(max(5.0, 0.5 * len(points) + 1), 3.6)
    axes = figure.subplots()
    values, errors = [point.kl for point in points], [point.kl_error for point in points]
    style = {"fmt": "o", "color": COLOURS[0], "capsize": 3}
    axes.errorbar(range(len(points)), values, yerr=errors, **style)
    axes.axhline(0, color="0.6", lw=0.8)
    axes.set_ylabel("KL (nats per response)", fontsize=9)
    title = f"KL to the initial model at step {evaluation.step}, ± standard error"
    axes.set_title(title, fontsize=10)
    _preference_axis(axes, evaluation)
    return figure


def _place(module: str) -> tuple[int, int, str]:
    """Layer number, place of the kind and kind, for sorting and labelling."""
    kind = module.rsplit(".", 1)[-1]
    number = re.search(r"\.(\d+)\.", f".{module}.")
    rank = MATRICES.index(kind) if kind in MATRICES else len(MATRICES)
    return int(number[1]) if number else 0, rank, kind


def singular_values_figure(matrices: dict[str, tuple[np.ndarray, np.ndarray]], title: str) -> Any:
    """A column of dots per matrix: its |σ|, and |s|, which is |s · λ| at a vertex."""
    modules = sorted(matrices, key=lambda m: (*_place(m), m))
    figure = new_figure(max(7.0, 0.16 * len(modules) + 2), 4.4)
    axes = figure.subplots()
    styles = (
        ("o", {"ms": 3.5, "color": COLOURS[0]}, "|σ|, one dot each"),
        ("D", {"ms": 6, "color": COLOURS[1], "mec": "white"}, "|s| = |s · λ| at a vertex"),
    )
    for x, module in enumerate(modules):
        for values, (marker, style, label) in zip(matrices[module], styles, strict=True):
            first = {"label": label} if x == 0 else {}
            axes.plot(np.full(len(values), x), np.abs(values), marker, **style, **first)
    if any(np.any(values) for pair in matrices.values() for values in pair):
        axes.set_yscale("log")  # zeros, as before the first step, have no place on it
    axes.set_ylabel("singular value")
    places = [_place(module) for module in modules]
    if len(modules) <= 60:
        axes.set_xticks(range(len(modules)), [kind for *_, kind in places], rotation=90, fontsize=7)
    else:
        axes.set_xticks([])
    starts = [x for x, p in enumerate(places) if x == 0 or p[0] != places[x - 1][0]]
    step = max(1, len(starts) // 16)
    for index, x in enumerate(starts):
        axes.axvline(x - 0.5, color="0.85", linewidth=0.8, zorder=0)
        if index % step == 0:
            text, where = f"layer {places[x][0]}", (x - 0.3, 1.01)
            axes.annotate(text, where, xycoords=axes.get_xaxis_transform(), fontsize=8)
    axes.set_xlim(-0.8, len(modules) - 0.2)
    axes.set_title(title, fontsize=11, pad=18)
    axes.legend(fontsize=8, loc="lower right")
    axes.grid(axis="y", alpha=0.25)
    return figure


def singular_values(evaluation: Evaluation) -> Any:
    """The sizes of σ and s, matrix by matrix."""
    matrices = {
        entry["matrix"]: (np.asarray(entry["sigma"]), np.asarray(entry["s"]))
        for entry in evaluation.singular_values
    }
    return singular_values_figure(matrices, f"Singular values at step {evaluation.step}")


def preferences_drawn(evaluation: Evaluation) -> Any:
    """How often each tenth of [0, 1] was drawn for λ_i."""
    count = len(evaluation.drawn)
    figure = new_figure(3.4 * count + 0.4, 2.9)
    panels = figure.subplots(1, count, squeeze=False, sharey=True)[0]
    for axes, (name, counts) in zip(panels, evaluation.drawn.items(), strict=True):
        edges = np.linspace(0, 1, len(counts) + 1)
        axes.bar(edges[:-1], counts, width=np.diff(edges) * 0.94, align="edge", color=COLOURS[0])
        axes.set_xlabel(f"λ of {literal(name)}", fontsize=9)
    panels[0].set_ylabel("times drawn", fontsize=9)
    figure.suptitle(f"λ drawn in training up to step {evaluation.step}", fontsize=10)
    return figure


def curves(metrics: Sequence[dict[str, Any]], groups: dict[str, list[str]]) -> Any:
    """Training curves of lines of ``metrics.jsonl``, a panel per title and its series."""
    columns = min(3, len(groups))
    rows = -(-len(groups) // columns)
    figure = new_figure(3.9 * columns, 2.7 * rows + 0.2)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, (title, names) in zip(panels, groups.items(), strict=False):
        for index, name in enumerate(names):
            points = [(m["step"], m[name]) for m in metrics if isinstance(m.get(name), float | int)]
            label = literal(name.rpartition("/")[2])
            axes.plot(*zip(*points, strict=True), lw=1, color=COLOURS[index % 7], label=label)
        axes.set_title(literal(title), fontsize=10)
        axes.grid(alpha=0.25)
        if names[0].startswith("train/preference_"):
            axes.set_ylim(-0.04, 1.04)
        if len(names) > 1:
            axes.legend(fontsize=7)
    for axes in panels[len(groups) :]:
        axes.set_visible(False)
    figure.supxlabel("training step", fontsize=9)
    return figure
