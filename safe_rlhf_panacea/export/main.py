"""The command line of the export."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from safe_rlhf_panacea.configs import Program, configuration, kinds, option
from safe_rlhf_panacea.configs.training import TrainedAdapterOptions
from safe_rlhf_panacea.errors import UserError, one_line_errors
from safe_rlhf_panacea.export.formats import (
    architecture_of,
    check_target,
    describe,
    new_folder,
    write_gguf,
    write_merged,
    write_peft,
)
from safe_rlhf_panacea.export.low_rank import (
    SHARED,
    LowRank,
    SavedAdapter,
    at_preference,
    check_shapes,
    objective_part,
    shared_part,
)
from safe_rlhf_panacea.export.vllm_resolver import write_vllm
from safe_rlhf_panacea.models.adapted import base_of, find_adapter
from safe_rlhf_panacea.models.loading import loading_errors, resolve_model
from safe_rlhf_panacea.preference import Preference, format_preference, parse_preference

PROGRAM = "python -m safe_rlhf_panacea.export"
TRANSPOSED = ("gpt2",)  # model types that keep their weights as (in, out)
PARTS = "one of scale 1 for 'shared', one of scale λ_i for each objective"


@dataclass(frozen=True)
class Job:
    """What a format needs to write its files."""

    adapter: SavedAdapter
    given_base: str | None
    preferences: list[torch.Tensor]
    trust_remote_code: bool

    @property
    def base_model(self) -> str | None:
        """Where the base model lies, if anything says so."""
        return self.given_base or self.adapter.config.base_model

    def base(self) -> AbstractContextManager[str]:
        """Where the base model lies, in a block whose errors name the adapter."""
        return base_of(self.adapter.folder, self.adapter.config.base_model, self.given_base)

    def base_config(self) -> Any:
        """The base model's configuration.

        Raises:
            UserError: there is none to be read.
        """
        from transformers import AutoConfig

        with self.base() as base, loading_errors(base, "configuration"):
            name = resolve_model(base)
            return AutoConfig.from_pretrained(name, trust_remote_code=self.trust_remote_code)

    def check_base(self, *, needed: bool) -> None:
        """Whether the adapter fits its base model; if that is not needed, where it is at hand.

        Raises:
            AdapterError: it does not.
            UserError: the base model is needed, and cannot be read.
        """
        try:
            config = self.base_config()
        except UserError as error:
            if needed:
                raise
            if self.base_model is not None:
                text = f"whether the adapter fits its base model was not checked: {error}"
                warnings.warn(text, RuntimeWarning, stacklevel=2)
            return
        check_shapes(self.adapter, config, trust_remote_code=self.trust_remote_code)

    def transposed(self) -> bool:
        """Whether the base keeps its weights as (in, out); PEFT corrects a wrong guess itself."""
        try:
            return self.base_config().model_type in TRANSPOSED
        except UserError:
            return False

    def parts(self) -> dict[str, dict[str, LowRank]]:
        """The shared part and one per objective, by name."""
        names = self.adapter.objectives
        each = {name: objective_part(self.adapter, i) for i, name in enumerate(names)}
        return {SHARED: shared_part(self.adapter), **each}


def _write_peft(job: Job, folder: Path) -> None:
    part = at_preference(job.adapter, job.preferences[0])
    write_peft(folder, part, job.base_model, transposed=job.transposed())


def _write_peft_parts(job: Job, folder: Path) -> None:
    transposed = job.transposed()
    for name, part in job.parts().items():
        write_peft(folder / name, part, job.base_model, transposed=transposed)


def _write_gguf(job: Job, folder: Path) -> None:
    config = job.base_config()
    architecture_of(config)
    for name, part in job.parts().items():
        write_gguf(folder / f"{name}.gguf", part, config)


def _write_vllm(job: Job, folder: Path) -> None:
    for preference in job.preferences:
        name = format_preference(preference, job.adapter.objectives) or SHARED
        if (folder / name).exists():
            raise UserError(f"two preferences are written alike: {name}")
        write_vllm(folder / name, job.adapter, preference)


def _write_merged(job: Job, folder: Path) -> None:
    with job.base() as base:
        write_merged(
            folder,
            job.adapter.folder,
            base,
            job.preferences[0],
            trust_remote_code=job.trust_remote_code,
        )


@dataclass(frozen=True)
class Format:
    """How a format is written, and how many λ it wants: (fewest, most)."""

    write: Callable[[Job, Path], None]
    preferences: tuple[int, int]
    text: str


FORMATS = {
    "peft": Format(_write_peft, (1, 1), "one LoRA at a λ, for PEFT"),
    "peft-parts": Format(_write_peft_parts, (0, 0), f"LoRAs for PEFT: {PARTS}"),
    "gguf": Format(_write_gguf, (0, 0), f"LoRAs for llama.cpp: {PARTS}"),
    "vllm": Format(_write_vllm, (1, 1000), "a LoRA per λ, of a rank that vLLM takes"),
    "merged": Format(_write_merged, (1, 1), "the whole model at a λ, for transformers"),
}


@configuration
class ExportOptions(TrainedAdapterOptions):
    """The options of this program."""

    format: Literal["peft", "peft-parts", "gguf", "vllm", "merged"] = option(required=True)
    output_dir: str = option(text="a new folder", kind=kinds.folder, required=True)
    preference: tuple[str, ...] = option(
        (), "λ; repeat for vllm", kind=kinds.preference, metavar="VECTOR", repeat=True
    )
    overwrite: bool = option(False, "replace an export that the folder holds")
    trust_remote_code: bool = option(False, "run code that comes with the base model")


COMMAND = Program(
    ExportOptions,
    PROGRAM,
    "Write a trained adapter in a form that another engine loads; docs/export.md shows how.\n\n"
    + "\n".join(f"  {name:11} {form.text}" for name, form in FORMATS.items()),
    f"""
    {PROGRAM} --adapter runs/latest/panacea-ppo --format peft-parts --output_dir exports/parts
    {PROGRAM} --adapter runs/latest/panacea-ppo --format merged \\
      --preference helpful=0.7,harmless=0.3 --output_dir exports/merged
    """,
)


def _checked(
    form: str, adapter: SavedAdapter, preferences: Sequence[Preference]
) -> list[torch.Tensor]:
    """As many λ as a format wants, size = (m,) each; an empty one where λ changes nothing."""
    fewest, most = FORMATS[form].preferences
    if adapter.config.pref_dim == 0:
        if preferences:
            raise UserError(f"{adapter.folder} does not depend on λ: leave out --preference")
        return [torch.empty(0)] * fewest
    if not fewest <= len(preferences) <= most:
        wanted = {(0, 0): "no --preference", (1, 1): "one --preference"}
        text = wanted.get((fewest, most), "at least one --preference")
        raise UserError(f"--format {form} takes {text}, not {len(preferences)}")
    return [parse_preference(preference, adapter.objectives) for preference in preferences]


def export(
    adapter_folder: str | Path,
    form: str,
    output_dir: str | Path,
    preferences: Sequence[Preference] = (),
    *,
    base_model: str | None = None,
    overwrite: bool = False,
    trust_remote_code: bool = False,
) -> Path:
    """Write a trained adapter in another engine's form.

    Args:
        adapter_folder: the trained adapter's.
        form: a key of ``FORMATS``.
        output_dir: a new folder.
        preferences: λ, as ``parse_preference`` takes them, for the formats that hold one.
        base_model: default: the one that the adapter names.
        overwrite: replace an export that the folder holds.
        trust_remote_code: run code that comes with the base model.

    Raises:
        UserError, AdapterError: files that are missing or damaged, or a folder that is taken.
    """
    check_target(Path(output_dir), overwrite=overwrite)
    adapter = SavedAdapter.read(adapter_folder)
    job = Job(adapter, base_model, _checked(form, adapter, preferences), trust_remote_code)
    record = describe(
        adapter,
        form,
        base_model=job.base_model,
        preferences=[vector.tolist() for vector in job.preferences if len(vector)],
        lora_dim=adapter.config.lora_dim,
        weights=PARTS if form in ("peft-parts", "gguf") else None,
    )
    under = find_adapter(job.base_model) if job.base_model else None
    if under is not None and form != "merged":
        raise UserError(
            f"{job.base_model}, the base model, is an adapter, which --format {form} cannot name: "
            f"make a whole model of it with {under.merge_command}, and give --base_model DIR"
        )
    if under is None:
        job.check_base(needed=form in ("gguf", "merged"))
    adapter.check_base(job.base_model)
    with new_folder(Path(output_dir), record, overwrite=overwrite) as folder:
        FORMATS[form].write(job, folder)
    return Path(output_dir)


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Export and say what was written."""
    args = COMMAND.read(argv)
    folder = export(
        args.adapter,
        args.format,
        args.output_dir,
        args.preference,
        base_model=args.base_model,
        overwrite=args.overwrite,
        trust_remote_code=args.trust_remote_code,
    )
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        print(path)
