"""What a vLLM server must run, what is found out about one first, and starting one of one's own."""

from __future__ import annotations

import atexit
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.export.vllm_resolver import ADAPTERS, CACHE, padded_rank
from safe_rlhf_panacea.forward import log_probs, response_tokens
from safe_rlhf_panacea.printing import say
from safe_rlhf_panacea.rollouts.completions import Completion, read_answer
from safe_rlhf_panacea.rollouts.server import NoAnswerError, RefusedError, Server

RUNTIME = "VLLM_ALLOW_RUNTIME_LORA_UPDATING"
NOWHERE = "/panacea-asks-whether-lora-is-on"  # no folder; its refusal says whether LoRA is on
# Nats by which log-probabilities may differ on average. Half precision on one side makes some
# hundredths of it, another model much more.
CLOSE = 0.1
MOST_LORAS = 16  # at once: each takes memory beside the weights
PYTHON = "PANACEA_VLLM_PYTHON"  # the variable that names the Python of vLLM's environment
MOST_SECONDS = 900.0  # in which a server must be up: it loads the model and may compile
# Becomes the program that it is given, which Linux ends (SIGTERM) when the run ends, even if that
# is killed: 1 is PR_SET_PDEATHSIG.
BOUND = """
import ctypes, os, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 15)
os.execv(sys.argv[1], sys.argv[1:])
"""


@dataclass(frozen=True)
class Needed:
    """What a server must run."""

    base: str  # the base model
    adapters: str  # of PANACEA_ADAPTERS, NAME=FOLDER
    rank: int  # of the LoRAs, k + m·r
    length: int  # tokens of prompt and response
    loras: int = MOST_LORAS  # that are asked for at once

    def variables(self, cache: str) -> dict[str, str]:
        """The environment of a server that will do."""
        return {ADAPTERS: self.adapters, CACHE: cache, RUNTIME: "1"}

    def flags(self) -> list[str]:
        """The flags of a server that will do; log-probabilities at the temperature of sampling."""
        numbers = {
            "--max-lora-rank": padded_rank(self.rank),
            "--max-loras": self.loras,
            "--max-model-len": self.length,
        }
        words = [word for flag, number in numbers.items() for word in (flag, str(number))]
        return ["--enable-lora", *words, "--logprobs-mode", "processed_logprobs"]

    def refusal(self, reason: object) -> UserError:
        """An error that says why a server will not do, and what to start."""
        variables = " ".join(f"{key}={value}" for key, value in self.variables("CACHE").items())
        start = f"start {variables} vllm serve {self.base} {' '.join(self.flags())}"
        return UserError(f"{reason}: {start}")


def check_vllm(server: Server, needed: Needed) -> str:
    """The name of a server's base model.

    Raises:
        UserError: it is no vLLM, lets no LoRAs come and go, or takes only shorter sequences; the
            line says what to start.
    """
    try:
        version, models = server.get("/version"), server.get("/v1/models")
    except NoAnswerError as error:
        raise needed.refusal(error) from None
    except RefusedError:
        version = models = None
    cards = models.get("data") if isinstance(models, dict) else None
    if not isinstance(version, dict) or "version" not in version or not isinstance(cards, list):
        cards = []
    own = (card for card in cards if isinstance(card, dict) and card.get("owned_by") == "vllm")
    if (card := next(own, None)) is None:
        raise needed.refusal(f"{server.url} is not vLLM")
    try:
        server.post("/v1/load_lora_adapter", {})
    except RefusedError as error:
        if error.status == 404:
            raise needed.refusal(f"{server.url} lets no LoRA come while it runs") from None
    longest = card.get("max_model_len")
    if isinstance(longest, int) and longest < needed.length:
        raise needed.refusal(
            f"{server.url} takes {longest} tokens, and --max_length is {needed.length}"
        )
    return str(card["id"])


def probe(server: Server, needed: Needed, body: dict[str, Any]) -> Completion:
    """A response of a LoRA that the plugin makes now.

    Raises:
        UserError: there is no plugin, it refuses, or vLLM cannot load what it has made.
    """
    try:
        return read_answer(server.post("/v1/completions", body), body["n"])[0]
    except RefusedError as error:
        reason, status = str(error), error.status
    if status == 404:
        reason = (
            f"{server.url} has not this package's plugin, or not {needed.adapters}: install "
            "safe-rlhf-panacea into vLLM's environment (--no-deps) and name the folder there"
        )
    elif "could not be loaded" in reason:
        rank = padded_rank(needed.rank)
        reason = f"{server.url} cannot load a LoRA of rank {rank} (its log says why)"
        try:
            server.post("/v1/load_lora_adapter", {"lora_name": NOWHERE, "lora_path": NOWHERE})
        except NoAnswerError as off:
            if "not enabled" in str(off):
                reason = f"{server.url} runs without LoRA"
        except RefusedError:
            pass
    raise needed.refusal(reason)


def own_log_probs(
    model: Any, prompt: list[int], tokens: list[int], temperatures: Sequence[float], device: Any
) -> list[list[float]]:
    """The log-probabilities of a response's tokens under a model here, at each temperature."""
    sequence = torch.tensor([prompt + tokens], device=device)  # size = (1, L)
    mask, start = torch.ones_like(sequence).bool(), len(prompt) - 1
    inputs = model, sequence, mask, response_tokens(mask, start)
    with torch.no_grad():
        found = [log_probs(*inputs, temperature=temperature) for temperature in temperatures]
    return [one[0, start:].tolist() for one in found]


def check_close(
    server: Server,
    needed: Needed,
    theirs: list[float],
    own: Sequence[list[float]],
    temperature: float,
) -> None:
    """Hold a server's log-probabilities of a response's tokens against the policy's ``own`` here.

    The policy's are those at the temperature of sampling, and those at 1.

    Raises:
        UserError: they are of another model, or not at the temperature of sampling.
    """
    distance, at_one = (
        sum(abs(a - b) for a, b in zip(theirs, one, strict=True)) / max(1, len(one)) for one in own
    )
    if distance <= CLOSE:
        return
    reason = (
        f"{server.url} runs another model than {needed.base}: its log-probabilities differ by "
        f"{distance:.3g} nats on average"
    )
    if temperature != 1 and at_one <= CLOSE:
        reason = f"{server.url} gives log-probabilities at temperature 1, not {temperature:g}"
    raise needed.refusal(reason)


# -- a server of one's own (--rollout_server auto) ------------------------------------


@dataclass
class LocalServer:
    """A server that this process has started; it ends with this process at the latest."""

    url: str
    process: subprocess.Popen[bytes]
    cache: Path  # where it makes LoRAs

    def __post_init__(self) -> None:
        atexit.register(self.end)

    def end(self) -> None:
        """Ask it to end, and do not wait for ever."""
        atexit.unregister(self.end)
        self.process.terminate()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
        shutil.rmtree(self.cache, ignore_errors=True)


def _vllm_python() -> str:
    """The Python that has vLLM: the variable's, this one, or that of ``make vllm``."""
    if named := os.environ.get(PYTHON):
        if not os.access(named, os.X_OK):
            raise UserError(f"{PYTHON}={named} is no program")
        return str(Path(named).absolute())
    if find_spec("vllm") is not None:
        return sys.executable
    made = Path(".venv-vllm/bin/python")
    if made.exists():
        return str(made.absolute())
    raise UserError(
        f"--rollout_server auto finds no vLLM: make vllm makes an environment for it, and {PYTHON} "
        "names the Python of another one"
    )


def start_server(
    needed: Needed, folder: Path, dtype: str, flags: Sequence[str] = ()
) -> LocalServer:
    """Start a server on loopback, with its log and LoRAs in a folder, and wait until it is up.

    ``dtype`` is that of the weights, as vLLM names it; ``flags`` stand behind the package's own.

    Raises:
        UserError: there is no vLLM, or it ends or is not up in time; its log is named.
    """
    log, cache = folder / "vllm.log", folder / "loras"
    shutil.rmtree(cache, ignore_errors=True)  # of a run that was killed
    folder.mkdir(parents=True, exist_ok=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [
        *(_vllm_python(), "-m", "vllm.entrypoints.openai.api_server", "--model", needed.base),
        *("--host", "127.0.0.1", "--port", str(port), "--dtype", dtype),
        *needed.flags(),
        *flags,
    ]
    # Those of a launcher would have vLLM join the training's process group.
    launcher = ("MASTER_ADDR", "MASTER_PORT", "RANK", "LOCAL_RANK", "WORLD_SIZE")
    environment = {k: v for k, v in os.environ.items() if k not in launcher}
    with log.open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", BOUND, *command],
            env=environment | needed.variables(str(cache)),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    server = LocalServer(f"http://127.0.0.1:{port}", process, cache)
    say(f"starting vLLM (process {process.pid}, its log is {log}): {shlex.join(command)}")
    end = time.monotonic() + MOST_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            raise UserError(f"vLLM has ended with code {process.returncode}: {log} says why")
        if Server(server.url).is_well():
            return server
        time.sleep(1)
    raise UserError(f"vLLM is not up after {MOST_SECONDS:g} seconds: {log} says why")
