"""The command-line flags that the training programs share, each declared once.

Names are Safe-RLHF's; what Panacea adds is in ``algorithms/arguments.py``.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import Any

from safe_rlhf_panacea.base.parser import ArgumentParser as ArgumentParser
from safe_rlhf_panacea.errors import UserError

AddArguments = Callable[[argparse.ArgumentParser], None]
LARGEST = 2**31 - 1  # of whole numbers: what every library underneath can hold
SCHEDULERS = ("linear", "cosine", "constant", "constant_with_warmup")


def boolean(text: str) -> bool:
    """Read ``true``/``false`` as Safe-RLHF's launchers write them."""
    lowered = text.lower()
    if lowered in ("true", "yes", "1"):
        return True
    if lowered in ("false", "no", "0"):
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")


def _number(what: str, is_right: Callable[[float], bool]) -> Callable[[str], float]:
    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
        if not (math.isfinite(value) and is_right(value)):
            raise argparse.ArgumentTypeError(f"{text} is not {what}")
        return value

    return read


def _integer(what: str, least: int, most: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not {what}") from None
        if not least <= value <= most:
            limit = f": the largest is {most}" if value > most else ""
            raise argparse.ArgumentTypeError(f"{text} is not {what}{limit}")
        return value

    return read


# The numbers that flags take; none of them is NaN or infinite.
finite_float = _number("a finite number", lambda value: True)
positive_float = _number("a positive number", lambda value: value > 0)
non_negative_float = _number("a number of at least 0", lambda value: value >= 0)
probability = _number("between 0 and 1", lambda value: 0 <= value <= 1)
share = _number("above 0 and at most 1", lambda value: 0 < value <= 1)
proper_share = _number("above 0 and below 1", lambda value: 0 < value < 1)
positive_int = _integer("a positive integer", 1, LARGEST)
seed_int = _integer("a seed, an integer from 0 on", 0, 2**32 - 1)  # NumPy takes no larger one


def filled(text: str) -> str:
    """Text that is there: an empty path would be the current folder."""
    if not text.strip():
        raise argparse.ArgumentTypeError("must not be empty")
    return text


def file_name(text: str) -> str:
    """A name without folders."""
    if "/" in text or "\\" in text or text in (".", ".."):
        raise argparse.ArgumentTypeError(f"{text!r} is a path, not a name")
    return filled(text)


def objective_name(text: str) -> str:
    """The name of an objective."""
    from safe_rlhf_panacea.preference import PreferenceError, check_objective_names

    try:
        check_objective_names([text])
    except PreferenceError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def named_value(text: str) -> tuple[str, str]:
    """Read ``name=value``."""
    name, separator, value = text.partition("=")
    if not separator or not name or not value:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form name=value")
    return name, value


def chat_template(text: str) -> str:
    """``auto``, ``safe-rlhf``, ``none``, ``raw``, or a jinja file that renders."""
    if text in ("auto", "safe-rlhf", "none", "raw"):  # before torch is imported
        return text
    from safe_rlhf_panacea.base.datasets.jinja_template import check_choice

    try:
        return check_choice(filled(text))
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add_template_argument(parser: argparse.ArgumentParser, *, of_adapter: bool = False) -> None:
    """How conversations are written; a program that loads an adapter knows it from there."""
    parser.add_argument(
        "--chat_template",
        type=chat_template,
        default=None if of_adapter else "auto",
        metavar="TEMPLATE",
        help="auto: the tokenizer's own, else Safe-RLHF's; safe-rlhf; none: the prompt alone; raw: "
        "and its control tokens; a jinja file"
        + (" (default: the adapter's)" if of_adapter else ""),
    )


def add_flag(group: Any, name: str, default: bool, text: str) -> None:
    """A boolean that may be given bare (``--bf16``) or with a value (``--bf16 true``)."""
    group.add_argument(name, type=boolean, nargs="?", const=True, default=default, help=text)


def add_dataset_arguments(
    parser: argparse.ArgumentParser, *, ptx: bool = False, form: str = "name[:proportion[:path]]"
) -> None:
    """Data sets as ``name[:proportion[:path]]``, or a path alone."""
    form = f"data sets as {form}, or a path or hub name in place of name"
    group = parser.add_argument_group("data")
    group.add_argument("--train_datasets", nargs="+", required=True, metavar="SPEC", help=form)
    group.add_argument("--eval_datasets", nargs="+", metavar="SPEC", help=form)
    if ptx:
        group.add_argument("--ptx_datasets", nargs="+", metavar="SPEC", help=form)
    group.add_argument(
        "--eval_split_ratio", type=proper_share, help="share of the training data held out"
    )
    add_flag(group, "--trust_remote_code", False, "run code that comes with a model (default off)")


def add_schedule_arguments(
    parser: argparse.ArgumentParser,
    *,
    prefix: str = "",
    lr: float,
    weight_decay: float = 0.0,
    scheduler: str = "cosine",
) -> None:
    """Learning rate and schedule of one optimiser, ``prefix`` being ``actor_`` and the like."""
    group = parser.add_argument_group(f"{prefix}optimiser")
    group.add_argument(
        f"--{prefix}lr",
        f"--{prefix}learning_rate",
        type=non_negative_float,
        default=lr,
        help="peak",
    )
    group.add_argument(f"--{prefix}weight_decay", type=non_negative_float, default=weight_decay)
    group.add_argument(f"--{prefix}lr_scheduler_type", choices=SCHEDULERS, default=scheduler)
    group.add_argument(f"--{prefix}lr_warmup_ratio", type=probability, default=0.03)
    add_flag(group, f"--{prefix}gradient_checkpointing", False, "recompute activations")


def add_training_arguments(
    parser: argparse.ArgumentParser, *, epochs: int, batch_size: int = 16, accumulation: int = 1
) -> None:
    """Length, batches, precision and seed."""
    group = parser.add_argument_group("training")
    group.add_argument("--max_length", type=positive_int, default=512, help="tokens in a sequence")
    group.add_argument("--epochs", type=positive_int, default=epochs)
    group.add_argument("--max_steps", type=positive_int, help="stop after so many training steps")
    for name in ("train", "eval"):
        group.add_argument(f"--per_device_{name}_batch_size", type=positive_int, default=batch_size)
    group.add_argument("--gradient_accumulation_steps", type=positive_int, default=accumulation)
    text = "tokens, padding included, in one forward pass (default: 1024 on a CPU, else 16384)"
    group.add_argument("--max_tokens_per_pass", type=positive_int, help=text)
    group.add_argument("--seed", type=seed_int, default=42)
    add_flag(group, "--fp16", False, "float16 with loss scaling")
    add_flag(group, "--bf16", False, "bfloat16 with float32 master weights")
    add_flag(group, "--tf32", False, "TensorFloat-32 matrix products on a GPU")


def add_evaluation_arguments(parser: argparse.ArgumentParser) -> None:
    """When to evaluate during training."""
    group = parser.add_argument_group("evaluation")
    add_flag(group, "--need_eval", False, "evaluate during training")
    group.add_argument("--eval_strategy", choices=("epoch", "steps"), default="epoch")
    group.add_argument("--eval_interval", type=positive_int, default=1_000_000)


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """Where results and logs go."""
    group = parser.add_argument_group("output")
    group.add_argument(
        "--output_dir", type=filled, required=True, help="folder of this run; must hold none yet"
    )
    add_flag(group, "--overwrite", False, "replace a run that the folder already holds")
    text = "go on from the latest checkpoint in output_dir; its files are read as data, not as code"
    add_flag(group, "--resume", False, text)
    log_types = ("wandb", "tensorboard", "none")
    group.add_argument("--log_type", choices=log_types, default="wandb", help="(default: offline)")
    text = "in place of --log_type: one or several of wandb, tensorboard, trackio; or none"
    group.add_argument("--report_to", nargs="+", choices=(*log_types, "trackio"), help=text)
    group.add_argument("--log_dir", type=filled, help="default: output_dir")
    group.add_argument("--log_project", help="default: safe-rlhf-panacea")
    group.add_argument("--log_run_name")
    add_flag(group, "--progress", True, "show progress bars")
    group.add_argument(
        "--save_interval", type=positive_int, default=1_000_000, help="steps between checkpoints"
    )


def add_deepspeed_arguments(parser: argparse.ArgumentParser) -> None:
    """DeepSpeed's own; ``--local_rank`` is set by its launcher."""
    group = parser.add_argument_group("deepspeed")
    group.add_argument("--local_rank", type=int, default=-1, help="set by the launcher")
    group.add_argument("--zero_stage", type=int, default=0, choices=(0, 1, 2, 3))
    offload = ("none", "parameter", "optimizer", "all")
    group.add_argument("--offload", choices=offload, default="none")


def check_ranges(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Hold the numbers that another parser read to the ranges of ``parser``.

    Raises:
        UserError: naming the flag.
    """
    for action in parser._actions:
        value = getattr(args, action.dest, None)
        if action.type is None or not isinstance(value, int | float):
            continue
        try:
            action.type(str(value))
        except argparse.ArgumentTypeError as error:
            raise UserError(f"--{action.dest}: {error}") from None


def check_common(args: argparse.Namespace) -> None:
    """What the shared flags must be before models and data are loaded.

    Raises:
        UserError: naming two flags that do not go together, or a malformed data set.
    """
    from safe_rlhf_panacea.base.datasets.specs import read_specs

    for name in ("train_datasets", "eval_datasets", "ptx_datasets"):
        if getattr(args, name, None) is not None:
            read_specs(getattr(args, name))
    if args.fp16 and args.bf16:
        raise UserError("--fp16 and --bf16 were both given: choose one")
    if args.need_eval and (args.eval_datasets is None) == (args.eval_split_ratio is None):
        raise UserError("--need_eval wants exactly one of --eval_datasets and --eval_split_ratio")
    if args.offload != "none" and args.zero_stage < 2:
        raise UserError(f"--offload {args.offload} needs --zero_stage 2 or 3")
    if args.offload in ("parameter", "all") and args.zero_stage != 3:
        raise UserError(f"--offload {args.offload} needs --zero_stage 3")
