"""Training several variants of one run, one after another: what all baselines are made of."""

from __future__ import annotations

import abc
import argparse
import gc
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from safe_rlhf_panacea.algorithms import dpo, grpo, ppo, sft
from safe_rlhf_panacea.configs import Options, Program, option
from safe_rlhf_panacea.configs.panacea import PanaceaConfig, check_panacea
from safe_rlhf_panacea.errors import UserError, one_line_errors
from safe_rlhf_panacea.printing import say
from safe_rlhf_panacea.runs.run_folder import RUN_FILE, is_finished, set_aside

FURTHER = """
All further flags are those of python -m safe_rlhf_panacea.algorithms.dpo, .grpo, .ppo or .sft;
a variant that is finished is not trained again."""
PROGRAMS = {"dpo": dpo, "grpo": grpo, "ppo": ppo, "sft": sft}
# Folder name to the options that differ.
Variants = Mapping[str, Mapping[str, Any]]


class VariantOptions(Options, abc.ABC):
    """A baseline's own options: which algorithm, and what subclasses add."""

    algorithm: Literal["dpo", "grpo", "ppo", "sft"] = option(
        text="what trains each variant", positional=True, required=True
    )

    @abc.abstractmethod
    def variants(self, objectives: Sequence[str]) -> Variants:
        """The variants to train, of objectives in the order of λ."""


class Baseline(Program[VariantOptions]):
    """The command line of a baseline, by the name of its module; ``example`` is what follows it."""

    def __init__(
        self, cls: type[VariantOptions], module: str, description: str, example: str
    ) -> None:
        name = f"python -m safe_rlhf_panacea.baselines.{module}"
        super().__init__(cls, name, description + FURTHER, f"\n    {name} {example}\n    ")

    def plan(self, argv: Sequence[str] | None = None) -> tuple[str, Any, Variants]:
        """The algorithm, its options and the variants that a command line asks for.

        Raises:
            UserError: as the algorithm would.
        """
        own, rest = self.read_own(argv)
        config = PROGRAMS[own.algorithm].parse_arguments(rest)
        return own.algorithm, config, own.variants(objectives_of(config))

    @one_line_errors
    def main(self, argv: Sequence[str] | None = None) -> None:
        """Train every variant in a folder of its own below ``output_dir``."""
        train_variants(*self.plan(argv))


def objectives_of(config: Any) -> tuple[str, ...]:
    """The objectives of options, in the order of λ; of Safe-RLHF's namespace too."""
    if isinstance(config, PanaceaConfig):
        return config.objective_names()
    specs = getattr(config, "reward_specs", None)
    return tuple(config.objectives if specs is None else (spec.name for spec in specs))


def variant_configs(config: Any, variants: Variants) -> dict[str, Any]:
    """The checked options of every variant, which has a folder of its own in ``output_dir``.

    ``config`` is the algorithm's options, or Safe-RLHF's namespace.

    Raises:
        UserError: ``resume``, or a variant that the algorithm would refuse.
    """
    if getattr(config, "resume", False):
        raise UserError("--resume is of a single training; this program skips what is finished")
    found: dict[str, Any] = {}
    for name, changes in variants.items():
        changes = {**changes, "output_dir": str(Path(config.output_dir) / name)}
        if isinstance(config, PanaceaConfig):
            found[name] = config.with_(**changes)
            found[name].check()
        else:
            found[name] = argparse.Namespace(**{**vars(config), **changes})
            check_panacea(found[name], objectives_of(found[name]))
    return found


def train_variants(algorithm: str, config: Any, variants: Variants) -> dict[str, Path]:
    """Run the algorithm once per variant; returns the folder of each, below ``output_dir``.

    Raises:
        UserError: as ``variant_configs``, before anything is trained, or as the training.
    """
    from safe_rlhf_panacea.distributed import init_distributed

    configs = variant_configs(config, variants)
    init_distributed(config.local_rank)
    train = PROGRAMS[algorithm].train
    runs = {made.output_dir: partial(train, made) for made in configs.values()}
    train_unfinished(runs, overwrite=config.overwrite)
    return dict(zip(configs, map(Path, runs), strict=True))


def train_unfinished(runs: Mapping[str, Callable[[], object]], *, overwrite: bool) -> None:
    """Train runs, one after another; ``runs`` is folder to what trains there.

    One that is finished is left as it is, unless ``overwrite``; what an interruption left of one
    is renamed, and it begins anew. So the same call goes on where it was interrupted.
    """
    from safe_rlhf_panacea.distributed import barrier, is_main_process

    for number, (name, train) in enumerate(runs.items(), start=1):
        main = is_main_process()  # a training from Python starts the processes: not known before
        folder = Path(name)
        what = f"[{number}/{len(runs)}] {folder.name}"
        left = overwrite or not is_finished(folder)
        barrier()  # nobody renames what another process has yet to look at
        if main and left and not overwrite and (folder / RUN_FILE).exists():
            say(f"{folder} was interrupted; kept as {set_aside(folder)}")
        barrier()
        if main:
            say(what if left else f"{what}: done already")
        if left:
            train()
            gc.collect()  # models and engines refer to each other in circles
