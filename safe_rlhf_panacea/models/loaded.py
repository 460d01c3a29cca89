"""A model that is in memory already, in place of the name that one is loaded by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from safe_rlhf_panacea.errors import UserError


@dataclass(frozen=True, eq=False, repr=False)
class LoadedModel:
    """A model of transformers with its tokenizer.

    A training takes it over: it gets the run's precision, and an adapter, in place.

    Attributes:
        model: a causal language model, or, as a reward, a model for sequence classification.
        tokenizer: the model's.
        label: as a reward, which of several labels is meant, by name or index.

    Raises:
        UserError: one of both is missing, or they stand in each other's place.
    """

    model: Any
    tokenizer: Any
    label: str | int | None = None

    def __post_init__(self) -> None:
        """Refuse what is neither a model nor a tokenizer."""
        parts = {"model": (self.model, "named_modules"), "tokenizer": (self.tokenizer, "decode")}
        for what, (given, method) in parts.items():
            if not hasattr(given, method):
                kind = type(given).__name__
                raise UserError(f"a LoadedModel is a model and its tokenizer: {what} is a {kind}")

    @property
    def name(self) -> str | None:
        """Where it was loaded from, as far as it knows."""
        return getattr(self.model.config, "_name_or_path", None) or None

    def __repr__(self) -> str:
        return f"LoadedModel({self})"

    def __str__(self) -> str:
        return self.name or f"a {type(self.model).__name__} in memory"
