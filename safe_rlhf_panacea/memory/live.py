"""Bytes alive while torch runs, of tensors that have storage and of those that only pretend."""

from __future__ import annotations

import weakref
from typing import Any, Protocol

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten


def _positions(index: Any) -> Any:
    """A mask as positions: how many a fake tensor would find in it is not known to it."""
    if isinstance(index, torch.Tensor) and index.dtype == torch.bool:
        return index.nonzero(as_tuple=True)
    return (index,)


class Meter(Protocol):
    """What counts bytes inside its ``with`` block: those alive, and the most since ``restart``."""

    now: int
    peak: int
    wide: int
    widest: int

    def __enter__(self) -> Any: ...

    def __exit__(self, *args: Any) -> Any: ...

    def restart(self) -> None: ...


class LiveBytes(TorchDispatchMode):
    """Follows every storage from the operation that makes it to its end.

    With fake tensors (torch's own, of the sizes and types of real ones but without memory) an
    ordinary training step says what it would hold, however large the model is. Masks and token
    ids stay real, so that whatever depends on lengths runs as it is.

    Attributes:
        now: bytes alive.
        peak: the most that were alive since ``restart``.
        widest: the most in tensors whose last dimension is ``width`` or more, such as logits.
    """

    def __init__(self, width: int = 0) -> None:
        """Watch nothing yet."""
        super().__init__()
        self.width = width
        self.now = self.peak = self.wide = self.widest = 0
        self._known: set[int] = set()

    def restart(self) -> None:
        """Begin to look for a peak anew."""
        self.peak, self.widest = self.now, self.wide

    def _follow(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        self._known.add(key)
        size = storage.nbytes()
        wide = size if tensor.dim() > 1 and tensor.size(-1) >= self.width > 0 else 0
        self._count(size, wide)
        self.peak, self.widest = max(self.peak, self.now), max(self.widest, self.wide)
        weakref.finalize(storage, self._forget, key, size, wide)

    def _count(self, size: int, wide: int) -> None:
        self.now += size
        self.wide += wide

    def _forget(self, key: int, size: int, wide: int) -> None:
        self._known.discard(key)
        self._count(-size, -wide)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run an operation and follow what it makes."""
        if func is aten.equal.default:
            return True  # of values that are not there; the step asks it of one and the same head
        if func in (aten.index.Tensor, aten.index_put.default, aten.index_put_.default):
            found = [part for index in args[1] for part in _positions(index)]
            args = (args[0], found, *args[2:])
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._follow(leaf)
        return result
