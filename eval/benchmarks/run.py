"""Measures the parts of this package, beside others that do the same and beside other checkouts.

All contenders of a case are processes of their own that take their rounds in turn, so that a busy
machine is as busy for each. A ratio is the median over the rounds of another's time by the first
one's: above 1 the first is faster. Memory is the peak above what importing costs.
"""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

# The sources beside this script are what runs, installed or not.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks import measuring
from benchmarks.inputs import MODELS, SIZES, job_of
from benchmarks.measuring import WHOLE, Case, Times, measure, quartiles, run_once
from benchmarks.parts import PARTS
from safe_rlhf_panacea.configs.command_line import ArgumentParser, add_flag
from safe_rlhf_panacea.configs.kinds import filled, positive_int
from safe_rlhf_panacea.errors import UserError, one_line_errors
from safe_rlhf_panacea.io import atomic_write_json, atomic_write_text
from safe_rlhf_panacea.show.tables import Table, align

PROGRAM = "python eval/benchmarks/run.py"
COLUMNS = ["case", "timed", "who", "CPU (quartiles)", "wall (quartiles)", "ratio", "peak MiB"]
UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))
PEERS = {"PEFT": ("peft",), "TRL with PEFT": ("trl", "peft"), "Safe-RLHF": ("safe_rlhf",)}


def build_parser() -> argparse.ArgumentParser:
    """The flags of this program."""
    parser = ArgumentParser(PROGRAM, __doc__ or "", f"{PROGRAM} --parts dpo --against ../before")
    parser.add_argument("--parts", nargs="+", choices=[*PARTS], default=[*PARTS])
    parser.add_argument("--size", choices=[*SIZES], help="default: gpu where there is one, or cpu")
    parser.add_argument("--models", nargs="+", choices=[*MODELS], help="default: the size's")
    for name, text in (
        ("rounds", "measured, of each"),
        ("warmup", "rounds before them"),
        ("batch", "pairs, or rows of a micro-batch"),
        ("prompts", "of a rollout"),
        ("longest", "tokens of a sequence"),
    ):
        parser.add_argument(f"--{name}", type=positive_int, help=f"{text}; default: the size's")
    parser.add_argument("--threads", type=positive_int, default=1, help="of every process")
    for name, choices in (("trainers", ["panacea", "plain"]), ("lengths", ["real", "equal"])):
        parser.add_argument(f"--{name}", nargs="+", choices=choices, default=choices)
    parser.add_argument("--against", type=filled, help="another checkout, measured beside this one")
    add_flag(parser, "--alone", False, "one contender after the other, not in turn: less memory")
    parser.add_argument("--output", type=filled, help="Markdown; the numbers go beside it as .json")
    return parser


def complete(args: argparse.Namespace) -> None:
    """Fill in what the size says, and refuse another checkout that is none."""
    gpu = torch.cuda.is_available()
    args.device = "cuda" if gpu else "cpu"
    args.size = args.size or ("gpu" if gpu else "cpu")
    for name, value in SIZES[args.size].items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    if args.against and not (Path(args.against) / "safe_rlhf_panacea" / "__init__.py").is_file():
        raise UserError(f"--against {args.against}: no checkout of this project")


def beside(case: Case, against: str | None) -> Case:
    """With everyone of this package once more, from the other checkout."""
    contenders = []
    for one in case.contenders:
        contenders.append(one)
        if against is not None and one.ours:
            tree = Path(against).resolve()
            contenders.append(dataclasses.replace(one, name=f"{one.name}, {tree.name}", tree=tree))
    return Case(case.label, contenders)


def results(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """What was found, case by case, once there are the folders of the models that trainers load."""
    for model in args.models if {"dpo", "ppo", "growth"} & {*args.parts} else ():
        run_once(job_of(args, "models", [], model=model, rewards="ppo" in args.parts))
    for name in args.parts:
        title, cases = PARTS[name]
        for case in cases(args):
            found = measure(
                beside(case, args.against), args.rounds, args.warmup, args.threads, alone=args.alone
            )
            yield {
                "part": name,
                "title": title,
                "case": case.label,
                "clock": "cpu" if args.device == "cpu" else "wall",
                "found": {who: dataclasses.asdict(one) for who, one in found.items()},
            }


def duration(values: Sequence[float]) -> str:
    """Median and quartiles in a unit that suits them."""
    low, middle, high = quartiles(values)
    size, unit = next((u for u in UNITS if middle >= u[0]), UNITS[-1])
    return f"{middle / size:.3g} {unit} ({low / size:.3g}-{high / size:.3g})"


def ratio(others: Sequence[float], firsts: Sequence[float]) -> float:
    """How many times as long the others take: the median over the rounds."""
    return statistics.median(b / a for a, b in zip(firsts, others, strict=True))


def rows(result: dict[str, Any]) -> list[list[str]]:
    """A row for everyone and everything that was timed."""
    found, clock, lines = result["found"], result["clock"], []
    first = next(iter(found.values()))
    for name in first["times"]:
        for who, one in found.items():
            if name not in one["times"]:
                continue
            times = one["times"][name]
            cells = [duration(times["cpu"]), duration(times["wall"])]
            compared = ratio(times[clock], first["times"][name][clock])
            times_first = "" if one is first else f"{compared:.2f}"
            peak = f"{one['peak_mib']:.0f}"
            timed = name + share(one["times"], name, clock)
            lines.append([result["case"], timed, who, *cells, times_first, peak])
    return lines


def share(times: Times, name: str, clock: str) -> str:
    """How much of the whole a part takes, if it is one."""
    if name == WHOLE or WHOLE not in times:
        return ""
    part, whole = (statistics.median(times[key][clock]) for key in (name, WHOLE))
    return f", {part / whole:.0%}"


def text(result: dict[str, Any]) -> str:
    """A plain table of one case."""
    table = align([COLUMNS[1:], *(row[1:] for row in rows(result))])
    return f"\n{result['title']}: {result['case']}\n{table}"


def markdown(results: Sequence[dict[str, Any]], about: str) -> str:
    """A table of each part, below what is said of the run."""
    parts: dict[str, list[list[str]]] = {}
    for result in results:
        parts.setdefault(result["title"], []).extend(rows(result))
    tables = (
        f"### {title}\n\n{Table(title, COLUMNS, lines).markdown()}"
        for title, lines in parts.items()
    )
    return "\n\n".join([about, *tables]) + "\n"


def write(args: argparse.Namespace, kept: list[dict[str, Any]], about: str) -> None:
    """What was found so far, as numbers and as tables."""
    path = Path(args.output)
    given = {name: value for name, value in vars(args).items() if name != "work"}
    atomic_write_json(path.with_suffix(".json"), {"args": given, "results": kept})
    atomic_write_text(path, markdown(kept, about))


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Measure; print and write the tables as they come."""
    args = build_parser().parse_args(argv)
    complete(args)
    about = measuring.machine(args.device)
    print(f"size {args.size}; {about}")
    for name, packages in PEERS.items():
        if not measuring.installed(*packages):
            print(f"{name}: not installed, left out.")
    shown = shlex.join(sys.argv[1:] if argv is None else argv)
    with tempfile.TemporaryDirectory() as args.work:
        kept = []
        for result in results(args):
            kept.append(result)
            print(text(result), flush=True)
            if args.output:
                write(args, kept, f"`{PROGRAM} {shown}`; {about}")


if __name__ == "__main__":
    main()
