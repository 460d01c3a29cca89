"""Training from Python: one class for each algorithm, over the programs' own trainers.

Every class takes a model, data and typed options; ``train()`` trains, ``history`` holds what was
logged, ``evaluate()`` measures the front, and ``model`` answers at any λ.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import numpy as np
import torch

from safe_rlhf_panacea.adapter.io import WEIGHTS_NAME
from safe_rlhf_panacea.baselines.rewarded_soups import vertices
from safe_rlhf_panacea.baselines.variants import train_unfinished, variant_configs
from safe_rlhf_panacea.configs.algorithms import (
    DPOConfig,
    GRPOConfig,
    PPOConfig,
    RewardConfig,
    SFTConfig,
)
from safe_rlhf_panacea.configs.options import options_of
from safe_rlhf_panacea.configs.panacea import PanaceaConfig
from safe_rlhf_panacea.configs.training import TrainConfig
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.fronts.result import FrontResult
from safe_rlhf_panacea.inputs import (
    Data,
    Model,
    as_grid,
    as_model,
    as_reward,
    data_specs,
    refuse_adapted,
)
from safe_rlhf_panacea.io import read_json_lines
from safe_rlhf_panacea.preference import Preference
from safe_rlhf_panacea.respond import PanaceaModel
from safe_rlhf_panacea.runs.claim import unlock_folder
from safe_rlhf_panacea.runs.run_record import METRICS_FILE

if TYPE_CHECKING:
    from typing_extensions import Self

Config = TypeVar("Config", bound=TrainConfig)
AdapterTraining = TypeVar("AdapterTraining", bound=PanaceaConfig)


class History(list[dict[str, Any]]):
    """What a training logged, a dictionary for each line, ``step`` among its keys."""

    def to_pandas(self) -> Any:
        """A table with a column for each metric."""
        import pandas

        return pandas.DataFrame(list(self))

    def _repr_html_(self) -> str:
        """As notebooks show it."""
        html: str = self.to_pandas()._repr_html_()
        return html


class TrainingRun(Generic[Config]):
    """One training: base of the classes of all algorithms.

    Attributes:
        config: the options, completed by what the constructor was given.
        trainer: the trainer, once ``train`` was called.
    """

    TRAINER: ClassVar[str]  # module:class
    CONFIG: ClassVar[type[TrainConfig]]
    MODEL_OPTION: ClassVar[str] = "model_name_or_path"
    config: Config
    trainer: Any = None

    def __init__(
        self,
        model: Model,
        train_dataset: Data,
        eval_dataset: Data | None = None,
        *,
        config: Config,
        **more: Any,
    ) -> None:
        """Complete the options and check them; nothing is loaded yet.

        Args:
            model: a hub name or folder, a ``LoadedModel``, or a model and its tokenizer.
            train_dataset: a file, folder or hub name, several of them, a ``datasets.Dataset`` or
                another iterable of rows, or a dictionary with one of these for each objective.
            eval_dataset: the same for evaluations, which then happen as ``config`` says.
            config: the options, with ``output_dir``.
            more: further options of the data.

        Raises:
            UserError: options of another class, missing ones or such that contradict each other,
                or a model or data of no known form.
        """
        if not isinstance(config, self.CONFIG):
            kind = "class" if isinstance(config, type) else type(config).__name__
            name, wanted = type(self).__name__, self.CONFIG.__name__
            raise UserError(f"the options of {name} are a {wanted}(...), not a {kind}")
        changes: dict[str, Any] = {self.MODEL_OPTION: as_model(model), **more}
        changes["train_datasets"] = data_specs(train_dataset)
        if eval_dataset is not None:
            changes |= {"eval_datasets": data_specs(eval_dataset), "need_eval": True}
        config = config.with_(**changes)
        for one in options_of(type(config)).values():
            if one.required and getattr(config, one.name) in (None, ()):
                raise UserError(f"{one.name} is missing in the options: {one.text}")
        config.check()
        self.config = config

    def __repr__(self) -> str:
        """Its class, folder and state, as a notebook shows it."""
        step = getattr(self.trainer, "global_step", 0)
        state = f"trained for {step} steps" if step else "not trained"
        return f"<{type(self).__name__} in {self.config.output_dir}: {state}>"

    def train(self) -> Self:
        """Train to the end and save to ``config.output_dir``.

        The random numbers of the process are afterwards as they were before.

        Returns:
            This run.

        Raises:
            UserError: bad data or models, a folder that holds a run already, or a second call.
        """
        from safe_rlhf_panacea.base.program import prepare_run
        from safe_rlhf_panacea.base.setup import run_to_end

        if self.trainer is not None:
            raise UserError("train() was called already: make a new run to train again")
        module, _, name = self.TRAINER.partition(":")
        trainer_type = getattr(import_module(module), name)
        with _random_numbers_kept():
            try:
                self.trainer = trainer_type(self.config, *self._engine_configs(prepare_run))
                run_to_end(self.trainer)
            finally:
                unlock_folder(self.output_dir)
        return self

    def _engine_configs(self, prepare_run: Any) -> tuple[Any, ...]:
        """DeepSpeed's configurations, as many as the trainer takes."""
        return tuple(prepare_run(self.config)[:1])

    @property
    def output_dir(self) -> Path:
        """The folder of this run."""
        return Path(self.config.output_dir or "")

    @property
    def history(self) -> History:
        """What the folder's log holds so far."""
        folder = Path(self.config.log_dir or self.output_dir).expanduser()
        file = folder / METRICS_FILE
        return History(read_json_lines(file) if file.exists() else [])


class PanaceaRun(TrainingRun[AdapterTraining]):
    """A training of a Panacea adapter."""

    @property
    def objectives(self) -> tuple[str, ...]:
        """Names, in the order of λ."""
        return self.config.objective_names()

    def __init__(
        self,
        model: Model,
        train_dataset: Data,
        eval_dataset: Data | None = None,
        *,
        config: AdapterTraining,
        **more: Any,
    ) -> None:
        """Complete the options, those that follow from the objectives too."""
        refuse_adapted(model)
        super().__init__(model, train_dataset, eval_dataset, config=config, **more)
        self.config = self.config.resolved()

    @property
    def model(self) -> PanaceaModel:
        """The trained model, ready to answer at any λ; without a second copy of its weights.

        Raises:
            UserError: it is not trained.
        """
        if self.trainer is not None and self.config.zero_stage < 3:
            from safe_rlhf_panacea.base.engine import set_gradient_checkpointing, unwrap

            panacea = self.trainer.panacea
            engine = getattr(self.trainer, "actor_model", None) or self.trainer.model
            options = ("gradient_checkpointing", "actor_gradient_checkpointing")
            if any(getattr(self.config, name, False) for name in options):
                set_gradient_checkpointing(engine, False)
            model = unwrap(engine).eval()
            return PanaceaModel(
                model, panacea.policy, self.trainer.tokenizer, self.trainer.template
            )
        if (self.output_dir / WEIGHTS_NAME).exists():
            remote = self.config.trust_remote_code
            return PanaceaModel.load(self.output_dir, trust_remote_code=remote)
        raise UserError(f"{self.output_dir} holds no trained adapter yet: call train() first")

    def evaluate(
        self, grid: float | Preference | Iterable[Preference] | None = None
    ) -> FrontResult:
        """Measure the front on the evaluation data.

        Args:
            grid: the λ: a step between them, one vector, or several; default: those of the
                evaluations while training.

        Returns:
            The front: points, standard errors, indicators; ``to_pandas()``, ``plot()``, ``save()``.

        Raises:
            UserError: not trained in this process, no evaluation data, or no λ or one twice.
        """
        trainer = self.trainer
        if trainer is None:
            raise UserError("there is nothing to evaluate yet: call train() first")
        if trainer.eval_dataloader is None:
            raise UserError("evaluate() needs data: give eval_dataset when the run is made")
        wanted = None if grid is None else as_grid(grid, self.objectives)
        front: FrontResult = trainer.part.evaluator.measured(wanted)
        return front


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

    TRAINER = "safe_rlhf_panacea.algorithms.dpo.trainer:PanaceaDPOTrainer"
    CONFIG = DPOConfig

    def _engine_configs(self, prepare_run: Any) -> tuple[Any, ...]:
        return tuple(prepare_run(self.config))


class PanaceaSFT(PanaceaRun[SFTConfig]):
    """Panacea-SFT: a data set of prompts and answers for each objective."""

    TRAINER = "safe_rlhf_panacea.algorithms.sft.trainer:PanaceaSFTTrainer"
    CONFIG = SFTConfig


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
        """Complete the options and check them; nothing is loaded yet.

        Args:
            model: a hub name or folder, a ``LoadedModel``, or a model and its tokenizer.
            rewards: what scores each objective, by name, in the order of λ: a function, the
                ``module:function`` of one, the folder or hub name of a reward model or classifier,
                ``PATH#LABEL`` for one of its labels, or a ``LoadedModel`` of a classifier.
            train_dataset: prompts, as for ``TrainingRun``.
            eval_dataset: prompts for evaluations.
            ptx_dataset: supervised text that is learnt beside.
            config: the options, with ``output_dir``.

        Raises:
            UserError: as ``TrainingRun``; also rewards without names, or that nothing scores.
        """
        if not isinstance(rewards, Mapping):
            kind = type(rewards).__name__
            raise UserError(
                f"rewards are a dictionary by name, as in {{'brief': ...}}, not a {kind}"
            )
        scored = tuple((name, as_reward(name, value)) for name, value in rewards.items())
        more: dict[str, Any] = {"reward_models": scored}
        if ptx_dataset is not None:
            more["ptx_datasets"] = data_specs(ptx_dataset)
        super().__init__(model, train_dataset, eval_dataset, config=config, **more)

    def _engine_configs(self, prepare_run: Any) -> tuple[Any, ...]:
        return tuple(prepare_run(self.config))


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

    TRAINER = "safe_rlhf_panacea.algorithms.grpo.trainer:PanaceaGRPOTrainer"
    CONFIG = GRPOConfig


class PanaceaPPO(RewardedRun[PPOConfig]):
    """Panacea-PPO: one critic that knows λ."""

    TRAINER = "safe_rlhf_panacea.algorithms.ppo.trainer:PanaceaPPOTrainer"
    CONFIG = PPOConfig


class RewardModel(TrainingRun[RewardConfig]):
    """A reward model for one objective, ``config.objective``, from labelled pairs.

    The model is a name or a folder. After ``train()`` its folder, ``output_dir``, is a reward for
    ``PanaceaPPO`` and ``PanaceaGRPO``.
    """

    TRAINER = "safe_rlhf_panacea.base.before:RewardTrainer"
    CONFIG = RewardConfig

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

        Args:
            algorithm: ``PanaceaDPO`` and the like.
            args: what it takes; a model is given by its name or folder.
            kwargs: likewise. For a fair comparison ``lora_dim`` is k + 1 where Panacea has k
                (appendix D).

        Raises:
            UserError: as ``algorithm`` does, or a model in memory, which each training would adapt.
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
        """Its trainings, as a notebook shows them."""
        return f"RewardedSoups({list(self.runs.values())})"

    def train(self) -> RewardedSoups:
        """Train what is not finished yet; what was interrupted is kept beside, and begins anew.

        Returns:
            This baseline.
        """

        def train(run: PanaceaRun[Any]) -> None:
            run.train()
            run.trainer = None  # one backbone at a time

        runs = {str(run.output_dir): partial(train, run) for run in self.runs.values()}
        train_unfinished(runs, overwrite=any(run.config.overwrite for run in self.runs.values()))
        return self

    @property
    def model(self) -> PanaceaModel:
        """The soup, ready to answer at any λ.

        Raises:
            UserError: not all of it is trained.
        """
        return PanaceaModel.load_soup({name: run.output_dir for name, run in self.runs.items()})


@contextmanager
def _random_numbers_kept() -> Iterator[None]:
    """Inside, random numbers may be drawn and seeded; afterwards they go on as before."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


__all__ = [
    "History",
    "PanaceaDPO",
    "PanaceaGRPO",
    "PanaceaPPO",
    "PanaceaRun",
    "PanaceaSFT",
    "RewardModel",
    "RewardedSoups",
    "TrainingRun",
]
