"""``AutoModelForScore``: a score model from a checkpoint or a configuration."""

from __future__ import annotations

import copy
import os
from typing import Any

import torch

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.models.files import SCORE_HEAD, check_score_head, read_tensors
from safe_rlhf_panacea.models.loading import check_finite, load_whole, loading_errors, resolve_model
from safe_rlhf_panacea.models.normalizer import NormalizerType
from safe_rlhf_panacea.models.score_model import ScoreModel, ScoreType

HEAD = (SCORE_HEAD, "normalizer.")
# The output layers over the vocabulary, under their names in transformers' causal models.
LM_HEADS = ("lm_head.", "embed_out.")
HUB_OPTIONS = ("cache_dir", "revision", "token", "subfolder", "local_files_only")


class AutoModelForScore:
    """Makes score models, as transformers' auto classes make theirs."""

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str],
        /,
        *,
        score_type: ScoreType = "reward",
        fresh_head: bool = False,
        do_normalize: bool = False,
        normalizer_type: NormalizerType | None = None,
        normalizer_momentum: float | None = None,
        score_dim: int | None = None,
        score_bias: bool | None = None,
        dtype: torch.dtype | str | None = None,
        trust_remote_code: bool = False,
        **kwargs: Any,
    ) -> ScoreModel:
        """Load a score model or, if asked to, put a fresh head on a language model.

        ``name_or_path`` is a folder or a name on the hub, in today's layout or the older one
        (``rotary_emb.inv_freq``, no bias, no normaliser), safetensors only. The role,
        ``score_type``, and ``do_normalize`` are never the checkpoint's own; the normaliser's type
        and momentum are by default. With ``fresh_head`` a checkpoint without a score head gets a
        random one, to be trained, by default of one score, with a bias; without, it is a
        ``UserError``. ``kwargs`` are passed on to transformers.
        """
        from transformers import AutoConfig, AutoModel

        name = resolve_model(name_or_path)
        hub = {key: kwargs[key] for key in HUB_OPTIONS if key in kwargs}
        with loading_errors(name, "model"):
            config = AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code, **hub)
            head = read_tensors(name, HEAD, **hub)
        if not fresh_head:
            check_score_head(name, head)
        check_finite(head.items(), name)
        normalizing = do_normalize, normalizer_type, normalizer_momentum
        _describe(config, head, name, normalizing, score_dim, score_bias)
        backbone = load_whole(
            AutoModel,
            name,
            lambda key: key.startswith((*HEAD, *LM_HEADS)),
            config=config,
            dtype="auto" if dtype is None else dtype,
            trust_remote_code=trust_remote_code,
            **kwargs,
        )
        model = ScoreModel(backbone, score_type)
        _load_head(model, head, name)
        return model.eval()

    @classmethod
    def from_config(
        cls,
        config: Any,
        *,
        score_type: ScoreType = "reward",
        do_normalize: bool = False,
        normalizer_type: NormalizerType | None = None,
        normalizer_momentum: float | None = None,
        score_dim: int | None = None,
        score_bias: bool | None = None,
        **kwargs: Any,
    ) -> ScoreModel:
        """Make a score model with random weights; the arguments are ``from_pretrained``'s."""
        from transformers import AutoModel

        config = copy.deepcopy(config)
        normalizing = do_normalize, normalizer_type, normalizer_momentum
        _describe(config, {}, "the configuration", normalizing, score_dim, score_bias)
        return ScoreModel(AutoModel.from_config(config, **kwargs), score_type)


def _describe(
    config: Any,
    head: dict[str, torch.Tensor],
    name: str,
    normalizing: tuple[bool, NormalizerType | None, float | None],
    score_dim: int | None,
    score_bias: bool | None,
) -> None:
    """Write into ``config`` the form of the head, the checkpoint's or else the caller's.

    The normaliser's is the caller's, else what is there.
    """
    config.do_normalize, kind, momentum = normalizing
    config.normalizer_type = kind or getattr(config, "normalizer_type", None)
    config.momentum = getattr(config, "momentum", None) if momentum is None else momentum
    weight = head.get(f"{SCORE_HEAD}weight")
    if weight is None:
        config.score_dim = score_dim or getattr(config, "score_dim", 1)
        default = getattr(config, "score_bias", True)
        config.score_bias = default if score_bias is None else score_bias
        return
    if score_dim not in (None, weight.size(0)):
        raise UserError(f"{name}: the score head has {weight.size(0)} outputs, not {score_dim}")
    config.score_dim, config.score_bias = weight.size(0), f"{SCORE_HEAD}bias" in head


def _load_head(model: ScoreModel, head: dict[str, torch.Tensor], name: str) -> None:
    """Copy a checkpoint's head and statistics; what it lacks keeps its fresh value."""
    # Some checkpoints keep the statistics in the configuration only, one perhaps without brackets.
    found = (getattr(model.config, key, None) for key in ("mean", "var"))
    values = (None if v is None else torch.as_tensor(v).float().reshape(-1) for v in found)
    model.normalizer.set_mean_var(*values)
    own = {key: value for key, value in model.state_dict().items() if key.startswith(HEAD)}
    for key, value in head.items():
        if key not in own:
            raise UserError(f"{name} is no score model: {key} is unknown to its head")
        if value.shape != own[key].shape:
            shapes = f"{tuple(value.shape)}, not {tuple(own[key].shape)}"
            raise UserError(f"{name} is no score model of this form: {key} has shape {shapes}")
        own[key].copy_(value)
