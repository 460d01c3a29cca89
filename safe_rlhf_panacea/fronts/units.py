"""What a front's J are means of, unit by unit: beside ``front.json``, for paired comparisons.

A unit is a prompt or a pair. ``values.json`` holds ``units`` (a name of each, made of a prompt's
text or of a pair's tokens), ``preferences`` (the N λ) and ``values``: what every unit gave at every
λ for every objective, null where it does not count for one. Where units come in families that are
not independent, such as several phrasings of one topic, ``clusters`` names the family of each.
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
from safe_rlhf_panacea.fronts.front import Front
from safe_rlhf_panacea.fronts.likelihood_front import labelled_statistics
from safe_rlhf_panacea.io import atomic_write_json, read_json
from safe_rlhf_panacea.shapes import Number, misfit

VALUES_FILE = "values.json"
DIGITS = 6
ROUNDED = 1e-5  # how far what was written with so many digits may be off
NAME_LENGTH = 12


@dataclass(frozen=True)
class Units:
    """What every unit gave.

    Attributes:
        names: of the U units.
        values: size = (N, U, m), float64; NaN where a unit does not count for an objective.
        clusters: of each unit, the family that is drawn as a whole; None: every unit by itself.
    """

    names: list[str]
    values: np.ndarray
    clusters: list[str] | None = None


def unit_name(*parts: str | Sequence[int]) -> str:
    """A short name of a unit's texts or token ids; equal units have equal names."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:NAME_LENGTH]


def names_of_pairs(pairs: Any) -> list[str]:
    """Of every pair of a ``PreferenceDataset``, by its tokens."""
    rows = (pairs[i] for i in range(len(pairs)))
    keys = ("better_input_ids", "worse_input_ids")
    return [unit_name(*(row[key].tolist() for key in keys)) for row in rows]


def write_units(
    folder: Path,
    names: Iterable[str],
    grid: torch.Tensor,
    values: torch.Tensor,
    clusters: Sequence[str] | None = None,
) -> None:
    """Write ``values.json``.

    Args:
        folder: of the evaluation.
        names: of the units.
        grid: preference vectors, size = (N, m).
        values: size = (N, U, m); NaN where a unit does not count.
        clusters: of the units, where they come in families.
    """
    rounded = values.double().cpu().numpy().round(DIGITS).tolist()
    plain = [[[None if v != v else v for v in unit] for unit in point] for point in rounded]
    preferences = grid.double().cpu().numpy().round(DIGITS).tolist()
    content = {"units": [*names], "preferences": preferences, "values": plain}
    if clusters is not None:
        content["clusters"] = [*clusters]
    atomic_write_json(folder / VALUES_FILE, content, indent=None)


def read_units(folder: Path, front: Front) -> Units | None:
    """The values behind a front; None where there is no file, as of earlier versions.

    Args:
        folder: of the evaluation.
        front: of its ``front.json``.

    Raises:
        UserError: the file is damaged, or not that of the front.
    """
    path = folder / VALUES_FILE
    if not path.is_file():
        return None
    content = read_json(path)
    points, m = front.values.shape
    names = content.get("units") if isinstance(content, dict) else None
    count = len(names) if isinstance(names, list) else 0
    shape = {
        "units": [str],
        "preferences": [[Number, m], points],
        "values": [[[(Number, type(None)), m], count], points],
    }
    clusters = content.get("clusters") if isinstance(content, dict) else None
    if clusters is not None:
        shape["clusters"] = [str, count]
    if wrong := misfit(content, shape):
        raise UserError(f"{path}: not the values of the front beside it: {wrong}")
    values = np.array(content["values"], dtype=np.float64)
    means = labelled_statistics(torch.from_numpy(values))[0].numpy()
    for mine, own in ((content["preferences"], front.preferences), (means, front.values)):
        if not np.allclose(mine, own, atol=ROUNDED):
            raise UserError(f"{path}: not the values of the front beside it: evaluate anew")
    return Units(names, values, clusters)
