"""m objectives and λ to one number: linear scalarisation, weighted and smooth Tchebycheff."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from safe_rlhf_panacea.errors import UserError


class AggregationError(UserError):
    """Values, λ or method do not fit together; the message is one line."""


def _check(
    values: torch.Tensor, preference: torch.Tensor, method: str, methods: tuple[str, ...]
) -> None:
    if method not in methods:
        raise AggregationError(f"unknown aggregation {method!r}: choose {' or '.join(methods)}")
    if values.dim() != 2 or preference.shape != values.shape:
        raise AggregationError(
            f"values of shape {tuple(values.shape)} and preferences of shape "
            f"{tuple(preference.shape)} do not fit: both must be (B, m)"
        )


def _check_objectives(what: str, given: torch.Tensor, pref_dim: int) -> None:
    """Refuse what would broadcast in silence, such as one number for m objectives."""
    if given.shape[-1:] != (pref_dim,):
        raise AggregationError(
            f"{what} of shape {tuple(given.shape)}: the last size must be "
            f"{pref_dim}, one for each objective"
        )


def label_counts(mask: torch.Tensor) -> torch.Tensor:
    """How many rows each objective labels, and how many any does; size = (B, m) to (m + 1,)."""
    return torch.cat([mask.sum(dim=0), mask.any(dim=-1).sum().unsqueeze(0)])


def aggregate_losses(
    losses: torch.Tensor,
    mask: torch.Tensor | None,
    preference: torch.Tensor,
    method: str = "ls",
    scope: str = "batch",
    reduce: Callable[[torch.Tensor], torch.Tensor] | None = None,
    counts: torch.Tensor | None = None,
) -> torch.Tensor:
    """The m losses of a batch as one, to be minimised, size = ().

    - ``ls``: Σ_i mean_b λ_bi L_bi, each mean over the rows that objective i labels (Eq. 14).
    - ``tche`` in scope ``batch``: max_i λ_i mean_b L_bi, the expectation inside the max (Eq. 16).
      In scope ``sample`` every row is a problem of its own: the mean over rows of max_i λ_bi L_bi.

    With ``counts`` the means are over an update: the mean of the results over its micro-batches and
    all processes, which is what training takes, is the result of one batch with all their rows. Not
    so for ``tche`` in scope ``batch``, whose maximum is not linear: it is that of this micro-batch,
    with ``reduce`` of those of all processes, and the result is this process's share in it.

    Args:
        losses: size = (B, m).
        mask: size = (B, m), True where an objective labels a row; None means everywhere. An
            objective that labels no row of the update does not count.
        preference: λ, size = (B, m); in scope ``batch`` its rows are equal.
        method: ``ls`` or ``tche``.
        scope: ``batch`` or ``sample``.
        reduce: sums a tensor over the processes; for ``tche`` in scope ``batch``.
        counts: ``label_counts`` of an average micro-batch of the update, size = (m + 1,); default:
            of this one.

    Raises:
        AggregationError: shapes that do not fit, or an unknown method or scope.
    """
    _check(losses, preference, method, ("ls", "tche"))
    if scope not in ("batch", "sample"):
        raise AggregationError(f"unknown scope {scope!r}: choose batch or sample")
    if mask is not None and mask.shape != losses.shape:
        raise AggregationError(
            f"a mask of shape {tuple(mask.shape)} does not fit losses of shape "
            f"{tuple(losses.shape)}: they must be the same"
        )
    mask = torch.ones_like(losses, dtype=torch.bool) if mask is None else mask.bool()
    counts = label_counts(mask) if counts is None else counts
    counts = counts.masked_fill(counts == 0, 1)  # of what is 0 then
    weighted = torch.where(mask, losses * preference, 0.0)  # size = (B, m)
    if method == "tche" and scope == "sample":
        worst = _labelled_max(weighted, mask)  # size = (B,)
        return worst.sum() / counts[-1]
    sums = weighted.sum(dim=0)  # size = (m,)
    if method == "ls":
        return (sums / counts[:-1]).sum()
    if reduce is not None:
        return _shared_max(sums, mask.sum(dim=0), reduce)
    return _labelled_max(sums / mask.sum(dim=0).clamp(min=1), mask.any(dim=0))


def _shared_max(
    sums: torch.Tensor, counts: torch.Tensor, reduce: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """This process's share of the largest mean over all processes; ties share the gradient."""
    wide = torch.promote_types(sums.dtype, torch.float32)  # lower precision could not count
    parts = (sums.detach().to(wide), counts.to(wide), sums.new_ones(1, dtype=wide))
    totals, rows, processes = reduce(torch.cat(parts)).split((len(sums), len(sums), 1))
    means = (totals / rows.clamp(min=1)).masked_fill(rows == 0, -torch.inf)
    largest = (rows > 0) & ~(means < means.max())  # with a NaN all of them: it must show
    shares = torch.where(largest, sums * processes / rows.clamp(min=1), 0.0)
    return shares.sum() / largest.sum().clamp(min=1)


def _labelled_max(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The largest labelled entry of the last dimension, 0 where none is labelled."""
    worst = values.masked_fill(~mask, -torch.inf).amax(dim=-1)
    return torch.where(mask.any(dim=-1), worst, 0.0)


def aggregate_rewards(
    rewards: torch.Tensor,
    preference: torch.Tensor,
    method: str = "ls",
    ideal: torch.Tensor | None = None,
    smooth_mu: float | None = None,
) -> torch.Tensor:
    """The m rewards of each sequence as one, to be maximised, size = (B,).

    - ``ls``: Σ_i λ_i r_i (Eq. 12).
    - ``tche``: min_i λ_i (r_i - z_i) (Eq. 7 and 13).
    - ``stche``: -μ log Σ_i exp(λ_i (z_i - r_i) / μ) (arXiv 2402.19078), at most μ log m below.

    Only the objectives that count for a sequence do; the result is 0 where none does. Their λ_i are
    not made to sum to one: as in Eq. 14, an objective has the weight λ_i wherever it counts, and
    the weights are continuous in λ.

    Args:
        rewards: size = (B, m); NaN where an objective does not count for a sequence.
        preference: λ, size = (B, m).
        method: ``ls``, ``tche`` or ``stche``.
        ideal: z, size = (m,); needed by ``tche`` and ``stche``.
        smooth_mu: μ, needed by ``stche``, in the units of the rewards.

    Raises:
        AggregationError: shapes that do not fit, an unknown method, no ideal point or no μ.
    """
    _check(rewards, preference, method, ("ls", "tche", "stche"))
    missing = rewards.isnan()
    if method == "ls":
        return (torch.where(missing, 0.0, rewards) * preference).sum(dim=-1)
    if ideal is None:
        raise AggregationError(f"{method} needs an ideal point")
    _check_objectives("an ideal point", ideal, rewards.size(-1))
    if method == "tche":
        gaps = (preference * (rewards - ideal)).masked_fill(missing, torch.inf)
        total = gaps.amin(dim=-1)
    elif smooth_mu is not None and smooth_mu > 0:
        gaps = (preference * (ideal - rewards)).masked_fill(missing, -torch.inf)
        total = -smooth_mu * torch.logsumexp(gaps / smooth_mu, dim=-1)
    else:
        raise AggregationError(f"stche needs a positive μ, not {smooth_mu}")
    return total.masked_fill(missing.all(dim=-1), 0.0)


def objective_weights(
    values: torch.Tensor,
    preference: torch.Tensor,
    method: str = "ls",
    ideal: torch.Tensor | None = None,
    smooth_mu: float | None = None,
) -> torch.Tensor:
    """The gradient of ``aggregate_rewards``, size = (B, m): how much each objective counts at v.

    λ_i; λ_i where λ_i (v_i - z_i) is least and 0 elsewhere, shared between ties; or λ_i times the
    softmax of λ (z - v) / μ. It is 0 where v is NaN, that is, an objective does not count.
    """
    with torch.enable_grad():
        leaf = values.detach().requires_grad_()
        total = aggregate_rewards(leaf, preference, method, ideal, smooth_mu).sum()
        return torch.autograd.grad(total, leaf)[0]


def best_of_each(rewards: torch.Tensor) -> torch.Tensor:
    """The largest of each objective's rewards (B, m), size = (m,); -inf where none counts."""
    return rewards.masked_fill(rewards.isnan(), -torch.inf).amax(dim=0)


class IdealPoint:
    """z, the best value of each of ``pref_dim`` objectives so far (Eq. 7 and 13)."""

    def __init__(self, pref_dim: int) -> None:
        """Nothing has been seen yet."""
        self._updated = False
        self._best = torch.full((pref_dim,), -torch.inf)

    @property
    def value(self) -> torch.Tensor:
        """z, size = (m,); -inf for an objective that has not counted so far.

        Before the first update it is an ``AggregationError``.
        """
        if not self._updated:
            raise AggregationError("the ideal point is not known before the first update")
        return self._best.clone()

    def update(self, rewards: torch.Tensor) -> None:
        """Take in rewards, size = (B, m); NaN where an objective does not count."""
        _check_objectives("rewards", rewards, self._best.numel())
        self._best = torch.maximum(self._best, best_of_each(rewards.detach().float()).cpu())
        self._updated = True

    def state_dict(self) -> dict[str, Any]:
        """The best values."""
        return {"best": self._best.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from saved best values, which are of as many objectives."""
        _check_objectives("a saved ideal point", state["best"], self._best.numel())
        self._best = state["best"].clone()
        self._updated = not bool(self._best.isneginf().all())
