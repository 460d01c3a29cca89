"""The console command ``panacea``: every program of this package by a short name.

``panacea NAME …`` is ``python -m MODULE …``, with all arguments as they are. Nothing of a program
is imported before it is asked for.
"""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Sequence
from typing import Any

import click
from click.shell_completion import CompletionItem

from safe_rlhf_panacea import __version__
from safe_rlhf_panacea.errors import UserError, fail, tell_interruption
from safe_rlhf_panacea.printing import suggestion

PACKAGE = "safe_rlhf_panacea"
# Heading: command, module below the package, what it does.
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
ALL = {name: row for rows in PROGRAMS.values() for name, row in rows.items()}


class Program(click.Command):
    """A command that another module runs, as ``python -m`` would, with another parser."""

    def __init__(self, name: str, module: str, text: str) -> None:
        """``text`` says what it does."""
        super().__init__(name, help=text, add_help_option=False)
        self.module, self.text = module, text

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Leave the arguments as they are, ``--`` and ``--help`` too."""
        ctx.args = list(args)
        return []

    def invoke(self, ctx: click.Context) -> tuple[str, list[str]]:
        """What to run, once click is done: its handlers are not for the program's errors."""
        return self.module, ctx.args

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        """Files, as a shell does by itself."""
        return [CompletionItem(incomplete, type="file")]


def programs(heading: str) -> list[Program]:
    """The programs below a heading."""
    rows = PROGRAMS[heading].items()
    return [Program(name, f"{PACKAGE}.{module}", text) for name, (module, text) in rows]


class Programs(click.Group):
    """The commands, by heading."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the table's order."""
        return list(self.commands)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Click's; a module's name stands for its command, and a wrong one gets a suggestion."""
        known = {name: name for name in self.commands}
        known |= {module: name for name, (module, _) in ALL.items() if module not in known}
        if args[0] not in known and not ctx.resilient_parsing:
            hint = suggestion(args[0], self.commands) or ": see panacea --help"
            raise UserError(f"there is no command {args[0]!r}{hint}")
        return super().resolve_command(ctx, [known.get(args[0], args[0]), *args[1:]])

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """A section per heading."""
        for heading in PROGRAMS:
            with formatter.section(heading):
                formatter.write_dl([(one.name or "", one.text) for one in programs(heading)])


@click.group(
    cls=Programs,
    commands=[program for heading in PROGRAMS for program in programs(heading)],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="\b\npanacea COMMAND --help shows a program's flags, and which python -m it is.\n"
    'Completion: eval "$(_PANACEA_COMPLETE=bash_source panacea)" in a shell (or zsh_source).',
)
@click.version_option(__version__, message="safe-rlhf-panacea %(version)s")
def panacea() -> None:
    """One language model that holds the whole Pareto front of several objectives."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program that the command line names, as ``python -m MODULE ARGUMENTS`` does."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        chosen = panacea.main(words or ["--help"], prog_name="panacea", standalone_mode=False)
    except (UserError, OSError) as error:
        fail(error)
    except click.ClickException as error:
        fail(UserError(f"{error.format_message()} (see panacea --help)"))
    if isinstance(chosen, tuple):
        module, arguments = chosen
        sys.argv = [module, *arguments]
        sys.excepthook = tell_interruption
        # `python -m` finds the user's own modules, such as a reward, in the current folder.
        here = os.getcwd()
        if sys.path[:1] != [here] and not getattr(sys.flags, "safe_path", False):
            sys.path.insert(0, here)
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    return 0
