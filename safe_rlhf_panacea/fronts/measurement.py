"""What was measured of a policy, and the front that it makes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from safe_rlhf_panacea.base.losses import preference_loss
from safe_rlhf_panacea.fronts.accuracy_front import accuracy_front, agreement
from safe_rlhf_panacea.fronts.front import Front, FrontPoint, grid_points
from safe_rlhf_panacea.fronts.likelihood_front import labelled_statistics, likelihood_front
from safe_rlhf_panacea.fronts.results import Origin, front_result
from safe_rlhf_panacea.fronts.reward_front import Sampled, mean_and_error, reward_front

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

    def front(self, objectives: Sequence[str], label: str = "") -> Front:
        """The points: mean rewards or accuracies, KL, and all their standard errors."""
        if self.kind == LOG_SIGMOID:
            front = likelihood_front(self.unit_values(), self.grid, objectives, label)
            front.metadata = {"labelled_pairs": front.metadata["labelled_texts"]}
        elif self.margins is not None and self.labels is not None:
            front = accuracy_front(self.margins, self.labels, self.grid, objectives, label)
        elif self.likelihoods is not None:
            front = likelihood_front(self.likelihoods[1:], self.grid, objectives, label)
        else:
            front = reward_front(self.sampled.rewards, self.grid, objectives, label)
        front.metadata["prompts"] = len(self.prompts)
        columns = (column.tolist() for column in mean_and_error(self.sampled.log_ratios))
        for point, kl, error in zip(front.points, *columns, strict=True):
            point.kl, point.kl_error = kl, error
        return front

    def unit_values(self) -> torch.Tensor:
        """What J is the mean of, by λ, by prompt or pair, and by objective.

        Returns:
            size = (N, U, m), float64; NaN where a pair or a response does not count for an
            objective.
        """
        if self.margins is not None and self.labels is not None:
            towards = self.margins.unsqueeze(-1) * self.labels  # size = (N, Q, m)
            if self.kind == LOG_SIGMOID:
                values = -preference_loss(self.margin_scale * towards)
            else:
                values = agreement(towards)
            return values.masked_fill(self.labels.eq(0), float("nan"))
        return self.sampled.rewards

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

    def base_point(self, objectives: Sequence[str]) -> FrontPoint | None:
        """What the model reaches with its adapter off."""
        nowhere = torch.zeros(1, len(objectives), dtype=torch.float64)
        if self.kind == LOG_SIGMOID:  # every margin of the initial model is 0
            at_zero = torch.full_like(nowhere, -math.log(2))
            return grid_points(nowhere, at_zero, torch.zeros_like(nowhere))[0]
        if self.likelihoods is not None:
            return likelihood_front(self.likelihoods[:1], nowhere, objectives).points[0]
        if self.base is None:
            return None
        return reward_front(self.base.rewards, nowhere, objectives).points[0]

    def reference_point(self) -> list[float]:
        """From where the hypervolume is measured unless a point is given, m numbers.

        Two standard deviations below the mean of what the model reaches with its adapter off, to
        two decimals. 0 for accuracies, which cannot be lower, and where that model was not
        measured. -1 for the mean log σ of margins, where the initial model is at -0.69.
        """
        if self.kind == LOG_SIGMOID:
            return [-1.0] * self.grid.size(1)
        if self.likelihoods is not None:
            values = self.likelihoods[0]
        elif self.base is not None and self.margins is None:
            values = self.base.rewards[0]
        else:
            return [0.0] * self.grid.size(1)
        means, spreads, _ = labelled_statistics(values)  # of size = (P, m)
        return [round(value, 2) for value in (means - 2 * spreads).tolist()]

    def result(
        self,
        objectives: Sequence[str],
        origin: Origin,
        reference_point: Sequence[float] | None = None,
    ) -> dict[str, Any]:
        """As it goes into ``front.json``."""
        front = self.front(objectives, origin.label)
        point = list(reference_point or self.reference_point())
        return front_result(front, self.kind, point, origin, self.base_point(objectives))

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
