"""Records what a real vLLM answers: ``python -m tests.rollouts.record`` in a checkout with it.

Paths of this machine are replaced by names.
"""

from __future__ import annotations

import json
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

from safe_rlhf_panacea.rollouts.checks import NOWHERE, Needed, start_server
from tests.rollouts.tiny_bases import FLAGS, made

ASK = {
    "prompt": [5, 6, 7],
    "max_tokens": 3,
    "temperature": 0,
    "logprobs": 0,
    "return_token_ids": True,
    "ignore_eos": True,
    "stop_token_ids": [2],
}
WELL = {
    "version": ("/version", None),
    "models": ("/v1/models", None),
    "load nothing": ("/v1/load_lora_adapter", {}),
    "load from nowhere": ("/v1/load_lora_adapter", {"lora_name": NOWHERE, "lora_path": NOWHERE}),
    "completion": ("/v1/completions", {**ASK, "model": "mine@helpful=0.7,harmless=0.3", "n": 1}),
    "no such model": ("/v1/completions", {**ASK, "model": "other@1,0"}),
    "off the simplex": ("/v1/completions", {**ASK, "model": "mine@0.7,0.7"}),
    "no such path": ("/v1/nothing", {}),
}
TOO_SMALL = {"not loaded": ("/v1/completions", {**ASK, "model": "mine@1,0"})}
WITHOUT = {"LoRA is off": WELL["load from nowhere"]}


def exchange(url, path, body):
    """Status and JSON of an answer."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    try:
        with urllib.request.urlopen(urllib.request.Request(url + path, data, headers)) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def main():
    """Start three servers, one after the other, and write the file."""
    recorded = {}
    with tempfile.TemporaryDirectory() as folder:
        base, adapter = made("llama", Path(folder))
        kinds = (WELL, 5, ()), (TOO_SMALL, 5, ("--max-lora-rank", "1")), (WITHOUT, 5, None)
        for asks, rank, more in kinds:
            needed = Needed(str(base), f"mine={adapter}", rank, 128)
            if more is None:  # a frozen class
                object.__setattr__(needed, "flags", lambda: ["--max-model-len", "128"])
            flags = (*FLAGS, *(more or ()))
            url = start_server(needed, Path(folder) / "server", "float32", flags).url
            for name, (path, body) in asks.items():
                status, answer = exchange(url, path, body)
                text = json.dumps(answer, ensure_ascii=False).replace(str(base), "/models/base")
                recorded[name] = [status, json.loads(text)]
    text = json.dumps(recorded, indent=1, ensure_ascii=False)
    Path(__file__).with_name("recorded.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
