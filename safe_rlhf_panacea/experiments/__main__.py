"""What the scripts in ``bash/`` call: ``python -m safe_rlhf_panacea.experiments SCRIPT``.

A launcher gives the paper's hyperparameters, then ``--``, then the user's flags. Nothing here
loads torch before it must: the launchers are quick to say what is wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from safe_rlhf_panacea.errors import UserError, one_line_errors
from safe_rlhf_panacea.experiments.runner import ENDS_WITH, Reproduction, read_known, value_of
from safe_rlhf_panacea.experiments.table import RUNS, Size, Stage, size_of, stages_by_name
from safe_rlhf_panacea.printing import say
from safe_rlhf_panacea.runs.run_folder import RUN_FILE, is_finished, set_aside

REAL_FRONTS = "real_fronts.sh"
# Of a script whose default is not that of the launchers: the size, and where its runs lie.
DEFAULTS = {REAL_FRONTS: ("small", "runs/real")}
# Scripts that run a program of this package from start to end, and the size whose threads it has.
WHOLE = {"quickstart.sh": "miniature", "small.sh": "small"}
LIBRARIES = ("torch", "transformers", "deepspeed", "moocore", "yaml")
SIZES = (
    "full: the paper's models, data and hyperparameters; small: the same path on SmolLM2-135M and "
    "hh-rlhf, minutes to hours on a CPU; miniature: on the quickstart's models and data, minutes; "
    "default: %(default)s"
)
ENVIRONMENT = """\
environment:
  PYTHON                the Python to use; default .venv/bin/python of this checkout, else python3
  OMP_NUM_THREADS       threads; default of the miniature: one per core, at most 2; the two
                        processes of the quickstart have one each, whatever it says
  PANACEA_SMALL_MODEL   for --size small: the model's folder, as safe_rlhf_panacea.small.model
                        writes it; default: HuggingFaceTB/SmolLM2-135M-Instruct from the hub
  PANACEA_SMALL_DATA    for --size small: a folder with hh-helpful-harmless-train.jsonl.gz and
                        -test.jsonl.gz, pairs with better_helpful and better_harmless, for
                        real_fronts.sh also helpsteer2-pairs-train.jsonl.gz and -test.jsonl.gz with
                        better_helpfulness and better_verbosity;
                        default: Anthropic/hh-rlhf and nvidia/HelpSteer2 from the hub
  WANDB_MODE            online, offline or disabled; default: offline without WANDB_API_KEY
any other flag goes to the Python program and wins over the launcher's
"""


def read_flags(script: str, words: Sequence[str]) -> tuple[argparse.Namespace, Reproduction]:
    """Read a launcher's own flags, and make the reproduction that all flags describe.

    A flag without its value, or with a bad one, is a ``UserError``.
    """
    parser = argparse.ArgumentParser(
        usage=argparse.SUPPRESS,
        epilog=ENVIRONMENT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        exit_on_error=False,
    )
    default, runs = DEFAULTS.get(script, ("full", ", ".join(RUNS.values())))
    parser.add_argument("--size", choices=[*RUNS], default=default, help=SIZES)
    text = f"where all runs of one reproduction lie; default {runs}"
    parser.add_argument("--runs", metavar="DIR", help=text)
    parser.add_argument("--dry_run", action="store_true", help="start nothing; say what would be")
    parser.add_argument("--num_gpus", metavar="N", help="of this machine; default: all")
    text = "several machines, as DeepSpeed's launcher reads them"
    parser.add_argument("--hostfile", metavar="FILE", help=text)
    if script in ENDS_WITH:
        text = "this stage alone, e.g. panacea-dpo-ls; done or not"
        parser.add_argument("--only", metavar="STAGE", help=text)
    else:
        text = "resume what an interruption left in the run's folder, or rename it and begin anew"
        parser.add_argument("--go_on", action="store_true", help=text)
    args, passed = read_known(parser, words)
    if args.hostfile is not None and not Path(args.hostfile).is_file():
        raise UserError(f"--hostfile {args.hostfile}: no such file")
    if args.num_gpus is not None and not re.fullmatch("[1-9][0-9]{0,3}", args.num_gpus):
        raise UserError(f"--num_gpus {args.num_gpus} is not a number of GPUs")
    given = {"--hostfile": args.hostfile, "--num_gpus": args.num_gpus}
    machines = [word for flag, v in given.items() if v is not None for word in (flag, v)]
    if script == REAL_FRONTS and (others := value_of("--seed", passed)[1]):
        raise UserError(f"{others[0]}: {script} takes --seed only, so that steps stay equal")
    folder = Path(args.runs or DEFAULTS.get(script, ("", RUNS[args.size]))[1])
    return args, Reproduction(folder, args.size, tuple(passed), tuple(machines))


def set_environment(size: Size) -> None:
    """Set the environment variables for threads, network and wandb that the user has not set."""
    if "WANDB_MODE" not in os.environ and "WANDB_API_KEY" not in os.environ:
        os.environ["WANDB_MODE"] = "offline"
        text = "wandb: no WANDB_API_KEY, so runs are logged offline (wandb sync uploads them later)"
        print(text, file=sys.stderr)
    if size.offline:
        # Its models gain a tenth from four, and lose everything where others use the cores.
        os.environ.setdefault("OMP_NUM_THREADS", str(min(2, len(os.sched_getaffinity(0)))))
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        os.environ.setdefault("HF_HUB_OFFLINE", "1")


def start_of(module: str, machines: Sequence[str]) -> list[str]:
    """The words that start a module: DeepSpeed's launcher on GPUs, plain Python on a CPU."""
    if "--hostfile" not in machines:
        tool = shutil.which("nvidia-smi")
        listed = tool and subprocess.run([tool, "-L"], capture_output=True, check=False).stdout
        if not listed or not listed.strip():
            return [sys.executable, "-m", module]
    with socket.socket() as free:  # two launchers on one machine must not meet at the same port
        free.bind(("", 0))
        port = str(free.getsockname()[1])
    deepspeed = [sys.executable, "-m", "deepspeed.launcher.runner", *machines]
    return [*deepspeed, "--master_port", port, "--module", module]


def resolve(module: str, argv: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Every option of a program, and what a baseline's variants change, by folder name."""
    from safe_rlhf_panacea.baselines.variants import variant_configs
    from safe_rlhf_panacea.runs.run_record import recordable

    program = import_module(module)
    if module.startswith("safe_rlhf_panacea.baselines."):
        algorithm, config, variants = program.plan(argv)
        variant_configs(config, variants)  # refuses what the baseline would
        return {"algorithm": algorithm, **recordable(config)}, dict(variants)
    return recordable(program.parse_arguments(argv)), {}


def make_room(folder: Path, module: str, flags: Sequence[str]) -> list[str]:
    """Resume what an earlier run left in a folder, or rename it.

    Returns ``--resume`` where the program can go on from a checkpoint of the same flags.
    """
    if not (folder / RUN_FILE).exists():
        return []
    from safe_rlhf_panacea.runs.resuming import can_go_on

    if not is_finished(folder) and can_go_on(folder, resolve(module, flags)[0]):
        print(f"{folder} was interrupted, and goes on from its last checkpoint", flush=True)
        return ["--resume"]
    print(f"kept as {set_aside(folder)}: what was in {folder}", flush=True)
    return []


def launch(
    stage: Stage, table: Sequence[str], runs: Reproduction, args: argparse.Namespace
) -> None:
    """Replace this process by the launcher's program; with ``--dry_run`` print it as JSON."""
    paper, own = runs.launcher_flags(stage, table)
    start = start_of(stage.program, runs.machines)
    if args.dry_run:
        (values, variants), (before, _) = (
            resolve(stage.program, flags) for flags in ([*paper, *own], paper)
        )
        report = {
            "launcher": stage.launcher,
            "mirrors": stage.mirrors,
            "size": runs.size_name,
            "command": f"{' '.join(start)} {shlex.join([*paper, *own])}",
            "hyperparameters": values,
            "changed": {  # by the size or the user
                name: {"launcher": before.get(name), "now": value}
                for name, value in values.items()
                if before.get(name) != value
            },
            "variants": variants,
        }
        say(json.dumps(report, indent=2, ensure_ascii=False))
        return
    set_environment(runs.size)
    runs.prepare(stage)
    more = make_room(runs.folder(stage), stage.program, [*paper, *own]) if args.go_on else []
    become([*start, *paper, *own, *more])


def become(command: list[str]) -> None:
    """Replace this process by a command."""
    sys.stdout.flush()
    os.execv(command[0], command)


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Start the program or the stages that belong to a script."""
    script, *words = sys.argv[1:] if argv is None else argv
    own = words.index("--") if "--" in words else 0
    table, words = words[:own], words[own + 1 :] if "--" in words else words
    # Looked for without importing them, which would take seconds.
    has_libraries = all(map(find_spec, LIBRARIES))
    if script in WHOLE and not has_libraries and {"-h", "--help"} & set(words):
        return  # the script itself has said what it does
    args, runs = (None, None) if script in WHOLE else read_flags(script, words)
    if not has_libraries:
        raise UserError(
            f"{sys.executable} lacks this package's libraries; run 'make quickstart' once, "
            "or set PYTHON"
        )
    if args is None or runs is None:
        set_environment(size_of(WHOLE[script]))
        become([sys.executable, "-m", f"safe_rlhf_panacea.{WHOLE[script]}", *words])
    elif script in ENDS_WITH:
        if not args.dry_run:
            set_environment(runs.size)
        runs.run(script, args.only, args.dry_run)
    elif stage := next((s for s in stages_by_name().values() if s.launcher == script), None):
        launch(stage, table, runs, args)
    else:
        raise UserError(f"{script}: no stage of the table has this launcher")


if __name__ == "__main__":
    main()
