"""Not measured: writes the folder of a model with random weights, and what its trainers load."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.sizes import MODELS

OBJECTIVES = ("helpful", "harmless")
SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<unk>")
WORDS = ("BEGINNING", "OF", "CONVERSATION", "USER", "ASSISTANT", ":", "red", "green", "blue")
# The benchmarks make their own batches; a trainer only wants some rows to begin with.
ROWS = [
    {
        "prompt": f"{word} red",
        "response_0": "green blue",
        "response_1": "blue green",
        "better_response_id": 0,
        "safer_response_id": 1,
        "is_response_0_safe": True,
        "is_response_1_safe": True,
        **{f"better_objective_{i}": 0 for i in range(16)},
    }
    for word in WORDS[-3:] * 32
]


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate((*SPECIAL_TOKENS, *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    pad, bos, eos, unk = SPECIAL_TOKENS
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=pad, bos_token=bos, eos_token=eos, unk_token=unk
    )


def make_model(name: str, device: str = "cpu") -> Any:
    """A causal language model of the table, with random weights; bfloat16 on an accelerator."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        **MODELS[name], max_position_embeddings=2048, pad_token_id=0, bos_token_id=1, eos_token_id=2
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = LlamaForCausalLM(config)
    return model if device == "cpu" else model.to(torch.bfloat16)


def folder_of(job: dict[str, Any]) -> Path:
    """Where a job finds its model."""
    return Path(job["work"]) / job["model"]


def prepare(job: dict[str, Any]) -> Callable[[Any], None]:
    """Write the model, data of the two forms and, if asked for, two reward models."""

    def write(_: Any) -> None:
        folder = folder_of(job)
        model, tokenizer = make_model(job["model"], job["device"]), _tokenizer()
        model.save_pretrained(folder / "base")
        tokenizer.save_pretrained(folder / "base")
        (folder / "pairs").mkdir()
        lines = "".join(json.dumps(row) + "\n" for row in ROWS)
        (folder / "pairs" / "train.jsonl").write_text(lines, encoding="utf-8")
        texts = [{"prompt": row["prompt"], "response": row["response_0"]} for row in ROWS]
        lines = "".join(json.dumps(row) + "\n" for row in texts)
        (folder / "texts.jsonl").write_text(lines, encoding="utf-8")
        for name in OBJECTIVES if job["rewards"] else ():
            _write_reward(folder, name)

    return write


def _write_reward(folder: Path, name: str) -> None:
    from safe_rlhf_panacea.models import AutoModelForScore, load_pretrained_models

    model, tokenizer = load_pretrained_models(
        str(folder / "base"),
        auto_model_type=AutoModelForScore,
        auto_model_kwargs={"score_type": "reward", "fresh_head": True},
    )
    model.save_pretrained(folder / name)
    tokenizer.save_pretrained(folder / name)
