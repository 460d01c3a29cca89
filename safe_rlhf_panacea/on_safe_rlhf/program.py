"""The start of a program on Safe-RLHF: its own flags, its own configurations, any device."""

from __future__ import annotations

import argparse
import importlib
import os
import re
import sys
from collections.abc import Sequence
from typing import Any

from safe_rlhf.configs import get_deepspeed_eval_config, get_deepspeed_train_config
from safe_rlhf.logger import set_logger_level
from safe_rlhf.utils import seed_everything

from safe_rlhf_panacea.configs import kinds
from safe_rlhf_panacea.configs.panacea import AdapterOptions, FrontOptions
from safe_rlhf_panacea.configs.training import TemplateOptions
from safe_rlhf_panacea.distributed import (
    get_rank,
    init_distributed,
    is_main_process,
    refusing_together,
)
from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.models.adapted import find_adapter
from safe_rlhf_panacea.runs.run_folder import check_free

# The options that every Panacea program adds to Safe-RLHF's own.
PANACEA_OPTIONS = (AdapterOptions, FrontOptions, TemplateOptions)
LOCAL_RANK = "--local_rank"
LOG_TYPE, REPORT_TO = "--log_type", "--report_to"  # one place there, under either name


def flags_of(argv: Sequence[str]) -> set[str]:
    """The flags that a command line gives."""
    return {word.partition("=")[0] for word in argv if word.startswith("--")}


def _take_no_log(argv: list[str]) -> tuple[list[str], bool]:
    """Without ``--log_type none``, which Safe-RLHF's trainers know and its parser does not."""
    if f"{LOG_TYPE}=none" in argv:
        return [word for word in argv if word != f"{LOG_TYPE}=none"], True
    if LOG_TYPE in argv and argv[argv.index(LOG_TYPE) + 1 :][:1] == ["none"]:
        at = argv.index(LOG_TYPE)
        return [*argv[:at], *argv[at + 2 :]], True
    return argv, False


def parse_arguments(
    program: str, panacea: argparse.ArgumentParser, argv: Sequence[str] | None
) -> argparse.Namespace:
    """Read a command line with Safe-RLHF's own parser, after Panacea's flags are taken out.

    Args:
        program: Safe-RLHF's module, for example ``safe_rlhf.algorithms.dpo.main``.
        panacea: knows the flags that Safe-RLHF does not.
        argv: the command line; None for this process's.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    words = [re.sub(f"^{REPORT_TO}(?==|$)", LOG_TYPE, word) for word in words]
    panacea.add_argument(
        "--overwrite",
        type=kinds.boolean,
        nargs="?",
        const=True,
        default=False,
        help="replace a run that the folder holds",
    )
    if "-h" in words or "--help" in words:
        panacea.print_help()
        print("\nand Safe-RLHF's own:\n")
    ours, rest = panacea.parse_known_args(words)
    rest, no_log = _take_no_log(rest)
    if LOCAL_RANK not in flags_of(rest):  # DeepSpeed's launcher gives it, torchrun does not
        rest += [LOCAL_RANK, os.environ.get("LOCAL_RANK", "0")]
    before, sys.argv = sys.argv, [panacea.prog, *rest]
    try:
        args = importlib.import_module(program).parse_arguments()
    finally:
        sys.argv = before
    if no_log:
        args.log_type = None
    if not args.output_dir:
        raise UserError("--output_dir is missing: the adapter has to go somewhere")
    vars(args).update(vars(ours))
    return args


def _check_models(args: argparse.Namespace) -> None:
    """Refuse adapters, which Safe-RLHF's own loading knows nothing of.

    Raises:
        UserError: saying how a whole model is made of it.
    """
    for flag, name in vars(args).items():
        if flag.endswith("model_name_or_path") and name and (found := find_adapter(name)):
            raise UserError(
                f"--{flag} {name} is an adapter, which Safe-RLHF does not load: make a whole model "
                f"of it with {found.merge_command}"
            )


def prepare_run(args: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """What Safe-RLHF's ``main`` does before its trainer, on a CPU too.

    Sets ``args.device`` and ``args.global_rank``; returns the training and evaluation
    configurations of DeepSpeed.

    Raises:
        UserError: the output folder holds a run already, or a model is an adapter.
    """
    _check_models(args)
    args.output_dir = os.path.expanduser(args.output_dir)  # once, for all who write there
    args.device = init_distributed(args.local_rank)
    with refusing_together():
        if is_main_process():
            check_free(args.output_dir, overwrite=args.overwrite)
    args.global_rank = get_rank()
    seed_everything(args.seed)
    set_logger_level()
    common = {"stage": args.zero_stage, "offload": args.offload}
    precision = {"fp16": args.fp16, "bf16": args.bf16}
    train_config = get_deepspeed_train_config(
        micro_batch_size_per_gpu=args.per_device_train_batch_size,
        gradient_accumulation_steps=args.gradient_accumulation_steps,
        **common,
        **precision,
    )
    return train_config, get_deepspeed_eval_config(**common, **precision)
