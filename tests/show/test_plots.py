from __future__ import annotations

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgba
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.fronts.result import FrontPoint, FrontResult
from safe_rlhf_panacea.show import plots
from safe_rlhf_panacea.show.plots import front_figure, save_picture

NAMES = ["helpful", "harmless"]


def plot_fronts(fronts, path, title):
    return save_picture(front_figure(fronts, title), path)


def made(vectors, values, label="", errors=(0.02, 0.03), **fields):
    points = [
        FrontPoint(preference=v, objectives=j, standard_errors=errors)
        for v, j in zip(vectors, values, strict=True)
    ]
    given = {"objectives": NAMES, "reference_point": [0.0] * len(errors), **fields}
    return FrontResult(kind="reward", points=points, label=label, **given)


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


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """A function that draws, and gives the figure as it was saved."""
    figures = []
    save = Figure.savefig

    def keep(figure, *args, **kwargs):
        figures.append(figure)
        save(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", keep)

    def draw(fronts):
        plot_fronts(fronts, tmp_path / "front.png", "Title")
        return figures[-1]

    return draw


def notes(axes):
    return [text for text in axes.texts if isinstance(text, Annotation)]


@pytest.mark.parametrize(
    ("name", "start"), [("front.png", b"\x89PNG\r\n"), ("front.pdf", b"%PDF-"), ("F.PNG", b"\x89P")]
)
def test_png_and_pdf_by_the_suffix(tmp_path, name, start):
    path = tmp_path / "new" / name
    assert plot_fronts([curve("A"), curve("B", 0.8)], path, "Title") == path
    data = path.read_bytes()
    assert data.startswith(start) and len(data) > 5000
    assert [path.name for path in path.parent.iterdir()] == [name]
    if name == "front.png":  # 7.5 inches at 150 dpi, and not higher
        width, height = (int.from_bytes(data[i : i + 4], "big") for i in (16, 20))
        assert width == 1125 and 600 <= height <= width


def test_another_suffix_is_refused(tmp_path):
    with pytest.raises(UserError) as caught:
        plot_fronts([curve("A")], tmp_path / "front.bmp", "Title")
    assert str(caught.value) == (
        f"picture {tmp_path / 'front.bmp'}: its name must end in .png or .pdf"
    )
    assert list(tmp_path.iterdir()) == []


def test_texts_of_the_plane(drawn):
    about = {"reference_point": [-2.0, 0.5], "axis_labels": ["helpful", "reward 2"]}
    figure = drawn([curve("Panacea", **about), curve("Soups", 0.8)])
    (axes,) = figure.axes
    assert figure.get_suptitle() == "Title"
    assert figure.get_supxlabel() == "hypervolume measured from (−2, 0.5)"
    assert axes.get_xlabel() == "helpful – better →"
    assert axes.get_ylabel() == "reward 2 – better →"
    legend = axes.get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["Panacea", "Soups"]
    assert legend.get_title().get_text() == "λ₁: weight of helpful"


def test_dominated_points_are_hollow_and_off_the_line(drawn):
    front = curve("A", dominated=(3, 7))
    (axes,) = drawn([front]).axes
    line, kept, hollow = axes.lines[-3:]
    assert line.get_linestyle() == "-"
    assert line.get_xdata().tolist() == sorted(kept.get_xdata().tolist())
    assert len(kept.get_xdata()) == 9
    assert kept.get_markerfacecolor() == plots.COLOURS[0]
    assert hollow.get_xydata().tolist() == front.values[[3, 7]].tolist()
    assert hollow.get_markerfacecolor() == "white"
    legend = axes.get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["A"]
    assert "hollow: dominated" in legend.get_title().get_text()


def test_many_fronts_have_their_legend_beside_the_axes(drawn):
    for count, inside in ((plots.IN_THE_AXES, True), (plots.IN_THE_AXES + 1, False)):
        figure = drawn([curve(f"M{k}", 1 + k / 5) for k in range(count)])
        (axes,) = figure.axes
        figure.draw_without_rendering()
        box = axes.get_legend().get_window_extent()
        assert (box.x1 < axes.bbox.x1) == inside
        assert box.x1 < figure.bbox.x1  # not clipped either way


def test_methods_differ_in_colour_and_marker_and_later_ones_in_one_of_them(drawn):
    count = len(plots.COLOURS)
    (axes,) = drawn([curve(f"M{k}", 1 + k / 5) for k in range(count + 2)]).axes
    handles = axes.get_legend().legend_handles
    looks = [(to_hex(handle.get_color()), handle.get_marker()) for handle in handles]
    assert len(set(looks)) == count + 2
    assert [len(set(part)) for part in zip(*looks[:count], strict=True)] == [count, count]


def test_error_bars_have_the_standard_errors(drawn):
    front = curve("A")
    (axes,) = drawn([front]).axes
    flat, upright = (c.get_segments() for c in axes.containers[0].lines[2])
    np.testing.assert_allclose([s[1, 0] - s[0, 0] for s in flat], 0.04)
    np.testing.assert_allclose([s[1, 1] - s[0, 1] for s in upright], 0.06)
    assert axes.containers[0].lines[2][0].get_alpha() < 0.5


def test_the_first_front_says_its_preferences(drawn):
    first = curve("A")
    (axes,) = drawn([first, curve("B", 0.8)]).axes
    texts = [note.get_text() for note in notes(axes)]
    assert texts == ["λ₁=0", "λ₁=0.2", "λ₁=0.5", "λ₁=0.8", "λ₁=1"]
    spots = [list(note.xy) for note in notes(axes)]
    assert spots == first.values[[0, 2, 5, 8, 10]].tolist()
    (axes,) = drawn([made([[0.25, 0.75]], [[1.0, 1.0]])]).axes
    assert [note.get_text() for note in notes(axes)] == ["λ₁=0.25"]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["front"]


@pytest.mark.parametrize(
    "fronts",
    [
        [curve("A"), curve("B", 0.9, dominated=(0, 9, 10))],
        [curve("A", 0.9), *(curve(f"B{k}", 0.9 + k / 25) for k in range(1, 5))],
        [made([[i / 4, 1 - i / 4] for i in range(5)], [[1.0, 1.0]] * 5)],
    ],
)
def test_labels_cover_neither_points_nor_legend_nor_each_other(drawn, fronts):
    figure = drawn(fronts)
    (axes,) = figure.axes
    FigureCanvasAgg(figure).draw()
    labels = [super(Annotation, note).get_window_extent() for note in notes(axes)]
    legend, frame = axes.get_legend().get_window_extent(), axes.bbox
    spots = axes.transData.transform(np.concatenate([front.values for front in fronts]))
    for index, box in enumerate(labels):
        assert not any(box.contains(*spot) for spot in spots)
        assert not any(box.overlaps(other) for other in [legend, *labels[:index]])
        assert frame.contains(box.x0, box.y0)
        assert frame.contains(box.x1, box.y1)


@pytest.mark.parametrize(
    ("front", "is_low"),
    [
        (curve("A", 30.0, shift=-21.2), True),  # far from the limits of axes that are not drawn
        (curve("A", -1.0), False),  # towards the lower left
    ],
)
def test_the_legend_takes_an_empty_corner(drawn, front, is_low):
    figure = drawn([front])
    (axes,) = figure.axes
    FigureCanvasAgg(figure).draw()
    box = axes.get_legend().get_window_extent()
    spots = axes.transData.transform(front.values)
    assert not any(box.contains(*spot) for spot in spots)
    centre = axes.transAxes.inverted().transform([(box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2])
    assert (centre < 0.5).all() == is_low


def test_three_objectives_are_parallel_axes_coloured_by_preference(drawn):
    figure = drawn([three("A"), three("B")])
    first, second, bar = figure.axes
    assert [axes.get_title() for axes in (first, second)] == [
        "A – dominated ones dotted",
        "B – dominated ones dotted",
    ]
    assert bar.get_ylabel() == "λ₁: weight of helpful"
    ticks = [label.get_text() for label in second.get_xticklabels()]
    assert ticks == ["helpful\n0 … 4", "harmless\n0 … 2", "short\n1 … 3"]
    lines = first.lines[:4]
    # Shares of the ranges 0..4, 0..2 and 1..3.
    assert [line.get_ydata().tolist() for line in lines] == [
        [1.0, 0.0, 0.0],
        [0.0, 1.0, 0.5],
        [0.25, 0.0, 1.0],
        [0.0, 0.0, 0.0],
    ]
    assert [line.get_linestyle() for line in lines] == ["-", "-", "-", ":"]
    colours = [to_rgba(line.get_color()) for line in lines]
    assert colours[1] == colours[2]  # λ₁ is 0 in both
    assert len(set(colours)) == 3
    level = drawn([three("A", [[a, 7.0, c] for a, _, c in VALUES])]).axes[0].lines[:4]
    assert [line.get_ydata()[1] for line in level] == [0.0] * 4


def test_the_users_backend_is_left_alone(tmp_path, monkeypatch):
    import matplotlib

    monkeypatch.setitem(matplotlib.rcParams, "backend", "svg")
    plot_fronts([curve("A")], tmp_path / "front.png", "Title")
    assert matplotlib.get_backend().lower() == "svg"


BROKEN = r"_$\frac{1$ a_b $ \$"


@pytest.mark.parametrize("make", [curve, three])
def test_labels_are_shown_as_they_are_written(drawn, make):
    names = [BROKEN, *make("").objectives[1:]]
    figure = drawn([make(BROKEN, objectives=names)])
    FigureCanvasAgg(figure).draw()
    texts = [text for text in figure.findobj(Text) if r"\frac" in text.get_text()]
    assert len(texts) >= 3
    for text in texts:
        shown, is_formula = text._preprocess_math(text.get_text())
        assert BROKEN in shown and is_formula is False
    if make is curve:  # matplotlib hides a label that begins with an underscore
        (label,) = figure.axes[0].get_legend().get_texts()
        assert label.get_text().strip().startswith("_")
