"""A front: what a method reaches at every preference vector λ, in memory and as JSON.

The JSON form (format 2) has a key for every field of ``FrontResult``, where ``points`` is called
``front``, and the indicators. ``values.json`` beside it has the values that J are means of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
from pydantic import Field, StrictInt, model_validator
from typing_extensions import Self

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.fronts import stats
from safe_rlhf_panacea.fronts.indicators import indicators
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


class Reached(Record):
    """The mean value of each objective that a model reaches."""

    objectives: Vector  # J_1..J_m, to be maximised
    standard_errors: Vector  # of each J


class FrontPoint(Reached):
    """One λ and what is reached there."""

    preference: Vector  # λ, m numbers
    kl: Number | None = None  # estimate of KL(π_λ ‖ π_ref) in nats per response
    kl_error: Number | None = None  # its standard error; both are None where not measured


class Cost(Record):
    """What training and storing a method took."""

    training_seconds: Number | None = None  # of all its trainings, where they are known
    stored_parameters: StrictInt  # numbers in its adapters
    trained_models: StrictInt = 1  # how many adapters there are


class FrontResult(Record):
    """The front of one method, in the order of its grid of N preference vectors.

    J of ``kind`` ``reward`` are mean rewards of sampled responses, of ``accuracy`` the shares of
    labelled pairs that the implicit reward orders as the label does (a tie counts half), of
    ``log-sigmoid`` mean log σ of its margins towards the label in nats, of ``log-likelihood`` per
    token of held-out texts, and of ``true score`` the miniature's. A ``ValidationError`` names a
    value of another type, a number that is not finite, sizes that do not agree, or a λ given twice.
    """

    format: Literal[2] = FORMAT  # of the JSON form
    kind: Name
    method: str | None = None  # a key of ``LABELS``, where it is one of these
    label: str = ""  # in tables and pictures
    aggregation: str | None = None  # that training used
    fixed_scaling: Number | None = None  # the factor on λ where it was not learnt
    step: StrictInt | None = None  # of training; None at its end
    cost: Cost | None = None  # where it is known
    objectives: tuple[Name, ...] = Field(min_length=1)  # m names, in the order of λ
    axis_labels: tuple[Name, ...] = ()  # m texts with units; empty stands for the names
    points: tuple[FrontPoint, ...] = Field(alias="front", min_length=1)  # one per λ
    reference_point: Vector  # of the hypervolume, m numbers
    base: Reached | None = None  # with the adapter off; None where that was not measured
    metadata: dict[str, Any] = Field(default_factory=dict)  # counts of prompts, pairs or texts
    # The single values that J are means of, where they were kept.
    units: stats.Units | None = Field(default=None, exclude=True, repr=False)

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
        vectors = [("reference_point", self.reference_point)]
        if self.base is not None:
            base = self.base.fields()
            vectors += [(f"base: {name}", vector) for name, vector in base.items()]
        for number, point in enumerate(self.points, 1):
            where = f"point {number} of the front"
            for name in ("objectives", "standard_errors", "preference"):
                vectors.append((f"{where}: {name}", getattr(point, name)))
            if (point.kl is None) != (point.kl_error is None):
                raise ValueError(f"{where}: kl and kl_error must be numbers, or null")
        for where, vector in vectors:
            if len(vector) != m:
                raise ValueError(f"{where} must be {m} finite numbers")
        gaps = np.abs(self.preferences[:, None] - self.preferences[None]).max(axis=-1)
        twice = np.argwhere(np.tril(gaps <= stats.SAME_PREFERENCE, -1))
        if len(twice):
            raise ValueError(f"the front has λ {list(self.points[twice[0, 0]].preference)} twice")
        if self.units is not None and (problem := self.units.problem(self.values)):
            raise ValueError(problem)
        return self

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

    def measured_from(self, reference_point: Sequence[float]) -> Self:
        """The same front with its hypervolume measured from another point, m numbers."""
        m, point = len(self.objectives), list(reference_point)
        if len(point) != m or not np.isfinite(point).all():
            raise UserError(f"a reference point needs {m} finite numbers, not {point}")
        return self.having(reference_point=tuple(map(float, point)))

    def at(self, grid: torch.Tensor) -> FrontResult:
        """The points at the λ of a grid, size = (n, m), in its order; without unit values."""
        found = {tuple(p.preference): p for p in self.points}
        rows = grid.double().round(decimals=6).tolist()
        return self.having(points=tuple(found[tuple(row)] for row in rows), units=None)

    def to_json(self) -> dict[str, Any]:
        """Fields and indicators as plain values; the unit values have a file of their own."""
        return {**self.model_dump(mode="json", by_alias=True), **self.indicators}

    @classmethod
    def from_json(cls, where: str, content: Any) -> FrontResult:
        """Make a front of the plain values that ``to_json`` gave.

        A ``UserError`` says what does not fit, with ``where``, the file and its line, before it.
        """
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise UserError(f"{where}: not a result of this version (format {FORMAT})")
        return validated(cls, where, content)

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write ``front.json``, and the unit values to ``values.json`` where there are some.

        ``path`` is a folder, which is made if it is not there. A front that it holds is a
        ``UserError`` unless ``overwrite`` says that it is to be replaced.
        """
        folder = Path(path).expanduser()
        if (folder / FRONT_FILE).exists() and not overwrite:
            raise UserError(f"{folder / FRONT_FILE} exists: give overwrite=True to replace it")
        atomic_write_json(folder / FRONT_FILE, self.to_json())
        (folder / stats.VALUES_FILE).unlink(missing_ok=True)
        if self.units is not None:
            stats.write_units(folder / stats.VALUES_FILE, self.preferences, self.units)

    @classmethod
    def load(cls, path: str | Path) -> FrontResult:
        """Read a front from the folder of an evaluation, or from a file without unit values.

        A ``UserError`` says that there is none, or what is damaged or not its own.
        """
        path = Path(path).expanduser()
        if path.is_file():
            return cls.from_json(str(path), read_json(path))
        result = cls.from_json(str(path / FRONT_FILE), read_json(path / FRONT_FILE))
        if not (path / stats.VALUES_FILE).is_file():
            return result
        units = stats.read_units(path / stats.VALUES_FILE, result.preferences, result.values)
        return result.having(units=units)

    def to_pandas(self) -> Any:
        """A ``pandas.DataFrame`` with a row per λ: λ, J, their standard errors, and the KL."""
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

    def beside_initial_model(self) -> list[FrontResult]:
        """The front and, in a plane and where it was measured, the initial model as a point."""
        if self.base is None or len(self.objectives) != 2:
            return [self]
        nowhere = FrontPoint(preference=[0.0, 0.0], **self.base.fields())
        return [self, self.having(points=[nowhere], units=None, label="initial model")]

    def plot(self, path: str | Path | None = None, *others: FrontResult) -> Any:
        """Draw the front, and others of the same objectives beside it, or else the initial model.

        Returns the matplotlib figure or, given the ``path`` of a PNG or PDF, where it was written.
        """
        from safe_rlhf_panacea.show.plots import front_figure, save_picture
        from safe_rlhf_panacea.show.tables import fronts_title

        shown = [self, *others] if others else self.beside_initial_model()
        figure = front_figure(shown, fronts_title([self, *others]))
        return figure if path is None else save_picture(figure, path)
