"""What stands in pictures of fronts, and where."""

from __future__ import annotations

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgba
from matplotlib.text import Annotation, Text

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.fronts.result import FrontResult
from safe_rlhf_panacea.show import plots
from safe_rlhf_panacea.show.plots import front_figure, save_picture
from tests.eval.evaluations import points


def made(vectors, values, label="", errors=(0.02, 0.03), **fields):
    given = {"objectives": ["helpful", "harmless"], "reference_point": [0.0] * len(errors)}
    given |= {"points": points(vectors, values, errors)}
    return FrontResult(kind="reward", label=label, **{**given, **fields})


def curve(label, scale=1.0, dominated=(), shift=0.0, **fields):
    """A quarter of a circle from (0, 1) to (1, 0); the points of ``dominated`` are drawn in."""
    vectors, values = [], []
    for index in range(11):
        angle, radius = index / 10 * np.pi / 2, scale * (0.5 if index in dominated else 1)
        vectors.append([index / 10, 1 - index / 10])
        values.append([float(radius * f(angle)) + shift for f in (np.sin, np.cos)])
    return made(vectors, values, label, **fields)


VECTORS = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.5, 0.5, 0.0]]
VALUES = [[4.0, 0.0, 1.0], [0.0, 2.0, 2.0], [1.0, 0.0, 3.0], [0.0, 0.0, 1.0]]


def three(label, values=VALUES, **fields):
    names = {"objectives": ["helpful", "harmless", "short"], **fields}
    return made(VECTORS, values, label, [0.1] * 3, **names)


def drawn(*fronts):
    """The figure, drawn once, and its first axes."""
    figure = front_figure(fronts, "Title")
    FigureCanvasAgg(figure).draw()
    return figure, figure.axes[0]


def texts(found):
    return [text.get_text() for text in found]


def notes(axes):
    return [text for text in axes.texts if isinstance(text, Annotation)]


@pytest.mark.parametrize(
    ("name", "start"), [("front.png", b"\x89PNG\r\n"), ("front.pdf", b"%PDF-"), ("F.PNG", b"\x89P")]
)
def test_png_and_pdf_by_the_suffix(tmp_path, name, start, monkeypatch):
    monkeypatch.setitem(matplotlib.rcParams, "backend", "svg")
    path = tmp_path / "new" / name
    assert save_picture(front_figure([curve("A"), curve("B", 0.8)]), path) == path
    assert path.read_bytes().startswith(start)
    assert [path.name for path in path.parent.iterdir()] == [name]
    assert matplotlib.get_backend().lower() == "svg"  # the user's is left alone
    with pytest.raises(UserError, match=r"front\.bmp: its name must end in \.png or \.pdf"):
        save_picture(front_figure([curve("A")]), path.with_name("front.bmp"))


def test_the_plane_has_names_points_errors_and_preferences():
    about = {"reference_point": [-2.0, 0.5], "axis_labels": ["helpful", "reward 2"]}
    first = curve("Panacea", dominated=(3, 7), **about)
    figure, axes = drawn(first, curve("", 0.8))
    assert figure.get_suptitle() == "Title"
    assert figure.get_supxlabel() == "hypervolume measured from (−2, 0.5)"
    assert axes.get_xlabel() == "helpful – better →"
    assert axes.get_ylabel() == "reward 2 – better →"
    legend = axes.get_legend()
    assert texts(legend.get_texts()) == ["Panacea", "front"]
    assert legend.get_title().get_text() == "λ₁: weight of helpful\nhollow: dominated"
    line, kept, hollow = axes.lines[:3]
    assert line.get_linestyle() == "-" and len(kept.get_xdata()) == 9
    assert line.get_xdata().tolist() == sorted(kept.get_xdata().tolist())
    assert kept.get_markerfacecolor() == plots.COLOURS[0]
    assert hollow.get_xydata().tolist() == first.values[[3, 7]].tolist()
    assert hollow.get_markerfacecolor() == "white"
    flat, upright = (c.get_segments() for c in axes.containers[0].lines[2])
    np.testing.assert_allclose([s[1, 0] - s[0, 0] for s in flat], 0.04)
    np.testing.assert_allclose([s[1, 1] - s[0, 1] for s in upright], 0.06)
    assert texts(notes(axes)) == ["λ₁=0", "λ₁=0.2", "λ₁=0.5", "λ₁=0.8", "λ₁=1"]
    spots = [list(note.xy) for note in notes(axes)]
    assert spots == first.values[[0, 2, 5, 8, 10]].tolist()
    _, axes = drawn(made([[0.25, 0.75]], [[1.0, 1.0]]))
    assert texts(notes(axes)) == ["λ₁=0.25"]


def test_many_fronts_differ_and_have_their_legend_beside_the_axes():
    count = len(plots.COLOURS)
    for some in (plots.IN_THE_AXES, count + 2):
        figure, axes = drawn(*(curve(f"M{k}", 1 + k / 5) for k in range(some)))
        box = axes.get_legend().get_window_extent()
        assert (box.x1 < axes.bbox.x1) == (some == plots.IN_THE_AXES)
        assert box.x1 < figure.bbox.x1  # not clipped either way
    handles = axes.get_legend().legend_handles
    looks = [(to_hex(handle.get_color()), handle.get_marker()) for handle in handles]
    assert len(set(looks)) == count + 2
    assert [len(set(part)) for part in zip(*looks[:count], strict=True)] == [count, count]


@pytest.mark.parametrize(
    "fronts",
    [
        [curve("A"), curve("B", 0.9, dominated=(0, 9, 10))],
        [curve("A", 0.9), *(curve(f"B{k}", 0.9 + k / 25) for k in range(1, 5))],
        [made([[i / 4, 1 - i / 4] for i in range(5)], [[1.0, 1.0]] * 5)],
    ],
)
def test_labels_cover_neither_points_nor_legend_nor_each_other(fronts):
    _, axes = drawn(*fronts)
    labels = [super(Annotation, note).get_window_extent() for note in notes(axes)]
    legend, frame = axes.get_legend().get_window_extent(), axes.bbox
    spots = axes.transData.transform(np.concatenate([front.values for front in fronts]))
    for index, box in enumerate(labels):
        assert not any(box.contains(*spot) for spot in spots)
        assert not any(box.overlaps(other) for other in [legend, *labels[:index]])
        assert frame.contains(box.x0, box.y0) and frame.contains(box.x1, box.y1)


@pytest.mark.parametrize(
    "fronts",
    [
        [curve("A", 30.0, shift=-21.2)],  # far from the limits of axes that are not drawn
        [curve("A", -1.0)],  # towards the lower left
        [curve("A"), made([[0.1, 0.1]], [[0.0, 0.0]], "initial model")],
    ],
)
def test_the_legend_covers_no_point(fronts):
    _, axes = drawn(*fronts)
    box = axes.get_legend().get_window_extent()
    spots = axes.transData.transform(np.concatenate([front.values for front in fronts]))
    assert not any(box.contains(*spot) for spot in spots)


def test_three_objectives_are_parallel_axes_coloured_by_preference():
    figure, first = drawn(three("A"), three("B"))
    _, second, bar = figure.axes
    assert first.get_title() == "A – dominated ones dotted"
    assert bar.get_ylabel() == "λ₁: weight of helpful"
    assert texts(second.get_xticklabels()) == ["helpful\n0 … 4", "harmless\n0 … 2", "short\n1 … 3"]
    lines = first.lines[:4]
    # Shares of the ranges 0..4, 0..2 and 1..3.
    shares = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.5], [0.25, 0.0, 1.0], [0.0, 0.0, 0.0]]
    assert [line.get_ydata().tolist() for line in lines] == shares
    assert [line.get_linestyle() for line in lines] == ["-", "-", "-", ":"]
    colours = [to_rgba(line.get_color()) for line in lines]
    assert colours[1] == colours[2]  # λ₁ is 0 in both
    assert len(set(colours)) == 3
    _, level = drawn(three("A", [[a, 7.0, c] for a, _, c in VALUES]))
    assert [line.get_ydata()[1] for line in level.lines[:4]] == [0.0] * 4


BROKEN = r"_$\frac{1$ a_b $ \$"


@pytest.mark.parametrize("make", [curve, three])
def test_labels_are_shown_as_they_are_written(make):
    figure, axes = drawn(make(BROKEN, objectives=[BROKEN, *make("").objectives[1:]]))
    found = [text for text in figure.findobj(Text) if r"\frac" in text.get_text()]
    assert len(found) >= 3
    for text in found:
        shown, is_formula = text._preprocess_math(text.get_text())
        assert BROKEN in shown and is_formula is False
    if make is curve:  # matplotlib hides a label that begins with an underscore
        (label,) = axes.get_legend().get_texts()
        assert label.get_text().strip().startswith("_")
