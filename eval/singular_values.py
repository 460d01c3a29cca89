"""The learned singular values: |σ| against |s · λ|, matrix by matrix."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from figure_program import Draw, Report, figure_main

from safe_rlhf_panacea.adapter.io import read_config, read_tensors
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.show.pictures import singular_values_figure
from safe_rlhf_panacea.show.tables import Table

SIGMA, SCALE = "lora_sigma", "lora_s"


def read_matrices(folder: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Module name to σ, size = (k,), and s, size = (1,) or (m,), of an adapter for many λ."""
    config, tensors = read_config(folder), read_tensors(folder)
    if config.pref_dim == 0:
        raise UserError(f"{folder} was trained for one λ: it has no s to show")
    found = {}
    for name, tensor in tensors.items():
        if name.endswith(SIGMA):
            module = name.removesuffix(f".{SIGMA}")
            scale = tensors.get(f"{module}.{SCALE}")
            fixed = np.array([config.fixed_scaling or 0.0])
            s = fixed if scale is None else np.atleast_1d(scale.float().numpy())
            found[module] = tensor.float().numpy(), s
    return found


def make(args: argparse.Namespace, _: Path) -> tuple[Report, Draw]:
    """Read the learnt singular values of every layer."""
    matrices = read_matrices(args.adapter)
    rows: list[list[Any]] = []
    for module, (sigma, s) in matrices.items():
        sizes = np.abs(sigma)
        figures = sizes.min(), np.median(sizes), sizes.max(), np.abs(s).max()
        rows.append([module, *map(float, figures)])
    columns = ["matrix", "least |σ|", "median |σ|", "largest |σ|", "|s|"]
    medians = np.array([row[2] for row in rows]), np.array([row[4] for row in rows])
    report = Report(
        figure="Section 5.2",
        title="Learned singular values",
        caption="Each column is an adapted matrix. The factor lora_scaling / lora_dim multiplies "
        "both alike and is left out.",
        paper_says="The learned scaling brings the preference vector to the magnitude of the "
        "singular values, from 1e-2 to 1e-5.",
        tables=[Table("Singular values by matrix", columns, rows)],
        numbers={
            "median_sigma": float(np.median(medians[0])),
            "median_s": float(np.median(medians[1])),
            "range_s": [float(medians[1].min()), float(medians[1].max())],
        },
    )
    return report, lambda: singular_values_figure(matrices, report.title)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of this program."""
    parser.add_argument("--adapter", required=True, help="folder of a trained adapter")


main = figure_main(__file__, __doc__, "--adapter runs/latest/panacea-ppo", add_flags, make)

if __name__ == "__main__":
    main()
