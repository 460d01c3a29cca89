"""A conversation with a trained adapter in the terminal, at a λ that may change between turns."""

from __future__ import annotations

import contextlib
import queue
from argparse import ArgumentTypeError
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch

from safe_rlhf_panacea.adapter.io import read_config
from safe_rlhf_panacea.configs import Program, configuration, kinds, option
from safe_rlhf_panacea.configs.command_line import encodable
from safe_rlhf_panacea.configs.training import AnswerOptions, DeviceOptions
from safe_rlhf_panacea.errors import UserError, one_line_errors
from safe_rlhf_panacea.preference import PreferenceError, format_preference, parse_preference
from safe_rlhf_panacea.printing import printable, say
from safe_rlhf_panacea.records import read_examples
from safe_rlhf_panacea.respond import PanaceaModel
from safe_rlhf_panacea.serving.choosing import Sampling
from safe_rlhf_panacea.serving.engine import Engine, Limits
from safe_rlhf_panacea.serving.jobs import Job, Piece
from safe_rlhf_panacea.serving.main import load_model, longest
from safe_rlhf_panacea.serving.text import TextStream

PROGRAM = "python -m safe_rlhf_panacea.chat"
HELP = """\
/λ 0.3,0.7 or /p helpful=0.3,harmless=0.7   another λ from here on
/new                                        forget what was said
/quit                                       leave, as Ctrl-D does
Ctrl-C ends an answer."""


@configuration
class ChatOptions(AnswerOptions, DeviceOptions):
    """The options of this program."""

    preference: str | None = option(
        text="λ (default: all objectives alike)", kind=kinds.preference, metavar="VECTOR"
    )
    top_p: float = option(1.0, "of sampling", kind=kinds.share)


COMMAND = Program(
    ChatOptions,
    PROGRAM,
    f"Talk to a trained adapter. Between turns:\n\n{HELP}",
    f"{PROGRAM} --adapter runs/latest/panacea-ppo --preference helpful=0.3,harmless=0.7",
)


def first_preference(adapter: str, given: str | None) -> torch.Tensor:
    """λ at the beginning, size = (m,); empty where the adapter does not depend on it.

    Raises:
        UserError, AdapterError, PreferenceError: λ or the adapter's folder is none.
    """
    config = read_config(adapter)
    if config.pref_dim == 0 and given is not None:
        raise UserError(f"{adapter} does not depend on λ: leave out --preference")
    if given is None:
        return torch.full((config.pref_dim,), 1 / max(config.pref_dim, 1))
    return parse_preference(given, config.names)


@dataclass
class Chat:
    """A conversation.

    Attributes:
        model: that answers.
        engine: its only row.
        options: how answers are drawn.
        preference: λ now, size = (m,).
        turns: what was said, the user's first.
    """

    model: PanaceaModel
    engine: Engine
    options: ChatOptions
    preference: torch.Tensor
    turns: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """One stream of random numbers for the whole conversation."""
        self.sampling = Sampling(self.options.temperature, self.options.top_p, self.options.seed)

    @property
    def label(self) -> str:
        """λ, as the line to type on shows it."""
        return format_preference(self.preference, self.model.adapter.objectives)

    def command(self, line: str) -> bool:
        """Do what a line beginning with ``/`` says; whether the conversation goes on.

        Raises:
            UserError, PreferenceError: there is no such command, or no such λ.
        """
        name, _, rest = line[1:].partition(" ")
        if name in ("quit", "exit"):
            return False
        if name in ("λ", "p", "preference"):
            if not self.model.adapter.pref_dim:
                raise UserError("the adapter does not depend on λ")
            self.preference = parse_preference(rest, self.model.adapter.objectives)
        elif name == "new":
            self.turns.clear()
        elif name == "help":
            say(HELP)
        else:
            raise UserError(f"there is no /{name}: see /help")
        return True

    def answer(self, words: str) -> Iterator[str]:
        """The pieces of the answer to the next turn, which is then part of the conversation.

        Raises:
            UserError: the conversation has become too long, or the template cannot write it.
        """
        prompt = self.model.template.prompt_ids([*self.turns, words], self.options.system)
        room = self.engine.limits.max_length - len(prompt)
        if room < 1:
            raise UserError(
                f"the conversation has {len(prompt)} tokens, and the model takes "
                f"{self.engine.limits.max_length} with the answer: /new begins another"
            )
        pieces: queue.SimpleQueue[Piece] = queue.SimpleQueue()
        job = Job(
            prompt,
            self.preference,
            min(room, self.options.max_new_tokens),
            self.sampling,
            frozenset(self.model.template.stop_ids(self.model.model)),
            TextStream(self.model.tokenizer, strip=True),
            pieces.put,
        )
        self.engine.submit([job])
        said = []
        try:
            while True:
                piece = pieces.get()
                if piece.error is not None:
                    raise UserError(piece.error[1])
                said.append(piece.text)
                yield piece.text
                if piece.is_last:
                    break
        finally:
            self.engine.cancel([job])
        self.turns += [words, "".join(said)]


def _turn(chat: Chat, line: str) -> bool:
    """One line of the user's; whether the conversation goes on."""
    try:
        if line.startswith("/"):
            return chat.command(line)
        for text in chat.answer(encodable(line)):
            print(printable(text), end="", flush=True)
        print()
    except (UserError, PreferenceError, ArgumentTypeError) as error:
        say(f"error: {error}")
    except KeyboardInterrupt:
        say("\n(not kept)")
    return True


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Talk until the end of the input."""
    args = COMMAND.read(argv)
    preference = first_preference(args.adapter, args.preference)
    examples = read_examples(args.adapter)
    model = load_model(args)
    limits = Limits(max_rows=1, max_length=longest(model, None), timeout=float("inf"))
    chat = Chat(model, Engine(model, limits), args, preference)
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  lets input() edit lines and remember them
    if examples.note:
        say(examples.note)
    if examples.prompts:
        say("\n  ".join(["You could ask:", *examples.prompts]))
    try:
        going = True
        while going:
            line = input(f"{chat.label}> ").strip()
            going = _turn(chat, line) if line else True
    except EOFError:
        print()
    finally:
        chat.engine.close()


if __name__ == "__main__":
    main()
