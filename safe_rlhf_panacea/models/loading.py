"""Models as transformers loads them, with every weight from the checkpoint; models in memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.hub import prepare_hub
from safe_rlhf_panacea.models.files import check_model_folder, is_local

# Older Llama checkpoints carry this table per layer; models have long computed it themselves.
IGNORED_SUFFIXES = ("rotary_emb.inv_freq",)


@dataclass(frozen=True, eq=False, repr=False)
class LoadedModel:
    """A model of transformers with its tokenizer, in place of the name that one is loaded by.

    A training takes it over: it gets the run's precision, and an adapter, in place. As a reward it
    is a model for sequence classification, and ``label`` is a label of several, by name or index.
    """

    model: Any
    tokenizer: Any
    label: str | int | None = None

    def __post_init__(self) -> None:
        """Refuse what is neither a model nor a tokenizer."""
        for what, method in (("model", "named_modules"), ("tokenizer", "decode")):
            if not hasattr(given := getattr(self, what), method):
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


def resolve_model(name_or_path: str | os.PathLike[str]) -> str:
    """The folder, which must hold a whole model, or the hub name as it is."""
    if not is_local(name_or_path):
        return str(name_or_path)
    folder = Path(name_or_path).expanduser()
    check_model_folder(folder)
    return str(folder)


@contextmanager
def loading_errors(name: str, what: str) -> Iterator[None]:
    """Tell in one line what transformers could not load, and keep its own log quiet.

    The hub is asked for no path at which nothing lies, and for nothing if it does not answer.
    """
    from transformers.utils import logging

    there = Path(name).expanduser().exists()
    if not there and is_local(name):
        check_model_folder(Path(name))
    elif not there:
        prepare_hub()
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    except UserError:
        raise
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        where = "" if there else "no such folder, and from the hub "
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[0] if lines else type(error).__name__
        raise UserError(f"{name}: {where}no {what} could be loaded: {reason}") from error
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def read_model_config(name: str, *, trust_remote_code: bool = False) -> Any:
    """A model's configuration; of a model on the hub nothing else is downloaded."""
    from transformers import AutoConfig

    with loading_errors(name, "configuration"):
        return AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code)


def load_whole(
    auto_class: Any,
    name: str,
    may_hold: Callable[[str], bool],
    *,
    may_lack: Collection[str] = (),
    **kwargs: Any,
) -> Any:
    """``auto_class.from_pretrained(name, **kwargs)``, no weight made up and none left over.

    The checkpoint may hold tensors of which ``may_hold`` is true though the model has none, and
    lack those of ``may_lack``, which the caller brings. A ``UserError`` names a few tensors of one
    that is of another model, or a weight that is not finite.
    """

    def few(keys: Iterable[str]) -> str:
        """The first of some tensors, and the verb that belongs to them; empty without any."""
        known = sorted(key for key in keys if not key.endswith(IGNORED_SUFFIXES))
        more = f" and {len(known) - 3} more" if len(known) > 3 else ""
        verb = "is" if len(known) == 1 else "are"
        return f"{', '.join(known[:3])}{more} {verb}" if known else ""

    with loading_errors(name, "model"):
        kwargs |= {"use_safetensors": True, "ignore_mismatched_sizes": True}
        model, info = auto_class.from_pretrained(name, output_loading_info=True, **kwargs)
    foreign = f"{name} is no checkpoint of a {type(model).__name__}"
    if missing := few(key for key in info["missing_keys"] if key not in may_lack):
        raise UserError(f"{foreign}: {missing} missing")
    if mismatched := sorted(info["mismatched_keys"]):
        if isinstance(mismatched[0], str):  # before transformers 5 without the shapes
            raise UserError(f"{foreign}: {mismatched[0]} has another shape")
        key, saved, wanted = mismatched[0]
        raise UserError(f"{foreign}: {key} has shape {tuple(saved)}, not {tuple(wanted)}")
    if left_over := few(key for key in info["unexpected_keys"] if not may_hold(key)):
        raise UserError(f"{foreign}: {left_over} unknown to it")
    check_finite(model.named_parameters(), name)
    return model


def check_finite(tensors: Iterable[tuple[str, torch.Tensor]], name: str) -> None:
    """Refuse weights that are not finite, naming the first, with a ``UserError``."""
    for key, tensor in tensors:
        if tensor.is_meta or tensor.element_size() < 2:  # not here, or quantised
            continue
        # A sum is one pass without a copy. It may overflow, so only a finite one has the last word.
        total = tensor.detach().sum(dtype=torch.float32)
        if not total.isfinite() and not tensor.isfinite().all():
            raise UserError(f"{name}: tensor {key} is not finite: its training has diverged")


def check_positions(model: Any, length: int, name: str, what: str = "--max_length") -> None:
    """Refuse sequences of ``length`` tokens where a model names fewer positions.

    The ``UserError`` has both numbers, the model's ``name``, and ``what`` makes them so long.
    """
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if isinstance(positions, int) and 0 < positions < length:
        raise UserError(
            f"{what} makes {length} tokens, and {name} has {positions} positions "
            "(max_position_embeddings)"
        )
