"""Pictures of fronts."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.fronts.indicators import non_dominated_mask
from safe_rlhf_panacea.fronts.result import FrontResult
from safe_rlhf_panacea.io import atomic_path
from safe_rlhf_panacea.show.tables import fronts_title

# Okabe and Ito's palette: told apart by colour-blind readers, and in grey by their markers.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
SUFFIXES = (".png", ".pdf")
IN_THE_AXES = 4  # so many fronts leave a corner free for the legend
ANNOTATED = 5  # λ labels along the first front
# Where a label may stand, seen from its point: upper right, the empty side of a front, first.
ANGLES = (45, 70, 20, 90, 0, 115, -25, 135, 160, 180, 205, 225, 250, 270, 295, 315)
RADII = (12, 20, 30, 42, 56)  # in points


def new_figure(width: float, height: float) -> Any:
    """A matplotlib figure with a canvas of its own: pyplot and the backend stay untouched."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def literal(text: str) -> str:
    """Text as Matplotlib shows it unchanged: no formulas, and no label hidden for its ``_``."""
    return (" " if text.startswith("_") else "") + text.replace("$", r"\$")


def sequential_colours(count: int) -> list[str]:
    """From pale to dark, for an order; readable without colour vision too."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return [to_hex(colormaps["viridis_r"](share)) for share in np.linspace(0.08, 1, count)]


def spread(items: Sequence[Any], count: int) -> list[Any]:
    """At most ``count`` items, spread evenly from the first to the last."""
    last = len(items) - 1
    chosen = np.linspace(0, last, min(count, len(items))).round().astype(int)
    return [items[i] for i in dict.fromkeys(chosen.tolist())]


def front_figure(
    fronts: Sequence[FrontResult], title: str | None = None, colours: Sequence[str] = COLOURS
) -> Any:
    """A matplotlib figure of fronts: a plane for two objectives, parallel axes for more.

    λ is written along the first front, which also names the axes and the reference point. The
    title is by default what the fronts are of.
    """
    first = fronts[0]
    labels = [literal(label) for label in first.axis_labels]
    plane = len(labels) == 2
    figure = new_figure(7.5, 5.2 if plane else 1.6 + 2.8 * len(fronts))
    figure.suptitle(literal(fronts_title(fronts) if title is None else title), fontsize=11)
    point = ", ".join(_number(value) for value in first.reference_point)
    figure.supxlabel(f"hypervolume measured from ({point})", fontsize=8, color="0.4")
    if plane:
        _draw_plane(figure, fronts, labels, colours)
    else:
        _draw_parallel(figure, fronts, labels)
    return figure


def _number(value: float) -> str:
    """Three digits, with a minus as long as the axes'."""
    return f"{value:.3g}".replace("-", "−")


def _draw_plane(
    figure: Any, fronts: Sequence[FrontResult], labels: Sequence[str], colours: Sequence[str]
) -> None:
    """Error bars, the lines of non-dominated points, and all points, dominated ones hollow."""
    axes, any_hollow = figure.subplots(), False
    for index, front in enumerate(fronts):
        # Shifted every round, so that a colour that comes again has another marker.
        marker = MARKERS[(index + index // len(MARKERS)) % len(MARKERS)]
        colour = colours[index % len(colours)]
        zorder = 3 + (len(fronts) - index) / len(fronts)
        values, errors = front.values, front.errors
        kept = non_dominated_mask(values)
        bars = {"fmt": "none", "ecolor": colour, "alpha": 0.3, "elinewidth": 1, "zorder": 1}
        axes.errorbar(values[:, 0], values[:, 1], xerr=errors[:, 0], yerr=errors[:, 1], **bars)
        order = np.argsort(values[kept, 0])
        axes.plot(*values[kept][order].T, color=colour, linewidth=1.6, alpha=0.8, zorder=2)
        style = {"marker": marker, "linestyle": "none", "color": colour, "markersize": 6.5}
        filled = {"markeredgecolor": "white", "markeredgewidth": 0.6}
        label = literal(front.label or "front")
        axes.plot(*values[kept].T, label=label, zorder=zorder, **style, **filled)
        hollow = {"markerfacecolor": "white", "markeredgewidth": 1.3}
        axes.plot(*values[~kept].T, zorder=zorder, **style, **hollow)
        any_hollow |= not kept.all()
    axes.set_xlabel(f"{labels[0]} – better →")
    axes.set_ylabel(f"{labels[1]} – better →")
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.margins(0.1)
    axes.autoscale_view()  # otherwise not before the first drawing, and free ground is of now
    place: dict[str, Any] = {"loc": "best"}
    if len(fronts) > IN_THE_AXES:
        place = {"loc": "upper left", "bbox_to_anchor": (1.01, 1)}  # beside the axes
    note = f"λ₁: weight of {literal(fronts[0].objectives[0])}"
    note += "\nhollow: dominated" if any_hollow else ""
    axes.legend(framealpha=0.9, fontsize=9, title=note, title_fontsize=9, **place)
    figure.draw_without_rendering()  # the layout settles; labels are placed in its pixels
    _annotate(axes, fronts, colours[0])


def _annotate(axes: Any, fronts: Sequence[FrontResult], colour: str) -> None:
    """Write λ₁ beside points spread over the first front, on free ground."""
    first, scale = fronts[0], axes.figure.dpi / 72
    inked = []  # pixels of markers, and along the lines of the non-dominated points
    shares = np.linspace(0, 1, 60)[:, None, None]
    for front in fronts:
        spots = axes.transData.transform(front.values)
        kept = spots[non_dominated_mask(front.values)]
        kept = kept[np.argsort(kept[:, 0])]
        inked += [spots, (kept[:-1] + shares * np.diff(kept, axis=0)).reshape(-1, 2)]
    ink = np.concatenate(inked)  # size = (n, 2)
    taken = [axes.get_legend().get_window_extent().extents]
    last = len(first.points) - 1
    chosen = sorted({round(i * last / (ANNOTATED - 1)) for i in range(ANNOTATED)})
    line = {"arrowstyle": "-", "color": colour, "linewidth": 0.7, "alpha": 0.7}
    for index in chosen:
        label = axes.annotate(
            f"λ₁={_number(first.preferences[index, 0])}",
            first.values[index],
            xytext=(0, 0),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=9,
            color=colour,
            arrowprops={**line, "shrinkA": 1, "shrinkB": 4},
            zorder=6,
        )
        size = np.array(label.get_window_extent().size) + 4  # with a little air
        spot = inked[0][index]
        offset = _free_offset(spot, size, scale, ink, taken, axes.bbox.extents)
        label.set_position(tuple(offset / scale))
        label.set_in_layout(False)  # it is inside, and must not move what it was placed by
        taken.append(np.concatenate([spot + offset - size / 2, spot + offset + size / 2]))


def _free_offset(
    spot: np.ndarray,  # the point, in pixels
    size: np.ndarray,  # of the label, in pixels
    scale: float,  # pixels per typographic point
    ink: np.ndarray,  # pixels of markers and lines, size = (n, 2)
    taken: Sequence[np.ndarray],  # boxes (left, bottom, right, top) of legend and labels so far
    frame: np.ndarray,  # box of the axes
) -> np.ndarray:
    """The offset of a label's centre whose box covers the least, the nearest one of several."""
    reach = 5 * scale  # half a marker and a little air
    places = [(radius, angle) for radius in RADII for angle in np.deg2rad(ANGLES)]
    best, least = np.zeros(2), np.inf
    for rank, (radius, angle) in enumerate(places):
        direction = np.array([np.cos(angle), np.sin(angle)])
        offset = direction * (radius * scale + size / 2 * np.abs(direction))
        low, high = spot + offset - size / 2, spot + offset + size / 2
        inside = ((ink > low - reach) & (ink < high + reach)).all(axis=-1).sum()
        overlaps = sum(bool((low < box[2:]).all() and (box[:2] < high).all()) for box in taken)
        outside = bool((low < frame[:2]).any() or (high > frame[2:]).any())
        cost = 1e6 * outside + 1e4 * overlaps + 10 * inside + rank / 10
        if cost < least:
            best, least = offset, cost
    return best


def _draw_parallel(figure: Any, fronts: Sequence[FrontResult], labels: Sequence[str]) -> None:
    """A panel per method, objectives side by side, each scaled to its range over all fronts.

    A line per λ has the colour of its first entry; dominated ones are dotted.
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap

    stacked = np.concatenate([front.values for front in fronts])
    low, high = stacked.min(axis=0), stacked.max(axis=0)
    span = np.where(high > low, high - low, 1.0)
    # From orange to dark blue; plasma's yellow end would be pale on white.
    colours = ScalarMappable(cmap=ListedColormap(colormaps["plasma"](np.linspace(0.85, 0, 256))))
    colours.set_clim(0, 1)
    panels = figure.subplots(len(fronts), sharex=True, squeeze=False)[:, 0]
    positions = np.arange(len(labels))
    for axes, front in zip(panels, fronts, strict=True):
        kept, shares = non_dominated_mask(front.values), (front.values - low) / span
        for row, weight, is_kept in zip(shares, front.preferences[:, 0], kept, strict=True):
            style = {"linewidth": 1.5, "alpha": 0.9} if is_kept else {"linewidth": 1.2, "ls": ":"}
            axes.plot(positions, row, color=colours.to_rgba(weight), **style)
        for position in positions:
            axes.axvline(position, color="0.35", linewidth=0.8, zorder=1)
        notes = [literal(front.label), "" if kept.all() else "dominated ones dotted"]
        axes.set_title(" – ".join(filter(None, notes)), fontsize=10)
        axes.set_ylabel("share of range – better →")
        axes.set_ylim(-0.04, 1.04)
        axes.grid(axis="y", alpha=0.25, linewidth=0.6)
    ranges = [f"{_number(a)} … {_number(b)}" for a, b in zip(low, high, strict=True)]
    ticks = [f"{label}\n{text}" for label, text in zip(labels, ranges, strict=True)]
    panels[-1].set_xticks(positions, ticks)
    bar = figure.colorbar(colours, ax=list(panels), fraction=0.05, pad=0.02)
    bar.set_label(f"λ₁: weight of {literal(fronts[0].objectives[0])}")


def picture_bytes(figure: Any) -> bytes:
    """The bytes of a picture as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110, format="png")
    return buffer.getvalue()


def save_picture(figure: Any, path: str | os.PathLike[str]) -> Path:
    """Write a matplotlib figure as ``.png`` or ``.pdf``, whole or not at all; returns the path."""
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(f"picture {path}: its name must end in {' or '.join(SUFFIXES)}")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150, format=suffix[1:])
    return path
