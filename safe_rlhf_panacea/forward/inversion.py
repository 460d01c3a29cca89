"""Drawing from a distribution with one uniform number, by inverting its cumulative sum."""

from __future__ import annotations

import torch
import torch.nn.functional as F

_BLOCK = 256


def _first_above(cumulative: torch.Tensor, mass: torch.Tensor) -> torch.Tensor:
    """The first place where the sum exceeds ``mass``, size = (B, 1); the last if it never does."""
    places = torch.searchsorted(cumulative, mass, right=True)
    return places.clamp(max=cumulative.size(-1) - 1)


def invert(weights: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """One index per row.

    Summed in float64, so that a large vocabulary loses nothing; and in blocks, of which only the
    one that the number falls into is summed term by term.

    Args:
        weights: the distribution, in any unit, size = (B, V).
        uniform: a number of [0, 1) per row, float64, size = (B,).

    Returns:
        size = (B,), int64; V - 1 where weights are not finite.
    """
    batch, width = weights.shape
    block = _BLOCK if width > 4 * _BLOCK else width  # a few terms need no blocks
    blocks = F.pad(weights, (0, -width % block)).view(batch, -1, block)
    ends = blocks.sum(dim=-1, dtype=torch.float64).cumsum(dim=-1)  # size = (B, V / block)
    mass = uniform[:, None] * ends[:, -1:]
    which = _first_above(ends, mass)
    before = F.pad(ends, (1, 0)).gather(-1, which)
    inside = blocks.gather(1, which[:, :, None].expand(-1, -1, block)).squeeze(1)  # (B, block)
    place = _first_above(inside.double().cumsum(dim=-1), mass - before)
    return (which * block + place).squeeze(-1).clamp(max=width - 1)
