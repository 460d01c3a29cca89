"""What was measured of a policy, and the front that it makes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from safe_rlhf_panacea.base.losses import preference_loss
from safe_rlhf_panacea.fronts.over_grid import Sampled
from safe_rlhf_panacea.fronts.result import LABELS, UNITS, Cost, FrontPoint, FrontResult, Reached
from safe_rlhf_panacea.fronts.stats import Units

LOG_SIGMOID = "log-sigmoid"


def agreement(margins: torch.Tensor) -> torch.Tensor:
    """1 where a margin towards the label is positive, 0 where negative, ½ in a tie; NaN stays."""
    return ((margins.sign() + 1) / 2).masked_fill(margins.isnan(), float("nan"))


def towards_labels(margins: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Margins, size = (N, Q), towards labels of ±1, or 0 for none, size = (Q, m): (N, Q, m)."""
    return (margins.unsqueeze(-1) * labels).masked_fill(labels.eq(0), float("nan"))


def labelled_statistics(
    values: torch.Tensor, correction: int = 1
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean, standard deviation and count of each objective's units, size = (..., m) each.

    ``values``, size = (..., Q, m), are NaN where a unit does not count for an objective. The count
    is lessened by ``correction`` under the squares, by 0 for shares; the spread of one unit is 0.
    """
    counts = values.isnan().logical_not().sum(dim=-2)
    means = values.nanmean(dim=-2)
    squares = (values - means.unsqueeze(-2)).square().nansum(dim=-2)
    return means, (squares / (counts - correction).clamp(min=1)).sqrt(), counts


@dataclass(frozen=True)
class Measurement:
    """What was found at the N preference vectors of a grid.

    ``kind`` says what J are made of: ``reward``, ``accuracy`` or ``log-sigmoid`` of pairs (an
    accuracy forgets by how much a pair is won), ``log-likelihood``, or what else scored responses.
    """

    grid: torch.Tensor  # size = (N, m)
    prompts: list[str]  # P of them, as people read them
    sampled: Sampled  # a response to every prompt at every λ
    base: Sampled | None = None  # the same of the model with its adapter off, N = 1
    # log π/π_ref of the better response minus that of the worse, size = (N, Q), float64
    margins: torch.Tensor | None = None
    labels: torch.Tensor | None = None  # +1, -1 or 0 of every pair and objective, size = (Q, m)
    margin_scale: float = 1.0  # DPO's β, for what is shown of margins
    kind: str = "reward"
    # log-probability per token of every held-out text with the adapter off, then at every λ,
    # size = (1 + N, Q, m), float64; NaN where a text does not count for an objective
    likelihoods: torch.Tensor | None = None

    def unit_values(self) -> torch.Tensor:
        """What J is the mean of, by λ, by prompt, pair or text, and by objective.

        size = (N, U, m), float64; NaN where a unit does not count for an objective.
        """
        if self.margins is not None and self.labels is not None:
            towards = towards_labels(self.margins, self.labels)
            if self.kind == LOG_SIGMOID:  # the DPO loss of Eq. 14 with its sign
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

    def result(
        self,
        objectives: Sequence[str],  # m names, in the order of λ
        about: Mapping[str, Any],  # further fields of the result, of ``origin``
        reference_point: Sequence[float] | None = None,
        *,
        unit: str | None = None,  # of the values, in place of the kind's
        names: Sequence[str] | None = None,  # of the units, if their values are to be kept
        clusters: Sequence[str] | None = None,  # families of the units, where they come in some
    ) -> FrontResult:
        """The front: J, KL, and the standard errors of both.

        The hypervolume is measured from ``reference_point`` or, by default, from two standard
        deviations below the mean of what the model reaches with its adapter off, to two decimals;
        from 0 for accuracies and where that model was not measured; from -1 for mean log σ.
        """
        values = self.unit_values()
        # An accuracy's standard error is that of a share.
        means, spreads, counts = labelled_statistics(values, 0 if self.kind == "accuracy" else 1)
        ratios = self.sampled.log_ratios  # size = (N, P)
        kl, count = ratios.mean(dim=1), ratios.size(1)
        kl_error = ratios.std(dim=1) / count**0.5 if count > 1 else torch.zeros_like(kl)
        metadata: dict[str, Any] = {"prompts": len(self.prompts)}
        if self.margins is not None:
            metadata["labelled_pairs"] = counts[0].tolist()
        elif self.likelihoods is not None:
            metadata["labelled_texts"] = counts[0].tolist()
        base, reference = self._base_point()
        return FrontResult(
            kind=self.kind,
            objectives=objectives,
            axis_labels=[f"{name} ({unit or UNITS[self.kind]})" for name in objectives],
            points=grid_points(self.grid, means, spreads / counts.sqrt(), kl, kl_error),
            reference_point=reference_point or reference,
            base=base,
            metadata=metadata,
            units=names and Units(names, values.numpy(), clusters),
            **about,
        )

    def _base_point(self) -> tuple[Reached | None, list[float]]:
        """What the model reaches with its adapter off, and the reference point."""
        m = self.grid.size(1)
        if self.kind == LOG_SIGMOID:  # every margin of the initial model is 0
            even = Reached(objectives=[-math.log(2)] * m, standard_errors=[0.0] * m)
            return even, [-1.0] * m
        values = self.base_values()
        if values is None:
            return None, [0.0] * m
        means, spreads, counts = labelled_statistics(values)
        errors = (spreads / counts.sqrt()).tolist()
        below = [round(value, 2) for value in (means - 2 * spreads).tolist()]
        return Reached(objectives=means.tolist(), standard_errors=errors), below

    def responses(self, most: int | None = None) -> list[dict[str, Any]]:
        """Every response to the first ``most`` prompts, prompt by prompt, without the base's."""
        return _rows(self.prompts[:most], self.sampled, rounded(self.grid))

    def base_responses(self) -> list[dict[str, Any]]:
        """Those of the model with its adapter off, which have no λ."""
        return [] if self.base is None else _rows(self.prompts, self.base, [[]])


def _rows(
    prompts: Sequence[str], sampled: Sampled, preferences: list[list[float]]
) -> list[dict[str, Any]]:
    """The responses as ``responses.json`` has them."""
    return [
        {
            **(sampled.extra[n][p] if sampled.extra else {}),
            "prompt": prompt,
            "response": sampled.texts[n][p],
            "preference": preference,
            "rewards": [None if r != r else r for r in sampled.rewards[n, p].tolist()],
            "log_ratio": round(sampled.log_ratios[n, p].item(), 4),
        }
        for p, prompt in enumerate(prompts)
        for n, preference in enumerate(preferences)
    ]


def join(parts: Sequence[Measurement]) -> Measurement:
    """Measurements of the same prompts or pairs at several grids as one, in their order."""
    first, sampled = parts[0], [part.sampled for part in parts]
    margins = [part.margins for part in parts if part.margins is not None]
    likelihoods = [part.likelihoods[1:] for part in parts if part.likelihoods is not None]
    if first.likelihoods is not None:
        likelihoods.insert(0, first.likelihoods[:1])
    joined = Sampled(
        [texts for one in sampled for texts in one.texts],
        torch.cat([one.rewards for one in sampled]),
        torch.cat([one.log_ratios for one in sampled]),
        [rows for one in sampled for rows in one.extra],
    )
    return replace(
        first,
        grid=torch.cat([part.grid for part in parts]),
        sampled=joined,
        margins=torch.cat(margins) if margins else None,
        likelihoods=torch.cat(likelihoods) if likelihoods else None,
    )


def rounded(grid: torch.Tensor) -> list[list[float]]:
    """The λ of a grid, size = (N, m), as files have them: with six decimals."""
    return grid.double().cpu().round(decimals=6).tolist()


def grid_points(
    grid: torch.Tensor,  # size = (N, m)
    values: torch.Tensor,  # J, size = (N, m)
    errors: torch.Tensor,  # of J, size = (N, m)
    *kl: torch.Tensor,  # and its standard error, size = (N,) each, where they were measured
) -> list[FrontPoint]:
    """The points of a grid; λ is kept with six decimals."""
    columns = (rounded(grid), *(column.tolist() for column in (values, errors, *kl)))
    names = ("preference", "objectives", "standard_errors", "kl", "kl_error")
    rows = zip(*columns, strict=True)
    return [FrontPoint(**dict(zip(names, row, strict=False))) for row in rows]


def origin(
    method: str,  # a key of ``LABELS``
    label: str,  # in tables and pictures; empty: the method's
    flags: Mapping[str, Any],  # that training was started with
    step: int | None,  # of training; None at its end
    training_seconds: float | None,  # None where they are not known
    stored_parameters: int,  # numbers in the adapters
    trained_models: int = 1,
) -> dict[str, Any]:
    """The fields of a ``FrontResult`` that say what was measured."""
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
