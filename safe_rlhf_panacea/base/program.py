"""A training program: its command line, and the start of its trainer on whatever is underneath."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any, TypeVar

from safe_rlhf_panacea.base import backend
from safe_rlhf_panacea.configs.command_line import Program
from safe_rlhf_panacea.configs.training import TrainConfig
from safe_rlhf_panacea.errors import one_line_errors
from safe_rlhf_panacea.printing import say

DeepSpeedConfig = dict[str, Any]
AnyConfig = TypeVar("AnyConfig", bound=TrainConfig)


def prepare_run(args: Any, *, hooked: bool = True) -> tuple[DeepSpeedConfig, DeepSpeedConfig]:
    """Start the processes, seed, and say in one line which Safe-RLHF is underneath.

    Only a ``hooked`` trainer may stand on an installed Safe-RLHF; the others are the port's.
    Returns the training and evaluation configurations of DeepSpeed; a ``UserError`` names
    contradictory flags, or a folder that already holds a run.
    """
    theirs = hooked and backend().name == "safe_rlhf"
    name = "on_safe_rlhf.program" if theirs else "base.setup"
    configs = import_module(f"safe_rlhf_panacea.{name}").prepare_run(args)
    from safe_rlhf_panacea.distributed import is_main_process

    if hooked and is_main_process():
        say(str(backend()))
    return configs


class TrainingProgram(Program[AnyConfig]):
    """A command line that trains; torch is imported once the options are read.

    Args:
        cls: the class of its options.
        module: what ``python -m`` runs.
        description: what it does, for ``--help``.
        example: the flags of a call, in lines.
        trainer: module and class, with ``:`` between them.
        hooked: the algorithm whose flags ``on_safe_rlhf`` reads where Safe-RLHF is underneath.
    """

    def __init__(
        self,
        cls: type[AnyConfig],
        module: str,
        description: str,
        example: str,
        *,
        trainer: str,
        hooked: str | None = None,
    ) -> None:
        lines = [f"python -m {module}", *(line.strip() for line in example.splitlines())]
        super().__init__(cls, lines[0], description, " \\\n  ".join(lines))
        self.trainer, self.hooked = trainer, hooked

    def parse_arguments(self, argv: Sequence[str] | None = None) -> Any:
        """Read and check the options: this program's, or Safe-RLHF's own where it is underneath."""
        if self.hooked is not None and backend().name == "safe_rlhf":
            theirs = import_module("safe_rlhf_panacea.on_safe_rlhf.program")
            return getattr(theirs, f"parse_{self.hooked}")(argv)
        return self.read(argv).resolved()

    def make_trainer(self, args: Any) -> Any:
        """The trainer, with its models and data loaded and its folder claimed."""
        module, _, name = self.trainer.partition(":")
        trainer = getattr(import_module(module), name)
        return trainer(args, *prepare_run(args, hooked=self.hooked is not None))

    def train(self, args: Any) -> None:
        """Train as the options say, and save to their ``output_dir``."""
        trainer = self.make_trainer(args)
        from safe_rlhf_panacea.base.setup import run_to_end

        run_to_end(trainer)

    @one_line_errors
    def main(self, argv: Sequence[str] | None = None) -> None:
        """Train as the command line says."""
        self.train(self.parse_arguments(argv))
