"""From what the command line says of m rewards to what scores them: the one place that loads."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from safe_rlhf_panacea.distributed import is_main_process
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.models.adapted import find_adapter
from safe_rlhf_panacea.models.auto import LM_HEADS
from safe_rlhf_panacea.models.loading import (
    LoadedModel,
    check_positions,
    load_whole,
    loading_errors,
    resolve_model,
)
from safe_rlhf_panacea.models.pretrained import has_tokenizer, load_score_model, load_tokenizer
from safe_rlhf_panacea.printing import say
from safe_rlhf_panacea.rewards.ensemble import RewardEnsemble, RewardModel, Scorer
from safe_rlhf_panacea.rewards.functions import FunctionReward
from safe_rlhf_panacea.rewards.responses import RewardState
from safe_rlhf_panacea.rewards.spec import RewardSpec

CLASSIFIER = "ForSequenceClassification"
Loaded = tuple[Any, Any]  # a model and its tokenizer


@dataclass(frozen=True)
class RewardLoading:
    """How reward models are loaded.

    Attributes:
        max_length: of prompt and response together, in the policy's tokens.
        dtype: of the weights; None: as saved.
        normalize: whether score models use their own normalisers.
        trust_remote_code: run code that comes with a model.
    """

    max_length: int
    dtype: torch.dtype | None = None
    normalize: bool = False
    trust_remote_code: bool = False

    def score_model(self, path: str | LoadedModel, role: str) -> Loaded:
        """Load a model of Safe-RLHF's kind, in a role."""
        if isinstance(path, LoadedModel):
            raise UserError(
                f"{path}: a model in memory that is a reward is one for sequence classification; "
                "a score model is given by its folder"
            )
        return load_score_model(path, role, **vars(self))

    def classifier(self, path: str | LoadedModel) -> Loaded:
        """Load one of transformers' classifiers; it reads as much as it was made for."""
        if isinstance(path, LoadedModel):
            model, tokenizer = path.model, copy.deepcopy(path.tokenizer)
            tokenizer.padding_side = "right"
            if self.dtype is not None:
                model.to(self.dtype)
        elif (adapted := find_adapter(path)) is None:
            model, tokenizer = self._classifier(resolve_model(path), {}, self.dtype)
        else:
            head = adapted.head
            with adapted.base_errors():
                model, tokenizer = self._classifier(resolve_model(adapted.base), head, None)
            if model.load_state_dict(head, strict=False).unexpected_keys:
                raise UserError(f"{path}: its head does not fit a {type(model).__name__}")
            adapted.add_to(model, self.dtype)
            if has_tokenizer(adapted.folder):
                tokenizer = self._tokenizer(str(adapted.folder))
        # Causal classifiers answer at the last token that is not their configuration's padding.
        config = model.config.get_text_config()
        if config.pad_token_id is not None and 0 <= config.pad_token_id < len(tokenizer):
            tokenizer.pad_token = tokenizer.convert_ids_to_tokens(config.pad_token_id)
        else:
            tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
            config.pad_token_id = tokenizer.pad_token_id
        positions = getattr(config, "max_position_embeddings", None)
        if isinstance(positions, int) and positions > 0:
            for name, module in model.named_modules():
                padding = getattr(module, "padding_idx", None)
                if name.endswith("position_embeddings") and padding is not None:
                    positions -= padding + 1  # RoBERTa counts from behind the padding's
                    break
            tokenizer.model_max_length = min(tokenizer.model_max_length, positions)
        return model.eval(), tokenizer

    def _tokenizer(self, name: str) -> Any:
        return load_tokenizer(name, None, "right", trust_remote_code=self.trust_remote_code)

    def _classifier(
        self, name: str, head: Mapping[str, torch.Tensor], dtype: torch.dtype | None
    ) -> Loaded:
        """A classifier as it was saved, or to whose backbone a LoRA brings the head."""
        from transformers import AutoModelForSequenceClassification

        options: dict[str, Any] = {"dtype": dtype or "auto"}
        if head:  # as many labels as its last layer has outputs
            options["num_labels"] = head[max(k for k in head if k.endswith("weight"))].size(0)
        tokenizer = self._tokenizer(name)
        model = load_whole(
            AutoModelForSequenceClassification,
            name,
            lambda key: bool(head) and key.startswith(LM_HEADS),
            may_lack=head,
            trust_remote_code=self.trust_remote_code,
            **options,
        )
        return model, tokenizer

    def is_classifier(self, path: str | LoadedModel) -> bool:
        """Whether a checkpoint's configuration, or a LoRA's, names a classification head."""
        from transformers import AutoConfig

        if isinstance(path, LoadedModel):
            return type(path.model).__name__.endswith(CLASSIFIER)
        if (adapted := find_adapter(path)) is not None:
            return adapted.is_classifier
        name = resolve_model(path)
        with loading_errors(name, "model"):
            config = AutoConfig.from_pretrained(name, trust_remote_code=self.trust_remote_code)
        return any(kind.endswith(CLASSIFIER) for kind in config.architectures or ())


def load_rewards(
    specs: Sequence[RewardSpec],
    tokenizer: Any,
    stop_ids: Sequence[int],
    loading: RewardLoading,
    load_own: Callable[[str, str], Loaded] | None = None,
) -> RewardEnsemble:
    """What scores each objective; functions are found now and not after the loading.

    ``tokenizer`` is the policy's, ``stop_ids`` its tokens that end a response. ``load_own`` loads
    a score model of a path and a role, where that is not for ``loading`` to do.
    """
    state = RewardState()
    scorers: dict[str, Scorer] = {
        spec.name: FunctionReward(spec.path, tokenizer, stop_ids, state)
        for spec in specs
        if spec.is_function and not isinstance(spec.path, LoadedModel)
    }
    models: dict[tuple[Any, str], RewardModel] = {}
    for spec in (spec for spec in specs if not spec.is_function):
        path, key = spec.model_path, (spec.model_path, spec.role)
        if key not in models:
            is_classifier = loading.is_classifier(path)
            if is_classifier:
                loaded = loading.classifier(path)
            elif load_own is None or isinstance(path, LoadedModel):
                loaded = loading.score_model(path, spec.role)
            else:
                loaded = load_own(path, spec.role)
            models[key] = model = RewardModel(
                str(path), *loaded, tokenizer, stop_ids, is_classifier=is_classifier
            )
            if is_classifier and model.reads_policy_tokens:  # as they are, none cut off
                check_positions(loaded[0], loading.max_length, str(path))
        scorers[spec.name] = models[key].scorer(_column(models[key], spec))
    for model in models.values():
        if not model.reads_policy_tokens and is_main_process():
            say(f"{model.path} has other tokens than the policy: it reads the text in its own")
    return RewardEnsemble(
        specs, [scorers[spec.name] for spec in specs], list(models.values()), state
    )


def _column(model: RewardModel, spec: RewardSpec) -> int:
    """Which of a model's scores an objective is."""
    config = model.model.config
    if model.is_classifier:
        labels = [str(config.id2label[index]) for index in range(config.num_labels)]
    else:
        labels = list(map(str, range(getattr(config, "score_dim", 1))))
    if spec.label is None:
        if len(labels) == 1:
            return 0
        raise UserError(
            f"{spec.path} has {len(labels)} labels, {', '.join(labels)}: say which one is "
            f"{spec.name}, as {spec.name}={spec.path}#{labels[0]}"
        )
    if spec.label in labels:
        return labels.index(spec.label)
    if spec.label.isdecimal() and int(spec.label) < len(labels):  # or by its index
        return int(spec.label)
    raise UserError(
        f"{spec.path}: {spec.model_path} has no label {spec.label!r}; it has {', '.join(labels)}"
    )
