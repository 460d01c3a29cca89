"""Score models: any causal architecture's backbone with a linear head that scores every token.

Reward, cost and critic models are the same network; the role, which only decides how scores are
normalised, always comes from the caller and never from a checkpoint's configuration.
"""

from __future__ import annotations

import inspect
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.forward import hidden_states
from safe_rlhf_panacea.forward.passes import position_ids_from_mask
from safe_rlhf_panacea.io import atomic_path
from safe_rlhf_panacea.models.normalizer import NormalizeFunction, Normalizer

ScoreType = Literal["reward", "cost", "critic"]
NORMALIZE_FUNCTIONS: dict[str, NormalizeFunction] = {
    "reward": "affine",
    "cost": "scale",  # the sign of a cost means safe or unsafe, so its zero must not move
    "critic": "identity",
}


@dataclass
class ScoreModelOutput(ModelOutput):
    """What a score model returns; scores are float32, an end is the last attended token."""

    scores: torch.Tensor | None = None  # size = (B, L, D)
    end_scores: torch.Tensor | None = None  # size = (B, D)
    last_hidden_state: torch.Tensor | None = None  # size = (B, L, E)
    end_last_hidden_state: torch.Tensor | None = None  # size = (B, E)
    end_index: torch.Tensor | None = None  # size = (B,)


def last_attended(attention_mask: torch.Tensor) -> torch.Tensor:
    """Position of the last attended token, size = (B,); 0 in a row that attends to none."""
    positions = torch.arange(attention_mask.size(1), device=attention_mask.device)
    return (positions * attention_mask.bool()).amax(dim=1)


class ScoreModel(nn.Module):
    """A backbone under its architecture's own name, ``score_head`` and ``normalizer``.

    Its state has Safe-RLHF's keys: ``model.*`` (``transformer.*`` for GPT-2 and so on),
    ``score_head.weight``, ``score_head.bias``, ``normalizer.{mean,var,count}``.
    ``backbone.config`` has ``score_dim``, ``score_bias``, ``normalizer_type``, ``momentum`` and
    ``do_normalize``, which ``AutoModelForScore`` sets.
    """

    def __init__(self, backbone: PreTrainedModel, score_type: ScoreType = "reward") -> None:
        """Add a fresh head."""
        super().__init__()
        if score_type not in NORMALIZE_FUNCTIONS:
            known = ", ".join(NORMALIZE_FUNCTIONS)
            raise UserError(f"score_type {score_type!r} is none of {known}")
        # With fields of ours beside those of transformers.
        self.config: Any = backbone.config
        config = self.config
        config.score_type = score_type
        config.architectures = [type(backbone).__name__.removesuffix("Model") + "ForScore"]
        self.base_model_prefix = backbone.base_model_prefix or "model"
        setattr(self, self.base_model_prefix, backbone)
        text_config = config.get_text_config()
        # OPT may project its hidden states to another width at the end.
        width = getattr(text_config, "word_embed_proj_dim", None) or text_config.hidden_size
        self.score_head = nn.Linear(width, config.score_dim, bias=config.score_bias)
        nn.init.normal_(self.score_head.weight, std=getattr(text_config, "initializer_range", 0.02))
        if config.score_bias:
            nn.init.zeros_(self.score_head.bias)
        self.score_head.to(device=backbone.device, dtype=backbone.dtype)
        function, shape = NORMALIZE_FUNCTIONS[score_type], (config.score_dim,)
        normalizer = Normalizer(config.normalizer_type, function, shape, config.momentum)
        self.normalizer = normalizer.to(backbone.device)
        self._takes_positions = "position_ids" in inspect.signature(backbone.forward).parameters

    def forward(
        self,
        input_ids: torch.Tensor | None = None,  # size = (B, L)
        attention_mask: torch.Tensor | None = None,  # size = (B, L)
        position_ids: torch.Tensor | None = None,  # size = (B, L)
        use_cache: bool = False,
        groups: torch.Tensor | None = None,  # size = (R, G)
        **kwargs: Any,
    ) -> ScoreModelOutput:
        """Score every token that is attended, in passes over rows of similar length.

        The mask may be left out where B = 1. Positions are by default counted over attended tokens,
        so that padding changes nothing. ``groups`` are rows that may begin alike, each of the B
        once; that beginning is read once. The rest is passed on to the backbone.

        A row without a single attended token is a ``UserError``, no mask for a batch of several
        rows a ``ValueError``.
        """
        if attention_mask is not None:
            empty = ~attention_mask.bool().any(dim=1)
            if not torch.compiler.is_compiling() and empty.any():
                row = int(empty.nonzero()[0])
                raise UserError(
                    f"row {row} of the attention mask attends to no token: it has no score"
                )
        elif (kwargs["inputs_embeds"] if input_ids is None else input_ids).size(0) > 1:
            raise ValueError("attention_mask is required for a batch of several rows")
        mask, plain = attention_mask, not (use_cache or kwargs)
        if plain and input_ids is not None and mask is not None and position_ids is None:
            hidden = hidden_states(self.backbone, input_ids, mask, groups)  # size = (B, L, E)
        else:
            if self._takes_positions:
                if position_ids is None and mask is not None:
                    position_ids = position_ids_from_mask(mask)
                kwargs["position_ids"] = position_ids
            output = self.backbone(input_ids, attention_mask=mask, use_cache=use_cache, **kwargs)
            hidden = output.last_hidden_state
        if mask is None:
            mask = hidden.new_ones(hidden.shape[:2], dtype=torch.bool)
        return self._scored(hidden, mask)

    def _scored(self, hidden: torch.Tensor, attention_mask: torch.Tensor) -> ScoreModelOutput:
        """The head on hidden states, size = (B, L, E), whose end scores the normaliser takes in.

        It takes in those of all processes, while a head that is not frozen trains.
        """
        scores = self.score_head(hidden).float()  # size = (B, L, D)
        end_index = last_attended(attention_mask).to(scores.device)  # size = (B,)
        rows = torch.arange(scores.size(0), device=scores.device)
        end_scores = scores[rows, end_index]  # size = (B, D)
        is_trained = self.training and self.score_head.weight.requires_grad
        if is_trained and self.config.normalizer_type is not None:
            ends = end_scores.detach()
            if dist.is_initialized() and dist.get_world_size() > 1:
                gathered = [torch.empty_like(ends) for _ in range(dist.get_world_size())]
                dist.all_gather(gathered, ends.contiguous())
                ends = torch.cat(gathered)
            self.normalizer.update(ends)
        if self.config.do_normalize:
            scores = self.normalizer.normalize(scores)
            end_scores = self.normalizer.normalize(end_scores)
        return ScoreModelOutput(scores, end_scores, hidden, hidden[rows, end_index], end_index)

    def set_normalize(self, mode: bool = True) -> None:
        """Turn the normalisation of scores on or off."""
        self.config.do_normalize = mode

    @property
    def backbone(self) -> Any:
        """The transformers model without its language-modelling head."""
        return self._modules[self.base_model_prefix]  # Mamba's own name for it is "backbone" too

    @property
    def device(self) -> torch.device:
        """Where the head is."""
        return self.score_head.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the head's weights."""
        return self.score_head.weight.dtype

    def get_input_embeddings(self) -> nn.Module:
        """The backbone's token embeddings."""
        return self.backbone.get_input_embeddings()

    def get_output_embeddings(self) -> None:
        """None: there is no head over the vocabulary."""
        return None

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Module:
        """Change the number of token embeddings."""
        return self.backbone.resize_token_embeddings(*args, **kwargs)

    def gradient_checkpointing_enable(self, kwargs: dict[str, Any] | None = None) -> None:
        """Recompute activations in the backward pass; works with a frozen backbone too."""
        name = "activation_checkpointing_enable"  # its name since transformers 5
        enable = getattr(self.backbone, name, self.backbone.gradient_checkpointing_enable)
        enable({"use_reentrant": False} if kwargs is None else kwargs)

    def gradient_checkpointing_disable(self) -> None:
        """Keep activations for the backward pass, in place of computing them again."""
        name = "activation_checkpointing_disable"
        getattr(self.backbone, name, self.backbone.gradient_checkpointing_disable)()

    def save_pretrained(
        self, folder: str | os.PathLike[str], state_dict: dict[str, torch.Tensor] | None = None
    ) -> None:
        """Write ``config.json`` and ``model.safetensors``; the folder is made if missing.

        ``state_dict`` holds the weights where this process has only a part of them itself.
        """
        from safetensors.torch import save_file

        statistics = {f"normalizer.{k}": v for k, v in self.normalizer.state_dict().items()}
        state = statistics | (self.state_dict() if state_dict is None else state_dict)
        state = {name: value.detach().cpu().contiguous() for name, value in state.items()}
        with atomic_path(Path(folder) / "model.safetensors") as temporary:
            save_file(state, temporary, metadata={"format": "pt"})
        self.config.mean = self.normalizer.mean.tolist()
        self.config.var = self.normalizer.var.tolist()
        self.config.dtype = str(state["score_head.weight"].dtype).removeprefix("torch.")
        self.config.save_pretrained(folder)
