"""Drawing preference vectors for training."""

from __future__ import annotations

import math
from typing import Any

import torch

from safe_rlhf_panacea.preference import PreferenceError

KINDS = ("uniform", "dirichlet", "vertices", "stratified")


def label_weights(preference: torch.Tensor, labelled: torch.Tensor) -> torch.Tensor:
    """What each objective's loss counts where λ was drawn for the labels of its row.

    λ_i · E_p[Σ_S λ_j] / Σ_S λ_j over the labelled objectives S, which is the ratio of the two
    densities times λ_i: the expected weighted loss, and so its gradient, is that of λ drawn from
    p and weights λ_i. For a symmetric p the expectation is |S| / m. All sizes are (B, m); the
    result is λ itself where all objectives label a row, or none.
    """
    held = (preference * labelled).sum(dim=-1, keepdim=True)  # size = (B, 1)
    share = labelled.sum(dim=-1, keepdim=True) / labelled.size(-1)
    partly = (held > 0) & (share < 1)
    return torch.where(partly, preference * share / held.clamp(min=1e-30), preference)


class PreferenceSampler:
    """Draws λ from the simplex with a generator of its own.

    Args:
        pref_dim: m.
        kind: ``uniform`` on the simplex; ``dirichlet`` with parameter ``alpha``; ``vertices``,
            uniform but with probability ``vertex_probability`` a vertex; ``stratified``, uniform
            for m = 2 with one draw per stratum of a batch.
        alpha: Dirichlet's parameter, the same for every objective.
        vertex_probability: extra probability of the vertices together; ``vertices`` needs it.
        scope: ``batch`` draws one vector per batch (Algorithm 1), ``sample`` one per sequence.
        seed: of the generator; the same on all ranks.
        rank, world_size: this process, and how many there are.

    Raises:
        PreferenceError: an unknown kind or scope, or a parameter out of range.
    """

    def __init__(
        self,
        pref_dim: int,
        kind: str = "uniform",
        *,
        alpha: float = 1.0,
        vertex_probability: float | None = None,
        scope: str = "batch",
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Check the parameters and seed the generator."""
        if kind not in KINDS:
            raise PreferenceError(f"unknown sampler {kind!r}: choose one of {', '.join(KINDS)}")
        if scope not in ("batch", "sample"):
            raise PreferenceError(f"unknown scope {scope!r}: choose batch or sample")
        if pref_dim < 1:
            raise PreferenceError(f"a sampler needs at least one objective, not {pref_dim}")
        if math.isinf(alpha):
            raise PreferenceError(f"alpha is {alpha:g}: it must be finite")
        if not alpha > 0:  # refuses nan too
            raise PreferenceError(f"alpha is {alpha:g}: it must be positive")
        if kind == "vertices" and vertex_probability is None:
            raise PreferenceError("the vertices sampler needs a vertex_probability, such as 0.3")
        if vertex_probability is not None and not 0 <= vertex_probability <= 1:
            raise PreferenceError(f"vertex_probability {vertex_probability:g} is not in 0..1")
        if kind == "stratified" and (pref_dim != 2 or scope != "sample"):
            raise PreferenceError("the stratified sampler is for two objectives and scope sample")
        if not 0 <= rank < world_size:
            raise PreferenceError(f"rank {rank} is not one of {world_size} processes")
        self.pref_dim, self.kind, self.scope = pref_dim, kind, scope
        self.alpha, self.vertex_probability = alpha, vertex_probability or 0.0
        self.rank, self.world_size = rank, world_size
        self.generator = torch.Generator().manual_seed(seed)

    def sample(self, batch_size: int = 1, labelled: torch.Tensor | None = None) -> torch.Tensor:
        """The next λ, size = (B, m); in scope ``batch`` all rows are one vector.

        ``labelled`` says which objectives label each row, bool, size = (B, m). λ is then drawn for
        the labels of its row, with the density p(λ) · Σ_{i labelled} λ_i in place of p(λ);
        ``label_weights`` has the weights that keep every expectation. A row with all labels, or
        with none, is drawn from p.

        Raises:
            PreferenceError: no row is asked for, labels in scope ``batch``, or of another shape.
        """
        if batch_size < 1:
            raise PreferenceError(f"a batch of {batch_size}: at least one vector must be drawn")
        if labelled is not None and self.scope == "batch":
            raise PreferenceError("λ can be drawn for the labels of a row in scope sample only")
        if labelled is not None and labelled.shape != (batch_size, self.pref_dim):
            raise PreferenceError(
                f"labels of shape {tuple(labelled.shape)}: they must be "
                f"({batch_size}, {self.pref_dim})"
            )
        if self.scope == "batch":
            return self._draw(1).expand(batch_size, -1)
        # Every rank draws the rows of all ranks and takes its own.
        rows = batch_size * self.world_size
        own = slice(self.rank * batch_size, (self.rank + 1) * batch_size)
        extra = None if labelled is None else self._extra_counts(rows, own, labelled.cpu())
        return self._draw(rows, extra)[own]

    def _extra_counts(self, rows: int, own: slice, labelled: torch.Tensor) -> torch.Tensor:
        """One of its labelled objectives for each partly labelled row, one-hot, size = (rows, m).

        For a symmetric p the density p(λ) · Σ_{i labelled} λ_i is the mixture, over the labelled
        objectives, of p(λ) · λ_i: for a Dirichlet one more count for objective i. A row of zeros
        is drawn from p, and so are the rows of other ranks, whose labels are not known here.
        """
        choice = torch.rand(rows, generator=self.generator)[own]  # the same stream on all ranks
        ranks = labelled.long().cumsum(dim=-1)  # 1, 2, … at the labelled objectives
        wanted = 1 + (choice * ranks[:, -1]).long()  # size = (B,)
        one_hot = labelled & (ranks == wanted.unsqueeze(-1))
        extra = torch.zeros(rows, self.pref_dim, dtype=torch.float64)
        extra[own] = (one_hot & ~labelled.all(dim=-1, keepdim=True)).double()
        return extra

    def _draw(self, rows: int, extra: torch.Tensor | None = None) -> torch.Tensor:
        if self.kind == "stratified":
            return self._stratified(rows, extra)
        if self.kind == "dirichlet":
            return self._dirichlet(rows, extra)
        # Normalised exponentials are uniform on the simplex; one more exponential is a count.
        draws = torch.empty(rows, self.pref_dim, dtype=torch.float64)
        draws.exponential_(generator=self.generator)
        if extra is not None:
            more = torch.empty(rows, 1, dtype=torch.float64)
            draws = draws + extra * more.exponential_(generator=self.generator)
        drawn = (draws / draws.sum(dim=-1, keepdim=True)).float()
        if self.kind == "vertices":
            corners = torch.randint(self.pref_dim, (rows,), generator=self.generator)
            chosen = torch.rand(rows, generator=self.generator) < self.vertex_probability
            vertices = torch.nn.functional.one_hot(corners, self.pref_dim).to(drawn)
            if extra is not None:  # p(λ) · λ_i at the vertices is 0 but at the i-th
                vertices = torch.where(extra.any(dim=-1, keepdim=True), extra.float(), vertices)
            drawn = torch.where(chosen.unsqueeze(-1), vertices, drawn)
        return drawn

    def _dirichlet(self, rows: int, extra: torch.Tensor | None) -> torch.Tensor:
        """Normalised gammas, by their logarithms: those of a small alpha are below any double.

        A draw of Gamma(α) is one of Gamma(α + 1) times U^(1/α) (Marsaglia and Tsang, 2000), and
        one of Gamma(α + 1) is what a further count needs.
        """
        alphas = torch.full((rows, self.pref_dim), self.alpha + 1, dtype=torch.float64)
        gammas = torch._standard_gamma(alphas, generator=self.generator)
        minus_log = torch.empty_like(gammas).exponential_(generator=self.generator)
        if extra is not None:
            minus_log = minus_log * (1 - extra)
        return (gammas.log() - minus_log / self.alpha).softmax(dim=-1).float()

    def _stratified(self, rows: int, extra: torch.Tensor | None) -> torch.Tensor:
        """One point in each of ``rows`` equal intervals, in random order."""
        jitter = torch.rand(rows, generator=self.generator)
        first = (torch.arange(rows) + jitter) / rows
        first = first[torch.randperm(rows, generator=self.generator)].clamp(max=1.0)
        if extra is not None:  # the quantiles of the densities 2 λ_1 and 2 λ_2
            first = torch.where(extra[:, 0] > 0, first.sqrt(), first)
            first = torch.where(extra[:, 1] > 0, 1 - (1 - first).sqrt(), first)
        return torch.stack([first, 1 - first], dim=-1)

    def state_dict(self) -> dict[str, Any]:
        """The generator's state, as plain integers in a tensor."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where ``state_dict`` was taken; of anything else it is a ``PreferenceError``."""
        try:
            self.generator.set_state(state["generator"].cpu().to(torch.uint8))
        except (KeyError, TypeError, AttributeError, RuntimeError) as error:
            raise PreferenceError(
                f"no state of a preference sampler ({type(error).__name__}: {error}): "
                "give what state_dict returned"
            ) from None
