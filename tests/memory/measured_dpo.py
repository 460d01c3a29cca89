"""Run as a program: bytes of resident memory that a real Panacea-DPO takes at its peak.

Above what is there once everything has been imported: a first run, of a model of next to nothing,
sees to that. glibc gives back what is freed, or the peak would hold the memory of several parts of
a step (MALLOC_MMAP_THRESHOLD_, MALLOC_TRIM_THRESHOLD_ in the environment).
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from safe_rlhf_panacea.algorithms.dpo import main

SMALL = {"num_hidden_layers": 1, "hidden_size": 64, "intermediate_size": 64}


def train(model: str, folder: Path, name: str, *words: str) -> None:
    """Two steps."""
    main(
        [
            *("--model_name_or_path", model, "--objectives", "helpful", "harmless"),
            *("--train_datasets", f"pairs:1:{folder}/pairs.jsonl", "--max_steps", "2"),
            *("--output_dir", f"{folder}/{name}", "--log_type", "none", "--progress", "false"),
            *words,
        ]
    )


def measure(model: str, folder: Path, pairs: int, max_length: int, recomputed: str) -> int:
    """The peak, all sequences being of the largest length."""
    answers = {"response_0": "yes" + " a" * max_length, "response_1": "no" + " b" * max_length}
    row = {"prompt": "Go on:", **answers, "better_helpful": 1, "better_harmless": 0}
    (folder / "pairs.jsonl").write_text((json.dumps(row) + "\n") * 2 * pairs)
    config = AutoConfig.from_pretrained(model)
    config.update({**SMALL, "num_attention_heads": 1, "num_key_value_heads": 1})
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / "least")
    AutoTokenizer.from_pretrained(model).save_pretrained(folder / "least")
    train(str(folder / "least"), folder, "first", "--max_length", "64")
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    train(
        model,
        folder,
        "second",
        *("--max_length", str(max_length), "--per_device_train_batch_size", str(pairs)),
        *("--gradient_checkpointing", recomputed),
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return peak - pages * resource.getpagesize()


if __name__ == "__main__":
    model, folder, pairs, max_length, recomputed = sys.argv[1:]
    print("peak", measure(model, Path(folder), int(pairs), int(max_length), recomputed))
