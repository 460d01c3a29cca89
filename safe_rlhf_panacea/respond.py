"""Answers of a trained adapter at any λ: ``python -m safe_rlhf_panacea.respond``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safe_rlhf_panacea.configs import Program, kinds, option
from safe_rlhf_panacea.configs.training import AnswerOptions, DeviceOptions, LoadingOptions
from safe_rlhf_panacea.errors import UserError, one_line_errors
from safe_rlhf_panacea.printing import say

if TYPE_CHECKING:
    from safe_rlhf_panacea.adapter import PanaceaAdapter
    from safe_rlhf_panacea.data import ChatTemplate
    from safe_rlhf_panacea.data.template import Turns
    from safe_rlhf_panacea.preference import Preference

PROGRAM = "python -m safe_rlhf_panacea.respond"


class RespondOptions(AnswerOptions, LoadingOptions):
    """Answer a prompt with a trained adapter at one or several preference vectors."""

    prompt: str = option(text="the user's words", positional=True, required=True)
    preference: tuple[kinds.Vector, ...] = option((), "λ; repeat", required=True, repeat=True)


COMMAND = Program(
    RespondOptions,
    PROGRAM,
    example=f"""
    {PROGRAM} --adapter runs/latest/panacea-ppo --preference helpful=1,harmless=0 \\
      --preference helpful=0,harmless=1 "How do I pick a door lock?"
    """,
)


@dataclass(repr=False)
class PanaceaModel:
    """A base model with its adapter, ready to answer at any preference vector.

    Examples:
        >>> model = PanaceaModel.load("runs/latest/panacea-ppo")  # doctest: +SKIP
        >>> model.respond("How do I pick a door lock?", "0.3,0.7")  # doctest: +SKIP
    """

    model: Any
    adapter: PanaceaAdapter
    tokenizer: Any
    template: ChatTemplate

    def __repr__(self) -> str:
        named = self.adapter.objectives  # without layers
        return f"PanaceaModel({type(self.model).__name__}, objectives={named})"

    @classmethod
    def load(
        cls,
        adapter: str | Path,
        base_model: str | None = None,
        *,
        chat_template: str | None = None,
        trust_remote_code: bool = False,
    ) -> PanaceaModel:
        """Load an adapter's folder and the base model that it names.

        ``base_model`` is another place of the base model, ``chat_template`` another one than the
        adapter was trained with: ``auto``, ``safe-rlhf``, ``none`` or a jinja file.
        ``trust_remote_code`` runs code that comes with the base model.

        Raises:
            UserError: the folder names no base model, or the base is not there.
            AdapterError: the adapter's files are missing, truncated or of another model.
        """
        from safe_rlhf_panacea.adapter import load_adapter

        remote = {"trust_remote_code": trust_remote_code}
        model, tokenizer, template = _load_base(adapter, base_model, chat_template, **remote)
        return cls(model, load_adapter(model, adapter), tokenizer, template)

    @classmethod
    def load_soup(
        cls, folders: Mapping[str, str | Path], base_model: str | None = None, **options: Any
    ) -> PanaceaModel:
        """Load Rewarded Soups: single-objective adapters whose weights λ interpolates.

        ``folders`` are an adapter's for each objective, in the order of λ; the rest is as for
        ``load``. Ingredients that do not go together, or none, are refused too.
        """
        from safe_rlhf_panacea.adapter import load_soup

        if not folders:
            raise UserError("a soup needs the adapter of at least one objective")
        paths = list(folders.values())
        model, tokenizer, template = _load_base(paths[0], base_model, **options)
        return cls(model, load_soup(model, paths, list(folders)), tokenizer, template)

    def respond(
        self,
        prompt: Turns | Sequence[Mapping[str, Any]],
        preference: Preference,
        *,
        system: str | None = None,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        seed: int | None = None,
    ) -> str:
        """One answer at λ.

        Args:
            prompt: the user's words, without any template, or the turns of a conversation, which
                alternate user, assistant, ..., user: as texts, or as messages,
                ``{"role": "user", "content": ...}``, of which the first may be the system's.
            preference: ``{"helpful": 0.3, "harmless": 0.7}``, ``"helpful=0.3,harmless=0.7"``,
                ``[0.3, 0.7]`` or a tensor, size = (m,).
            system: the system prompt.
            max_new_tokens: longest answer.
            temperature: of sampling; 0 always takes the likeliest token.
            seed: of sampling; None draws anew each time.

        Raises:
            UserError: λ is off the simplex or names an unknown objective; the template has no place
                for a system prompt, or for several turns; turns that do not alternate; or an option
                of sampling out of its range.
        """
        import torch

        from safe_rlhf_panacea.forward import SamplingConfig, generate
        from safe_rlhf_panacea.models.loading import check_positions
        from safe_rlhf_panacea.preference import parse_preference

        _ = AnswerOptions(max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)
        turns, system = _conversation(prompt, system)
        if self.adapter.pref_dim and self.adapter.objectives:
            preference = parse_preference(preference, self.adapter.objectives)
        self.adapter.set_preference(preference)
        ids = torch.tensor([self.template.prompt_ids(turns, system)])  # size = (1, S)
        length = ids.size(1) + max_new_tokens
        what = f"a prompt of {ids.size(1)} tokens with --max_new_tokens {max_new_tokens}"
        check_positions(self.model, length, "the model", what)
        config = SamplingConfig(
            max_length=length,
            eos_token_id=self.template.stop_ids(self.model),
            pad_token_id=self.tokenizer.pad_token_id,
            temperature=temperature,
        )
        ids = ids.to(next(self.model.parameters()).device)
        generator = None
        if seed is not None:
            generator = torch.Generator(device=ids.device).manual_seed(seed)
        tokens, _ = generate(self.model, ids, torch.ones_like(ids).bool(), config, generator)
        return self.tokenizer.decode(tokens[0, ids.size(1) :], skip_special_tokens=True).strip()


def _conversation(turns: Any, system: str | None) -> tuple[Turns, str | None]:
    """The turns, user first, and the system prompt, of messages too."""
    from safe_rlhf_panacea.data.formats import in_turn, said
    from safe_rlhf_panacea.data.raw import LeaveOut

    texts = isinstance(turns, list | tuple) and all(isinstance(turn, str) for turn in turns)
    if isinstance(turns, str) or texts:
        return turns, system
    try:
        conversation = in_turn(said(turns, "the prompt"), system)
    except LeaveOut as error:
        raise UserError(f"the prompt: {error}") from None
    return conversation.turns, conversation.system or None


def _load_base(
    adapter: str | Path,
    base_model: str | None,
    chat_template: str | None = None,
    *,
    trust_remote_code: bool = False,
) -> tuple[Any, Any, ChatTemplate]:
    """The base model under an adapter, its tokenizer, and the adapter's template."""
    from safe_rlhf_panacea.adapter.io import read_config
    from safe_rlhf_panacea.data import ChatTemplate
    from safe_rlhf_panacea.models import load_pretrained_models
    from safe_rlhf_panacea.models.adapted import base_of

    config = read_config(adapter)
    with base_of(adapter, config.base_model, base_model) as base:
        model, tokenizer = load_pretrained_models(
            base, None, padding_side="left", trust_remote_code=trust_remote_code
        )
    template = ChatTemplate.chosen(chat_template, config.chat_template, tokenizer)
    return model.eval(), tokenizer, template


def load_model(args: LoadingOptions) -> PanaceaModel:
    """The model that a program's options name, where ``DeviceOptions`` want it."""
    import torch

    model = PanaceaModel.load(
        args.adapter,
        args.base_model,
        chat_template=args.chat_template,
        trust_remote_code=args.trust_remote_code,
    )
    if isinstance(args, DeviceOptions):
        device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
        dtype = None if args.dtype == "auto" else getattr(torch, args.dtype)
        try:
            model.model.to(torch.device(device), dtype)
        except (RuntimeError, AssertionError) as error:
            raise UserError(f"--device {device}: {str(error).splitlines()[0]}") from None
    return model


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Answer and print."""
    args = COMMAND.read(argv)
    from safe_rlhf_panacea.preference import format_preference, parse_preference

    model = load_model(args)
    names = ("system", "max_new_tokens", "temperature", "seed")
    options = {name: getattr(args, name) for name in names}
    for preference in args.preference:
        answer = model.respond(args.prompt, preference, **options)
        vector = parse_preference(preference, model.adapter.objectives)
        say(f"[{format_preference(vector, model.adapter.objectives)}]\n{answer}\n")


if __name__ == "__main__":
    main()
