"""Models, data and steps of every stage, by size; a new size is a module like ``full.py``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Size:
    """What a size brings to the rows of the table.

    Words in curly brackets are filled in by the runner: ``{runs}``, ``{seed}``,
    ``{aggregation}``, and the entries of ``values``.

    Attributes:
        runs: where all runs of one reproduction lie, unless the user says otherwise.
        flags: of the program of a stage, by the stage's key.
        evaluations: of the evaluations, by kind: ``ppo``, ``dpo``, ``three``.
        published: stages whose result is published, which a reproduction leaves out.
        prepares: stages that a launcher makes first where its own stage needs them.
        offline: nothing comes from a network, and the models are tiny.
        values: for the curly brackets.
    """

    runs: str
    flags: Mapping[str, str]
    evaluations: Mapping[str, str]
    published: tuple[str, ...] = ()
    prepares: tuple[str, ...] = ()
    offline: bool = False
    values: Mapping[str, Any] = field(default_factory=dict)


def sizes() -> dict[str, Size]:
    """All sizes by name; ``full`` first, which the others change."""
    from safe_rlhf_panacea.experiments import full, miniature, small

    return {"full": full.SIZE, "miniature": miniature.SIZE, "small": small.size()}


def has_fast_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 itself; elsewhere float32 is faster."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags
