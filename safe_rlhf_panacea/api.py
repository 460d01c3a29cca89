"""Training from Python: one class for each algorithm, over the programs' own trainers.

Every class takes a model, data and typed options; ``train()`` trains, ``history`` holds what was
logged, ``evaluate()`` measures the front, and ``model`` answers at any λ.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any

import torch

from safe_rlhf_panacea.algorithms import dpo, grpo, ppo, sft
from safe_rlhf_panacea.base.values import reward
from safe_rlhf_panacea.baselines.rewarded_soups import vertices
from safe_rlhf_panacea.baselines.variants import train_unfinished, variant_configs
from safe_rlhf_panacea.configs.algorithms import (
    DPOConfig,
    GRPOConfig,
    PPOConfig,
    RewardConfig,
    SFTConfig,
)
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.models.loading import LoadedModel
from safe_rlhf_panacea.respond import PanaceaModel
from safe_rlhf_panacea.training_run import (
    AdapterTraining,
    Data,
    Model,
    PanaceaRun,
    TrainingRun,
    as_model,
    data_specs,
)


class PanaceaDPO(PanaceaRun[DPOConfig]):
    """Panacea-DPO on pairs: rows labelled for each objective, or data sets of one objective each.

    Examples:
        >>> run = PanaceaDPO(  # doctest: +SKIP
        ...     "HuggingFaceTB/SmolLM2-135M-Instruct",
        ...     {"helpful": "helpful.jsonl", "harmless": "harmless.jsonl"},
        ...     config=DPOConfig(output_dir="runs/dpo"),
        ... )
        >>> run.train().model.respond("How do I pick a lock?", [0.2, 0.8])  # doctest: +SKIP
    """

    PROGRAM = dpo.COMMAND


class PanaceaSFT(PanaceaRun[SFTConfig]):
    """Panacea-SFT: a data set of prompts and answers for each objective."""

    PROGRAM = sft.COMMAND


class RewardedRun(PanaceaRun[AdapterTraining]):
    """Panacea with rewards: base of ``PanaceaGRPO`` and ``PanaceaPPO``."""

    MODEL_OPTION = "actor_model_name_or_path"

    def __init__(
        self,
        model: Model,
        rewards: Mapping[str, Any],
        train_dataset: Data,
        eval_dataset: Data | None = None,
        *,
        ptx_dataset: Data | None = None,
        config: AdapterTraining,
    ) -> None:
        """Complete the options and check them, as ``TrainingRun`` does; nothing is loaded yet.

        Args:
            model: a hub name or folder, a ``LoadedModel``, or a model and its tokenizer.
            rewards: what scores each objective, by name, in the order of λ: a function, the
                ``module:function`` of one, the folder or hub name of a reward model or classifier,
                ``PATH#LABEL`` for one of its labels, or a ``LoadedModel`` of a classifier.
            train_dataset: prompts.
            eval_dataset: prompts for evaluations.
            ptx_dataset: supervised text that is learnt beside.
            config: the options, with ``output_dir``.
        """
        if not isinstance(rewards, Mapping):
            kind = type(rewards).__name__
            raise UserError(
                f"rewards are a dictionary by name, as in {{'brief': ...}}, not a {kind}"
            )
        models = tuple((name, _as_reward(name, value)) for name, value in rewards.items())
        more: dict[str, Any] = {"reward_models": models}
        if ptx_dataset is not None:
            more["ptx_datasets"] = data_specs(ptx_dataset)
        super().__init__(model, train_dataset, eval_dataset, config=config, **more)


def _as_reward(name: str, value: Any) -> Any:
    """What scores an objective, as the options have it."""
    value = as_model(value)
    known = isinstance(value, str | Path | LoadedModel) or callable(value)
    if isinstance(value, torch.nn.Module) or not known:
        raise UserError(
            f"the reward {name!r} is a {type(value).__name__}; it is a function, module:function, "
            "the path of a model, or LoadedModel(model, tokenizer)"
        )
    return str(value) if isinstance(value, Path) else value


class PanaceaGRPO(RewardedRun[GRPOConfig]):
    """Panacea-GRPO: groups of responses to each prompt, compared with each other.

    Examples:
        >>> def brief(responses, **_):
        ...     return [-len(response.split()) / 40 for response in responses]
        >>> run = PanaceaGRPO(  # doctest: +SKIP
        ...     "HuggingFaceTB/SmolLM2-135M-Instruct",
        ...     {"positive": "safe_rlhf_panacea.reward_functions:positive", "brief": brief},
        ...     "prompts.jsonl",
        ...     config=GRPOConfig(output_dir="runs/grpo", max_steps=40),
        ... )
        >>> run.train()  # doctest: +SKIP
    """

    PROGRAM = grpo.COMMAND


class PanaceaPPO(RewardedRun[PPOConfig]):
    """Panacea-PPO: one critic that knows λ."""

    PROGRAM = ppo.COMMAND


class RewardModel(TrainingRun[RewardConfig]):
    """A reward model for one objective, ``config.objective``, from labelled pairs.

    The model is a name or a folder. After ``train()`` its folder, ``output_dir``, is a reward for
    ``PanaceaPPO`` and ``PanaceaGRPO``.
    """

    PROGRAM = reward.COMMAND

    def __init__(self, model: str | Path, *args: Any, **kwargs: Any) -> None:
        """Complete the options and check them, as ``TrainingRun`` does."""
        if not isinstance(model, str | Path):
            raise UserError("a reward model is trained from a name or a folder, not from memory")
        super().__init__(model, *args, **kwargs)


class RewardedSoups:
    """The baseline Rewarded Soups: one training for each objective, weights interpolated by λ.

    Examples:
        >>> soups = RewardedSoups(  # doctest: +SKIP
        ...     PanaceaDPO, "model/", "pairs.jsonl", config=DPOConfig(output_dir="runs/soups")
        ... )
        >>> soups.train()  # doctest: +SKIP
    """

    def __init__(self, algorithm: type[PanaceaRun[Any]], *args: Any, **kwargs: Any) -> None:
        """Make the training of each objective, in ``output_dir/<objective>``.

        ``algorithm`` is ``PanaceaDPO`` or the like, ``args`` and ``kwargs`` what it takes; a model
        is given by its name or folder, as each training would adapt one in memory. For a fair
        comparison ``lora_dim`` is k + 1 where Panacea has k (appendix D).
        """
        model = kwargs.get("model", args[0] if args else None)
        if not isinstance(model, str | Path):
            raise UserError("soups train the model several times: give its name or folder")
        if not (isinstance(algorithm, type) and issubclass(algorithm, PanaceaRun)):
            raise UserError(f"soups take PanaceaDPO or the like as algorithm, not {algorithm!r}")
        whole = algorithm(*args, **kwargs)  # reads the data, once
        self.runs = {}
        for name, config in variant_configs(whole.config, vertices(whole.objectives)).items():
            self.runs[name] = copy(whole)
            self.runs[name].config = config

    def __repr__(self) -> str:
        return f"RewardedSoups({list(self.runs.values())})"

    def train(self) -> RewardedSoups:
        """Train what is not finished yet; what was interrupted is kept beside, and begins anew."""

        def train(run: PanaceaRun[Any]) -> None:
            run.train()
            run.trainer = None  # one backbone at a time

        runs = {str(run.output_dir): partial(train, run) for run in self.runs.values()}
        train_unfinished(runs, overwrite=any(run.config.overwrite for run in self.runs.values()))
        return self

    @property
    def model(self) -> PanaceaModel:
        """The soup, ready to answer at any λ; a ``UserError`` where not all of it is trained."""
        return PanaceaModel.load_soup({name: run.output_dir for name, run in self.runs.items()})
