"""How a step of Panacea-DPO grows with batch, length, objectives, rank and processes."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from benchmarks.measuring import Case, Contender
from benchmarks.parts import dpo

TITLE = "What a step of Panacea-DPO grows with"
prepare = dpo.prepare
FACTORS = (1, 2, 4)
OBJECTIVES = (1, 2, 10)
LORA_DIMS = (8, 32, 128)
PROCESSES = (1, 2)  # each with a whole batch


def cases(args: Namespace) -> list[Case]:
    """One thing varied at a time, on equally long sequences; ratios are to the smallest."""
    return [case for model in args.models for case in _of_model(args, model)]


def _of_model(args: Namespace, model: str) -> list[Case]:
    def case(what: str, **values: list[Any] | tuple[Any, ...]) -> Case:
        ((name, each),) = values.items()
        jobs = [dpo.job_of(args, model, kind="equal", **{name: value}) for value in each]
        named = zip(each, jobs, strict=True)
        return Case(f"{model}, {what}", [Contender(f"{value} {what}", job) for value, job in named])

    single = dpo.job_of(args, model, kind="equal")
    several = [Contender(f"{count} processes", single, processes=count) for count in PROCESSES]
    return [
        case("pairs", batch=[max(1, args.batch // 4) * factor for factor in FACTORS]),
        case("tokens", longest=[args.longest // 2 * factor for factor in FACTORS]),
        case("objectives", objectives=OBJECTIVES),
        case("lora_dim", lora_dim=LORA_DIMS),
        *([Case(f"{model}, processes", several)] if args.device == "cpu" else []),
    ]
