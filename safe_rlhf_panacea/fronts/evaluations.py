"""The evaluations of a training run, and the file that keeps all of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch

from safe_rlhf_panacea.adapter import PanaceaAdapter
from safe_rlhf_panacea.base.engine import gathered
from safe_rlhf_panacea.base.run_record import EVALUATIONS_FILE
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.fronts.front import Front
from safe_rlhf_panacea.fronts.measurement import Measurement
from safe_rlhf_panacea.fronts.results import checked, front_of
from safe_rlhf_panacea.fronts.schema import NONE, check_whole_result
from safe_rlhf_panacea.io import append_line, read_json_lines
from safe_rlhf_panacea.shapes import Integer, Number, misfit

DIGITS = 5  # of the single values that are kept for distributions
RESPONSES_SHOWN = 4  # prompts whose responses are kept


@dataclass(frozen=True)
class Evaluation:
    """An evaluation during training: a result, and what else is shown of it.

    Attributes:
        result: as in ``front.json``, at N preference vectors.
        distributions: values behind J by λ and objective: rewards of single responses (PPO),
            implicit-reward margins in the direction of the label (DPO), or log-probabilities per
            token of single texts (SFT); N lists of m lists.
        base_distributions: the same of the initial model, m lists; empty where that means nothing.
        responses: a few prompts answered at every λ, as in ``responses.json``.
        singular_values: of every adapted matrix: its name, σ and s.
        drawn: how often training drew λ_i from each tenth of [0, 1] so far, by objective.
        seconds: what this evaluation took.
    """

    result: dict[str, Any]
    distributions: list[list[list[float]]] = field(default_factory=list)
    base_distributions: list[list[float]] = field(default_factory=list)
    responses: list[dict[str, Any]] = field(default_factory=list)
    singular_values: list[dict[str, Any]] = field(default_factory=list)
    drawn: dict[str, list[int]] = field(default_factory=dict)
    seconds: float = 0.0

    @classmethod
    def of(
        cls, measured: Measurement, result: dict[str, Any], adapter: PanaceaAdapter, **more: Any
    ) -> Evaluation:
        """What was measured, its result, and the adapter's singular values."""
        values = measured.sampled.rewards  # size = (N, P, m)
        if measured.margins is not None and measured.labels is not None:
            values = measured.margin_scale * measured.margins.unsqueeze(-1) * measured.labels
            values = values.masked_fill(measured.labels.eq(0), float("nan"))
        base = None if measured.base is None else measured.base.rewards[0]
        if measured.likelihoods is not None:
            base, values = measured.likelihoods[0], measured.likelihoods[1:]
        return cls(
            result,
            distributions=[_columns(rows) for rows in values],
            base_distributions=[] if base is None else _columns(base),
            responses=measured.responses(RESPONSES_SHOWN),
            singular_values=singular_values(adapter),
            **more,
        )

    @property
    def step(self) -> int:
        """The training step."""
        return self.result["step"]

    @property
    def objectives(self) -> list[str]:
        """Names, in the order of λ."""
        return self.result["objectives"]

    @property
    def front(self) -> Front:
        """The points, named by their step."""
        return front_of({**self.result, "label": f"step {self.step}"})

    def light(self) -> Evaluation:
        """Without what only the latest evaluation is shown with."""
        return replace(self, distributions=[], base_distributions=[], responses=[])

    def to_dict(self) -> dict[str, Any]:
        """The keys of ``result`` and beside them the other attributes, as plain values."""
        extra = asdict(self)
        del extra["result"]
        return {**self.result, **extra}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Evaluation:
        """The inverse of ``to_dict``.

        Raises:
            KeyError: something is missing.
        """
        names = {f.name for f in fields(cls)} - {"result"}
        result = {key: value for key, value in values.items() if key not in names}
        return cls(result, **{name: values[name] for name in names})


def _columns(values: torch.Tensor) -> list[list[float]]:
    """A list per column, size = (P, m); what is not a number is left out."""
    return [
        [round(value, DIGITS) for value in column[~column.isnan()].tolist()] for column in values.T
    ]


def singular_values(adapter: PanaceaAdapter) -> list[dict[str, Any]]:
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


def check_evaluation(where: str, values: Mapping[str, Any]) -> None:
    """Whether ``values`` are what ``Evaluation.to_dict`` writes.

    Args:
        where: the file and the line in it.
        values: what stands there, in the form of this version.

    Raises:
        UserError: what is missing or of another shape.
    """
    check_whole_result(where, values)
    m, n = len(values["objectives"]), len(values["front"])
    drawn = values.get("drawn") if isinstance(values.get("drawn"), dict) else {}
    response = {
        "prompt": str,
        "response": str,
        "preference": [Number, m],
        "rewards": ([(Number, NONE), m], [Number, 0]),
        "log_ratio": (Number, NONE),
    }
    shape = {
        "step": Integer,
        "distributions": ([[[Number], m], n], [Number, 0]),
        "base_distributions": ([[Number], m], [Number, 0]),
        "responses": [response],
        "singular_values": [{"matrix": str, "sigma": [Number], "s": [Number]}],
        "drawn": {name: [Integer] for name in drawn},
        "seconds": Number,
    }
    if wrong := misfit(values, shape):
        raise UserError(f"{where}: not an evaluation of this version: {wrong}")


def append_evaluation(folder: Path, evaluation: Evaluation) -> None:
    """Add a line to ``evaluations.jsonl``, on the disk before this returns.

    Raises:
        OSError: it cannot be written; the file is as it was.
        ValueError: a value is not finite.
    """
    line = json.dumps(evaluation.to_dict(), ensure_ascii=False, allow_nan=False)
    append_line(folder / EVALUATIONS_FILE, line, sync=True)


def read_evaluations(folder: str | Path) -> list[Evaluation]:
    """Every evaluation of a run, in their order; none where there is no file.

    A last line that an interruption cut short is left out.

    Raises:
        UserError: another line is damaged; its number is named.
    """
    path = Path(folder) / EVALUATIONS_FILE
    found = []
    for number, content in enumerate(read_json_lines(path) if path.is_file() else [], start=1):
        values = checked(f"{path}:{number}", content)
        check_evaluation(f"{path}:{number}", values)
        found.append(Evaluation.from_dict(values))
    return found
