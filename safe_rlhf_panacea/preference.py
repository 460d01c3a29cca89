"""Preference vectors λ, points of the simplex: their names, their text and grids of them."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping, Sequence
from itertools import combinations

import torch

from safe_rlhf_panacea.errors import UserError

LONGEST_NAME = 64
TOLERANCE = 1e-4
MOST_IN_A_GRID = 10_000
STEPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.25, 0.5, 1.0)
Preference = str | Mapping[str, float] | Sequence[float] | torch.Tensor


class PreferenceError(UserError):
    """A preference vector, grid or sampler is not as it must be; the message is one line."""


def check_objective_names(names: Sequence[str]) -> None:
    """Check that the names can be written in λ (``name=0.3``) and be folders.

    Letters may be of any script. So no name has a space, a path separator or one of ``=,:@``. The
    first that is not as it must be is a ``PreferenceError``.
    """
    for name in names:
        # M: the vowel signs of many scripts are marks, no letters of their own.
        allowed = (char in "_-." or unicodedata.category(char)[0] in "LMN" for char in name)
        if not 0 < len(name) <= LONGEST_NAME or name[0] in "-." or not all(allowed):
            shown = name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}…"
            raise PreferenceError(
                f"objective name {shown!r}: a name has letters, digits, _, - and . "
                f"(the last two not in front), at most {LONGEST_NAME} of them"
            )


def check_preference(preference: torch.Tensor, pref_dim: int, atol: float = TOLERANCE) -> None:
    """Check that every row of λ, size = (m,) or (B, m), lies on the simplex.

    ``atol`` is the allowed rounding of each entry. Another length, a negative or non-finite entry,
    or a sum that is not 1 is a ``PreferenceError``.
    """
    if preference.dim() not in (1, 2) or preference.size(-1) != pref_dim:
        raise PreferenceError(
            f"a preference vector must have {pref_dim} entries, not shape {tuple(preference.shape)}"
        )
    for row in preference.reshape(-1, pref_dim).tolist():
        text = ", ".join(f"{value:g}" for value in row)
        if not all(map(math.isfinite, row)):
            raise PreferenceError(f"preference vector ({text}) has an entry that is not finite")
        if min(row) < -atol:
            raise PreferenceError(f"preference vector ({text}) has a negative entry")
        if abs(sum(row) - 1) > atol * pref_dim:
            raise PreferenceError(f"preference vector ({text}) sums to {sum(row):g}, not to 1")


def parse_preference(preference: Preference, objectives: Sequence[str]) -> torch.Tensor:
    """Read a preference vector, size = (m,), float32, in the order of ``objectives``.

    It is text (``0.7,0.3`` or ``helpful=0.7,harmless=0.3``), numbers by name, a sequence of
    numbers, or a tensor, size = (m,).

    Raises:
        PreferenceError: not on the simplex, of another length, or with unknown names.
    """
    text = preference_text(preference)
    parts = text.strip().removesuffix(",").split(",") if text.strip() else []
    by_name = any("=" in part for part in parts)
    values: dict[str, float] = {}
    for place, part in enumerate(parts):
        name, separator, number = part.partition("=") if by_name else (str(place), "=", part)
        name = name.strip()
        if not separator:
            raise PreferenceError(f"preference {text!r} mixes names and positions")
        if by_name and name not in objectives:
            raise PreferenceError(
                f"preference {text!r}: unknown objective {name!r} (known: {', '.join(objectives)})"
            )
        if name in values:
            raise PreferenceError(f"preference {text!r} names {name!r} twice")
        try:
            values[name] = float(number)
        except ValueError:
            raise PreferenceError(
                f"{number.strip()!r} in preference {text!r} is not a number"
            ) from None
    if missing := [name for name in objectives if by_name and name not in values]:
        raise PreferenceError(f"preference {text!r} says nothing of {', '.join(missing)}")
    if len(values) != len(objectives):
        raise PreferenceError(
            f"preference {text!r} has {len(values)} entries, but there are "
            f"{len(objectives)} objectives ({', '.join(objectives)})"
        )
    in_order = [values[name] for name in objectives] if by_name else list(values.values())
    vector = torch.tensor(in_order, dtype=torch.float32)
    check_preference(vector, len(objectives))
    return vector


def preference_text(preference: Preference) -> str:
    """A vector in any form as text that ``parse_preference`` reads."""
    if isinstance(preference, str):
        return preference
    try:
        if isinstance(preference, Mapping):
            return ",".join(f"{name}={float(value)!r}" for name, value in preference.items())
        values = preference.tolist() if hasattr(preference, "tolist") else preference
        return ",".join(repr(float(value)) for value in values)
    except (TypeError, ValueError):
        raise PreferenceError(
            f"preference {preference!r} is neither text, numbers by name nor a vector of numbers"
        ) from None


def format_preference(preference: torch.Tensor, objectives: Sequence[str] = ()) -> str:
    """``helpful=0.7,harmless=0.3``, or numbers alone without names."""
    values = [f"{value:.4g}" for value in preference.tolist()]
    if not objectives:
        return ",".join(values)
    return ",".join(f"{name}={value}" for name, value in zip(objectives, values, strict=True))


def preference_grid(pref_dim: int, step: float = 0.1) -> torch.Tensor:
    """All vectors of the simplex whose entries are multiples of ``step``.

    For two objectives and a step of 0.1 these are the paper's 11 points, from (0, 1) to (1, 0);
    size = (N, m), float32, with N = C(1/step + m - 1, m - 1).

    Raises:
        PreferenceError: the step does not divide 1, or the grid would have over 10,000 vectors.
    """
    if pref_dim < 1:
        raise PreferenceError(f"a grid needs at least one objective, not {pref_dim}")
    parts = round(1 / step) if 1e-300 < step <= 1 else 0
    if parts < 1 or abs(parts * step - 1) > 1e-6:
        raise PreferenceError(f"grid step {step:g} does not divide 1: use 0.1, 0.25, 0.5, ...")
    if (points := _grid_size(step, pref_dim)) > MOST_IN_A_GRID:
        shown = f"{points:,}" if points < 10**15 else "over 10^15"
        fitting = _finest(STEPS, pref_dim, MOST_IN_A_GRID)
        hint = "no step has fewer" if fitting is None else f"use {fitting:g} or more"
        raise PreferenceError(
            f"grid step {step:g} makes {shown} vectors of {pref_dim} objectives, "
            f"more than {MOST_IN_A_GRID:,}: {hint}"
        )
    # Entries of a vector are the gaps between m - 1 bars among 1/step + m - 1 places.
    places = parts + pref_dim - 1
    bars = [(-1, *inner, places) for inner in combinations(range(places), pref_dim - 1)]
    lattice = torch.tensor(bars).diff(dim=-1) - 1  # size = (N, m)
    return (lattice.double() / parts).float()


def default_grid(
    pref_dim: int, steps: Sequence[float] = (0.1, 0.2, 0.25, 0.5), most: int = 300
) -> torch.Tensor:
    """The grid of the finest of ``steps`` with at most ``most`` vectors, size = (N, m), float32.

    Where every step has more, the vertices and the centre: m + 1 vectors.
    """
    step = _finest(steps, pref_dim, most)
    if step is not None:
        return preference_grid(pref_dim, step)
    return torch.cat([torch.eye(pref_dim), torch.full((1, pref_dim), 1 / pref_dim)])


def _grid_size(step: float, pref_dim: int) -> int:
    return math.comb(round(1 / step) + pref_dim - 1, pref_dim - 1)


def _finest(steps: Sequence[float], pref_dim: int, most: int) -> float | None:
    return next((step for step in steps if _grid_size(step, pref_dim) <= most), None)
