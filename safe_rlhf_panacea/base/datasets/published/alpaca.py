"""Stanford Alpaca: instructions with the answers to imitate, for SFT and PTX."""

from __future__ import annotations

from safe_rlhf_panacea.base.datasets.fields import Row, text
from safe_rlhf_panacea.base.datasets.raw import RawSample
from safe_rlhf_panacea.base.datasets.reader import PublishedDataset
from safe_rlhf_panacea.base.datasets.source import Part
from safe_rlhf_panacea.errors import UserError


class AlpacaDataset(PublishedDataset):
    """Where an instruction is about something, that stands in the field input."""

    NAME = "alpaca"
    ALIASES = ("stanford-alpaca", "tatsu-lab/alpaca")
    KIND = "supervised"
    HUB = "tatsu-lab/alpaca"
    LICENCE = "CC BY-NC 4.0"
    PART = Part("train")
    FIELDS = ("instruction", "output")

    def convert(self, unit: Row) -> RawSample:
        instruction = text(unit, "instruction", "prompt")
        about = unit.get("input") or ""
        if not isinstance(about, str):
            raise UserError(f"input is {type(about).__name__}; it is a string")
        # Joined by a space, as Safe-RLHF's models have seen it.
        prompt = f"{instruction} {about}" if about.strip() else instruction
        return {"input": prompt, "answer": text(unit, "output", "response")}
