"""The export, as a program and as a call."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from safe_rlhf_panacea.configs import Program, kinds, option
from safe_rlhf_panacea.configs.training import TrainedAdapterOptions
from safe_rlhf_panacea.errors import UserError, one_line_errors

if TYPE_CHECKING:
    import torch

    from safe_rlhf_panacea.export.low_rank import LowRank, SavedAdapter
    from safe_rlhf_panacea.preference import Preference

PROGRAM = "python -m safe_rlhf_panacea.export"
TRANSPOSED = ("gpt2",)  # model types that keep their weights as (in, out)
PARTS = "one of scale 1 for 'shared', one of scale λ_i for each objective"
# Format: the fewest λ that it wants, the most, and what it is.
FORMATS = {
    "peft": (1, 1, "one LoRA at a λ, for PEFT"),
    "peft-parts": (0, 0, f"LoRAs for PEFT: {PARTS}"),
    "gguf": (0, 0, f"LoRAs for llama.cpp: {PARTS}"),
    "vllm": (1, 1000, "a LoRA per λ, of a rank that vLLM takes"),
    "merged": (1, 1, "the whole model at a λ, for transformers"),
}


class ExportOptions(TrainedAdapterOptions):
    """The options of this program."""

    format: Literal["peft", "peft-parts", "gguf", "vllm", "merged"] = option(required=True)
    output_dir: kinds.Folder = option(None, "a new folder", required=True)
    preference: tuple[kinds.Vector, ...] = option((), "λ; repeat for vllm", repeat=True)
    overwrite: bool = option(False, "replace an export that the folder holds")
    trust_remote_code: bool = option(False, "run code that comes with the base model")


COMMAND = Program(
    ExportOptions,
    PROGRAM,
    "Write a trained adapter in a form that another engine loads; docs/export.md shows how.\n\n"
    + "\n".join(f"  {name:11} {text}" for name, (_, _, text) in FORMATS.items()),
    f"""
    {PROGRAM} --adapter runs/latest/panacea-ppo --format peft-parts --output_dir exports/parts
    {PROGRAM} --adapter runs/latest/panacea-ppo --format merged \\
      --preference helpful=0.7,harmless=0.3 --output_dir exports/merged
    """,
)


def _vectors(
    form: str, adapter: SavedAdapter, preferences: Sequence[Preference]
) -> list[torch.Tensor]:
    """As many λ as a format wants, size = (m,) each; an empty one where λ changes nothing."""
    import torch

    from safe_rlhf_panacea.preference import parse_preference

    fewest, most, _ = FORMATS[form]
    if adapter.config.pref_dim == 0:
        if preferences:
            raise UserError(f"{adapter.folder} does not depend on λ: leave out --preference")
        return [torch.empty(0)] * fewest
    if not fewest <= len(preferences) <= most:
        wanted = {(0, 0): "no --preference", (1, 1): "one --preference"}
        text = wanted.get((fewest, most), "at least one --preference")
        raise UserError(f"--format {form} takes {text}, not {len(preferences)}")
    return [parse_preference(preference, adapter.config.names) for preference in preferences]


def _base_config(
    adapter: SavedAdapter, given: str | None, *, needed: bool, trust_remote_code: bool
) -> Any:
    """The configuration of the base model, which the adapter fits.

    None where it cannot be read and is not needed; then nothing is compared.
    """
    from safe_rlhf_panacea.models.adapted import base_of
    from safe_rlhf_panacea.models.loading import read_model_config, resolve_model

    recorded = adapter.config.base_model
    try:
        with base_of(adapter.folder, recorded, given) as base:
            config = read_model_config(resolve_model(base), trust_remote_code=trust_remote_code)
    except UserError as error:
        if needed:
            raise
        if given or recorded:
            text = f"whether the adapter fits its base model was not checked: {error}"
            warnings.warn(text, RuntimeWarning, stacklevel=3)
        return None
    adapter.check_shapes(config, trust_remote_code=trust_remote_code)
    return config


def _loras(
    form: str, adapter: SavedAdapter, vectors: Sequence[torch.Tensor]
) -> Iterator[tuple[str, dict[str, LowRank]]]:
    """The LoRAs of a format, each with its place in the export's folder; one at a time is held."""
    from safe_rlhf_panacea.export import low_rank
    from safe_rlhf_panacea.preference import format_preference

    for vector in vectors:
        label = format_preference(vector, adapter.config.names) or low_rank.SHARED
        yield ("" if form == "peft" else label), low_rank.at_preference(adapter, vector)
    if not FORMATS[form][1]:  # the parts, for any λ
        yield low_rank.SHARED, low_rank.shared_part(adapter)
        for index, objective in enumerate(adapter.config.names):
            yield objective, low_rank.objective_part(adapter, index)


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
    """Write a trained adapter in another engine's form, a key of ``FORMATS``, to a new folder.

    The arguments are the program's options; ``parse_preference`` says how λ may be given.

    Raises:
        UserError, AdapterError: files that are missing or damaged, or a folder that is taken.
    """
    from safe_rlhf_panacea.export import formats
    from safe_rlhf_panacea.export.low_rank import SavedAdapter
    from safe_rlhf_panacea.export.vllm_resolver import padded_rank
    from safe_rlhf_panacea.models.adapted import base_of, find_adapter

    target = Path(output_dir)
    formats.check_target(target, overwrite=overwrite)
    adapter = SavedAdapter.read(adapter_folder)
    vectors, recorded = _vectors(form, adapter, preferences), adapter.config.base_model
    base, config = base_model or recorded, None
    under = find_adapter(base) if base else None
    remote = {"trust_remote_code": trust_remote_code}
    if under is None:
        config = _base_config(adapter, base_model, needed=form in ("gguf", "merged"), **remote)
    elif form != "merged":
        raise UserError(
            f"{base}, the base model, is an adapter, which --format {form} cannot name: "
            f"make a whole model of it with {under.merge_command}, and give --base_model DIR"
        )
    adapter.check_base(base)
    more: dict[str, Any] = {
        "base_model": base,
        "preferences": [vector.tolist() for vector in vectors if len(vector)],
        "lora_dim": adapter.config.lora_dim,
        "weights": PARTS if form in ("peft-parts", "gguf") else None,
    }
    rank = padded_rank(adapter.config.rank) if form == "vllm" else None
    # Without the configuration a guess, which PEFT corrects itself.
    transposed = getattr(config, "model_type", None) in TRANSPOSED
    with formats.new_folder(target, adapter, form, overwrite=overwrite, **more) as folder:
        if form == "merged":
            with base_of(adapter.folder, recorded, base_model) as name:
                formats.write_merged(folder, adapter, name, vectors[0], **remote)
            return target
        for name, part in _loras(form, adapter, vectors):
            if form == "gguf":
                formats.write_gguf(folder / f"{name}.gguf", part, config)
            elif name and (folder / name).exists():
                raise UserError(f"two preferences are written alike: {name}")
            else:
                formats.write_peft(folder / name, part, base, rank=rank, transposed=transposed)
    return target


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


if __name__ == "__main__":
    main()
