"""A server that behaves as vLLM does where the client can see it, with this package's own model.

What it answers to what it refuses was recorded from vLLM: ``recorded.json``.
"""

from __future__ import annotations

import json
import threading
from contextlib import nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import torch

from safe_rlhf_panacea.adapter import load_adapter
from safe_rlhf_panacea.forward import SamplingConfig, generate, log_probs, response_tokens
from safe_rlhf_panacea.preference import parse_preference
from tests.export.models import fresh

RECORDED = json.loads(Path(__file__).with_name("recorded.json").read_text(encoding="utf-8"))


class StandIn(ThreadingHTTPServer):
    """Serves adapters of a base model on loopback while the block runs.

    Attributes:
        asked: bodies of the completions so far.
        failing: path to what is answered in place of the truth: a name in ``recorded.json``,
            or a pair of a status and a body.
        alive: how many completions it gives before it dies; None: it lives.
    """

    daemon_threads = True

    def __init__(self, base, adapters, *, length=128, alive=None, shift=0.0, **failing):
        super().__init__(("127.0.0.1", 0), Handler)
        self.base, self.adapters, self.length = Path(base), adapters, length
        self.failing = {f"/{path.replace('__', '/')}": name for path, name in failing.items()}
        self.alive, self.shift = alive, shift
        self.asked, self.keys, self.unloaded, self.models = [], [], [], {}
        self.lock = threading.Lock()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    def completion(self, body):
        name, _, text = body["model"].partition("@")
        known, _, version = name.partition("/")
        off = name == RECORDED["models"][1]["data"][0]["id"]
        if known not in self.adapters and not off:
            return RECORDED["no such model"]
        folder = next(iter(self.models)) if off else Path(self.adapters[known]) / version
        if folder not in self.models:
            model = fresh(self.base)
            self.models = {folder: (model, load_adapter(model, folder))}
        model, adapter = self.models[folder]
        held = adapter.disabled() if off else self.at(adapter, text)
        config = SamplingConfig(
            len(body["prompt"]) + body["max_tokens"],
            body["stop_token_ids"],
            0,
            temperature=body["temperature"],
        )
        choices = []
        prompt = torch.tensor([body["prompt"]])
        with held, torch.no_grad():
            for index in range(body["n"]):
                generator = torch.Generator().manual_seed(body["seed"] + index)
                ids, mask = generate(model, prompt, torch.ones_like(prompt), config, generator)
                start = prompt.size(1) - 1
                counted, temperature = response_tokens(mask, start), config.temperature or 1.0
                found = log_probs(model, ids, mask, counted, temperature=temperature)
                told = (found[0, start:] + self.shift).tolist()
                tokens = ids[0, start + 1 :].tolist()
                choices.append(
                    {"index": index, "token_ids": tokens, "logprobs": {"token_logprobs": told}}
                )
        return 200, {"choices": choices[::-1]}  # in any order

    def at(self, adapter, text):
        if not adapter.pref_dim:
            return nullcontext()
        return adapter.at(parse_preference(text, adapter.config.objectives))

    def answer(self, path, body):
        if (instead := self.failing.get(path)) is not None:
            return RECORDED[instead] if isinstance(instead, str) else instead
        if path == "/version":
            return RECORDED["version"]
        if path == "/v1/models":
            status, models = RECORDED["models"]
            return status, {"data": [{**models["data"][0], "max_model_len": self.length}]}
        if path == "/v1/load_lora_adapter":
            return RECORDED["load nothing" if not body else "load from nowhere"]
        if path == "/v1/unload_lora_adapter":
            self.unloaded.append(body["lora_name"])
            return 200, "Success"
        if path == "/v1/completions":
            with self.lock:
                self.asked.append(body)
                return self.completion(body)
        return RECORDED["no such path"] if path != "/health" else (200, None)


class Handler(BaseHTTPRequestHandler):
    """Answers, or breaks off where its server is dead."""

    def log_message(self, *_):
        """Say nothing."""

    def respond(self, body):
        server = self.server
        server.keys.append(self.headers["Authorization"])
        if self.path == "/v1/completions" and server.alive is not None:
            with server.lock:
                server.alive -= 1
        if server.alive is not None and server.alive < 0:
            self.connection.close()
            return
        status, content = server.answer(self.path, body)
        data = b"" if content is None else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        self.respond(None)

    def do_POST(self):
        self.respond(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
