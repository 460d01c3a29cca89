"""A batch as a few forward passes over rows of similar length, so that padding costs little.

A batch padded to its longest row computes, on real pairs, three tokens for each one that counts.
Here its rows are sorted by length and cut where that saves most; every pass holds its rows without
the columns that none of them needs, and what a pass gives is put back in its rows' and columns'
places. The losses are those of the whole batch, and there is one backward pass through all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from safe_rlhf_panacea.adapter import SvdLoraLinear, taking_rows
from safe_rlhf_panacea.base.engine import is_sharded, unwrap
from safe_rlhf_panacea.distributed import all_reduce_max
from safe_rlhf_panacea.forward.attention import fastest_attention

# On a CPU a pass of so many tokens is as fast per token as a longer one; a GPU needs many more.
DEFAULT_ON_CPU, DEFAULT_ON_ACCELERATOR = 1024, 16384
# A pass of its own costs about as much as so large a share of the tokens that it may hold.
OVERHEAD_OF_A_PASS = 1 / 8


class PassLimit:
    """How many tokens, padding included, one pass of this process may hold.

    Attributes:
        max_tokens: the number; None: by device.
        planned: the device that a plan is for, whose models only pretend to lie anywhere; None:
            passes run where the models are.
    """

    max_tokens: int | None = None
    planned: torch.device | None = None

    def on(self, device: torch.device) -> int:
        """The number that holds on a device."""
        default = DEFAULT_ON_CPU if device.type == "cpu" else DEFAULT_ON_ACCELERATOR
        return self.max_tokens or default


limit = PassLimit()  # one for a process: every program sets it with its flags


@dataclass(frozen=True)
class Pass:
    """Some rows of a batch of B × L, without the columns that none of them needs.

    Attributes:
        rows: which ones, int64, size = (n,).
        columns: where in the batch each of its tokens stands, int64, size = (n, l).
        batch: B.
    """

    rows: torch.Tensor
    columns: torch.Tensor
    batch: int

    def of(self, values: torch.Tensor) -> torch.Tensor:
        """Its part of values by token, size = (B, L) to size = (n, l)."""
        return values[self.rows.unsqueeze(1), self.columns]

    def put_back(self, into: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """``into``, size = (B, L, ...), but for this pass's values, size = (n, l, ...)."""
        return into.index_put((self.rows.unsqueeze(1), self.columns), values)

    @contextmanager
    def context(self, model: nn.Module) -> Iterator[None]:
        """In which a model that has a λ for each row of the batch has those of the pass."""
        some = self.rows.numel() != self.batch  # else all of them, in their order
        own_rows = taking_rows(model, self.rows, self.batch) if some else nullcontext()
        elsewhere = limit.planned is not None and limit.planned.type != "cpu"
        length = self.columns.size(1)
        attention = nullcontext() if elsewhere else fastest_attention(model, length)
        with own_rows, attention:
            yield


def cut(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Rows in groups whose padded sizes, with what each pass costs by itself, sum to the least.

    Args:
        lengths: of each row.
        max_tokens: rows × longest row of a group; a longer row is a group by itself.

    Returns:
        Each row once; the longest rows first.
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


def passes(
    model: Any, attention_mask: torch.Tensor, counted: torch.Tensor | None = None
) -> list[Pass]:
    """How a model, or an engine around one, is to go through a batch.

    Args:
        model: where it looks for what does not allow to cut.
        attention_mask: 1 on tokens, size = (B, L).
        counted: further tokens that are needed though nothing attends to them, size = (B, L).
    """
    needed = attention_mask.bool() if counted is None else attention_mask.bool() | counted
    batch, width = needed.shape
    device, module = needed.device, unwrap(model)
    first = needed.long().argmax(dim=1)  # size = (B,)
    end = width - needed.flip(1).long().argmax(dim=1)  # size = (B,)
    lengths = torch.where(needed.any(dim=1), end - first, 1)
    if repeats_passes_by_row(module):
        groups = [list(range(batch))]
    else:
        groups = cut(lengths.tolist(), limit.on(device))
        if is_sharded(module):
            groups = _in_step(groups, batch, device)
    return list(_made(groups, first, lengths, width))


def _made(
    groups: Sequence[Sequence[int]], first: torch.Tensor, lengths: torch.Tensor, width: int
) -> Iterator[Pass]:
    for group in groups:
        rows = torch.tensor(group, device=first.device)
        length = int(lengths[rows].max())
        # Every row begins with its first token: some models read padding on the left as text. Of
        # a row near the right edge what follows are columns from the left, which are padding.
        columns = (first[rows].unsqueeze(1) + torch.arange(length, device=first.device)) % width
        yield Pass(rows, columns, first.numel())


def by_token(
    model: Any,
    run: Callable[[Pass], torch.Tensor],
    attention_mask: torch.Tensor,
    counted: torch.Tensor | None = None,
) -> torch.Tensor:
    """What ``run`` makes of every pass, in the places of the whole batch.

    Args:
        model: a model, or an engine around one.
        run: gives values by token of a pass, size = (n, l, ...).
        attention_mask: size = (B, L).
        counted: as for ``passes``.

    Returns:
        size = (B, L, ...), 0 on the columns that no pass has looked at.
    """
    result = None
    for part in passes(model, attention_mask, counted):
        with part.context(unwrap(model)):
            values = run(part)
        if result is None:
            result = values.new_zeros(*attention_mask.shape, *values.shape[2:])
        result = part.put_back(result, values)
    if result is None:
        raise ValueError("a batch without rows")
    return result


def by_row(
    model: Any, run: Callable[[Pass], torch.Tensor], attention_mask: torch.Tensor
) -> torch.Tensor:
    """What ``run`` makes of every pass, in the order of the batch's rows.

    Args:
        model: a model, or an engine around one.
        run: gives values by row of a pass, size = (n, ...).
        attention_mask: size = (B, L).

    Returns:
        size = (B, ...).
    """
    found, rows = [], []
    for part in passes(model, attention_mask):
        with part.context(unwrap(model)):
            found.append(run(part))
        rows.append(part.rows)
    return torch.cat(found)[torch.cat(rows).argsort()]
