"""What a front's J are means of, unit by unit: beside ``front.json``, for paired comparisons.

A unit is a prompt, a pair or a text. ``values.json`` holds ``units`` (a name made of each unit's
text), ``preferences`` (the N λ) and ``values``: what every unit gave at every λ for every
objective, null where it does not count for one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.io import atomic_write_json, read_json
from safe_rlhf_panacea.shapes import Number, misfit

VALUES_FILE = "values.json"
DIGITS = 6
NAME_LENGTH = 12


@dataclass(frozen=True)
class Units:
    """What every unit gave.

    Attributes:
        names: of the U units.
        values: size = (N, U, m), float64; NaN where a unit does not count for an objective.
    """

    names: list[str]
    values: np.ndarray


def unit_name(*parts: str | Sequence[int]) -> str:
    """A short name of a unit's texts or token ids; equal units have equal names."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:NAME_LENGTH]


def names_of_pairs(pairs: Any) -> list[str]:
    """Of every pair of a ``PreferenceDataset``, by its tokens."""
    rows = (pairs[i] for i in range(len(pairs)))
    keys = ("better_input_ids", "worse_input_ids")
    return [unit_name(*(row[key].tolist() for key in keys)) for row in rows]


def write_units(
    folder: Path, names: Iterable[str], grid: torch.Tensor, values: torch.Tensor
) -> None:
    """Write ``values.json``.

    Args:
        folder: of the evaluation.
        names: of the units.
        grid: preference vectors, size = (N, m).
        values: size = (N, U, m); NaN where a unit does not count.
    """
    rounded = values.double().cpu().numpy().round(DIGITS).tolist()
    plain = [[[None if v != v else v for v in unit] for unit in point] for point in rounded]
    preferences = grid.double().cpu().numpy().round(DIGITS).tolist()
    content = {"units": [*names], "preferences": preferences, "values": plain}
    atomic_write_json(folder / VALUES_FILE, content)


def read_units(folder: Path, preferences: np.ndarray) -> Units | None:
    """The values behind a front; None where there is no file, as of earlier versions.

    Args:
        folder: of the evaluation.
        preferences: of its front, size = (N, m).

    Raises:
        UserError: the file is damaged, or not that of the front.
    """
    path = folder / VALUES_FILE
    if not path.is_file():
        return None
    content = read_json(path)
    points, m = preferences.shape
    names = content.get("units") if isinstance(content, dict) else None
    count = len(names) if isinstance(names, list) else 0
    shape = {
        "units": [str],
        "preferences": [[Number, m], points],
        "values": [[[(Number, type(None)), m], count], points],
    }
    if wrong := misfit(content, shape):
        raise UserError(f"{path}: not the values of the front beside it: {wrong}")
    if not np.allclose(content["preferences"], preferences, atol=1e-5):
        raise UserError(f"{path}: its λ are not those of the front beside it")
    return Units(names, np.array(content["values"], dtype=np.float64))
