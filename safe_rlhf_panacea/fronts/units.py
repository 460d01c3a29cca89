"""The single values that the J of a front are means of, for paired comparisons.

A unit is a prompt or a pair. ``values.json`` beside ``front.json`` holds ``units`` (a name of each,
made of a prompt's text or of a pair's tokens), ``preferences`` (the N λ) and ``values``: what every
unit gave at every λ for every objective, null where it does not count for one. Where units come in
families that are not independent, such as several phrasings of one topic, ``clusters`` names the
family of each.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.io import atomic_write_json, read_json
from safe_rlhf_panacea.records import misfit

VALUES_FILE = "values.json"
DIGITS = 6  # of the values in the file
ROUNDED = 1e-5  # how far the means of what was written so may lie from the points
NAME_LENGTH = 12


@dataclass(frozen=True, eq=False)
class Units:
    """What every prompt or pair gave at every λ.

    Attributes:
        names: of the U units.
        values: size = (N, U, m), float64; NaN where a unit does not count for an objective.
        clusters: of each unit, the family that is drawn as a whole; None: every unit by itself.
    """

    names: Sequence[str]
    values: np.ndarray
    clusters: Sequence[str] | None = None

    def problem(self, means: np.ndarray) -> str | None:
        """Why these are not the units of a front with ``means`` J, size = (N, m); None if so."""
        size = (means.shape[0], len(self.names), means.shape[1])
        if self.values.shape != size:
            return f"unit values of size {self.values.shape} in place of {size}"
        if not np.allclose(np.nanmean(self.values, axis=1), means, atol=ROUNDED):
            return "the means of the unit values are not those of the front"
        return None


def unit_name(*parts: str | Sequence[int]) -> str:
    """A short name of a unit's texts or token ids; equal units have equal names."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:NAME_LENGTH]


def names_of_pairs(pairs: Any) -> list[str]:
    """The names of all pairs of a ``PreferenceDataset``, made of their tokens."""
    rows = (pairs[i] for i in range(len(pairs)))
    keys = ("better_input_ids", "worse_input_ids")
    return [unit_name(*(row[key].tolist() for key in keys)) for row in rows]


def write_units(folder: Path, preferences: np.ndarray, units: Units) -> None:
    """Write ``values.json`` of a front at N ``preferences``, size = (N, m), into its folder."""
    plain = [
        [[None if value != value else value for value in unit] for unit in point]
        for point in units.values.round(DIGITS).tolist()
    ]
    content = {
        "units": [*units.names],
        "preferences": preferences.round(DIGITS).tolist(),
        "values": plain,
    }
    if units.clusters is not None:
        content["clusters"] = [*units.clusters]
    atomic_write_json(folder / VALUES_FILE, content, indent=None)


def read_units(folder: Path, preferences: np.ndarray, means: np.ndarray) -> Units | None:
    """The unit values of a front; None where its folder has no ``values.json``.

    Args:
        folder: of the evaluation.
        preferences: λ of the front, size = (N, m).
        means: J of the front, size = (N, m).

    Raises:
        UserError: the file is damaged, or not that of the front.
    """
    path = folder / VALUES_FILE
    if not path.is_file():
        return None
    content = read_json(path)
    points, m = means.shape
    found = content if isinstance(content, dict) else {}
    names, clusters = found.get("units"), found.get("clusters")
    count = len(names) if isinstance(names, list) else 0
    shape: dict[str, Any] = {
        "units": [str],
        "preferences": [[float, m], points],
        "values": [[[(float, type(None)), m], count], points],
    }
    if clusters is not None:
        shape["clusters"] = [str, count]
    wrong = misfit(content, shape)
    if wrong is None:
        units = Units(content["units"], np.array(content["values"], dtype=np.float64), clusters)
        wrong = units.problem(means)
        if wrong is None and np.allclose(content["preferences"], preferences, atol=ROUNDED):
            return units
    raise UserError(f"{path}: not the values of the front beside it: {wrong or 'evaluate anew'}")
