"""From a request to its answer: checks, jobs for the engine, and the reply."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import functools
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from safe_rlhf_panacea.respond import PanaceaModel
from safe_rlhf_panacea.serving.choosing import Sampling
from safe_rlhf_panacea.serving.engine import Ended, Engine, TooBusy
from safe_rlhf_panacea.serving.errors import ApiError
from safe_rlhf_panacea.serving.jobs import Job, Piece
from safe_rlhf_panacea.serving.prompts import split_system
from safe_rlhf_panacea.serving.replies import DONE, Reply, event
from safe_rlhf_panacea.serving.rules import Rules
from safe_rlhf_panacea.serving.schema import ChatRequest, CompletionRequest, GenerationRequest
from safe_rlhf_panacea.serving.text import TextStream

GONE = Piece(error=(499, "the client has gone"))


class Inbox:
    """Pieces of a request's answers, from the engine's thread to the event loop."""

    def __init__(self) -> None:
        """Belongs to the running loop."""
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[tuple[int, Piece]] = asyncio.Queue()
        self.get = self._queue.get

    def put(self, index: int, piece: Piece) -> None:
        """May be called from any thread."""
        with contextlib.suppress(RuntimeError):  # the loop has ended, and nobody listens
            self._loop.call_soon_threadsafe(self._queue.put_nowait, (index, piece))


async def _gone(request: Request) -> None:
    """Returns when the client has closed the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _sampling(body: GenerationRequest, prompt: Sequence[int], index: int) -> Sampling:
    """How the answer with this index is drawn."""
    return Sampling(
        temperature=1.0 if body.temperature is None else body.temperature,
        top_p=body.top_p or 1.0,
        seed=None if body.seed is None else body.seed + index,
        top_k=max(body.top_k or 0, 0),
        min_p=body.min_p or 0.0,
        repetition_penalty=body.repetition_penalty or 1.0,
        prompt=prompt,
        log_probs=[] if body.wants_log_probs else None,
    )


@dataclass
class Service:
    """A loaded model and what it may be asked.

    Attributes:
        model: with its adapter.
        engine: answers.
        rules: which λ.
        max_new_tokens: longest answer.
    """

    model: PanaceaModel
    engine: Engine
    rules: Rules
    max_new_tokens: int

    def __post_init__(self) -> None:
        """Take a tokenizer of the engine's own: they are not made for two threads."""
        self._decoder = copy.deepcopy(self.model.tokenizer)
        self._stop_ids = frozenset(self.model.template.stop_ids(self.model.model))

    # -- checks -----------------------------------------------------------------------

    def _prompts(self, body: ChatRequest | CompletionRequest) -> list[list[int]]:
        if isinstance(body, ChatRequest):
            system, turns = split_system(body.messages)
            return [self.model.template.prompt_ids(turns, system)]
        prompt = [body.prompt] if isinstance(body.prompt, str) else body.prompt
        if texts := [text for text in prompt if isinstance(text, str)]:
            return self.model.tokenizer(texts)["input_ids"]  # as they are
        ids = [token for token in prompt if isinstance(token, int)]
        self._check_ids("prompt", ids)
        return [ids]

    def _check_ids(self, name: str, ids: Sequence[int]) -> None:
        size = self.model.model.get_input_embeddings().weight.size(0)
        if not all(0 <= token < size for token in ids):
            raise ApiError(400, f"{name}: token ids go from 0 to {size - 1}", param=name)

    def _length(self, prompt: Sequence[int], wanted: int | None) -> int:
        """The longest answer to a prompt, in tokens.

        Raises:
            ApiError: the prompt or the answer is too long.
        """
        room = self.engine.limits.max_length - len(prompt)
        code = "context_length_exceeded"
        if not prompt:
            raise ApiError(400, "the prompt is empty", param="prompt")
        if wanted is not None and wanted > self.max_new_tokens:
            message = f"max_tokens is {wanted}: this server allows {self.max_new_tokens}"
            raise ApiError(400, message, code=code, param="max_tokens")
        if room < (wanted or 1):
            raise ApiError(
                400,
                f"a prompt of {len(prompt)} tokens and an answer of {wanted or 1} are more than "
                f"the {self.engine.limits.max_length} tokens that this server allows",
                code=code,
            )
        return wanted or min(room, self.max_new_tokens)

    def _jobs(
        self,
        body: GenerationRequest,
        prompts: list[list[int]],
        preference: torch.Tensor,
        inbox: Inbox,
    ) -> list[Job]:
        copies = body.n or 1
        if copies * len(prompts) > self.engine.limits.max_rows:
            rows = self.engine.limits.max_rows
            raise ApiError(400, f"a request may have {rows} answers at most", param="n")
        own = body.stop_token_ids or ()
        self._check_ids("stop_token_ids", own)
        stop_ids = (frozenset() if body.ignore_eos else self._stop_ids) | frozenset(own)
        jobs: list[Job] = []
        for prompt in prompts:
            length = self._length(prompt, body.wanted_tokens)
            for _ in range(copies):
                index = len(jobs)
                jobs.append(
                    Job(
                        prompt,
                        preference,
                        length,
                        _sampling(body, prompt, index),
                        stop_ids,
                        TextStream(self._decoder, body.stops, strip=isinstance(body, ChatRequest)),
                        functools.partial(inbox.put, index),
                    )
                )
        return jobs

    # -- answers ----------------------------------------------------------------------

    async def answer(self, body: ChatRequest | CompletionRequest, request: Request) -> Response:
        """Check a request, have it answered, and reply.

        Raises:
            ApiError: with the status that tells why there is no answer.
        """
        preference = self.rules.resolve(body.model, body.preference)
        prompts = await asyncio.to_thread(self._prompts, body)
        inbox = Inbox()
        jobs = self._jobs(body, prompts, preference, inbox)
        reply = Reply(
            chat=isinstance(body, ChatRequest),
            model=self.rules.label(preference),
            preference={
                name: round(value, 6)
                for name, value in zip(self.rules.objectives, preference.tolist(), strict=True)
            },
            prompt_tokens=sum(map(len, prompts)),
            log_probs=body.wants_log_probs,
        )
        try:
            self.engine.submit(jobs)
        except TooBusy:
            message = "too many requests are waiting: try again later"
            raise ApiError(429, message, code="too_many_requests") from None
        except Ended as error:
            raise ApiError(503, str(error)) from None
        watch = asyncio.ensure_future(_gone(request))
        watch.add_done_callback(functools.partial(self._forsake, jobs, inbox))
        if not body.stream:
            return await self._whole(reply, jobs, inbox, watch)
        try:
            first = await self._next(inbox)  # so that an error before it has its own status
        except BaseException:
            self._end(jobs, watch)
            raise
        usage = body.stream_options is not None and bool(body.stream_options.include_usage)
        return StreamingResponse(
            self._events(reply, jobs, inbox, watch, first, usage=usage),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )

    def _end(self, jobs: Sequence[Job], watch: asyncio.Future[None]) -> None:
        """Whatever has happened: no row goes on for a client that is not there."""
        self.engine.cancel(jobs)
        watch.cancel()

    def _forsake(self, jobs: Sequence[Job], inbox: Inbox, watch: asyncio.Future[None]) -> None:
        """The client has gone, perhaps before anybody listens to the inbox."""
        if not watch.cancelled():
            self.engine.cancel(jobs)
            inbox.put(0, GONE)

    async def _next(self, inbox: Inbox) -> tuple[int, Piece]:
        index, piece = await inbox.get()
        if piece.error is not None:
            raise ApiError(*piece.error)
        return index, piece

    async def _whole(
        self, reply: Reply, jobs: Sequence[Job], inbox: Inbox, watch: asyncio.Future[None]
    ) -> Response:
        answers: list[list[Piece]] = [[] for _ in jobs]
        try:
            while not all(pieces and pieces[-1].is_last for pieces in answers):
                index, piece = await self._next(inbox)
                answers[index].append(piece)
        finally:
            self._end(jobs, watch)
        return JSONResponse(reply.whole(answers, sum(job.tokens for job in jobs)))

    async def _events(
        self,
        reply: Reply,
        jobs: Sequence[Job],
        inbox: Inbox,
        watch: asyncio.Future[None],
        first: tuple[int, Piece],
        *,
        usage: bool,
    ) -> AsyncIterator[str]:
        open_ = set(range(len(jobs)))
        index, piece = first
        try:
            for opening in filter(None, map(reply.first, sorted(open_))):
                yield opening
            while True:
                yield reply.part(index, piece)
                if piece.is_last:
                    open_.discard(index)
                if not open_:
                    break
                index, piece = await self._next(inbox)
            if usage:
                yield reply.last(sum(job.tokens for job in jobs))
            yield DONE
        except ApiError as error:
            yield event(error.body)
        finally:
            self._end(jobs, watch)

    # -- what there is ----------------------------------------------------------------

    def models(self) -> list[dict[str, Any]]:
        """The model, and its allowed corners for clients that can only choose a name."""
        names = [self.rules.name]
        for corner in torch.eye(len(self.rules.objectives)):
            if self.rules.broken(corner) is None:
                names.append(self.rules.label(corner))
        return [
            {"id": name, "object": "model", "created": 0, "owned_by": "local"} for name in names
        ]

    def gauges(self) -> dict[str, float]:
        """What holds at the moment, for the metrics."""
        return {"panacea_rows": self.engine.rows, "panacea_waiting": self.engine.waiting}
