"""The evaluations of a training run, the file that keeps all of them, and sampled responses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ConfigDict, StrictInt, model_validator
from typing_extensions import TypedDict

from safe_rlhf_panacea.adapter import PanaceaAdapter
from safe_rlhf_panacea.base.engine import gathered
from safe_rlhf_panacea.data.templates import without_template
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.fronts.measurement import Measurement, towards_labels
from safe_rlhf_panacea.fronts.result import FrontResult
from safe_rlhf_panacea.io import append_line, read_json, read_json_lines
from safe_rlhf_panacea.records import Number, Record, Vector, misfit, validated
from safe_rlhf_panacea.runs.run_folder import EVALUATIONS_FILE

RESPONSES_FILE = "responses.json"
DIGITS = 5  # of the single values that are kept for distributions
RESPONSES_SHOWN = 4  # prompts whose responses are kept


class ShownResponse(TypedDict):
    """A response as ``responses.json`` has it; what reward functions logged of it may follow."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]

    prompt: str
    response: str
    preference: Vector
    rewards: tuple[Number | None, ...]
    log_ratio: Number | None


class MatrixValues(TypedDict):
    """Singular values of an adapted matrix: σ, size = (k,), and s, size = (1,), (m,) or (0,)."""

    matrix: str
    sigma: Vector
    s: Vector


class Evaluation(Record):
    """An evaluation during training: its front, and what else is shown of it.

    ``distributions`` are the values behind J by λ and objective: rewards of single responses (PPO),
    implicit-reward margins in the direction of the label (DPO), or log-probabilities per token of
    single texts (SFT); N lists of m lists, or none.
    """

    result: FrontResult  # at N preference vectors; its step is that of training
    distributions: tuple[tuple[Vector, ...], ...]
    base_distributions: tuple[Vector, ...]  # of the initial model, m lists, or none
    responses: tuple[ShownResponse, ...]  # to a few prompts at every λ
    singular_values: tuple[MatrixValues, ...]  # of every adapted matrix
    drawn: dict[str, tuple[StrictInt, ...]]  # how often training drew each tenth of λ_i so far
    seconds: Number  # that this evaluation took

    @model_validator(mode="after")
    def _check(self) -> Evaluation:
        m = len(self.objectives)
        if self.result.step is None:
            raise ValueError("step must be a whole number")
        if len(self.distributions) not in (0, len(self.result.points)):
            raise ValueError("distributions must have an entry per point of the front")
        if any(len(row) != m for row in self.distributions):
            raise ValueError(f"distributions must have {m} lists per point")
        if len(self.base_distributions) not in (0, m):
            raise ValueError(f"base_distributions must be {m} lists, or none")
        for row in self.responses:
            if len(row["preference"]) != m or len(row["rewards"]) not in (0, m):
                raise ValueError(f"responses must have {m} numbers as λ, and as many rewards")
        return self

    @classmethod
    def of(
        cls, measured: Measurement, result: FrontResult, adapter: PanaceaAdapter, **more: Any
    ) -> Evaluation:
        """What was measured at the λ of ``result``, and the adapter's singular values.

        ``more`` are ``seconds``, and ``drawn`` where it is known.
        """
        values, base = measured.unit_values(), measured.base_values()  # size = (N, U, m), (U, m)
        if measured.margins is not None and measured.labels is not None:
            values = measured.margin_scale * towards_labels(measured.margins, measured.labels)
        return cls(
            result=result,
            distributions=[_columns(rows) for rows in values],
            base_distributions=[] if base is None else _columns(base),
            responses=measured.responses(RESPONSES_SHOWN),
            singular_values=_singular_values(adapter),
            **{"drawn": {}, **more},
        )

    @property
    def step(self) -> int:
        """The step of training at which the policy was evaluated."""
        assert self.result.step is not None
        return self.result.step

    @property
    def objectives(self) -> tuple[str, ...]:
        """Names of the objectives, in the order of λ."""
        return self.result.objectives

    @property
    def front(self) -> FrontResult:
        """The result with ``step N`` as its label, for pictures of several steps."""
        return self.result.having(label=f"step {self.step}")

    def light(self) -> Evaluation:
        """Without what only the latest evaluation is shown with."""
        return self.having(distributions=(), base_distributions=(), responses=())

    def to_json(self) -> dict[str, Any]:
        """The keys of ``result`` and beside them the other attributes, as plain values."""
        return {**self.result.to_json(), **self.model_dump(mode="json", exclude={"result"})}


def _columns(values: torch.Tensor) -> list[list[float]]:
    """A list per column of values, size = (P, m); what is not a number is left out."""
    return [
        [round(value, DIGITS) for value in column[~column.isnan()].tolist()] for column in values.T
    ]


def _singular_values(adapter: PanaceaAdapter) -> list[dict[str, Any]]:
    """Name, σ and s of every adapted matrix; s is what it is fixed at, or empty without λ."""
    found = []
    with gathered(adapter.parameters()):
        for name, layer in adapter.layers.items():
            s: list[float] = []
            if layer.lora_s is not None:
                s = layer.lora_s.detach().float().tolist()
            elif adapter.config.fixed_scaling is not None and adapter.pref_dim > 0:
                s = [adapter.config.fixed_scaling]
            sigma = layer.lora_sigma.detach().float().tolist()
            found.append({"matrix": name, "sigma": sigma, "s": s})
    return found


def append_evaluation(folder: Path, evaluation: Evaluation) -> None:
    """Add a line to ``evaluations.jsonl``, on the disk before this returns, or change nothing."""
    line = json.dumps(evaluation.to_json(), ensure_ascii=False, allow_nan=False)
    append_line(folder / EVALUATIONS_FILE, line, sync=True)


def read_evaluations(folder: str | Path) -> list[Evaluation]:
    """Every evaluation of a run, in their order; none where there is no file.

    A last line that an interruption cut short is left out. Another damaged one is a ``UserError``.
    """
    path = Path(folder) / EVALUATIONS_FILE
    found = []
    for number, content in enumerate(read_json_lines(path) if path.is_file() else [], start=1):
        where = f"{path}:{number}"
        result = FrontResult.from_json(where, content)
        found.append(validated(Evaluation, where, {**content, "result": result}))
    return found


def read_responses(folder: str | Path, objectives: Sequence[str]) -> list[dict[str, Any]]:
    """Every response of an evaluation, the initial model's, which have no λ, among them.

    A ``UserError`` says that there are none, as in an evaluation of pairs, or what is damaged.
    """
    path = Path(folder) / RESPONSES_FILE
    if not path.is_file():
        raise UserError(f"{folder} has no {RESPONSES_FILE}: evaluate with --reward_models")
    rows = read_json(path)
    m = len(objectives)
    vector = ([float, m], [float, 0])
    rewards = [(float, type(None)), m]  # null where an objective does not count
    row = {"prompt": str, "response": str, "preference": vector, "rewards": rewards}
    if wrong := misfit(rows, [row]):
        raise UserError(f"{path}: it does not fit the {m} objectives of its front.json: {wrong}")
    if not rows:
        raise UserError(f"{path} holds no response")
    for response in rows:
        response["prompt"] = without_template(response["prompt"])
    return rows
