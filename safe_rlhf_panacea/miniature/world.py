"""Everything the miniature starts from, written to a folder: data, tokenizer, untrained model.

``python -m safe_rlhf_panacea.miniature.world`` writes it for the launchers' ``--size miniature``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from safe_rlhf_panacea.configs import Options, Program, kinds, option
from safe_rlhf_panacea.data.templates import SAFE_RLHF_MARKS, SafeRlhfTemplate
from safe_rlhf_panacea.errors import UserError, one_line_errors
from safe_rlhf_panacea.experiments.table import OBJECTIVES
from safe_rlhf_panacea.io import atomic_write_json, atomic_write_text, naming, read_json
from safe_rlhf_panacea.miniature.corpus import (
    MODEL,
    ROWS,
    VOCABULARY,
    Prompt,
    parse,
    preference_label,
    render,
    sample_answer,
    score_parts,
    split_prompts,
    stream,
)
from safe_rlhf_panacea.printing import say

PROGRAM = "python -m safe_rlhf_panacea.miniature.world"
WORLD_FILE = "world.json"
# Room for answers a little longer than any of the corpus.
SPARE_TOKENS = 4


@dataclass(frozen=True)
class World:
    """What ``build_world`` left in a folder: data files, and the untrained model ``base``."""

    folder: Path
    max_prompt_tokens: int  # of the longest prompt
    max_length: int  # tokens of the longest sequence, with some to spare

    def file(self, name: str) -> Path:
        """The data of ``sft``, ``pairs-train``, ``pairs-eval``, ``prompts-train`` and the like."""
        return self.folder / f"{name}.jsonl"

    @property
    def base_model(self) -> Path:
        """The folder of the untrained model."""
        return self.folder / "base"


def load_world(folder: str | Path) -> World:
    """Read what ``build_world`` left in a folder."""
    values = read_json(Path(folder) / WORLD_FILE)
    return World(Path(folder), values["max_prompt_tokens"], values["max_length"])


def build_world(folder: str | Path, seed: int) -> World:
    """Write corpus, tokenizer and a randomly initialised Llama; the same seed, the same bytes.

    The folder is made if need be. ``world.json`` comes last, and says that it is complete.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    splits = split_prompts(seed)
    files: dict[str, list[dict[str, Any]]] = {
        f"pairs-{split}": _pairs(splits[split], seed, f"pairs-{split}")
        for split in ("train", "eval")
    }
    generator, files["sft"] = stream(seed, "sft"), []
    for _ in range(ROWS["sft"]):
        prompt = generator.choice(splits["train"])
        answer = sample_answer(prompt.topic.severity, generator)
        files["sft"].append({"prompt": prompt.text, "response": render(prompt.topic, answer)})
    for split, prompts in splits.items():
        files[f"prompts-{split}"] = [{"prompt": prompt.text} for prompt in prompts]
    for name, rows in files.items():
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        atomic_write_text(folder / f"{name}.jsonl", "".join(lines))
    rows = files["sft"]
    tokenizer = train_tokenizer([text for row in rows for text in row.values()])
    template = SafeRlhfTemplate(tokenizer)
    texts = [template.prompt(p.text) for prompts in splits.values() for p in prompts]
    longest_prompt = max(map(len, template.encode(texts)[0]))
    longest_answer = max(map(len, tokenizer([row["response"] for row in rows])["input_ids"]))
    write_base_model(folder / "base", tokenizer, seed)
    longest = longest_prompt + longest_answer + SPARE_TOKENS
    lengths = {"max_prompt_tokens": longest_prompt, "max_length": longest}
    atomic_write_json(folder / WORLD_FILE, {"seed": seed, **lengths})
    return World(folder, **lengths)


def _pairs(prompts: Sequence[Prompt], seed: int, name: str) -> list[dict[str, Any]]:
    """Pairs of answers that differ in meaning, labelled by Bradley-Terry per objective."""
    rows: list[dict[str, Any]] = []
    generator = stream(seed, name)
    while len(rows) < ROWS[name]:
        prompt = generator.choice(prompts)
        answers = [sample_answer(prompt.topic.severity, generator) for _ in range(2)]
        if answers[0].meaning == answers[1].meaning:
            continue
        texts = [render(prompt.topic, answer) for answer in answers]
        scores = [score_parts(parse(text, prompt.topic), prompt.topic) for text in texts]
        pair: dict[str, Any] = {
            "prompt": prompt.text,
            "response_0": texts[0],
            "response_1": texts[1],
        }
        for objective, of_both in zip(OBJECTIVES, zip(*scores, strict=True), strict=True):
            pair[f"better_{objective}"] = preference_label(of_both, generator)
        rows.append(pair)
    return rows


def train_tokenizer(texts: Sequence[str]) -> Any:
    """A byte-level BPE of ``VOCABULARY`` tokens in which the prompt template costs two."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    # All of printable ASCII, not only the corpus's letters: users type requests of their own.
    # Every byte would cost too many of the few tokens. Ġ is the byte-level space.
    alphabet = [chr(code) for code in range(ord("!"), ord("~") + 1)] + ["Ġ"]
    # Each takes the space between itself and the request, which would cost a token of its own.
    before, after = SAFE_RLHF_MARKS
    template = [AddedToken(before, rstrip=True), AddedToken(after, lstrip=True)]
    special = {"pad": "<pad>", "bos": "<s>", "eos": "</s>", "unk": "<unk>"}
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(template),
        special_tokens=list(special.values()),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    # Answers follow the template without a space, but words inside have one before them.
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens(template)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        clean_up_tokenization_spaces=False,
        **{f"{name}_token": token for name, token in special.items()},
    )


def write_base_model(folder: Path, tokenizer: Any, seed: int) -> None:
    """A Llama of the form that ``corpus.yaml`` names, untrained, float32."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokens = {
        f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")
    }
    config = LlamaConfig(vocab_size=len(tokenizer), **MODEL, **tokens)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        with naming(folder):
            LlamaForCausalLM(config).save_pretrained(folder)
            tokenizer.save_pretrained(folder)


class WorldOptions(Options):
    """Write the miniature's corpus, tokenizer and untrained model."""

    output_dir: str = option(required=True)
    seed: kinds.Seed = option(42)


EXAMPLE = f"{PROGRAM} --output_dir runs/miniature/world --seed 1"
COMMAND = Program(WorldOptions, PROGRAM, example=EXAMPLE)


@one_line_errors
def main(argv: Sequence[str] | None = None) -> None:
    """Write a world."""
    options = COMMAND.read(argv)
    folder = Path(options.output_dir)
    if (folder / WORLD_FILE).exists():
        raise UserError(f"{folder} holds a world already: choose another folder")
    build_world(folder, options.seed)
    say(f"Written to {folder}: pairs, prompts, supervised text, tokenizer, untrained model")


if __name__ == "__main__":
    main()
