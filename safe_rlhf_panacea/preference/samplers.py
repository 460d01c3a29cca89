"""Drawing preference vectors for training."""

from __future__ import annotations

import math
from typing import Any

import torch

from safe_rlhf_panacea.preference.errors import PreferenceError

KINDS = ("uniform", "dirichlet", "vertices", "stratified")
SCOPES = ("batch", "sample")


class PreferenceSampler:
    """Draws λ from the simplex with a generator of its own.

    Args:
        pref_dim: m.
        kind: ``uniform`` on the simplex; ``dirichlet`` with parameter ``alpha``; ``vertices``,
            uniform but with probability ``vertex_probability`` a vertex; ``stratified``, uniform
            for m = 2 with one draw per stratum of a batch.
        alpha: Dirichlet's parameter, the same for every objective.
        vertex_probability: extra probability of the vertices together; ``vertices`` needs it.
        scope: ``batch`` draws one vector per batch (Algorithm 1), the same on all ranks;
            ``sample`` one per sequence.
        seed: of the generator; the same on all ranks.
        rank: this process.
        world_size: number of processes.

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
        if scope not in SCOPES:
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
        self.pref_dim = pref_dim
        self.kind = kind
        self.alpha = alpha
        self.vertex_probability = vertex_probability
        self.scope = scope
        self.rank = rank
        self.world_size = world_size
        self.generator = torch.Generator().manual_seed(seed)

    def sample(self, batch_size: int = 1) -> torch.Tensor:
        """The next λ, size = (B, m); in scope ``batch`` all rows are one vector.

        With several ranks every rank draws the rows of all and takes its own.

        Raises:
            PreferenceError: fewer than one row asked for.
        """
        if batch_size < 1:
            raise PreferenceError(f"a batch of {batch_size}: at least one vector must be drawn")
        if self.scope == "batch":
            return self._draw(1).expand(batch_size, -1)
        rows = self._draw(batch_size * self.world_size)
        return rows[self.rank * batch_size : (self.rank + 1) * batch_size]

    def _draw(self, rows: int) -> torch.Tensor:
        if self.kind == "stratified":
            return self._stratified(rows)
        if self.kind == "dirichlet":
            return self._dirichlet(rows)
        drawn = self._uniform(rows)
        if self.kind == "vertices":
            corners = torch.randint(self.pref_dim, (rows,), generator=self.generator)
            chosen = torch.rand(rows, generator=self.generator) < self.vertex_probability
            vertices = torch.nn.functional.one_hot(corners, self.pref_dim).to(drawn)
            drawn = torch.where(chosen.unsqueeze(-1), vertices, drawn)
        return drawn

    def _uniform(self, rows: int) -> torch.Tensor:
        """Normalised exponentials are uniform on the simplex."""
        draws = torch.empty(rows, self.pref_dim, dtype=torch.float64)
        draws.exponential_(generator=self.generator)
        return (draws / draws.sum(dim=-1, keepdim=True)).float()

    def _dirichlet(self, rows: int) -> torch.Tensor:
        """Normalised gammas, by their logarithms: those of a small alpha are below any double.

        A draw of Gamma(α) is one of Gamma(α + 1) times U^(1/α) (Marsaglia and Tsang, 2000).
        """
        alphas = torch.full((rows, self.pref_dim), self.alpha + 1, dtype=torch.float64)
        gammas = torch._standard_gamma(alphas, generator=self.generator)
        minus_log = torch.empty_like(gammas).exponential_(generator=self.generator)
        return (gammas.log() - minus_log / self.alpha).softmax(dim=-1).float()

    def _stratified(self, rows: int) -> torch.Tensor:
        """One point in each of ``rows`` equal intervals, in random order."""
        jitter = torch.rand(rows, generator=self.generator)
        first = (torch.arange(rows) + jitter) / rows
        first = first[torch.randperm(rows, generator=self.generator)].clamp(max=1.0)
        return torch.stack([first, 1 - first], dim=-1)

    def state_dict(self) -> dict[str, Any]:
        """The generator's state, as plain integers in a tensor."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where ``state_dict`` was taken.

        Raises:
            PreferenceError: this is no state of a sampler.
        """
        try:
            self.generator.set_state(state["generator"].cpu().to(torch.uint8))
        except (KeyError, TypeError, AttributeError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise PreferenceError(
                f"no state of a preference sampler ({type(error).__name__}: {reason}): "
                "give what state_dict returned"
            ) from None
