"""What vLLM servers are asked for and answer, and a pool of them that takes many requests at once.

A prompt goes as token ids, a response comes as token ids with their log-probabilities.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from safe_rlhf_panacea.errors import UserError
from safe_rlhf_panacea.forward import NoResponsesError, SamplingConfig
from safe_rlhf_panacea.printing import say
from safe_rlhf_panacea.records import misfit
from safe_rlhf_panacea.rollouts.server import NoAnswerError, RefusedError, Server

AT_ONCE = 64  # requests to one server; vLLM queues what it cannot batch
WAITS = (0.0, 1.0, 2.0, 4.0, 8.0)  # seconds before each look whether a server is well again
PATIENCE = 2  # failures in a row of a server that says that it is well
TRIES = 6  # of one request, in all


class Completion(NamedTuple):
    """A response as the server gave it, with its end token if it has one."""

    tokens: list[int]  # its ids
    log_probs: list[float]  # of each, under the engine's policy at the temperature of sampling


def model_name(name: str, objectives: Sequence[str], preference: Tensor) -> str:
    """The model to ask for at λ, size = (m,), which the name has to its last float32 bit."""
    if not objectives:
        return name
    values = zip(objectives, preference.tolist(), strict=True)
    return f"{name}@{','.join(f'{objective}={value:.9g}' for objective, value in values)}"


def request(
    model: str, prompt: Sequence[int], config: SamplingConfig, *, most: int, seed: int | None = None
) -> dict[str, Any]:
    """The body of a request for ``config.num_return_sequences`` responses, or one greedy one.

    Every setting is named: vLLM would take what is missing from the model's own defaults.

    Args:
        model: a name with its λ, or the base model's.
        prompt: token ids.
        config: how to draw; its stop ids alone end a response.
        most: tokens of a response.
        seed: of the first response; the others have the numbers after it.
    """
    return {
        "model": model,
        "prompt": list(prompt),
        "n": config.num_return_sequences if config.temperature else 1,
        "max_tokens": most,
        "temperature": config.temperature,
        "top_p": config.top_p,
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": config.repetition_penalty,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "ignore_eos": True,
        "stop_token_ids": config.stop_ids,
        "logprobs": 0,
        "return_token_ids": True,
        "add_special_tokens": False,
        "seed": seed,
    }


def read_answer(answer: Any, count: int) -> list[Completion]:
    """The responses in an answer, in their order.

    Raises:
        NoResponsesError: it is not the answer of a vLLM that gives token ids and log-probabilities.
    """
    logprobs = {"token_logprobs": [float]}
    shape = [{"index": int, "token_ids": [int], "logprobs": logprobs}, count]
    choices = answer.get("choices") if isinstance(answer, dict) else None
    if odd := misfit(choices, shape, "choices"):
        raise NoResponsesError(
            f"the server's answer is not that of a vLLM of version 0.11 or later: {odd}"
        )
    found = [
        Completion(choice["token_ids"], choice["logprobs"]["token_logprobs"])
        for choice in sorted(choices or (), key=lambda choice: choice["index"])
    ]
    if any(len(one.tokens) != len(one.log_probs) for one in found):
        raise NoResponsesError("the server's answer has not as many log-probabilities as tokens")
    return found


class Pool:
    """Hands each request to the server that has the least to do, and to another if that fails."""

    def __init__(self, servers: Sequence[Server]) -> None:
        self.servers = servers
        self._free = threading.Condition()

    def submit(self, bodies: Sequence[dict[str, Any]]) -> list[Future[Any]]:
        """Ask for completions; returns the answers to come, in the order of the requests.

        One raises ``NoResponsesError`` where every server was tried in vain.
        """
        answers: list[Future[Any]] = [Future() for _ in bodies]
        for body, answer in zip(bodies, answers, strict=True):
            threading.Thread(target=self._work, args=(body, answer), daemon=True).start()
        return answers

    def serving(self) -> list[Server]:
        """The servers that are not left out."""
        return [server for server in self.servers if server.reason is None]

    def take_back(self, check: Callable[[Server], object]) -> None:
        """Look again at the servers that were left out, and take those back that pass ``check``."""
        for server in self.servers:
            if server.reason is None or not server.is_well():
                continue
            try:
                check(server)
            except UserError:
                continue
            server.failures, server.reason = 0, None
            say(f"{server.url} is asked again")

    def _work(self, body: dict[str, Any], answer: Future[Any]) -> None:
        try:
            answer.set_result(self._complete(body))
        except Exception as error:  # nobody must wait for ever
            answer.set_exception(error)

    def _complete(self, body: dict[str, Any]) -> Any:
        failure: UserError | None = None
        for _ in range(TRIES):
            server, began = self._take(), time.monotonic()
            try:
                answer = server.post("/v1/completions", body)
                server.failures = 0
                return answer
            except (NoAnswerError, RefusedError) as error:
                failure = error
                self._failed(server, error, began)
            finally:
                with self._free:
                    server.busy -= 1
                    if server.reason is None:
                        self._free.notify()
                    else:  # perhaps no server is left for those who wait
                        self._free.notify_all()
        raise NoResponsesError(f"asked {TRIES} times in vain: {failure}")

    def _take(self) -> Server:
        """A server that may be asked, once there is one."""
        with self._free:
            while servers := self.serving():
                server = min(servers, key=lambda server: server.busy)
                if server.busy < AT_ONCE:
                    server.busy += 1
                    return server
                self._free.wait()
        reasons = "; ".join(str(server.reason) for server in self.servers)
        raise NoResponsesError(f"no rollout server is left: {reasons}")

    def _failed(self, server: Server, error: UserError, began: float) -> None:
        """Find out whether a server that has failed is well again, or leave it out.

        One that says so and yet fails again and again, or is slow, is not. What is refused may be
        granted soon: a shared folder shows a new file late on some machines.
        """
        with server.lock:
            if server.reason is not None or began < server.looked:
                return
            server.failures += 1
            for wait in WAITS if server.failures <= PATIENCE else ():
                time.sleep(wait)
                if server.is_well():
                    if isinstance(error, RefusedError):
                        time.sleep(WAITS[min(server.failures, len(WAITS) - 1)])
                    server.looked = time.monotonic()
                    return
            server.reason = str(error)
            say(f"left out: {error}")


class Asked:
    """Prompts whose responses are on their way; none where ``config`` leaves no room for them."""

    def __init__(
        self,
        pool: Pool,
        names: Sequence[str],  # of the models to ask for, one for each prompt
        prompts: Tensor,  # token ids, size = (B, S), left-padded
        mask: Tensor,  # of the prompts' tokens, size = (B, S)
        seeds: Sequence[int],  # one for each prompt
        config: SamplingConfig,
    ) -> None:
        self.prompts, self.mask, self.config = prompts, mask, config
        bodies, most = [], config.max_length - prompts.size(1)
        rows = zip(prompts.tolist(), mask.tolist(), strict=True)
        for name, seed, (ids, there) in zip(names, seeds, rows, strict=True):
            prompt = [token for token, real in zip(ids, there, strict=True) if real]
            bodies.append(request(name, prompt, config, most=most, seed=seed))
        self.answers = pool.submit(bodies if most > 0 else [])

    def collect(self) -> tuple[Tensor, Tensor, Tensor]:
        """Wait for the responses; a ``NoResponsesError`` where no server gives one.

        Returns:
            What ``forward.generate`` returns, sequences and mask, size = (B·n, L) each, and the
            engine's log-probabilities of tokens 1 to L - 1, float32, size = (B·n, L - 1), 0 where
            no token of a response stands.
        """
        copies, device = self.config.num_return_sequences, self.prompts.device
        found: list[Completion] = []
        for answer in self.answers:
            drawn = read_answer(answer.result(), copies if self.config.temperature else 1)
            found += drawn * (copies // len(drawn))  # greedy: the same one for each
        found = found or [Completion([], [])] * (len(self.prompts) * copies)

        def padded(rows: list[list[Any]], dtype: torch.dtype, padding: float) -> Tensor:
            columns = [torch.tensor(row, dtype=dtype, device=device) for row in rows]
            return pad_sequence(columns, batch_first=True, padding_value=padding)

        tokens = [one.tokens for one in found]
        response = padded(tokens, self.prompts.dtype, self.config.pad_token_id)  # size = (B·n, T)
        there = padded([[True] * len(row) for row in tokens], torch.bool, False)
        log_probs = padded([one.log_probs for one in found], torch.float32, 0.0)
        before = self.prompts.repeat_interleave(copies, dim=0)
        mask = self.mask.bool().repeat_interleave(copies, dim=0)
        return (
            torch.cat([before, response], dim=1),
            torch.cat([mask, there], dim=1),
            pad(log_probs, (before.size(1) - 1, 0)),  # number t belongs to token t + 1
        )
