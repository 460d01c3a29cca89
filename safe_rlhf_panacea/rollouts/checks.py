"""What is found out about a server before anything is trained, and what to start instead."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.export.vllm_resolver import ADAPTERS, CACHE, padded_rank
from safe_rlhf_panacea.rollouts.completions import Completion, read_answer
from safe_rlhf_panacea.rollouts.server import NoAnswerError, RefusedError, Server

RUNTIME = "VLLM_ALLOW_RUNTIME_LORA_UPDATING"
NOWHERE = "/panacea-asks-whether-lora-is-on"  # no folder; its refusal says whether LoRA is on
# Nats by which log-probabilities may differ on average. Half precision on one side makes some
# hundredths of it, another model much more.
CLOSE = 0.1


@dataclass(frozen=True)
class Needed:
    """What a server must run.

    Attributes:
        base: the base model.
        adapters: of ``PANACEA_ADAPTERS``, ``NAME=FOLDER``.
        rank: of the LoRAs, k + m·r.
        length: tokens of prompt and response.
        loras: that are asked for at once.
    """

    base: str
    adapters: str
    rank: int
    length: int
    loras: int = 1

    def variables(self, cache: str) -> dict[str, str]:
        """The environment of a server that will do."""
        return {ADAPTERS: self.adapters, CACHE: cache, RUNTIME: "1"}

    def flags(self) -> list[str]:
        """The flags of a server that will do; log-probabilities at the temperature of sampling."""
        return [
            *("--enable-lora", "--max-lora-rank", str(padded_rank(self.rank))),
            *("--max-loras", str(self.loras)),
            *("--max-model-len", str(self.length), "--logprobs-mode", "processed_logprobs"),
        ]

    def command(self) -> str:
        """What to start, for a message."""
        variables = " ".join(f"{key}={value}" for key, value in self.variables("CACHE").items())
        return f"{variables} vllm serve {self.base} {' '.join(self.flags())}"


def check_vllm(server: Server, needed: Needed) -> str:
    """Whether a server is vLLM, lets LoRAs come and go, and takes sequences of the length.

    Returns:
        The name of its base model.

    Raises:
        UserError: it is not so, in one line that says what to start.
    """
    start = f"start {needed.command()}"
    try:
        version, models = server.get("/version"), server.get("/v1/models")
    except NoAnswerError as error:
        raise UserError(f"{error}; {start}") from None
    except RefusedError:
        version = models = None
    card = _base_card(version, models)
    if card is None:
        raise UserError(f"{server.url} is not vLLM: {start}")
    try:
        server.post("/v1/load_lora_adapter", {})
    except RefusedError as error:
        if error.status == 404:
            raise UserError(f"{server.url} lets no LoRA come while it runs: {start}") from None
    longest = card.get("max_model_len")
    if isinstance(longest, int) and longest < needed.length:
        raise UserError(
            f"{server.url} takes {longest} tokens, and --max_length is {needed.length}: {start}"
        )
    return str(card["id"])


def _base_card(version: Any, models: Any) -> dict[str, Any] | None:
    """What vLLM says of its base model; None if it is not vLLM."""
    cards = models.get("data") if isinstance(models, dict) else None
    if not isinstance(version, dict) or "version" not in version or not isinstance(cards, list):
        return None
    own = [card for card in cards if isinstance(card, dict) and card.get("owned_by") == "vllm"]
    return own[0] if own else None


def probe(server: Server, needed: Needed, body: dict[str, Any]) -> list[Completion]:
    """Responses of a LoRA that the plugin makes now.

    Raises:
        UserError: there is no plugin, it refuses, or vLLM cannot load what it has made.
    """
    try:
        return read_answer(server.post("/v1/completions", body), body["n"])
    except RefusedError as error:
        reason = _why(server, needed, error)
        raise UserError(f"{reason}: start {needed.command()}") from None


def _why(server: Server, needed: Needed, error: RefusedError) -> str:
    """Why a LoRA cannot be had; vLLM's own words do not tell."""
    if error.status == 404:
        return (
            f"{server.url} has not this package's plugin, or not {needed.adapters}: install "
            "safe-rlhf-panacea into vLLM's environment (--no-deps) and name the folder there"
        )
    if "could not be loaded" not in str(error):
        return str(error)
    try:
        server.post("/v1/load_lora_adapter", {"lora_name": NOWHERE, "lora_path": NOWHERE})
    except NoAnswerError as off:
        if "not enabled" in str(off):
            return f"{server.url} runs without LoRA"
    except RefusedError:
        pass
    return f"{server.url} cannot load a LoRA of rank {padded_rank(needed.rank)} (its log says why)"


def check_close(
    server: Server,
    needed: Needed,
    completion: Completion,
    own: list[float],
    at_one: list[float],
    temperature: float,
) -> None:
    """Whether a server's log-probabilities are those of the policy here.

    Args:
        server: which has answered.
        needed: what it must run.
        completion: what it has answered.
        own: the policy's log-probabilities of its tokens at the temperature of sampling.
        at_one: the same at temperature 1.
        temperature: of sampling.

    Raises:
        UserError: they are of another model, or not at the temperature of sampling.
    """
    distance = _distance(completion.log_probs, own)
    if distance <= CLOSE:
        return
    if temperature != 1 and _distance(completion.log_probs, at_one) <= CLOSE:
        raise UserError(
            f"{server.url} gives log-probabilities at temperature 1, not {temperature:g}: "
            f"start {needed.command()}"
        )
    raise UserError(
        f"{server.url} runs another model than {needed.base}: its log-probabilities differ by "
        f"{distance:.3g} nats on average: start {needed.command()}"
    )


def _distance(first: list[float], second: list[float]) -> float:
    return sum(abs(a - b) for a, b in zip(first, second, strict=True)) / max(1, len(first))
