"""λ as state: one tensor that all layers of a model share, and that follows the rows of passes."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from safe_rlhf_panacea.adapter.config import AdapterError

_marks = itertools.count(1)


def _mark(value: torch.Tensor) -> int:
    """The same number for the same λ; a new one on an accelerator, where to look is to wait."""
    if value.device.type != "cpu":
        return -next(_marks)
    return hash((tuple(value.shape), *value.flatten().tolist()))


class PreferenceState:
    """The current preference vector of a model, and whether its adapter is on.

    Not a parameter and not a buffer: it is never trained, saved or sharded.
    """

    def __init__(self, pref_dim: int) -> None:
        """Start at the centre of the simplex."""
        self.pref_dim = pref_dim
        # size = (m,), or (B, m) for one vector per sample
        self.value = torch.full((pref_dim,), 1.0 / pref_dim if pref_dim else 0.0)
        self.enabled = True  # off gives the base model bit for bit
        # Rows and tokens per row of the model's latest pass; None where nobody noted them.
        self.shape: tuple[int, int] | None = None
        self.expands = False  # whether ``generate`` repeats rows (beams, several sequences)
        # Whether layers may keep singular values from one pass to the next. Not while anything is
        # trained: a fused optimiser or a write through ``.data`` changes parameters without
        # raising their version, and no layer would notice.
        self.reuses = False
        self.version = 0  # grows whenever what they keep is void
        self.mark = _mark(self.value)  # tells one λ from another

    def set(self, preference: torch.Tensor, device: torch.device | None = None) -> None:
        """Set λ, size = (m,) or (B, m), and move it to a device.

        Another shape, or numbers that are not finite, raise an ``AdapterError``. Membership of the
        simplex is the business of ``preference``, because soups and studies may leave it.
        """
        if preference.dim() not in (1, 2) or preference.size(-1) != self.pref_dim:
            raise AdapterError(
                f"the preference has shape {tuple(preference.shape)}: it must be "
                f"({self.pref_dim},) or (batch, {self.pref_dim})"
            )
        # Not where λ lies on an accelerator: the host would wait for it at every step.
        if preference.device.type == "cpu" and not torch.isfinite(preference).all():
            raise AdapterError("the preference has an entry that is not finite")
        # A copy: what the caller does to its tensor later must not change λ unnoticed.
        # Outside inference mode, or an update after a rollout could not keep it for its gradients.
        with torch.inference_mode(False):
            self.value = preference.detach().to(device, torch.float32, copy=True)
        self.version += 1
        self.mark = _mark(preference.detach().float())

    @contextmanager
    def during(self, **values: Any) -> Iterator[None]:
        """Inside, attributes have these values; after it those that they had before."""
        before = {name: getattr(self, name) for name in values}
        vars(self).update(values)
        self.version += 1
        try:
            yield
        finally:
            vars(self).update(before)
            self.version += 1

    def kept(self) -> AbstractContextManager[None]:
        """The λ that holds before the block holds again after it."""
        return self.during(value=self.value, mark=self.mark)

    def check_rows(self, rows: int, *, expands: bool | None = None) -> int:
        """How often each vector is repeated for a batch of ``rows`` sequences.

        An ``AdapterError`` where the batch does not match the vectors.
        """
        have = self.value.size(0)
        if rows == have:
            return 1
        if (self.expands if expands is None else expands) and rows % have == 0:
            return rows // have
        raise AdapterError(
            f"{have} preference vectors are set, one per sample, but the batch has {rows} rows: "
            "set one vector, or as many as there are rows"
        )

    def copies(self, x: torch.Tensor) -> int:
        """How often each vector is repeated for a layer's input, size = (..., in_features).

        Its first dimension is the batch, or, as in the layers of some mixture models, it is size =
        (B · T, in_features); an ``AdapterError`` where it is neither.
        """
        rows = x.size(0) if x.dim() > 1 else 1
        batch, tokens = self.shape or (rows, 1)
        if x.dim() == 2 and rows == batch * tokens:
            return self.check_rows(batch) * tokens
        # Where ``generate`` repeats rows, some of the tokens may be a multiple of the vectors too.
        return self.check_rows(rows, expands=self.expands and rows == batch)

    @contextmanager
    def taking(self, rows: torch.Tensor, batch: int) -> Iterator[None]:
        """For a pass over some rows, int64, of a batch of so many: each keeps its own λ."""
        if self.value.dim() == 1 or not self.enabled:  # off, λ is of nothing that runs
            yield
            return
        value = self.value.repeat_interleave(self.check_rows(batch), dim=0)
        with self.kept():
            self.set(value[rows], self.value.device)
            yield


# -- λ follows the rows of a model's passes -------------------------------------------


def _generate(model: Any, state: PreferenceState, *args: Any, **kwargs: Any) -> Any:
    with state.during(expands=True, reuses=True):
        return type(model).generate(model, *args, **kwargs)


def _note_shape(
    state: PreferenceState, model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> None:
    for inputs in (*args[:1], kwargs.get("input_ids"), kwargs.get("inputs_embeds")):
        if torch.is_tensor(inputs) and inputs.dim() == 2 + inputs.is_floating_point():
            state.shape = (inputs.size(0), inputs.size(1))
            return


def follow_rows(model: nn.Module, state: PreferenceState) -> None:
    """Let λ follow the rows of passes: repeated by ``generate``, or in one dimension with tokens.

    Models within it are asked too: a score model cuts a batch into passes of its backbone.
    """
    if hasattr(model, "generate"):
        # Not a closure: a copy of the model must generate with the copy.
        object.__setattr__(model, "generate", functools.partial(_generate, model, state))
    note = functools.partial(_note_shape, state)
    for module in model.modules():
        if module is model or hasattr(module, "base_model_prefix"):
            module.register_forward_pre_hook(note, with_kwargs=True)


# -- some rows of a batch in a forward pass of their own, each at its λ ---------------


def _states(model: nn.Module) -> list[PreferenceState]:
    """λ of all adapters in a model, whose layers have it as their ``state``."""
    found = (vars(module).get("state") for module in model.modules())
    return list({id(one): one for one in found if isinstance(one, PreferenceState)}.values())


def have_one_preference(model: nn.Module, batch: int, copies: int) -> bool:
    """Whether the rows of a batch, taken ``copies`` at a time, have the same λ each time."""
    for value in (state.value for state in _states(model) if state.value.dim() == 2):
        repeated = batch // len(value)  # beyond 1 where ``generate`` repeats each row
        if repeated % copies == 0:
            continue
        if repeated > 1:
            return False
        groups = value.view(-1, copies, value.size(-1))
        if not (groups == groups[:, :1]).all():
            return False
    return True


@contextmanager
def taking_rows(model: nn.Module, rows: torch.Tensor, batch: int) -> Iterator[None]:
    """Inside, a model's passes are over some ``rows`` of a ``batch`` of so many, each at its λ.

    ``rows`` are int64, size = (n,), in the order of the pass; without adapters nothing changes.
    """
    with ExitStack() as stack:
        for state in _states(model):
            stack.enter_context(state.taking(rows, batch))
        yield


@contextmanager
def at_first_row(model: nn.Module) -> Iterator[None]:
    """Inside, passes of a model may have any number of rows, all at the λ of the first one."""
    with ExitStack() as stack:
        for state in _states(model):
            if state.value.dim() == 2:
                stack.enter_context(state.kept())
                state.set(state.value[0], state.value.device)
        yield
