"""Upload a trained adapter to the Hugging Face hub: its files, its card, and nothing local.

That is ``FILES`` and the pictures that the card shows, without absolute paths or the environment.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from safe_rlhf_panacea.configs import Program, kinds, option
from safe_rlhf_panacea.configs.training import TrainedAdapterOptions
from safe_rlhf_panacea.errors import UserError, one_line_errors
from safe_rlhf_panacea.export.card import CARD_FILE, hub_name, portable, portable_record, write_card
from safe_rlhf_panacea.hub import HUB_NAME
from safe_rlhf_panacea.io import atomic_write_json, read_json
from safe_rlhf_panacea.printing import printable_line, say
from safe_rlhf_panacea.records import EXAMPLES_FILE
from safe_rlhf_panacea.runs.run_folder import RESULTS_FILE, RUN_FILE, read_record

PROGRAM = "python -m safe_rlhf_panacea.push"
TOKENIZER_CONFIG = "tokenizer_config.json"
FILES = (  # besides the adapter's own, and its front
    *(CARD_FILE, RESULTS_FILE, RUN_FILE, EXAMPLES_FILE),
    *(TOKENIZER_CONFIG, "tokenizer.json", "tokenizer.model", "special_tokens_map.json"),
    *("added_tokens.json", "vocab.json", "merges.txt", "chat_template.jinja"),
)
# Whose errors say that the hub, or the way to it, is not as it must be.
LIBRARIES = ("huggingface_hub", "httpx", "httpx2", "httpcore", "requests", "urllib3")


@contextmanager
def staged(
    adapter: str | Path, repo: str, *, base_model: str | None = None, front: str | None = None
) -> Iterator[Path]:
    """A folder with what goes up; a card is written where the adapter has none."""
    from safe_rlhf_panacea.adapter.io import CONFIG_NAME, WEIGHTS_NAME, read_config, read_tensors
    from safe_rlhf_panacea.fronts.result import FRONT_FILE

    adapter = Path(adapter)
    named = base_model or read_config(adapter).base_model
    if (base := hub_name(named)) is None:
        raise UserError(
            f"the base model {named!r} is a folder of this machine, which nobody else has: give "
            "its name on the hub with --base_model"
        )
    read_tensors(adapter)
    card = adapter / CARD_FILE
    text = card.read_text("utf-8", "replace") if card.is_file() and not card.is_symlink() else ""
    pictures = re.findall(r"[^\s()<>\[\]\"'/]+\.png", text)
    names = {*FILES, CONFIG_NAME, WEIGHTS_NAME, FRONT_FILE, *pictures}
    found = [path for path in sorted(adapter.iterdir()) if path.name in names]
    for path in found:
        if path.is_symlink():  # whose target may be anything of this machine
            raise UserError(f"{path} is a link: only files that lie in the folder itself go up")
    with tempfile.TemporaryDirectory(prefix="panacea-push-") as name:
        folder = Path(name)
        for path in filter(Path.is_file, found):
            if path.name in (FRONT_FILE, RESULTS_FILE):
                atomic_write_json(folder / path.name, portable(read_json(path)))
            elif path.name == RUN_FILE:
                atomic_write_json(folder / RUN_FILE, portable_record(read_record(path)))
            elif path.name == CONFIG_NAME:
                config = {**read_json(path), "base_model": base}
                atomic_write_json(folder / CONFIG_NAME, config)
            else:
                shutil.copyfile(path, folder / path.name)
        if (folder / TOKENIZER_CONFIG).is_file():
            values = read_json(folder / TOKENIZER_CONFIG, infinities=True)
            if isinstance(values, dict) and values.pop("name_or_path", None) is not None:
                text = json.dumps(values, indent=2, ensure_ascii=False)
                (folder / TOKENIZER_CONFIG).write_text(text + "\n", encoding="utf-8")
        if not (folder / CARD_FILE).exists():
            title = repo.rpartition("/")[2]
            write_card(adapter, folder, front=front, base_model=base, name=title, repo=repo)
        elif front:
            raise UserError(f"{card} is there already: --front is for a new card")
        yield folder


@contextmanager
def hub_errors(repo: str) -> Iterator[None]:
    """Tell in one line what the hub, or the way to it, refuses."""
    try:
        yield
    except Exception as error:
        name, library = type(error).__name__, type(error).__module__.partition(".")[0]
        if library not in LIBRARIES and not isinstance(error, ConnectionError | TimeoutError):
            raise
        no_way = "the hub cannot be reached: " if re.search("Connect|Timeout", name) else ""
        text = (printable_line(error) or name)[:300]
        raise UserError(f"{repo} was not uploaded: {no_way}{text}") from error


def push_to_hub(
    adapter: str | Path,
    repo: str,
    *,
    public: bool = False,
    base_model: str | None = None,
    front: str | None = None,
    message: str = "A Panacea adapter",
) -> str:
    """Upload a trained adapter in one commit; returns the repository's address.

    ``repo`` is ``OWNER/NAME``, made if it is not there, private unless ``public``. ``base_model``
    is a name on the hub, by default the one that the adapter names. ``front`` is an evaluation
    for the card, where the adapter has none yet. A ``UserError`` says what the hub, or an adapter
    that is missing or damaged, does not allow.
    """
    import huggingface_hub as hub

    with staged(adapter, repo, base_model=base_model, front=front) as folder, hub_errors(repo):
        token = hub.get_token()
        if token is None:
            raise UserError("no token of the hub: set HF_TOKEN, or log in with 'hf auth login'")
        api = hub.HfApi(token=token)
        url = api.create_repo(repo, private=not public, exist_ok=True)
        if not public and api.model_info(repo).private is False:
            raise UserError(f"{repo} is there already, and public: give --public to upload")
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message=message)
    return str(url)


def repo_name(value: Any) -> str:
    """The name of a repository on the hub."""
    text = kinds.text(value)
    if not HUB_NAME.fullmatch(text) or "/" not in text:
        raise UserError(f"{text!r} is not of the form OWNER/NAME")
    return text


class PushOptions(TrainedAdapterOptions):
    """Upload a trained adapter to the Hugging Face hub, with a model card.

    The repository is private, unless --public. Checkpoints, logs and absolute paths stay here.
    """

    repo: Annotated[str, repo_name, "OWNER/NAME"] = option(text="made if need be", required=True)
    public: bool = option(False, "make the repository public, or upload to a public one")
    front: str | None = option(
        text="an evaluation for the card, where the folder has none yet", metavar="RUN"
    )
    message: str = option("A Panacea adapter", "of the commit")
    dry_run: bool = option(False, "upload nothing; list what would go up")


COMMAND = Program(
    PushOptions,
    PROGRAM,
    example=f"{PROGRAM} --adapter runs/latest/panacea-ppo --repo me/panacea-helpful-harmless",
)


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Upload, or list what would be."""
    args = COMMAND.read(argv)
    card: dict[str, Any] = {"base_model": args.base_model, "front": args.front}
    if args.dry_run:
        with staged(args.adapter, args.repo, **card) as folder:
            for path in sorted(folder.iterdir()):
                say(f"{path.stat().st_size:>12,}  {path.name}")
        return
    url = push_to_hub(args.adapter, args.repo, public=args.public, message=args.message, **card)
    say(f"Uploaded to {url}")


if __name__ == "__main__":
    main()
