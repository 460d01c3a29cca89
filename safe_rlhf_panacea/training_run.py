"""One training from Python: what users give it, and what it gives them."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import numpy as np
import torch

from safe_rlhf_panacea.adapter import SvdLoraLinear
from safe_rlhf_panacea.adapter.io import WEIGHTS_NAME
from safe_rlhf_panacea.base.program import TrainingProgram
from safe_rlhf_panacea.configs.panacea import PanaceaConfig
from safe_rlhf_panacea.configs.training import TrainConfig
from safe_rlhf_panacea.data.own import from_rows
from safe_rlhf_panacea.data.raw import RawDataset
from safe_rlhf_panacea.data.specs import SUFFIXES, DatasetSpec
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.fronts.result import FrontResult
from safe_rlhf_panacea.io import read_json_lines
from safe_rlhf_panacea.models.loading import LoadedModel
from safe_rlhf_panacea.preference import Preference, parse_preference, preference_grid
from safe_rlhf_panacea.respond import PanaceaModel
from safe_rlhf_panacea.runs.run_folder import METRICS_FILE, unlock_folder

if TYPE_CHECKING:
    from typing_extensions import Self

Model = str | Path | LoadedModel | tuple[Any, Any]
# A file, folder or hub name, several, rows or prompts in memory, or one of these by objective.
Data = str | Path | Iterable[Any] | Mapping[str, Any]
Config = TypeVar("Config", bound=TrainConfig)
AdapterTraining = TypeVar("AdapterTraining", bound=PanaceaConfig)


class History(list[dict[str, Any]]):
    """What a training logged, a dictionary for each line, ``step`` among its keys."""

    def to_pandas(self) -> Any:
        """A table with a column for each metric."""
        import pandas

        return pandas.DataFrame(list(self))

    def _repr_html_(self) -> Any:
        return self.to_pandas()._repr_html_()


class TrainingRun(Generic[Config]):
    """One training: base of the classes of all algorithms.

    Attributes:
        config: the options, completed by what the constructor was given.
        trainer: the trainer, once ``train`` was called.
    """

    PROGRAM: ClassVar[TrainingProgram[Any]]  # that trains the same from a command line
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
            train_dataset: a file, folder or hub name, several of them, prompts as texts, a
                ``datasets.Dataset`` or another iterable of rows, or a dictionary with one of
                these for each objective.
            eval_dataset: the same for evaluations, which then happen as ``config`` says.
            config: the options, with ``output_dir``.
            more: further options of the data.

        Raises:
            UserError: options of another class, missing ones or such that contradict each other,
                or a model or data of no known form.
        """
        if not isinstance(config, self.PROGRAM.cls):
            kind = "class" if isinstance(config, type) else type(config).__name__
            name, wanted = type(self).__name__, self.PROGRAM.cls.__name__
            raise UserError(f"the options of {name} are a {wanted}(...), not a {kind}")
        model = as_model(model)
        modules = model.model.modules() if isinstance(model, LoadedModel) else ()
        if any(isinstance(module, SvdLoraLinear) for module in modules):
            raise UserError(
                "the model carries the adapter of an earlier training already: load it anew, or "
                "give its name"
            )
        more |= {self.MODEL_OPTION: model, "train_datasets": data_specs(train_dataset)}
        if eval_dataset is not None:
            more |= {"eval_datasets": data_specs(eval_dataset), "need_eval": True}
        config = config.with_(**more)
        for one in config.OPTIONS.values():
            if one.required and getattr(config, one.name) in (None, ()):
                raise UserError(f"{one.name} is missing in the options: {one.text}")
        config.check()
        self.config = config.resolved()

    def __repr__(self) -> str:
        step = getattr(self.trainer, "global_step", 0)
        state = f"trained for {step} steps" if step else "not trained"
        return f"<{type(self).__name__} in {self.config.output_dir}: {state}>"

    def train(self) -> Self:
        """Train to the end, save to ``config.output_dir``, and return this run.

        The random numbers of the process are afterwards as they were before.

        Raises:
            UserError: bad data or models, a folder that holds a run already, or a second call.
        """
        from safe_rlhf_panacea.base.setup import run_to_end

        if self.trainer is not None:
            raise UserError("train() was called already: make a new run to train again")
        python, numpy = random.getstate(), np.random.get_state()
        try:
            with torch.random.fork_rng():
                self.trainer = self.PROGRAM.make_trainer(self.config)
                run_to_end(self.trainer)
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
            unlock_folder(self.output_dir)
        return self

    @property
    def output_dir(self) -> Path:
        """The folder of this run."""
        return Path(self.config.output_dir or "")

    @property
    def history(self) -> History:
        """What the folder's log holds so far."""
        file = Path(self.config.log_dir or self.output_dir).expanduser() / METRICS_FILE
        return History(read_json_lines(file) if file.exists() else [])


class PanaceaRun(TrainingRun[AdapterTraining]):
    """A training of a Panacea adapter."""

    @property
    def objectives(self) -> tuple[str, ...]:
        """Names, in the order of λ."""
        return self.config.objective_names()

    @property
    def model(self) -> PanaceaModel:
        """The trained model, ready to answer at any λ; without a second copy of its weights.

        A ``UserError`` says that it is not trained.
        """
        trainer = self.trainer
        if trainer is not None and self.config.zero_stage < 3:
            from safe_rlhf_panacea.base.engine import set_gradient_checkpointing
            from safe_rlhf_panacea.distributed import unwrap

            engine = getattr(trainer, "actor_model", None) or trainer.model
            options = ("gradient_checkpointing", "actor_gradient_checkpointing")
            if any(getattr(self.config, name, False) for name in options):
                set_gradient_checkpointing(engine, False)
            policy = trainer.panacea.policy
            return PanaceaModel(unwrap(engine).eval(), policy, trainer.tokenizer, trainer.template)
        if (self.output_dir / WEIGHTS_NAME).exists():
            remote = self.config.trust_remote_code
            return PanaceaModel.load(self.output_dir, trust_remote_code=remote)
        raise UserError(f"{self.output_dir} holds no trained adapter yet: call train() first")

    def evaluate(
        self, grid: float | Preference | Iterable[Preference] | None = None
    ) -> FrontResult:
        """Measure the front on the evaluation data: points, standard errors, indicators.

        ``grid`` says at which λ: a step between them, one vector, or several; default: those of
        the evaluations while training.

        Raises:
            UserError: not trained in this process, no evaluation data, or no λ or one twice.
        """
        if self.trainer is None:
            raise UserError("there is nothing to evaluate yet: call train() first")
        if self.trainer.eval_dataloader is None:
            raise UserError("evaluate() needs data: give eval_dataset when the run is made")
        wanted = None if grid is None else _as_grid(grid, self.objectives)
        front: FrontResult = self.trainer.measured(wanted)
        return front


def _as_grid(grid: Any, objectives: tuple[str, ...]) -> torch.Tensor:
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


def as_model(model: Any) -> Any:
    """A model from Python as the options have it."""
    if isinstance(model, tuple):
        if len(model) != 2:
            raise UserError(
                f"a model in memory is a pair (model, tokenizer), not {len(model)} parts"
            )
        return LoadedModel(*model)
    return model


def data_specs(data: Data) -> tuple[Any, ...]:
    """Data from Python as the options have it."""
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
    several = isinstance(data, list | tuple) and data and not isinstance(data[0], Mapping)
    if several and not any(map(_is_prompt, data)):
        return tuple(spec for part in data for spec in _unnamed(part))
    rows = ({"prompt": row} if isinstance(row, str) else row for row in data)
    return (DatasetSpec("rows", data=from_rows(rows)),)


def _is_prompt(part: Any) -> bool:
    """Whether it is a text with white space, none of it a file's name."""
    if not isinstance(part, str) or not re.search(r"\S\s+\S", part):
        return False
    places = filter(str.strip, re.split("[=:#]", part))
    ends = (*SUFFIXES, ".parquet")
    return not any(p.endswith(ends) or os.path.exists(os.path.expanduser(p)) for p in places)


def _named(spec: Any, objective: str) -> Any:
    if isinstance(spec, str):
        return f"{objective}={spec}"
    if isinstance(spec, RawDataset):
        spec = DatasetSpec("rows", data=spec)
    return replace(spec, objective=objective)
