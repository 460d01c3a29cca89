"""What reward functions are given, by the names of their arguments: this package's or TRL's."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from safe_rlhf_panacea.distributed import all_gather_objects
from safe_rlhf_panacea.rewards.responses import Responses


@dataclass
class RewardState:
    """How far the training is, and what reward functions have logged.

    Functions get it as ``trainer_state``, TRL's name.

    Attributes:
        global_step: training steps taken, as ``metrics.jsonl`` counts them; 0 outside a training.
        max_steps: training steps of the whole run; 0 outside a training.
    """

    global_step: int = 0
    max_steps: int = 0
    _logged: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list), repr=False)

    def log_metric(self, name: str, value: float) -> None:
        """Log a number, of which the mean is shown; what is not finite is left out."""
        if math.isfinite(value):
            self._logged[name].append(float(value))

    def logged(self) -> dict[str, float]:
        """The means of what was logged since the last call, over all processes; all must call."""
        found: dict[str, list[float]] = defaultdict(list)
        for logged in all_gather_objects(dict(self._logged)):
            for name, values in logged.items():
                found[name] += values
        self._logged.clear()
        return {name: sum(values) / len(values) for name, values in sorted(found.items())}


@dataclass(frozen=True)
class Source:
    """Where arguments come from.

    Attributes:
        responses: B of them.
        tokenizer: the policy's.
        stop_ids: the policy's tokens that end a response.
        state: of the training.
    """

    responses: Responses
    tokenizer: Any
    stop_ids: Sequence[int]
    state: RewardState


Arguments = Mapping[str, Callable[[Source], Any]]
# B values each.
OURS: Arguments = {
    "prompts": lambda source: source.responses.prompts(source.tokenizer),
    "responses": lambda source: source.responses.responses(source.tokenizer),
    "response_lengths": lambda source: source.responses.response_lengths(source.stop_ids),
    "prompt_ids": lambda source: source.responses.prompt_ids(),
    "response_ids": lambda source: source.responses.response_ids(),
    "turns": lambda source: source.responses.turns(),
}
TRL: Arguments = {
    "prompts": lambda source: source.responses.raw_prompts(source.tokenizer),
    "completions": lambda source: source.responses.completions(source.tokenizer),
    "completion_ids": lambda source: source.responses.response_ids(),
}
# One for the whole batch.
OF_RUN: Arguments = {
    "step": lambda source: source.state.global_step,
    "trainer_state": lambda source: source.state,
    "log_metric": lambda source: source.state.log_metric,
    "log_extra": lambda source: source.responses.log_extra,
}


def has_trl_signature(names: set[str], *, takes_all: bool) -> bool:
    """Whether a function is one for TRL.

    It names ``completions`` or ``completion_ids``; or it takes ``**kwargs``, among which these
    must be, since it names no responses.
    """
    if names & {"completions", "completion_ids"}:
        return True
    return takes_all and not names & {"responses", "response_ids", "response_lengths"}


def given_to(
    names: set[str], *, takes_all: bool, options: Collection[str] = ()
) -> tuple[Arguments, Arguments]:
    """What a function is given besides columns of the data set.

    Args:
        names: of its arguments.
        takes_all: whether it takes ``**kwargs``; TRL's have everything there.
        options: further names, which are given something else.

    Returns:
        Arguments with a value for each response, and arguments of the run.
    """
    is_trl = has_trl_signature(names, takes_all=takes_all)
    wanted = (names | {*TRL, *OF_RUN} if is_trl and takes_all else names) - {*options}
    tables = ({**OURS, **TRL} if is_trl else OURS), OF_RUN
    by_row, of_run = ({k: v for k, v in table.items() if k in wanted} for table in tables)
    return by_row, of_run
