"""Whether a training is still one: a step or a weight that is not finite ends it, unsaved."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar, cast

import torch

from safe_rlhf_panacea.distributed import all_gather_objects
from safe_rlhf_panacea.errors import SharedError
from safe_rlhf_panacea.forward import NoResponsesError, NotFiniteError

# Updates in a row that float16's loss scaler may skip: it starts at 2^16 and halves with each.
MOST_SKIPPED = 15
Found = TypeVar("Found")


class DivergedError(SharedError):
    """The training has diverged, or its weights are not finite; all processes find the same."""


def finite_on_all(action: Callable[[], Found]) -> Found:
    """What an action gives; one process's ``NotFiniteError`` or ``NoResponsesError`` is all's."""
    found, told = None, None
    try:
        found = action()
    except (NotFiniteError, NoResponsesError) as error:
        told = type(error)(str(error))
    for refusal in filter(None, all_gather_objects(told)):
        raise refusal
    return cast(Found, found)


class DivergenceCheck:
    """Looks at every step, after it was taken and before anything is saved; on all processes."""

    def __init__(self) -> None:
        """Nothing was skipped so far."""
        self._skipped: dict[str, tuple[int, int]] = {}  # by engine: in all, and in a row

    def check(
        self, step: int, values: Mapping[str, Any], engines: Mapping[str, Any], batch: str = ""
    ) -> None:
        """Refuse a step whose loss, reward or gradient norm is not finite with a ``DivergedError``.

        So is the last of too many updates in a row that float16's loss scaler skipped. ``values``
        is what is logged of the step, ``engines`` are all that train by name, and ``batch`` is
        what the message says of the batch.
        """
        odd = [
            f"{name} is {value}"
            for name, value in values.items()
            if ("loss" in name or "reward" in name)
            and isinstance(value, float)
            and not math.isfinite(value)
        ]
        for name, engine in engines.items():
            norm = gradient_norm(engine)
            if norm is not None and not math.isfinite(norm):
                odd.append(f"the gradient norm of the {name} is {norm}")
            before, row = self._skipped.get(name, (engine.skipped_steps, 0))
            if engine.skipped_steps > before:
                row += 1
            elif engine.was_step_applied():
                row = 0
            self._skipped[name] = (engine.skipped_steps, row)
            if row > MOST_SKIPPED:
                odd.append(f"the loss scaler skipped {MOST_SKIPPED + 1} updates of the {name}")
        if odd:
            where = f"step {step} ({batch})" if batch else f"step {step}"
            raise DivergedError(
                f"{where}: {odd[0]}: the training has diverged and ends here; the last checkpoint "
                "is kept; try a lower learning rate"
            )


def check_weights(parameters: Iterable[tuple[str, torch.nn.Parameter]], what: str) -> None:
    """Refuse to save trained weights that are not finite; all processes call it.

    Under ZeRO 3 each looks at its own part. A ``DivergedError`` names the first such parameter.
    """
    trained = ((name, getattr(p, "ds_tensor", p)) for name, p in parameters if p.requires_grad)
    own = next((name for name, weights in trained if not weights.isfinite().all()), None)
    for name in filter(None, all_gather_objects(own)):
        raise DivergedError(
            f"{what}: {name} is not finite: the training has diverged, and this is not saved"
        )


def gradient_norm(engine: Any) -> float | None:
    """The gradient norm of the update just made; None where none was, or it is not known."""
    norm = engine.get_global_grad_norm() if engine.was_step_applied() else None
    return None if norm is None else float(norm)
