"""Whether a reward model has a head of its own, which Safe-RLHF's loader does not ask."""

from __future__ import annotations

from pathlib import Path

import torch

from safe_rlhf_panacea.io import read_json
from safe_rlhf_panacea.models.weights import INDEX, check_score_head

INDICES = (INDEX, "pytorch_model.bin.index.json")
PICKLE = "pytorch_model.bin"


def check_saved_head(path: str) -> None:
    """Refuse a folder whose scores would come from a random head; hub names are not looked at.

    Raises:
        UserError: the folder holds weights, and none of a score head.
    """
    folder = Path(path).expanduser()
    names = _saved_names(folder)
    if names:
        check_score_head(str(folder), names)


def _saved_names(folder: Path) -> set[str]:
    """The names of the saved tensors; Safe-RLHF's own files are pickles."""
    from safetensors import safe_open

    for index in INDICES:
        if (folder / index).is_file():
            return set(read_json(folder / index)["weight_map"])
    if (folder / PICKLE).is_file():
        return set(torch.load(folder / PICKLE, map_location="meta", weights_only=True))
    names: set[str] = set()
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="pt") as reader:
            names.update(reader.keys())
    return names
