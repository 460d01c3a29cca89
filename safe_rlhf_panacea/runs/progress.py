"""Progress bars: one style, on the main process only."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

from safe_rlhf_panacea.distributed import is_main_process
from safe_rlhf_panacea.printing import printable_line


def progress_bar(
    iterable: Iterable[Any] | None = None,
    *,
    total: int | None = None,
    desc: str = "",
    disable: bool = False,
) -> tqdm:
    """A bar on stderr, over ``iterable`` or moved on by ``update``.

    Args:
        iterable: what is gone through.
        total: number of steps, where the iterable has no length.
        desc: what is being done.
        disable: show nothing; so do all processes but the main one.
    """
    # A file has no use for a line every tenth of a second.
    interval = 0.1 if sys.stderr.isatty() else 10.0
    return tqdm(
        iterable,
        total=total,
        desc=printable_line(desc),
        disable=disable or not is_main_process(),
        dynamic_ncols=True,
        mininterval=interval,
    )
