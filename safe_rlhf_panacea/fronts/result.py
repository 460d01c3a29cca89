"""A front: what a method reaches at every preference vector λ, in memory and as JSON.

``FrontResult`` is the one type for it. ``front.json`` of an evaluation and ``results.json`` of a
training hold one; ``evaluations.jsonl`` holds one per line and ``results.json`` of the quickstart
one per experiment and method. The JSON form (format 2) has a key for every field of
``FrontResult``, where ``points`` is called ``front``, and the indicators that follow from them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
from pydantic import Field, StrictInt, model_validator

from safe_rlhf_panacea import shapes
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.fronts.stats import indicators
from safe_rlhf_panacea.io import atomic_write_json, read_json
from safe_rlhf_panacea.records import Name, Number, Record, Vector, validated

FORMAT: Final = 2
FRONT_FILE = "front.json"
LABELS = {
    "panacea": "Panacea",
    "rewarded_soups": "Rewarded Soups",
    "discrete_policies": "Discrete policies",
}
UNITS = {
    "reward": "mean reward",
    "accuracy": "implicit-reward accuracy",
    "log-sigmoid": "mean log σ of the margin",
    "log-likelihood": "mean log-probability per token",
    "true score": "the corpus's score",
}
SAME_PREFERENCE = 1e-6  # two λ that differ by no more are the same one


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


class Reached(Record):
    """The mean value of each objective that a model reaches.

    Attributes:
        objectives: J_1..J_m, to be maximised.
        standard_errors: of each J.
    """

    objectives: Vector
    standard_errors: Vector

    def check(self, where: str, m: int) -> None:
        """Raise a ``ValueError`` unless every vector has ``m`` numbers."""
        for name in ("objectives", "standard_errors"):
            if len(getattr(self, name)) != m:
                raise ValueError(f"{where}: {name} must be {m} finite numbers")


class FrontPoint(Reached):
    """One λ and what is reached there.

    Attributes:
        preference: λ, m numbers.
        kl: estimate of KL(π_λ ‖ π_ref) in nats per response; None where it was not measured.
        kl_error: its standard error.
    """

    preference: Vector
    kl: Number | None = None
    kl_error: Number | None = None

    def check(self, where: str, m: int) -> None:
        """Also for λ, and unless the KL and its error are both there, or both not."""
        super().check(where, m)
        if len(self.preference) != m:
            raise ValueError(f"{where}: preference must be {m} finite numbers")
        if (self.kl is None) != (self.kl_error is None):
            raise ValueError(f"{where}: kl and kl_error must be numbers, or null")


class Cost(Record):
    """What training and storing a method took.

    Attributes:
        training_seconds: of all its trainings; None where they are not known.
        stored_parameters: numbers in its adapters.
        trained_models: how many adapters there are.
    """

    training_seconds: Number | None = None
    stored_parameters: StrictInt
    trained_models: StrictInt = 1


class FrontResult(Record):
    """The front of one method, in the order of its grid of N preference vectors.

    Attributes:
        format: of the JSON form.
        kind: of the values: ``reward`` (mean rewards of sampled responses), ``accuracy`` (share of
            labelled pairs that the implicit reward orders as the label does, a tie counting half),
            ``log-sigmoid`` (mean log σ of its margins towards the label, in nats),
            ``log-likelihood`` (per token, of held-out texts) or ``true score`` (the miniature's).
        method: a key of ``LABELS``, where it is one of these.
        label: the method's name in tables and pictures.
        aggregation: that training used.
        fixed_scaling: the factor on λ where it was not learnt.
        step: of training; None at its end.
        cost: what the method cost, where that is known.
        objectives: m names, in the order of λ.
        axis_labels: m texts with units; empty stands for the names.
        points: one per λ; ``front`` in JSON.
        reference_point: of the hypervolume, m numbers.
        base: what the model reaches with its adapter off; None where it was not measured.
        metadata: counts of prompts and of labelled pairs or texts.
        units: the single values that J are means of, where they were kept (see ``units.py``).

    Raises:
        ValidationError: a value of another type, a number that is not finite, sizes that do not
            agree, or a λ that stands there twice.
    """

    format: Literal[2] = FORMAT
    kind: Name
    method: str | None = None
    label: str = ""
    aggregation: str | None = None
    fixed_scaling: Number | None = None
    step: StrictInt | None = None
    cost: Cost | None = None
    objectives: tuple[Name, ...] = Field(min_length=1)
    axis_labels: tuple[Name, ...] = ()
    points: tuple[FrontPoint, ...] = Field(alias="front", min_length=1)
    reference_point: Vector
    base: Reached | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)
    units: Units | None = Field(default=None, exclude=True, repr=False)

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, values: Any) -> Any:
        """Axis labels are the names of the objectives unless there are others."""
        if isinstance(values, Mapping) and not values.get("axis_labels"):
            return {**values, "axis_labels": values.get("objectives", ())}
        return values

    @model_validator(mode="after")
    def _check(self) -> FrontResult:
        m = len(self.objectives)
        if len(set(self.objectives)) < m:
            raise ValueError(f"objectives must be different names, not {list(self.objectives)}")
        if len(self.axis_labels) != m:
            raise ValueError(f"axis_labels must be {m} texts, one per objective")
        if len(self.reference_point) != m:
            raise ValueError(f"reference_point must be {m} finite numbers")
        if self.base is not None:
            self.base.check("base", m)
        for number, point in enumerate(self.points, 1):
            point.check(f"point {number} of the front", m)
        gaps = np.abs(self.preferences[:, None] - self.preferences[None]).max(axis=-1)
        twice = np.argwhere(np.tril(gaps <= SAME_PREFERENCE, -1))
        if len(twice):
            raise ValueError(f"the front has λ {list(self.points[twice[0, 0]].preference)} twice")
        if self.units is not None and (problem := self.units.problem(self.values)):
            raise ValueError(problem)
        return self

    # -- numbers ---------------------------------------------------------------------------

    @cached_property
    def values(self) -> np.ndarray:
        """The values J of all points, size = (N, m), float64."""
        return self._column("objectives")

    @cached_property
    def preferences(self) -> np.ndarray:
        """The λ of all points, size = (N, m), float64."""
        return self._column("preference")

    @cached_property
    def errors(self) -> np.ndarray:
        """Standard errors of J, size = (N, m), float64."""
        return self._column("standard_errors")

    def _column(self, name: str) -> np.ndarray:
        """What every point has under a name, as an array that cannot be written to."""
        found = np.array([getattr(point, name) for point in self.points], dtype=np.float64)
        found.flags.writeable = False
        return found

    @cached_property
    def indicators(self) -> dict[str, Any]:
        """Hypervolume, inner product, sparsity, spacing, dominated points, m rank correlations."""
        return indicators(self.values, self.preferences, self.reference_point)

    def measured_from(self, reference_point: Sequence[float]) -> FrontResult:
        """The same front with its hypervolume measured from another point, m numbers."""
        return self.having(reference_point=tuple(map(float, reference_point)))

    def at(self, grid: torch.Tensor) -> FrontResult:
        """The points at the λ of a grid, size = (n, m), in its order; without unit values.

        Raises:
            KeyError: the front has no such λ.
        """
        found = {tuple(p.preference): p for p in self.points}
        rows = grid.double().round(decimals=6).tolist()
        return self.having(points=tuple(found[tuple(row)] for row in rows), units=None)

    # -- files and pictures ------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """Fields and indicators as plain values; the unit values have a file of their own."""
        return {**self.model_dump(mode="json", by_alias=True), **self.indicators}

    @classmethod
    def from_json(cls, where: str, content: Any) -> FrontResult:
        """Make a front of the plain values that ``to_json`` gave.

        Raises:
            UserError: what does not fit, with ``where``, the file and its line, before it.
        """
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise UserError(f"{where}: not a result of this version (format {FORMAT})")
        return validated(cls, where, content)

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write ``front.json``, and the unit values to ``values.json`` where there are some.

        Args:
            path: a folder, which is made if it is not there.
            overwrite: replace the front that the folder holds.

        Raises:
            UserError: the folder holds a front that is not to be replaced.
        """
        folder = Path(path).expanduser()
        if (folder / FRONT_FILE).exists() and not overwrite:
            raise UserError(f"{folder / FRONT_FILE} exists: give overwrite=True to replace it")
        atomic_write_json(folder / FRONT_FILE, self.to_json())
        (folder / VALUES_FILE).unlink(missing_ok=True)
        if self.units is not None:
            write_units(folder, self.preferences, self.units)

    @classmethod
    def load(cls, path: str | Path) -> FrontResult:
        """Read a front from the files that ``save`` wrote.

        Args:
            path: the folder of an evaluation, or the file of a front without unit values.

        Raises:
            UserError: there is no front, or it is damaged, or the unit values are not its own.
        """
        path = Path(path).expanduser()
        if path.is_file():
            return cls.from_json(str(path), read_json(path))
        result = cls.from_json(str(path / FRONT_FILE), read_json(path / FRONT_FILE))
        units = read_units(path, result.preferences, result.values)
        return result if units is None else result.having(units=units)

    def to_pandas(self) -> Any:
        """A ``pandas.DataFrame`` with a row per λ: λ, J, their standard errors, and the KL.

        Raises:
            UserError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise UserError("pandas is not installed: pip install pandas") from None
        names, table = self.objectives, np.hstack([self.preferences, self.values, self.errors])
        columns = [*(f"λ {name}" for name in names), *names, *(f"± {name}" for name in names)]
        frame = pandas.DataFrame(table, columns=columns)
        frame["KL"] = [point.kl for point in self.points]
        frame["± KL"] = [point.kl_error for point in self.points]
        return frame

    def _repr_html_(self) -> str:
        """As notebooks show it."""
        html: str = self.to_pandas()._repr_html_()
        return html

    def plot(self, path: str | Path | None = None, *others: FrontResult) -> Any:
        """Draw the front, and others of the same objectives beside it.

        Args:
            path: where to write the picture, ``.png`` or ``.pdf``; None: nowhere.
            others: further fronts.

        Returns:
            The matplotlib figure, or the path where the picture was written.
        """
        from safe_rlhf_panacea.show.plots import front_figure, save_picture

        figure = front_figure([self, *others])
        return figure if path is None else save_picture(figure, path)


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
        "preferences": [[shapes.Number, m], points],
        "values": [[[(shapes.Number, type(None)), m], count], points],
    }
    if clusters is not None:
        shape["clusters"] = [str, count]
    wrong = shapes.misfit(content, shape)
    if wrong is None:
        units = Units(content["units"], np.array(content["values"], dtype=np.float64), clusters)
        wrong = units.problem(means)
        if wrong is None and np.allclose(content["preferences"], preferences, atol=ROUNDED):
            return units
    raise UserError(f"{path}: not the values of the front beside it: {wrong or 'evaluate anew'}")
