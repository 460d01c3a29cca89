"""The base model that an adapter names, or another place of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safe_rlhf_panacea.errors import UserError


@contextmanager
def base_of(adapter: str | Path, recorded: str | None, given: str | None) -> Iterator[str]:
    """The base model to load inside the block, whose errors name the adapter as well.

    Args:
        adapter: the adapter's folder.
        recorded: the base model that its configuration names.
        given: what the user says instead, with ``--base_model``.

    Raises:
        UserError: there is neither, or the block raised one.
    """
    if (base := given or recorded) is None:
        raise UserError(f"{adapter} names no base model: give one with --base_model")
    try:
        yield base
    except UserError as error:
        if given:
            raise
        raise UserError(
            f"{error} (the base model that {adapter} names; --base_model gives another place)"
        ) from error
