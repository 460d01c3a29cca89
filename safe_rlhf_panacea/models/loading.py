"""Loads a transformers model and checks that every weight came from the checkpoint."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.hub import prepare_hub
from safe_rlhf_panacea.models.weights import check_model_folder, is_local

# Older Llama checkpoints carry this table per layer; models have long computed it themselves.
IGNORED_SUFFIXES = ("rotary_emb.inv_freq",)


def resolve_model(name_or_path: str | os.PathLike[str]) -> str:
    """The folder, checked, or the hub name as it is.

    Raises:
        UserError: the folder is missing or holds no whole model.
    """
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
        told = f"{name}: {where}no {what} could be loaded: {_first_line(error)}"
        raise UserError(told) from error
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def load_whole(
    auto_class: Any,
    name: str,
    may_hold: Callable[[str], bool],
    *,
    may_lack: Collection[str] = (),
    **kwargs: Any,
) -> Any:
    """``auto_class.from_pretrained`` with no weight made up and none left over.

    Args:
        auto_class: one of transformers' auto classes.
        name: a folder or hub name.
        may_hold: whether the checkpoint may hold this tensor though the model has none.
        may_lack: tensors that the caller brings.
        kwargs: passed on.

    Raises:
        UserError: the checkpoint is of another model, naming a few of its tensors, or a weight
            is not finite.
    """
    with loading_errors(name, "model"):
        model, info = auto_class.from_pretrained(
            name,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **kwargs,
        )
    foreign = f"{name} is no checkpoint of a {type(model).__name__}"
    if missing := _named(set(info["missing_keys"]) - set(may_lack)):
        raise UserError(f"{foreign}: {_few(missing)} missing")
    if mismatched := sorted(info["mismatched_keys"]):
        raise UserError(f"{foreign}: {_shapes(mismatched[0])}")
    left_over = [key for key in _named(info["unexpected_keys"]) if not may_hold(key)]
    if left_over:
        raise UserError(f"{foreign}: {_few(left_over)} unknown to it")
    check_finite(model.named_parameters(), name)
    return model


def check_finite(tensors: Iterable[tuple[str, torch.Tensor]], name: str) -> None:
    """Refuse weights that are not finite, such as a diverged training may have left.

    Raises:
        UserError: naming the first of them.
    """
    for key, tensor in tensors:
        if tensor.is_meta or tensor.element_size() < 2:  # not here, or quantised
            continue
        # A sum is one pass without a copy. It may overflow, so only a finite one has the last word.
        total = tensor.detach().sum(dtype=torch.float32)
        if not total.isfinite() and not tensor.isfinite().all():
            raise UserError(f"{name}: tensor {key} is not finite: its training has diverged")


def _named(keys: Iterable[str]) -> list[str]:
    return sorted(key for key in keys if not key.endswith(IGNORED_SUFFIXES))


def _few(keys: list[str], shown: int = 3) -> str:
    more = f" and {len(keys) - shown} more" if len(keys) > shown else ""
    verb = " is" if len(keys) == 1 else " are"
    return ", ".join(keys[:shown]) + more + verb


def _shapes(mismatched: str | tuple[Any, ...]) -> str:
    if isinstance(mismatched, str):  # before transformers 5 without the shapes
        return f"{mismatched} has another shape"
    key, saved, wanted = mismatched
    return f"{key} has shape {tuple(saved)}, not {tuple(wanted)}"
