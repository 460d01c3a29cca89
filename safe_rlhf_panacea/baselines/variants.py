"""Training several variants of one run, one after another: what all baselines are made of."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safe_rlhf_panacea.algorithms.dpo import main as dpo
from safe_rlhf_panacea.algorithms.grpo import main as grpo
from safe_rlhf_panacea.algorithms.ppo import main as ppo
from safe_rlhf_panacea.algorithms.sft import main as sft
from safe_rlhf_panacea.base.arguments import ArgumentParser
from safe_rlhf_panacea.configs.panacea import PanaceaConfig
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.printing import say
from safe_rlhf_panacea.run_folder import RUN_FILE, is_finished, set_aside

PROGRAMS = {"dpo": dpo, "grpo": grpo, "ppo": ppo, "sft": sft}
Variants = Mapping[str, Sequence[str]]


def build_parser(prog: str, description: str, example: str) -> ArgumentParser:
    """A parser for the algorithm's name; all other flags are the algorithm's own."""
    parser = ArgumentParser(
        prog,
        f"{description}\nAll further flags are those of python -m safe_rlhf_panacea.algorithms."
        "dpo, .grpo, .ppo or .sft;\na variant that is finished is not trained again.",
        example,
    )
    parser.add_argument("algorithm", choices=sorted(PROGRAMS))
    return parser


def parse_flags(algorithm: str, argv: Sequence[str]) -> Any:
    """Read the algorithm's options without running it."""
    return PROGRAMS[algorithm].parse_arguments(argv)


def objectives_of(args: Any) -> list[str]:
    """The objectives of options, in the order of λ; of Safe-RLHF's namespace too."""
    if isinstance(args, PanaceaConfig):
        return list(args.objective_names())
    specs = getattr(args, "reward_specs", None)
    return list(args.objectives) if specs is None else [spec.name for spec in specs]


def check_flags(algorithm: str, argv: Sequence[str]) -> Any:
    """Read the algorithm's flags and check what can be checked before anything runs.

    Raises:
        UserError: as the algorithm would, or ``--resume``.
    """
    args = parse_flags(algorithm, argv)
    if args.resume:
        raise UserError("--resume is of a single training; this program skips what is finished")
    return args


def train_variants(algorithm: str, argv: Sequence[str], variants: Variants) -> dict[str, Path]:
    """Run the algorithm once per variant, each into a folder of its own under ``output_dir``.

    A variant that is finished is left as it is, unless ``--overwrite`` is among the flags; what
    an interruption left of one is renamed, and the variant begins anew. So the same command
    goes on where it was interrupted.

    Args:
        algorithm: a key of ``PROGRAMS``.
        argv: the algorithm's flags.
        variants: folder name to further flags.

    Returns:
        Folder name to folder.
    """
    run: Callable[[Sequence[str]], int | None] = PROGRAMS[algorithm].main
    from safe_rlhf_panacea.base.distributed import init_distributed

    args = check_flags(algorithm, argv)
    init_distributed(args.local_rank)
    folders = {name: Path(args.output_dir) / name for name in variants}
    for number, (name, extra) in enumerate(variants.items(), start=1):
        if _is_left_to_do(folders[name], args.overwrite):
            _say(f"[{number}/{len(variants)}] {name}")
            run([*argv, "--output_dir", str(folders[name]), *extra])
            gc.collect()  # models and engines refer to each other in circles
        else:
            _say(f"[{number}/{len(variants)}] {name}: done already")
    return folders


def _is_left_to_do(folder: Path, overwrite: bool) -> bool:
    """Whether to run, the same answer on all processes; makes room for it."""
    from safe_rlhf_panacea.base import barrier, is_main_process

    left = overwrite or not is_finished(folder)
    barrier()  # nobody renames what another has yet to look at
    if left and not overwrite and (folder / RUN_FILE).exists() and is_main_process():
        _say(f"{folder} was interrupted; kept as {set_aside(folder)}")
    barrier()
    return left


def _say(text: str) -> None:
    from safe_rlhf_panacea.base import is_main_process

    if is_main_process():
        say(text)
