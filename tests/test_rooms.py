"""Arrows point one way: a room of the package imports only rooms below it (ARCHITECTURE.md)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "safe_rlhf_panacea"
# From the bottom to the top; rooms of one line may not import each other, except where it says so.
LEVELS = [
    {"printing", "hub"},
    {"errors"},
    {"io"},
    {"aggregation", "preference", "reward_functions", "patches", "command"},
    {"adapter", "preference_sampler"},
    {"distributed"},
    {"records"},
    {"data"},
    {"forward"},
    {"models"},
    {"rewards"},
    {"configs"},
    {"runs"},
    {"base"},
    {"fronts"},
    {"show"},
    {"respond"},
    {"serving"},
    {"export", "dashboard"},
    {"rollouts", "serve", "chat"},
    {"algorithms", "on_safe_rlhf"},
    {"evaluation", "baselines", "memory"},
    {"experiments", "push"},
    {"miniature"},
    {"small", "training_run"},
    {"api", "doctor"},
    {"__init__", "__main__"},
]
# A program in a room of data; and `FrontResult.plot`, which draws with what stands above it.
EXCEPTIONS = {("data/__main__.py", "configs"), ("fronts/result.py", "show")}
HEIGHTS = {room: height for height, rooms in enumerate(LEVELS) for room in rooms}


def imported(file):
    """The rooms that a module imports when it runs, also inside functions."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):  # what only type checkers see does not count
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGE.name):
            parts = node.module.split(".")[1:]
            yield from parts[:1] or [name.name for name in node.names]


FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


def test_every_room_has_its_place():
    assert {file.partition("/")[0].removesuffix(".py") for file in FILES} == set(HEIGHTS)


@pytest.mark.parametrize("room", sorted(HEIGHTS))
def test_a_room_imports_rooms_below_it(room):
    above = [
        (file, other)
        for file in FILES
        if file.partition("/")[0].removesuffix(".py") == room
        for other in set(imported(PACKAGE / file)) & set(HEIGHTS)
        if other != room and HEIGHTS[other] >= HEIGHTS[room]
    ]
    assert not set(above) - EXCEPTIONS
