"""What the programs share that measure rewards or a trained method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safe_rlhf_panacea.configs import kinds
from safe_rlhf_panacea.configs.options import configuration, option
from safe_rlhf_panacea.configs.rewarded import RewardUnitOptions
from safe_rlhf_panacea.configs.training import TemplateOptions
from safe_rlhf_panacea.errors import UserError


@configuration
class MeasureOptions(RewardUnitOptions):
    """Rewards, prompts or pairs, and how they are worked off."""

    reward_models: tuple[tuple[str, Any], ...] = option(
        (), kind=kinds.named_value, metavar="NAME=PATH"
    )
    normalize_reward: bool = option(False, "use the models' own normalisers")
    datasets: tuple[str, ...] = option(metavar="SPEC", required=True)
    max_length: int = option(512)
    batch_size: int = option(16, "prompts or pairs")
    seed: int = option(42, kind=kinds.seed_int)
    bf16: bool = option(False, "weights in bfloat16")
    trust_remote_code: bool = option(False, "run code that comes with a model")
    progress: bool = option(True, "show progress bars")


@configuration
class ResponseOptions(MeasureOptions):
    """The same where responses are sampled."""

    temperature: float = option(1.0, kind=kinds.non_negative_float)


@configuration
class RewardFileOptions(TemplateOptions, MeasureOptions):
    """A program that measures rewards and writes one file."""

    model_name_or_path: str = option(text="the SFT model", required=True)
    output_file: str = option(text="JSON; must not exist", required=True)
    overwrite: bool = option(False, "replace the file")

    def check(self) -> None:
        """Refuse what would be found out only after hours.

        Raises:
            UserError: there are no rewards, the file cannot be written, or a malformed data set.
        """
        from safe_rlhf_panacea.data.specs import read_specs

        if not self.reward_models:
            raise UserError("--reward_models is missing: there is nothing to measure")
        file = Path(self.output_file)
        if file.is_dir():
            raise UserError(f"{file} is a folder: --output_file is a file's name")
        if file.exists() and not self.overwrite:
            raise UserError(f"{file} exists: choose another file or give --overwrite")
        above = next(folder for folder in file.absolute().parents if folder.exists())
        if not above.is_dir():
            raise UserError(f"{above} is no folder: {file} cannot be written")
        read_specs(self.datasets)
