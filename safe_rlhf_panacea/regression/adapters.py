"""Adapters that earlier versions saved, loaded by today's code."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safe_rlhf_panacea.adapter import PanaceaAdapter, load_adapter, load_soup
from safe_rlhf_panacea.base.threads import one_thread
from safe_rlhf_panacea.regression.adapter_numbers import FRONT, measure
from safe_rlhf_panacea.regression.checks import CannotRun, Check, worst_of
from safe_rlhf_panacea.regression.references import read_reference
from safe_rlhf_panacea.regression.suites import Options, check_each, find_references
from safe_rlhf_panacea.regression.tiny_base import tiny_base

HELP = "adapters that earlier versions saved give the same logits and fronts"
SUITE = "adapters"
FILE = "reference.json"


def load_recorded(folder: Path, values: dict[str, Any]) -> tuple[Any, PanaceaAdapter]:
    """The base model that a reference describes, with the adapter or soup beside it."""
    model = tiny_base(values["base"])
    if not values["ingredients"]:
        return model, load_adapter(model, folder)
    folders = [folder / name for name in values["ingredients"]]
    return model, load_soup(model, folders, values["objectives"])


def check_reference(path: Path, root: Path) -> Iterator[Check]:
    """Load one adapter and compare all its numbers."""
    reference = read_reference(path)
    values, tolerances = reference["values"], reference["tolerances"]
    name = f"{SUITE}/{path.parent.relative_to(root).as_posix()}"
    model, adapter = load_recorded(path.parent, values)
    agreeing = sum(a == b for a, b in zip(adapter.objectives, values["objectives"], strict=False))
    yield Check(name, "objectives in place", len(values["objectives"]), agreeing, 0.0)
    measured = measure(model, adapter, values["probe"])
    for what, rows in values["numbers"].items():
        if what not in measured:
            raise CannotRun(f"{name}: today's code does not measure {what!r}")
        yield compare(name, what, rows, measured[what], tolerances)


def compare(
    name: str,
    what: str,
    expected: list[list[float]],
    measured: list[list[float]],
    tolerances: dict[str, float],
) -> Check:
    """The worst place of a table of numbers."""
    kind, place = ("front", "point {}, J{}") if what.startswith(FRONT) else ("logits", "{}, {}")
    places = [place.format(i + 1, j + 1) for i, row in enumerate(expected) for j in range(len(row))]
    flat, found = ([value for row in rows for value in row] for rows in (expected, measured))
    return worst_of(name, what, flat, found, tolerances[kind], places)


def run(options: Options) -> list[Check]:
    """Every set that was ever recorded.

    Raises:
        CannotRun: there are none, or one is damaged.
    """
    # v*: not what an interrupted recording left, which begins with a dot.
    paths = find_references(options, SUITE, f"v*/**/{FILE}")
    root = options.references / SUITE
    with one_thread():  # on a busy machine several take a hundred times as long
        return check_each(paths, lambda path: check_reference(path, root))


def record(options: Options) -> list[Path]:
    """Save adapters with today's code as a new set.

    Raises:
        UserError: there is a set of this version and commit, or the sources are no commit's.
    """
    from safe_rlhf_panacea.regression.adapter_recording import record_set

    return record_set(options)
