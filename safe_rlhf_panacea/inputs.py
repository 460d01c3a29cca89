"""What a user's Python gives to a training, as its options have it: models, data, rewards, λ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from safe_rlhf_panacea.adapter import SvdLoraLinear
from safe_rlhf_panacea.data.own import from_rows
from safe_rlhf_panacea.data.raw import RawDataset
from safe_rlhf_panacea.data.specs import DatasetSpec
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.models.loading import LoadedModel
from safe_rlhf_panacea.preference import parse_preference, preference_grid

Model = str | Path | LoadedModel | tuple[Any, Any]
# A file, folder or hub name, several, rows in memory, or one of these for each objective.
Data = str | Path | Iterable[Any] | Mapping[str, Any]


def as_model(model: Model) -> Any:
    """A model from Python as the options have it.

    Raises:
        UserError: a tuple that is no pair of model and tokenizer.
    """
    if isinstance(model, tuple):
        if len(model) != 2:
            raise UserError(
                f"a model in memory is a pair (model, tokenizer), not {len(model)} parts"
            )
        return LoadedModel(*model)
    return model


def refuse_adapted(model: Model) -> None:
    """Refuse a model in memory that an earlier training has changed."""
    loaded = as_model(model)
    modules = loaded.model.modules() if isinstance(loaded, LoadedModel) else ()
    if any(isinstance(module, SvdLoraLinear) for module in modules):
        raise UserError(
            "the model carries the adapter of an earlier training already: load it anew, or give "
            "its name"
        )


def as_reward(name: str, value: Any) -> Any:
    """What scores an objective, as the options have it."""
    value = as_model(value)
    if isinstance(value, torch.nn.Module) or not (
        isinstance(value, str | Path | LoadedModel) or callable(value)
    ):
        raise UserError(
            f"the reward {name!r} is a {type(value).__name__}; it is a function, module:function, "
            "the path of a model, or LoadedModel(model, tokenizer)"
        )
    return str(value) if isinstance(value, Path) else value


def data_specs(data: Data) -> tuple[Any, ...]:
    """Data from Python as the options have it.

    Raises:
        UserError: an empty data set, several splits, or a row that is in no known format.
    """
    if not isinstance(data, Mapping):
        return _unnamed(data)
    if hasattr(data, "column_names"):
        raise UserError(f"data have the splits {', '.join(data)}: give one of them, data[...]")
    return tuple(_named(spec, name) for name, part in data.items() for spec in _unnamed(part))


def _unnamed(data: Any) -> tuple[Any, ...]:
    """Data without the objective that they are for."""
    if isinstance(data, str | Path):
        return (str(data),)
    if isinstance(data, RawDataset | DatasetSpec):
        return (data,)
    if isinstance(data, Mapping) or not isinstance(data, Iterable):
        raise UserError(f"data must be a path, a name, or rows, not a {type(data).__name__}")
    if isinstance(data, list | tuple) and data and not isinstance(data[0], Mapping):
        return tuple(spec for part in data for spec in _unnamed(part))
    return (DatasetSpec("rows", data=from_rows(data)),)


def _named(spec: Any, objective: str) -> Any:
    if isinstance(spec, str):
        return f"{objective}={spec}"
    if isinstance(spec, RawDataset):
        spec = DatasetSpec("rows", data=spec)
    return DatasetSpec(spec.name, spec.proportion, spec.path, objective, spec.data)


def as_grid(grid: Any, objectives: tuple[str, ...]) -> torch.Tensor:
    """The wanted λ, size = (N, m)."""
    if isinstance(grid, int | float):
        return preference_grid(len(objectives), grid)
    vectors = [grid] if isinstance(grid, str | Mapping) else list(grid)
    if not vectors:
        raise UserError("evaluate() needs at least one λ")
    if not isinstance(vectors[0], str | Mapping) and np.ndim(vectors[0]) == 0:  # one vector
        vectors = [grid]
    found = torch.stack([parse_preference(preference, objectives) for preference in vectors])
    if len(found.unique(dim=0)) < len(found):
        raise UserError("evaluate() was given a λ twice")
    return found
