"""Recording a set of adapters: saved, loaded again, and measured by today's code."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

import safe_rlhf_panacea
from safe_rlhf_panacea.adapter import inject_adapter
from safe_rlhf_panacea.base.run_record import git_state
from safe_rlhf_panacea.fronts.held_out import margins_over_grid
from safe_rlhf_panacea.preference import preference_grid
from safe_rlhf_panacea.regression.adapter_cases import CASES, REASON, TOLERANCES, VOCAB, Case
from safe_rlhf_panacea.regression.adapter_numbers import FixedPairs, measure
from safe_rlhf_panacea.regression.adapters import FILE, SUITE, load_recorded
from safe_rlhf_panacea.regression.references import check_recordable, write_reference
from safe_rlhf_panacea.regression.suites import Options
from safe_rlhf_panacea.regression.tiny_base import DTYPES, frozen_normal, frozen_stream, tiny_base


def save_filled(case: Case, folder: Path, seed: int) -> None:
    """Save an adapter all of whose tensors are random and none is 0."""
    adapter = inject_adapter(tiny_base({**case.base, "dtype": case.saved_in}), case.config)
    with torch.no_grad():
        for name, parameter in adapter.named_parameters().items():
            noise = frozen_normal(seed, name, parameter.shape)
            singular = name.endswith(("lora_sigma", "lora_s"))
            filled = 0.6 + 0.2 * noise if singular else 0.3 * noise
            parameter.copy_(filled.to(DTYPES[case.saved_in]))
    adapter.save(folder)


def make_probe(objectives: int) -> dict[str, Any]:
    """Tokens and preference vectors; see ``adapter_numbers.measure``."""
    stream = frozen_stream(3, "probe")
    grid = preference_grid(objectives, 0.25 if objectives == 2 else 0.5)
    vectors = [[0.3, 0.7], [0.9, 0.1]] if objectives == 2 else [[0.2, 0.3, 0.5], [0.7, 0.2, 0.1]]
    return {
        "input_ids": stream.randint(3, VOCAB, (2, 7)).tolist(),
        "shared": vectors,
        "per_row": vectors[::-1],
        "merged": vectors[0],
        "grid": [[round(value, 6) for value in row] for row in grid.tolist()],
        "pairs": [_pair(stream, objectives) for _ in range(40)],
    }


def _pair(stream: Any, objectives: int) -> dict[str, list[int]]:
    prompt = stream.randint(3, VOCAB, 3).tolist()
    better, worse = (prompt + stream.randint(3, VOCAB, n).tolist() for n in stream.randint(2, 5, 2))
    others = stream.randint(-1, 2, objectives - 1).tolist()  # 0: this objective has no label
    return {"better": better, "worse": worse, "labels": [1, *others]}


def clear_pairs(model: Any, adapter: Any, probe: dict[str, Any], gap: float) -> list[Any]:
    """The pairs whose margin is far from 0 at every λ of the grid."""
    pairs = FixedPairs(probe["pairs"], adapter.objectives)
    batch = pairs.get_collator()([pairs[i] for i in range(len(pairs))])
    margins = margins_over_grid(model, adapter, batch, torch.tensor(probe["grid"]))
    clear = margins.abs().amin(dim=0) > gap  # size = (B,)
    return [pair for pair, kept in zip(probe["pairs"], clear.tolist(), strict=True) if kept][:20]


def record_case(name: str, case: Case, folder: Path) -> None:
    """Save one adapter, load it again, and write down the numbers that it gives."""
    ingredients = list(case.objectives) if case.soup else []
    for index, place in enumerate(ingredients or ["."]):
        save_filled(case, folder / place, seed=10 + index)
    values: dict[str, Any] = {
        "base": case.base,
        "ingredients": ingredients,
        "objectives": list(case.objectives),
        "probe": make_probe(len(case.objectives)),
    }
    model, adapter = load_recorded(folder, values)
    values["probe"]["pairs"] = clear_pairs(model, adapter, values["probe"], case.gap)
    write_reference(
        folder / FILE,
        suite=SUITE,
        name=name,
        what=f"{case.what}: logits after the last token, and a front of accuracies",
        source="this package, on a tiny model of frozen random numbers",
        values={**values, "numbers": measure(model, adapter, values["probe"])},
        tolerances={"logits": TOLERANCES[case.base["dtype"]], "front": 1e-6},
        reason=REASON,
    )


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder that takes its place only once it is whole."""
    part = path.with_name(f".{path.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # an interrupted recording's
    part.mkdir(parents=True)
    try:
        yield part
        os.replace(part, path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def record_set(options: Options) -> list[Path]:
    """Record all cases in a folder named by version and commit."""
    state = git_state() or {"commit": "no-commit"}
    name = f"v{safe_rlhf_panacea.__version__}-{state['commit'][:8]}"
    path = options.references / SUITE / name
    check_recordable(path)
    with whole_folder(path) as part:
        for case_name, case in CASES.items():
            record_case(case_name, case, part / case_name)
    return sorted(file for file in path.rglob("*") if file.is_file())
