"""What describes an adapter."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from numbers import Integral, Real
from typing import Any

from safe_rlhf_panacea.errors import UserError

LARGEST = 2**63 - 1  # torch has no larger integer


# What the values of a configuration may be; what may be absent is None then.
TYPES: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("lora_dim", "pref_dim", "pref_rank"), Integral),
    **dict.fromkeys(("lora_scaling", "init_std", "init_singular"), Real),
    **dict.fromkeys(("lora_module_name", "chat_template"), str),
    **dict.fromkeys(("only_optimize_lora", "scaling_per_objective"), bool),
    "objectives": (list, tuple),
    "fixed_scaling": (Real, type(None)),
    "base_model": (str, type(None)),
    "base_fingerprint": (dict, type(None)),
}


def _is_of(value: Any, kind: type | tuple[type, ...]) -> bool:
    """Whether a value, and each entry of a collection, which is a text, has its type."""
    if isinstance(value, bool):  # which Python counts among the numbers
        return kind is bool
    if isinstance(value, Integral) and abs(int(value)) > LARGEST:
        return False
    entries = value.values() if isinstance(value, dict) else value
    texts = not isinstance(value, (dict, list, tuple)) or all(isinstance(x, str) for x in entries)
    return isinstance(value, kind) and texts


class AdapterError(UserError):
    """An adapter cannot be made, set or loaded; the message is one line and says why."""


@dataclass(frozen=True)
class AdapterConfig:
    """An SVD-LoRA's shape; names and defaults are those of the paper's Tables 1 and 2.

    A value of the wrong type or out of range, or options that contradict each other, raise an
    ``AdapterError``.
    """

    lora_dim: int = 8  # k, singular values that do not depend on λ
    pref_dim: int = 2  # m, entries of the preference vector; 0 makes a plain SVD-LoRA
    pref_rank: int = 1  # r, singular values for each entry of λ; the paper has one
    lora_scaling: float = 512.0  # the update is multiplied by ``lora_scaling / lora_dim``
    lora_module_name: str = "layers."  # part of the qualified names of layers that are adapted
    objectives: tuple[str, ...] = ()  # names of the m objectives, in the order of λ
    # Freeze everything but the adapter. False leaves the base weights as they are, trainable or
    # not; where they are trained, keep the base yourself: ``save`` writes the adapter alone.
    only_optimize_lora: bool = True
    fixed_scaling: float | None = None  # s is this constant and not learnt (Figure 7's ablation)
    scaling_per_objective: bool = False  # one s per objective (Eq. 9) instead of one per matrix
    init_std: float = 0.02  # standard deviation of U and V at the start
    init_singular: float = 0.0  # start of σ and s; at 0 the adapted model is the base model
    # A name on the hub, or a folder; on disk relative to the adapter's where both lie side by side.
    base_model: str | None = None
    # How conversations were written in training: ``safe-rlhf`` (older adapters do not say so),
    # ``none``, or the text of a jinja template.
    chat_template: str = "safe-rlhf"
    # Checksums of the base model by tensor; older adapters have none.
    base_fingerprint: dict[str, str] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        """Check types, ranges and what contradicts each other."""
        for name, kind in TYPES.items():
            if not _is_of(getattr(self, name), kind):
                value = getattr(self, name)
                raise AdapterError(f"adapter options of the wrong type: {name} is {value!r}")
        object.__setattr__(self, "objectives", tuple(self.objectives))
        rules = {
            "lora_dim": (self.lora_dim >= 1, "be at least 1"),
            "pref_dim": (self.pref_dim >= 0, "not be negative"),
            "pref_rank": (self.pref_rank >= 1, "be at least 1"),
            "lora_scaling": (0 < self.lora_scaling < math.inf, "be positive"),
            "init_std": (0 <= self.init_std < math.inf, "not be negative"),
            "init_singular": (math.isfinite(self.init_singular), "be finite"),
            "fixed_scaling": (math.isfinite(self.fixed_scaling or 0), "be finite"),
        }
        for name, (holds, demand) in rules.items():
            if not holds:
                raise AdapterError(f"{name} is {getattr(self, name)}: it must {demand}")
        for name in self.objectives:
            # Programs ask for more; saved adapters may have spaces and the like, but no paths.
            if not (name and name.isprintable()) or set(name) & set("/\\") or name in (".", ".."):
                raise AdapterError(f"objectives: {name!r} is no name")
        named = ", ".join(self.objectives)
        if self.objectives and self.pref_dim not in (0, len(self.objectives)):
            raise AdapterError(
                f"pref_dim is {self.pref_dim}, but {len(self.objectives)} objectives are named "
                f"({named}): they must agree"
            )
        if len(set(self.objectives)) < len(self.objectives):
            raise AdapterError(f"objectives are {named}: each name only once")
        if self.fixed_scaling is not None and self.scaling_per_objective:
            raise AdapterError("fixed_scaling and scaling_per_objective exclude each other")

    @property
    def names(self) -> tuple[str, ...]:
        """Of the entries of λ: the objectives, or objective_1, …; none where λ changes nothing."""
        numbered = tuple(f"objective_{i + 1}" for i in range(self.pref_dim))
        return (self.objectives or numbered)[: self.pref_dim]

    @property
    def rank(self) -> int:
        """k + m·r, the columns of U and V."""
        return self.lora_dim + self.pref_dim * self.pref_rank

    @property
    def factor(self) -> float:
        """What multiplies the update."""
        return self.lora_scaling / self.lora_dim

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return {**asdict(self), "objectives": list(self.objectives)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> AdapterConfig:
        """From plain values; an ``AdapterError`` where a key is unknown or of the wrong type."""
        unknown = sorted(set(values) - TYPES.keys())
        if unknown:
            raise AdapterError(f"unknown adapter option {unknown[0]!r}")
        return cls(**values)
