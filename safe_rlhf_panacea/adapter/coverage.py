"""How much of a model an adapter reaches: experts of mixture models are no linear layers."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from torch.nn.modules.conv import _ConvNd

from safe_rlhf_panacea.adapter.model import PanaceaAdapter

WHOLE = 0.995  # what a rounded percentage calls all of it


@dataclass(frozen=True)
class Coverage:
    """The share of a model's weights that is adapted; embeddings and output head do not count.

    Attributes:
        share: of the numbers in them, from 0 to 1.
        experts: names of parameters with a matrix for each expert, which get no adapter.
    """

    share: float
    experts: tuple[str, ...]

    @property
    def note(self) -> str:
        """What there is to say of it; empty where all weights are adapted."""
        if self.share >= WHOLE:
            return ""
        text = f"The adapter reaches {100 * self.share:.0f} % of the weights of the model's layers"
        if not self.experts:
            return f"{text}."
        more = f" and {len(self.experts) - 1} more" if len(self.experts) > 1 else ""
        return (
            f"{text}: experts are no linear layers and stay as they are ({self.experts[0]}{more})."
        )


def _order(parameter: nn.Parameter) -> int:
    """How many dimensions are larger than 1: three where there is a matrix for each expert."""
    return sum(size > 1 for size in parameter.shape)


def coverage(adapter: PanaceaAdapter) -> Coverage:
    """How much of its model an adapter reaches; the weights must not be sharded yet."""
    model = adapter.model
    adapted = {id(layer.weight) for layer in adapter.layers.values()}
    head = getattr(model, "get_output_embeddings", lambda: None)()
    others = [m for m in model.modules() if isinstance(m, nn.Embedding | _ConvNd)]
    left_out = {id(p) for m in (*others, head) if m is not None for p in m.parameters()} - adapted
    left_out |= {id(p) for p in adapter.parameters()}
    weights = {n: p for n, p in model.named_parameters() if _order(p) > 1 and id(p) not in left_out}
    reached = sum(p.numel() for p in weights.values() if id(p) in adapted)
    experts = (n for n, p in weights.items() if _order(p) > 2 and id(p) not in adapted)
    return Coverage(reached / sum(p.numel() for p in weights.values()), tuple(experts))
