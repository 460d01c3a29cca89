"""What was measured of a policy, and the front that it makes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from safe_rlhf_panacea.base.losses import preference_loss
from safe_rlhf_panacea.data.templates import without_template
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.fronts.held_out import agreement, labelled_statistics, towards_labels
from safe_rlhf_panacea.fronts.result import LABELS, UNITS, Cost, FrontPoint, FrontResult, Reached
from safe_rlhf_panacea.fronts.sampling import Sampled
from safe_rlhf_panacea.fronts.units import Units
from safe_rlhf_panacea.io import read_json
from safe_rlhf_panacea.shapes import Number, misfit

RESPONSES_FILE = "responses.json"
LOG_SIGMOID = "log-sigmoid"


@dataclass(frozen=True)
class Measurement:
    """What was found at the N preference vectors of a grid.

    Attributes:
        grid: size = (N, m).
        prompts: P of them, as people read them.
        sampled: a response to every prompt at every λ.
        base: the same of the model with its adapter off, N = 1; None where it was not measured.
        margins: log π/π_ref of the better response minus that of the worse, size = (N, Q),
            float64; None without pairs.
        labels: +1, -1 or 0 of every pair and objective, size = (Q, m).
        margin_scale: DPO's β, for what is shown of margins.
        kind: of the values: ``reward``, ``accuracy`` or ``log-sigmoid`` of pairs,
            ``log-likelihood``, or whatever else scored the responses.
        likelihoods: log-probability per token of every held-out text with the adapter off, then
            at every λ, size = (1 + N, Q, m), float64; NaN where a text does not count for an
            objective. None without texts.
    """

    grid: torch.Tensor
    prompts: list[str]
    sampled: Sampled
    base: Sampled | None = None
    margins: torch.Tensor | None = None
    labels: torch.Tensor | None = None
    margin_scale: float = 1.0
    kind: str = "reward"
    likelihoods: torch.Tensor | None = None

    def unit_values(self) -> torch.Tensor:
        """What J is the mean of, by λ, by prompt, pair or text, and by objective.

        Returns:
            size = (N, U, m), float64; NaN where a unit does not count for an objective.
        """
        if self.margins is not None and self.labels is not None:
            towards = towards_labels(self.margins, self.labels)
            if self.kind == LOG_SIGMOID:
                return -preference_loss(self.margin_scale * towards)
            return agreement(towards)
        if self.likelihoods is not None:
            return self.likelihoods[1:]
        return self.sampled.rewards

    def base_values(self) -> torch.Tensor | None:
        """The same of the model with its adapter off, size = (U, m); None if it has none."""
        if self.likelihoods is not None:
            return self.likelihoods[0]
        return None if self.base is None else self.base.rewards[0]

    def in_log_sigmoid(self) -> Measurement:
        """The same pairs, measured by the mean log σ(±βΔ): the DPO loss of Eq. 14 with its sign.

        An accuracy forgets by how much a pair is won: a few hundred pairs cannot tell 0.56 from
        0.60.

        Raises:
            ValueError: there are no pairs.
        """
        if self.margins is None:
            raise ValueError("only pairs have a log σ of their margin")
        return replace(self, kind=LOG_SIGMOID)

    def result(
        self,
        objectives: Sequence[str],
        about: Mapping[str, Any],
        reference_point: Sequence[float] | None = None,
        *,
        unit: str | None = None,
        names: Sequence[str] | None = None,
        clusters: Sequence[str] | None = None,
    ) -> FrontResult:
        """The front: J, KL, and the standard errors of both.

        Args:
            objectives: m names, in the order of λ.
            about: further fields of the result, of ``origin``.
            reference_point: of the hypervolume; None: that of ``reference_point``.
            unit: of the values, in place of the kind's.
            names: of the units, if their values are to be kept.
            clusters: families of the units, where they come in some.
        """
        values = self.unit_values()
        # An accuracy's standard error is that of a share.
        correction = 0 if self.kind == "accuracy" else 1
        means, spreads, counts = labelled_statistics(values, correction)
        kl = mean_and_error(self.sampled.log_ratios)
        metadata: dict[str, Any] = {"prompts": len(self.prompts)}
        if self.margins is not None:
            metadata["labelled_pairs"] = counts[0].tolist()
        elif self.likelihoods is not None:
            metadata["labelled_texts"] = counts[0].tolist()
        return FrontResult(
            kind=self.kind,
            objectives=objectives,
            axis_labels=[f"{name} ({unit or UNITS[self.kind]})" for name in objectives],
            points=grid_points(self.grid, means, spreads / counts.sqrt(), *kl),
            reference_point=reference_point or self.reference_point(),
            base=self._base_point(),
            metadata=metadata,
            units=names and Units(names, values.numpy(), clusters),
            **about,
        )

    def _base_point(self) -> Reached | None:
        """What the model reaches with its adapter off."""
        if self.kind == LOG_SIGMOID:  # every margin of the initial model is 0
            m = self.grid.size(1)
            return Reached(objectives=[-math.log(2)] * m, standard_errors=[0.0] * m)
        values = self.base_values()
        if values is None:
            return None
        means, spreads, counts = labelled_statistics(values)
        errors = spreads / counts.sqrt()
        return Reached(objectives=means.tolist(), standard_errors=errors.tolist())

    def reference_point(self) -> list[float]:
        """From where the hypervolume is measured unless a point is given, m numbers.

        Two standard deviations below the mean of what the model reaches with its adapter off, to
        two decimals. 0 for accuracies, which cannot be lower, and where that model was not
        measured. -1 for the mean log σ of margins, where the initial model is at -0.69.
        """
        if self.kind == LOG_SIGMOID:
            return [-1.0] * self.grid.size(1)
        values = self.base_values()
        if values is None:
            return [0.0] * self.grid.size(1)
        means, spreads, _ = labelled_statistics(values)
        return [round(value, 2) for value in (means - 2 * spreads).tolist()]

    def responses(self, most: int | None = None) -> list[dict[str, Any]]:
        """Every response to the first ``most`` prompts, prompt by prompt, without the base's."""
        return list(_rows(self.prompts[:most], self.sampled, self.grid))

    def base_responses(self) -> list[dict[str, Any]]:
        """Those of the model with its adapter off, which have no λ."""
        if self.base is None:
            return []
        return list(_rows(self.prompts, self.base, torch.empty(1, 0)))


def _rows(prompts: Sequence[str], sampled: Sampled, grid: torch.Tensor) -> Iterator[dict[str, Any]]:
    preferences = grid.double().cpu().round(decimals=6).tolist()
    for p, prompt in enumerate(prompts):
        for n, preference in enumerate(preferences):
            yield {
                **(sampled.extra[n][p] if sampled.extra else {}),
                "prompt": prompt,
                "response": sampled.texts[n][p],
                "preference": preference,
                "rewards": [None if r != r else r for r in sampled.rewards[n, p].tolist()],
                "log_ratio": round(sampled.log_ratios[n, p].item(), 4),
            }


def join(parts: Sequence[Measurement]) -> Measurement:
    """Measurements of the same prompts or pairs at several grids as one, in their order."""
    first, sampled = parts[0], [part.sampled for part in parts]
    margins = None
    if first.margins is not None:
        margins = torch.cat([part.margins for part in parts if part.margins is not None])
    joined = Sampled(
        [texts for one in sampled for texts in one.texts],
        torch.cat([one.rewards for one in sampled]),
        torch.cat([one.log_ratios for one in sampled]),
        [rows for one in sampled for rows in one.extra],
    )
    likelihoods = first.likelihoods
    if likelihoods is not None:
        rest = [part.likelihoods[1:] for part in parts if part.likelihoods is not None]
        likelihoods = torch.cat([likelihoods[:1], *rest])
    grid = torch.cat([part.grid for part in parts])
    return replace(first, grid=grid, sampled=joined, margins=margins, likelihoods=likelihoods)


def mean_and_error(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Means over prompts, size = (N,), and their standard errors: 0 where there is one prompt.

    Args:
        values: size = (N, P), float64.
    """
    means, count = values.mean(dim=1), values.size(1)
    return means, values.std(dim=1) / count**0.5 if count > 1 else torch.zeros_like(means)


def grid_points(
    grid: torch.Tensor, values: torch.Tensor, errors: torch.Tensor, *kl: torch.Tensor
) -> list[FrontPoint]:
    """The points of a grid; λ is kept with six decimals.

    Args:
        grid: preference vectors, size = (N, m).
        values: J, size = (N, m).
        errors: standard errors of J, size = (N, m).
        kl: the KL and its standard error, size = (N,) each, where they were measured.
    """
    columns = (grid.double().cpu().round(decimals=6), values, errors, *kl)
    names = ("preference", "objectives", "standard_errors", "kl", "kl_error")
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [FrontPoint(**dict(zip(names, row, strict=False))) for row in rows]


def origin(
    method: str,
    label: str,
    flags: Mapping[str, Any],
    step: int | None,
    training_seconds: float | None,
    stored_parameters: int,
    trained_models: int = 1,
) -> dict[str, Any]:
    """The fields of a ``FrontResult`` that say what was measured.

    Args:
        method: a key of ``LABELS``.
        label: in tables and pictures; empty: the method's.
        flags: that training was started with.
        step: of training; None at its end.
        training_seconds: None where they are not known.
        stored_parameters: numbers in the adapters.
        trained_models: how many adapters there are.
    """
    aggregation = flags.get("aggregation")
    return {
        "method": method,
        "label": label or LABELS[method],
        "aggregation": aggregation if isinstance(aggregation, str) else None,
        "fixed_scaling": flags.get("fixed_scaling") if method == "panacea" else None,
        "step": step,
        "cost": Cost(
            training_seconds=None if training_seconds is None else round(training_seconds, 3),
            stored_parameters=stored_parameters,
            trained_models=trained_models,
        ),
    }


def read_responses(folder: str | Path, objectives: Sequence[str]) -> list[dict[str, Any]]:
    """Every sampled response of an evaluation.

    Raises:
        UserError: the evaluation has none, as one of pairs, or the file is damaged.
    """
    path = Path(folder) / RESPONSES_FILE
    if not path.is_file():
        raise UserError(f"{folder} has no {RESPONSES_FILE}: evaluate with --reward_models")
    rows = read_json(path)
    m = len(objectives)
    # The initial model's responses stand there without a λ.
    vector = ([Number, m], [Number, 0])
    rewards = [(Number, type(None)), m]  # null where an objective does not count
    row = {"prompt": str, "response": str, "preference": vector, "rewards": rewards}
    if wrong := misfit(rows, [row]):
        raise UserError(f"{path}: it does not fit the {m} objectives of its front.json: {wrong}")
    if not rows:
        raise UserError(f"{path} holds no response")
    for response in rows:
        response["prompt"] = without_template(response["prompt"])
    return rows
