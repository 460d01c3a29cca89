"""A batch as a few forward passes over rows of similar length, so that padding costs little.

A batch of real pairs, padded to its longest row, computes three tokens for each one that counts.
Here its rows are sorted by length and cut where that saves most, each pass leaves out the columns
that none of its rows needs, and what the passes give is put back into the batch's places.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from safe_rlhf_panacea.adapter import SvdLoraLinear, taking_rows
from safe_rlhf_panacea.distributed import all_reduce_max, is_sharded, unwrap

# A pass of its own costs about as much as so large a share of the tokens that it may hold.
OVERHEAD_OF_A_PASS = 1 / 8
# On CPUs torch's fused attention in bfloat16 takes two to three times as long as its products
# written out, backwards above all; from about a thousand tokens on it is the faster one, and the
# other one's matrices of every token by every token grow large.
LONGEST_WRITTEN_OUT = 512
# Rates of dropout in configurations that belong to heads which no policy and no critic has.
OTHER_HEADS = ("classifier_dropout", "summary_first_dropout")


@dataclass(frozen=True)
class PassOptions:
    """How batches go through a model."""

    max_tokens: int | None = None  # in one pass, padding included; None: by device
    share_prefixes: bool = True  # what the rows of a group begin with goes through once
    # Written out where that is faster on a CPU; no where a CPU plans for another device.
    write_out_attention: bool = True

    @classmethod
    def of(cls, args: Any) -> PassOptions:
        """As the flags of a training say; Safe-RLHF's programs have none of them."""
        most = getattr(args, "max_tokens_per_pass", None)
        return cls(most, getattr(args, "share_prefixes", True))

    def most_tokens(self, device: torch.device) -> int:
        """Of a pass; on a CPU a longer one than the default is no faster per token."""
        return self.max_tokens or (1024 if device.type == "cpu" else 16384)


def set_pass_options(model: Any, options: PassOptions) -> None:
    """Let batches go through a model, and the models within it, as ``options`` say."""
    for part in unwrap(model).modules():
        if part is unwrap(model) or hasattr(part, "base_model_prefix"):
            object.__setattr__(part, "pass_options", options)


def pass_options(model: Any) -> PassOptions:
    """How batches go through a model, or an engine around one."""
    return getattr(unwrap(model), "pass_options", PassOptions())


def _written_out(module: nn.Module, length: int) -> bool:
    """Whether attention over rows of ``length`` tokens, padding included, is faster written out.

    Only of transformers' models that have their default, and no nested configuration: an
    implementation that is set there would be lost. Nor where gradient checkpointing repeats a pass
    when the implementation is the default again.
    """
    config: Any = getattr(module, "config", None)
    weight = next(module.parameters(), None)
    return (
        pass_options(module).write_out_attention
        and getattr(config, "_attn_implementation", None) == "sdpa"
        and config.get_text_config() is config
        and weight is not None
        and weight.device.type == "cpu"
        and weight.dtype == torch.bfloat16
        and length <= LONGEST_WRITTEN_OUT
        and not any(getattr(part, "gradient_checkpointing", False) for part in module.modules())
    )


@dataclass(frozen=True)
class Pass:
    """Some rows of a batch of B × L, without the columns that none of them needs."""

    rows: Tensor  # which ones, int64, size = (n,)
    columns: Tensor  # where in the batch each of its tokens stands, int64, size = (n, l)
    batch: int  # B

    def of(self, values: Tensor) -> Tensor:
        """Its part of values by token, size = (B, L) to size = (n, l)."""
        return values[self.rows.unsqueeze(1), self.columns]

    @contextmanager
    def context(self, model: nn.Module) -> Iterator[None]:
        """Inside, a model is at the λ of the pass's rows, and attends in the faster way."""
        some = self.rows.numel() != self.batch  # else all of them, in their order
        config: Any = model.config if _written_out(model, self.columns.size(1)) else None
        with taking_rows(model, self.rows, self.batch) if some else nullcontext():
            if config is not None:
                config._attn_implementation = "eager"
            try:
                yield
            finally:
                if config is not None:
                    config._attn_implementation = "sdpa"


def cut(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Rows in groups whose padded sizes, with what each pass costs by itself, sum to the least.

    A group's rows times its longest one are at most ``max_tokens``; a longer row is a group by
    itself. Groups of longer rows come first.
    """
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    overhead = max_tokens * OVERHEAD_OF_A_PASS
    # best[i]: the cost of the first i rows of the order; begins[i]: where their last group begins.
    best, begins = [0.0], [0]
    for end in range(1, len(order) + 1):
        options: list[tuple[float, int]] = []
        for begin in reversed(range(end)):
            tokens = (end - begin) * lengths[order[begin]]
            if tokens > max_tokens and options:
                break
            options.append((best[begin] + tokens + overhead, begin))
        cost, begin = min(options)
        best.append(cost)
        begins.append(begin)
    groups, end = [], len(order)
    while end:
        groups.append(sorted(order[begins[end] : end]))
        end = begins[end]
    return groups[::-1]


def _in_step(groups: list[list[int]], rows: int, device: torch.device) -> list[list[int]]:
    """With sharded weights: as many groups on every process, however its rows would be cut."""
    most, fewest_rows = all_reduce_max(torch.tensor([len(groups), -rows], device=device)).tolist()
    count = min(most, -fewest_rows)
    if len(groups) == count:
        return groups
    order = torch.tensor([row for group in groups for row in group])
    # Sorted: a group of all rows has them in the batch's order, and with them their λ.
    return [sorted(part.tolist()) for part in order.tensor_split(count)]


def repeats_passes_by_row(model: nn.Module) -> bool:
    """Whether a backward pass would repeat forward passes at a λ that is then another's.

    Gradient checkpointing repeats a pass when all rows' λ hold again, not those of the pass.
    """
    if not torch.is_grad_enabled():
        return False
    modules = list(model.modules())
    by_row = any(isinstance(m, SvdLoraLinear) and m.state.value.dim() == 2 for m in modules)
    return by_row and any(getattr(m, "gradient_checkpointing", False) for m in modules)


def passes(model: Any, needed: Tensor) -> list[Pass]:
    """How a model, or an engine around one, goes through a batch whose ``needed`` is (B, L)."""
    batch, width = needed.shape
    device, module = needed.device, unwrap(model)
    first = needed.long().argmax(dim=1)  # size = (B,)
    end = width - needed.flip(1).long().argmax(dim=1)  # size = (B,)
    lengths = torch.where(needed.any(dim=1), end - first, 1)
    if repeats_passes_by_row(module):
        groups = [list(range(batch))]
    else:
        groups = cut(lengths.tolist(), pass_options(model).most_tokens(device))
        if is_sharded(module):
            groups = _in_step(groups, batch, device)
    found = []
    for group in groups:
        rows = torch.tensor(group, device=device)
        tokens = torch.arange(int(lengths[rows].max()), device=device)
        # Every row begins with its first token: some models read padding on the left as text. Of
        # a row near the right edge what follows are columns from the left, which are padding.
        found.append(Pass(rows, (first[rows].unsqueeze(1) + tokens) % width, batch))
    return found


def by_token(model: Any, run: Callable[[Pass], Tensor], needed: Tensor) -> Tensor:
    """What ``run`` makes of the tokens of every pass, size = (n, l, ...), in the batch's places.

    ``needed`` says which tokens are looked at, bool, size = (B, L). The result, size = (B, L, ...),
    is 0 on the columns that no pass has looked at.
    """
    result = None
    for part in passes(model, needed):
        with part.context(unwrap(model)):
            values = run(part)
        if result is None:
            result = values.new_zeros(*needed.shape, *values.shape[2:])
        result = result.index_put((part.rows.unsqueeze(1), part.columns), values)
    if result is None:
        raise ValueError("a batch without rows")
    return result


def by_row(model: Any, run: Callable[[Pass], Tensor], mask: Tensor) -> Tensor:
    """What ``run`` makes of the rows of every pass, size = (n, ...), in the batch's order.

    ``mask`` is 1 on tokens, size = (B, L).
    """
    found, rows = [], []
    for part in passes(model, mask.bool()):
        with part.context(unwrap(model)):
            found.append(run(part))
        rows.append(part.rows)
    return torch.cat(found)[torch.cat(rows).argsort()]


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Inside, nothing is dropped at random, and no random number is drawn."""
    training = [part for part in module.modules() if part.training]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True


def has_dropout(module: nn.Module) -> bool:
    """Whether training mode changes the output; attention's dropout stands in the configuration."""
    rates: list[Any] = [part.p for part in module.modules() if isinstance(part, nn.Dropout)]
    config = getattr(module, "config", None)
    parts: list[Any] = [] if config is None else [config.to_dict()]
    while parts:
        part = parts.pop()
        parts += [value for value in part.values() if isinstance(value, Mapping)]
        names = [name for name in part if "drop" in str(name) and name not in OTHER_HEADS]
        rates += [part[name] for name in names]
    return any(isinstance(rate, (int, float)) and rate > 0 for rate in rates)


def position_ids_from_mask(attention_mask: torch.Tensor) -> torch.Tensor:
    """Positions, size = (B, L), that count attended tokens only, on whichever side padding is."""
    return (attention_mask.long().cumsum(dim=-1) - 1).clamp(min=0)
