"""From a request to its answer: checks, jobs for the engine, and the reply."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import functools
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from safe_rlhf_panacea.respond import PanaceaModel
from safe_rlhf_panacea.serving.engine import Engine
from safe_rlhf_panacea.serving.jobs import Job, Piece, Sampling, TextStream
from safe_rlhf_panacea.serving.protocol import ApiError, ChatRequest, CompletionRequest, Reply
from safe_rlhf_panacea.serving.rules import Rules

GONE = (499, "the client has gone")
Inbox = asyncio.Queue[tuple[int, Piece]]  # pieces, each with the number of its answer


@dataclass
class Service:
    """A loaded model and what it may be asked."""

    model: PanaceaModel
    engine: Engine
    rules: Rules  # which λ
    max_new_tokens: int  # longest answer

    def __post_init__(self) -> None:
        """Take a tokenizer of the engine's own: they are not made for two threads."""
        self._decoder = copy.deepcopy(self.model.tokenizer)
        self._stop_ids = frozenset(self.model.template.stop_ids(self.model.model))

    async def answer(self, body: ChatRequest | CompletionRequest, request: Request) -> Response:
        """Check a request, have it answered, and reply.

        Raises:
            ApiError: with the status that tells why there is no answer.
        """
        preference = self.rules.resolve(body.model, body.preference)
        prompts = await asyncio.to_thread(self._prompts, body)
        inbox: Inbox = asyncio.Queue()
        jobs = self._jobs(body, prompts, preference, inbox)
        reply = Reply(
            chat=isinstance(body, ChatRequest),
            model=self.rules.label(preference),
            preference=self.rules.by_name(preference),
            prompt_tokens=sum(map(len, prompts)),
            log_probs=body.wants_log_probs,
        )
        self.engine.submit(jobs)
        pieces = self._pieces(jobs, inbox, request)
        if not body.stream:
            answers: list[list[Piece]] = [[] for _ in jobs]
            async for index, piece in pieces:
                answers[index].append(piece)
            return JSONResponse(reply.whole(answers, sum(job.tokens for job in jobs)))
        first = await anext(pieces)  # so that an error before it has its own status

        async def events() -> AsyncIterator[str]:
            def event(content: dict[str, Any]) -> str:
                return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"

            try:
                for index in range(len(jobs)) if reply.chat else ():
                    yield event(reply.part(index, Piece(), first=True))
                yield event(reply.part(*first))
                async for index, piece in pieces:
                    yield event(reply.part(index, piece))
                if body.stream_options.include_usage:
                    yield event(reply.last(sum(job.tokens for job in jobs)))
                yield "data: [DONE]\n\n"
            except ApiError as error:
                yield event(error.body)

        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(events(), media_type="text/event-stream", headers=headers)

    def _prompts(self, body: ChatRequest | CompletionRequest) -> list[list[int]]:
        """Token ids of each prompt."""
        if isinstance(body, ChatRequest):
            system, turns = body.conversation()
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
        """The longest answer to a prompt, in tokens."""
        most, code = self.engine.limits.max_length, "context_length_exceeded"
        if not prompt:
            raise ApiError(400, "the prompt is empty", param="prompt")
        if wanted is not None and wanted > self.max_new_tokens:
            message = f"max_tokens is {wanted}: this server allows {self.max_new_tokens}"
            raise ApiError(400, message, code=code, param="max_tokens")
        room = most - len(prompt)
        if room < (wanted or 1):
            message = (
                f"a prompt of {len(prompt)} tokens and an answer of {wanted or 1} are more than "
                f"the {most} tokens that this server allows"
            )
            raise ApiError(400, message, code=code)
        return wanted or min(room, self.max_new_tokens)

    def _jobs(
        self,
        body: ChatRequest | CompletionRequest,
        prompts: list[list[int]],
        preference: torch.Tensor,
        inbox: Inbox,
    ) -> list[Job]:
        """A job for each answer, which puts its pieces with its number into the inbox."""
        rows, loop = self.engine.limits.max_rows, asyncio.get_running_loop()
        if body.n * len(prompts) > rows:
            raise ApiError(400, f"a request may have {rows} answers at most", param="n")
        self._check_ids("stop_token_ids", body.stop_token_ids)
        ends = frozenset() if body.ignore_eos else self._stop_ids
        stops = [body.stop] if isinstance(body.stop, str) else body.stop
        is_chat = isinstance(body, ChatRequest)
        wanted = getattr(body, "max_completion_tokens", None) or body.max_tokens

        def put(index: int, piece: Piece) -> None:  # from the engine's thread
            with contextlib.suppress(RuntimeError):  # the loop has ended, and nobody listens
                loop.call_soon_threadsafe(inbox.put_nowait, (index, piece))

        jobs: list[Job] = []
        for prompt in (prompt for prompt in prompts for _ in range(body.n)):
            index = len(jobs)
            sampling = Sampling(
                body.temperature,
                body.top_p,
                None if body.seed is None else body.seed + index,
                max(body.top_k, 0),
                body.min_p,
                body.repetition_penalty,
                prompt,
                log_probs=[] if body.wants_log_probs else None,
            )
            job = Job(
                prompt,
                preference,
                self._length(prompt, wanted),
                sampling,
                ends.union(body.stop_token_ids),
                TextStream(self._decoder, stops, strip=is_chat),
                functools.partial(put, index),
            )
            jobs.append(job)
        return jobs

    async def _pieces(
        self, jobs: Sequence[Job], inbox: Inbox, request: Request
    ) -> AsyncIterator[tuple[int, Piece]]:
        """The pieces of a request's answers, until all have ended, or an ``ApiError``.

        However that comes about, no row goes on for a client that is not there.
        """

        async def watch() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass
            self.engine.cancel(jobs)  # perhaps nobody listens to the inbox yet, or any more
            inbox.put_nowait((0, Piece(error=GONE)))

        watching, under_way = asyncio.ensure_future(watch()), len(jobs)
        try:
            while under_way:
                index, piece = await inbox.get()
                if piece.error is not None:
                    raise ApiError(*piece.error)
                under_way -= piece.is_last
                yield index, piece
        finally:
            self.engine.cancel(jobs)
            watching.cancel()
