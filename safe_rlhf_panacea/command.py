"""The console command ``panacea``: every program of this package by a short name.

``panacea NAME …`` is ``python -m MODULE …``, with all arguments as they are. Nothing of a program
is imported before it is asked for.
"""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from importlib.machinery import PathFinder
from typing import Any, NamedTuple

import click

import safe_rlhf_panacea
from safe_rlhf_panacea.errors import UserError, fail, tell_interruption

PACKAGE = "safe_rlhf_panacea"
# Heading: command, module below the package, what it does. A module that is not there (yet, or in
# this installation) has no command.
PROGRAMS = {
    "Train": {
        "dpo": ("algorithms.dpo", "Panacea with DPO, on pairs labelled per objective"),
        "ppo": ("algorithms.ppo", "Panacea with PPO, on prompts and a reward per objective"),
        "grpo": ("algorithms.grpo", "Panacea with GRPO: groups of answers in place of a critic"),
        "sft": ("algorithms.sft", "Panacea with supervised text per objective"),
        "finetune": ("base.finetune", "plain supervised fine-tuning, which makes the base model"),
        "reward": ("base.values.reward", "a reward model for one objective"),
        "rewarded-soups": ("baselines.rewarded_soups", "baseline: a model per objective, mixed"),
        "discrete-policies": ("baselines.discrete_policies", "baseline: a model per λ"),
        "fixed-scaling": ("baselines.fixed_scaling", "ablation: the scale s is not learnt"),
        "quickstart": ("miniature", "from nothing to two Pareto fronts, in minutes on a CPU"),
        "small": ("small", "a real chat model, trained for two rewards that are rules"),
        "world": ("miniature.world", "only the quickstart's corpus and untrained model"),
    },
    "Measure": {
        "agreement": ("evaluation.agreement", "how often each reward agrees with labelled pairs"),
        "calibrate": ("evaluation.calibrate", "mean and spread of each reward before training"),
        "evaluate": ("evaluation", "the front of a trained adapter over a grid of λ"),
        "compare": ("evaluation.compare", "the fronts of several runs side by side"),
        "dashboard": ("dashboard", "draw a run's page anew"),
    },
    "Use": {
        "respond": ("respond", "one answer per λ"),
        "chat": ("chat", "a conversation in the terminal, at any λ"),
        "serve": ("serve", "a server with OpenAI's interface, and a page with sliders"),
        "export": ("export", "for PEFT, llama.cpp, vLLM, or as a whole model"),
        "card": ("export.card", "write an adapter's model card"),
        "push": ("push", "upload an adapter to the Hugging Face hub"),
    },
    "Inspect": {
        "memory": ("memory", "what each card will hold in a training, before it is rented"),
        "datasets": ("data", "list the data sets, or what one holds"),
        "patches": ("patches", "what an installed Safe-RLHF needs on today's libraries"),
        "doctor": ("doctor", "what is installed and what is missing, for bug reports"),
    },
}


class Program(NamedTuple):
    """A command, and the module that ``python -m`` would run."""

    name: str
    module: str
    text: str


def programs(heading: str) -> Iterator[Program]:
    """The programs below a heading that are there."""
    for name, (module, text) in PROGRAMS[heading].items():
        if is_program(f"{PACKAGE}.{module}"):
            yield Program(name, f"{PACKAGE}.{module}", text)


def is_program(module: str) -> bool:
    """Whether ``python -m`` could run a module; none is imported, packages above it neither."""
    place: list[str] | None = safe_rlhf_panacea.__path__
    name = PACKAGE
    for part in module.split(".")[1:]:
        name = f"{name}.{part}"
        spec = None if place is None else PathFinder.find_spec(name, place)
        if spec is None:
            return False
        place = spec.submodule_search_locations
    return place is None or PathFinder.find_spec(f"{name}.__main__", place) is not None


class ProgramCommand(click.Command):
    """A command whose arguments are another parser's."""

    def __init__(self, program: Program) -> None:
        """Take its name and what it does."""
        super().__init__(program.name, help=program.text, add_help_option=False)
        self.program = program

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Leave them as they are, ``--`` and ``--help`` too."""
        ctx.args = list(args)
        return []

    def invoke(self, ctx: click.Context) -> tuple[str, list[str]]:
        """What to run, once click is done: its handlers are not for the program's errors."""
        return self.program.module, ctx.args

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        """Files, as a shell does by itself."""
        from click.shell_completion import CompletionItem

        return [CompletionItem(incomplete, type="file")]


class Programs(click.Group):
    """The commands, by heading."""

    def find(self) -> dict[str, Program]:
        """All that are there, by name."""
        return {program.name: program for heading in PROGRAMS for program in programs(heading)}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the table's order."""
        return list(self.find())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """One of them, or None."""
        program = self.find().get(cmd_name)
        return None if program is None else ProgramCommand(program)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Click's, with a suggestion where there is no such command."""
        names = self.list_commands(ctx)
        if args[0] not in names and not ctx.resilient_parsing:
            close = get_close_matches(args[0], names, n=1)
            hint = f"did you mean {close[0]}?" if close else "see panacea --help"
            raise UserError(f"there is no command {args[0]!r}: {hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """A section per heading."""
        for heading in PROGRAMS:
            if rows := [(program.name, program.text) for program in programs(heading)]:
                with formatter.section(heading):
                    formatter.write_dl(rows)


@click.group(
    cls=Programs,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="\b\npanacea COMMAND --help shows a program's flags, and which python -m it is.\n"
    'Completion: eval "$(_PANACEA_COMPLETE=bash_source panacea)" in a shell (or zsh_source).',
)
@click.version_option(safe_rlhf_panacea.__version__, message="safe-rlhf-panacea %(version)s")
def panacea() -> None:
    """One language model that holds the whole Pareto front of several objectives."""


def run(module: str, arguments: Sequence[str]) -> None:
    """What ``python -m MODULE ARGUMENTS`` does."""
    sys.argv = [module, *arguments]
    sys.excepthook = tell_interruption
    # `python -m` finds the user's own modules, such as a reward, in the current folder.
    here = os.getcwd()
    if sys.path[:1] != [here] and not getattr(sys.flags, "safe_path", False):
        sys.path.insert(0, here)
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program that the command line names."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        chosen = panacea.main(words or ["--help"], prog_name="panacea", standalone_mode=False)
    except (UserError, OSError) as error:
        fail(error)
    except click.ClickException as error:
        fail(UserError(f"{error.format_message()} (see panacea --help)"))
    if isinstance(chosen, tuple):
        run(*chosen)
    return 0
