"""Loads a model with its tokenizer, and makes the two fit each other."""

from __future__ import annotations

import copy
import os
import warnings
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoModelForCausalLM

from safe_rlhf_panacea.data.template import own_end_ids
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.models.adapted import PanaceaAt, find_adapter
from safe_rlhf_panacea.models.auto import AutoModelForScore
from safe_rlhf_panacea.models.loading import (
    LoadedModel,
    check_positions,
    load_whole,
    loading_errors,
    resolve_model,
)

# What a tokenizer that lacks a special token is given: Safe-RLHF's names.
SPECIAL_TOKENS = dict(bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")


def load_pretrained_models(
    model_name_or_path: str | os.PathLike[str] | LoadedModel,
    /,
    model_max_length: int | None = 512,
    padding_side: Literal["left", "right"] = "right",
    *,
    auto_model_type: Any = AutoModelForCausalLM,
    trust_remote_code: bool = False,
    dtype: torch.dtype | str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    auto_model_kwargs: dict[str, Any] | None = None,
    auto_tokenizer_kwargs: dict[str, Any] | None = None,
) -> tuple[Any, Any]:
    """Load a model, in evaluation mode, and its tokenizer.

    Special tokens that the tokenizer lacks are added, and the embeddings grow with it.
    ``model_name_or_path`` is a folder or a name on the hub, safetensors only; the folder of a LoRA
    of PEFT, or of a Panacea adapter at one λ, ``FOLDER@helpful=0.5,harmless=0.5``, which is added
    to the weights under it; or a ``LoadedModel``, which is taken as it is. A missing, truncated,
    pickled or foreign checkpoint, or no tokenizer, is a ``UserError``. A ``model_max_length``
    of None keeps the tokenizer's own; the default ``dtype`` is as saved; ``auto_model_type`` may
    also be ``AutoModelForScore``; the last two arguments are passed on to ``from_pretrained``.
    """
    form = model_max_length, padding_side
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if cache_dir is not None:
        options["cache_dir"] = str(Path(cache_dir).expanduser())
    tokenizing = {**options, **(auto_tokenizer_kwargs or {})}
    if isinstance(model_name_or_path, LoadedModel):
        loaded = model_name_or_path
        if auto_model_type is AutoModelForScore:
            raise UserError(f"{loaded}: a score model is loaded by name or from a folder")
        model = loaded.model.to(dtype) if isinstance(dtype, torch.dtype) else loaded.model
        tokenizer = copy.deepcopy(loaded.tokenizer)
        tokenizer.padding_side = padding_side
        if model_max_length is not None:
            tokenizer.model_max_length = model_max_length
    elif (adapted := find_adapter(model_name_or_path)) is not None:
        options |= {"auto_model_type": auto_model_type, "auto_model_kwargs": auto_model_kwargs}
        with adapted.base_errors():
            model, tokenizer = load_pretrained_models(
                adapted.base, *form, auto_tokenizer_kwargs=auto_tokenizer_kwargs, **options
            )
        adapted.add_to(model, dtype)
        if has_tokenizer(adapted.folder):
            tokenizer = load_tokenizer(str(adapted.folder), *form, **tokenizing)
    else:
        name = resolve_model(model_name_or_path)
        # The tokenizer first: it is quick, and a mistake shows before gigabytes are read.
        tokenizer = load_tokenizer(name, *form, **tokenizing)
        options |= {"dtype": "auto" if dtype is None else dtype, **(auto_model_kwargs or {})}
        if auto_model_type is AutoModelForScore:
            model = AutoModelForScore.from_pretrained(name, **options)
        else:
            model = load_whole(auto_model_type, name, lambda key: False, **options)
    resize_tokenizer_embedding(tokenizer, model)
    return model.eval(), tokenizer


def load_score_model(
    path: str,
    role: str,
    *,
    max_length: int,
    normalize: bool = False,
    dtype: torch.dtype | None = None,
    trust_remote_code: bool = False,
) -> tuple[Any, Any]:
    """A score model, as ``reward``, ``cost`` or ``critic``, and its tokenizer (padding: right).

    ``max_length`` is of prompt and response together, in tokens; a model with fewer positions is
    refused. ``normalize`` says whether its own normaliser is used.
    """
    if isinstance(find_adapter(path), PanaceaAt):
        raise UserError(
            f"{path} is a Panacea adapter, a policy and no reward model; one is trained from it "
            "with python -m safe_rlhf_panacea.base.values.reward"
        )
    model, tokenizer = load_pretrained_models(
        path,
        model_max_length=max_length,
        auto_model_type=AutoModelForScore,
        trust_remote_code=trust_remote_code,
        dtype=dtype,
        auto_model_kwargs={"score_type": role, "do_normalize": normalize},
    )
    check_positions(model, max_length, path)
    return model, tokenizer


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds the files of a tokenizer."""
    return any((folder / file).is_file() for file in TOKENIZER_FILES)


def load_tokenizer(
    name: str, model_max_length: int | None, padding_side: str, **kwargs: Any
) -> Any:
    """A tokenizer as it was saved; a ``UserError`` where there is none, or it is damaged."""
    from transformers import AutoTokenizer

    if Path(name).is_dir() and not has_tokenizer(Path(name)):
        raise UserError(f"{name} holds no tokenizer: {TOKENIZER_FILES[0]} is missing")
    if model_max_length is not None:
        kwargs["model_max_length"] = model_max_length
    try:
        with loading_errors(name, "tokenizer"):
            return AutoTokenizer.from_pretrained(name, padding_side=padding_side, **kwargs)
    except UserError:
        raise
    except Exception as error:  # the tokenizers library raises bare Exceptions
        raise UserError(f"{name}: no tokenizer could be loaded: {error}") from error


def is_same_tokenizer(one: Any, other: Any) -> bool:
    """Whether two tokenizers give every token the same id."""
    return one is other or (len(one) == len(other) and one.get_vocab() == other.get_vocab())


def check_same_tokenizer(one: Any, other: Any, one_path: str, other_path: str) -> None:
    """Refuse two models whose tokenizers differ, naming both, with a ``UserError``."""
    if not is_same_tokenizer(one, other):
        raise UserError(
            f"the tokenizers of {one_path} ({len(one)} tokens) and {other_path} ({len(other)} "
            "tokens) differ: policy and score models must share one vocabulary"
        )


def resize_tokenizer_embedding(tokenizer: Any, model: Any) -> None:
    """Give the tokenizer the special tokens it lacks, and every token an embedding.

    New rows are the mean of the old ones. Embeddings never shrink: many models have more rows
    than tokens, for speed. The model learns which tokens are special.
    """
    rows = model.get_input_embeddings().weight.size(0)
    if len(tokenizer) > rows:
        warnings.warn(
            f"the tokenizer has {len(tokenizer)} tokens and the model {rows} embeddings: "
            "the new ones start as the mean of the others",
            RuntimeWarning,
            stacklevel=2,
        )
    lacking = {k: v for k, v in SPECIAL_TOKENS.items() if getattr(tokenizer, k) is None}
    if lacking:
        tokenizer.add_special_tokens(lacking)
    if len(tokenizer) > rows:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        embeddings = (model.get_input_embeddings(), model.get_output_embeddings())
        grown = [getattr(layer, name, None) for layer in embeddings for name in ("weight", "bias")]
        for parameter in grown:
            if parameter is not None:
                mean = parameter.data[:rows].float().mean(dim=0)
                parameter.data[rows:] = mean.to(parameter.dtype)
    own = own_end_ids(model)
    for config in (model.config, getattr(model, "generation_config", None)):
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            token = getattr(tokenizer, name)
            current = getattr(config, name, None)
            # A chat model may end on several tokens: keep the list that has the tokenizer's.
            if config is not None and not (isinstance(current, list) and token in current):
                setattr(config, name, token)
    if set(own) - {tokenizer.eos_token_id}:
        model.generation_config.eos_token_id = list(dict.fromkeys((*own, tokenizer.eos_token_id)))
