"""A conversation with a trained adapter in the terminal, at a λ that may change between turns."""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Iterator, Sequence

from safe_rlhf_panacea.configs import Program, kinds, option
from safe_rlhf_panacea.configs.command_line import encodable
from safe_rlhf_panacea.configs.training import AnswerOptions, DeviceOptions
from safe_rlhf_panacea.errors import UserError, one_line_errors
from safe_rlhf_panacea.printing import printable, say
from safe_rlhf_panacea.records import read_examples

PROGRAM = "python -m safe_rlhf_panacea.chat"
HELP = """\
/λ 0.3,0.7 or /p helpful=0.3,harmless=0.7   another λ from here on
/new                                        forget what was said
/quit                                       leave, as Ctrl-D does
Ctrl-C ends an answer."""


class ChatOptions(AnswerOptions, DeviceOptions):
    """The options of this program."""

    preference: kinds.Vector | None = option(None, "λ (default: all objectives alike)")
    top_p: kinds.Share = option(1.0, "of sampling")


COMMAND = Program(
    ChatOptions,
    PROGRAM,
    f"Talk to a trained adapter. Between turns:\n\n{HELP}",
    f"{PROGRAM} --adapter runs/latest/panacea-ppo --preference helpful=0.3,harmless=0.7",
)


class Chat:
    """A conversation: what was said, and λ now."""

    def __init__(self, options: ChatOptions) -> None:
        import torch

        from safe_rlhf_panacea.adapter.io import read_config
        from safe_rlhf_panacea.preference import parse_preference
        from safe_rlhf_panacea.respond import load_model
        from safe_rlhf_panacea.serving.batch import longest
        from safe_rlhf_panacea.serving.engine import Engine, Limits
        from safe_rlhf_panacea.serving.jobs import Sampling

        config = read_config(options.adapter)
        if options.preference is None:
            self.preference = torch.full((config.pref_dim,), 1 / max(config.pref_dim, 1))
        elif config.pref_dim:
            self.preference = parse_preference(options.preference, config.names)  # size = (m,)
        else:
            raise UserError(f"{options.adapter} does not depend on λ: leave out --preference")
        self.options, self.examples = options, read_examples(options.adapter)
        self.model = load_model(options)
        limits = Limits(1, max_length=longest(self.model.model), timeout=float("inf"))
        self.engine = Engine(self.model, limits)
        # One stream of random numbers for the whole conversation.
        self.sampling = Sampling(options.temperature, options.top_p, options.seed)
        self.turns: list[str] = []  # the user's first

    def command(self, name: str, rest: str) -> None:
        """Do what a line beginning with ``/`` says, or refuse it with a ``UserError``."""
        from safe_rlhf_panacea.preference import parse_preference

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

    def answer(self, words: str) -> Iterator[str]:
        """The pieces of the answer to the next turn, which is then part of the conversation."""
        from safe_rlhf_panacea.serving.jobs import Job, Piece, TextStream

        template, most = self.model.template, self.engine.limits.max_length
        prompt = template.prompt_ids([*self.turns, words], self.options.system)
        if len(prompt) >= most:
            raise UserError(
                f"the conversation has {len(prompt)} tokens, and the model takes {most} with the "
                "answer: /new begins another"
            )
        pieces: queue.SimpleQueue[Piece] = queue.SimpleQueue()
        job = Job(
            prompt,
            self.preference,
            min(most - len(prompt), self.options.max_new_tokens),
            self.sampling,
            frozenset(template.stop_ids(self.model.model)),
            TextStream(self.model.tokenizer, strip=True),
            pieces.put,
        )
        self.engine.submit([job])
        piece, said = Piece(), []
        try:
            while not piece.is_last:
                piece = pieces.get()
                if piece.error is not None:
                    raise UserError(piece.error[1])
                said.append(piece.text)
                yield piece.text
        finally:
            self.engine.cancel([job])
        self.turns += [words, "".join(said)]


def _turn(chat: Chat, line: str) -> bool:
    """One line of the user's; whether the conversation goes on."""
    name, _, rest = line.partition(" ")
    try:
        if name in ("/quit", "/exit"):
            return False
        if line.startswith("/"):
            chat.command(name[1:], rest)
        elif line:
            for text in chat.answer(encodable(line)):
                print(printable(text), end="", flush=True)
            print()
    except UserError as error:
        say(f"error: {error}")
    except KeyboardInterrupt:
        say("\n(not kept)")
    return True


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Talk until the end of the input."""
    chat = Chat(COMMAND.read(argv))
    from safe_rlhf_panacea.preference import format_preference

    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  lets input() edit lines and remember them
    if chat.examples.note:
        say(chat.examples.note)
    if chat.examples.prompts:
        say("\n  ".join(["You could ask:", *chat.examples.prompts]))
    try:
        objectives = chat.model.adapter.objectives
        while _turn(chat, input(f"{format_preference(chat.preference, objectives)}> ").strip()):
            pass
    except EOFError:
        print()
    finally:
        chat.engine.close()


if __name__ == "__main__":
    main()
