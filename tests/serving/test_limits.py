"""What a server does not do, and what it does when clients go or the end comes."""

from __future__ import annotations

import dataclasses
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from tests.serving.server import serving, wait_for

httpx2 = pytest.importorskip("httpx2")
BODY = {"messages": [{"role": "user", "content": "a"}], "ignore_eos": True, "temperature": 0}
CHAT = "/v1/chat/completions"
HEAD_SECONDS = "safe_rlhf_panacea.serving.guard.Connection.HEAD_SECONDS"
REQUEST = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture
def background():
    """Threads that ask while a test does something else."""
    with ThreadPoolExecutor(8) as pool:
        yield pool.submit


def test_a_full_queue_is_429_and_one_that_waits_may_go(slow, background):
    engine = slow.service.engine
    with slow.http() as http:
        body = {**BODY, "max_tokens": 20}
        asked = [background(http.post, CHAT, json=body) for _ in range(5)]
        wait_for(lambda: engine.rows == 4 and engine.waiting == 1)
        with pytest.raises(httpx2.ReadTimeout):
            http.post(CHAT, json=BODY, timeout=0.2)
        wait_for(lambda: engine.waiting == 1, 1)
        asked.append(background(http.post, CHAT, json=body))
        wait_for(lambda: engine.waiting == 2)
        answer = http.post(CHAT, json=BODY)
        assert answer.status_code == 429 and answer.headers["retry-after"] == "1"
        assert answer.json()["error"]["type"] == "rate_limit_error"
        assert [one.result().status_code for one in asked] == [200] * 6
    slow.wait_until_idle()


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_frees_its_rows(slow, stream):
    body = {**BODY, "max_tokens": 60, "n": 2, "stream": stream}
    if stream:
        with slow.http() as http, http.stream("POST", CHAT, json=body) as answer:
            next(answer.iter_lines())
            assert slow.service.engine.rows == 2
    else:
        with slow.http() as http, pytest.raises(httpx2.ReadTimeout):
            http.post(CHAT, json=body, timeout=0.4)
    slow.wait_until_idle(1)  # 60 steps would take three seconds


def test_waiting_and_answering_take_so_long_at_most(slow, background, monkeypatch):
    engine = slow.service.engine
    short = dataclasses.replace(engine.limits, max_wait=0.3, timeout=1.0)
    monkeypatch.setattr(engine, "limits", short)
    with slow.http() as http:
        long = {**BODY, "n": 4, "max_tokens": 60}
        found = background(http.post, CHAT, json=long)
        wait_for(lambda: engine.rows == 4)
        waited = http.post(CHAT, json=BODY)
        found.result()
        slow.wait_until_idle()  # what was given up has left the queue
        with http.stream("POST", CHAT, json={**long, "stream": True}) as answer:
            lines = list(filter(None, answer.iter_lines()))
    assert waited.status_code == 503 and "within 0.3 seconds" in waited.text
    assert found.result().status_code == 504 and "within 1 seconds" in found.result().text
    assert '"error"' in lines[-1] and len(lines) > 4
    slow.wait_until_idle()


def test_what_fails_ends_its_answer_and_not_the_server(server, background, monkeypatch, capsys):
    """The model, on a step; the text of one answer, and another beside it goes on."""
    from safe_rlhf_panacea.serving.jobs import TextStream

    def broken():
        raise RuntimeError("out of memory")

    def pushed(stream, token):
        if stream.stops:
            raise KeyError("no such token")
        return push(stream, token)

    with server.http() as http:
        with monkeypatch.context() as patch:
            patch.setattr(server.service.engine.batch, "step", broken)
            answer = http.post(CHAT, json=BODY)
        assert answer.status_code == 500 and answer.json()["error"]["type"] == "server_error"
        push, body = TextStream.push, {**BODY, "max_tokens": 60}
        monkeypatch.setattr(TextStream, "push", pushed)
        beside = background(http.post, CHAT, json=body)
        assert http.post(CHAT, json={**body, "stop": "x"}).status_code == 500
        assert beside.result().status_code == 200
        error = capsys.readouterr().err
        assert "out of memory" in error and "no such token" in error
        monkeypatch.setattr(type(server.service.engine), "is_alive", False)
        monkeypatch.setattr(server.service.engine, "_ended", True)
        for answer in (http.get("/health"), http.post(CHAT, json=BODY)):
            assert answer.status_code == 503
            assert answer.json()["error"]["message"] == "the engine has ended"


def test_a_body_that_is_too_large(server):
    def in_parts():
        yield b'{"messages": [{"role": "user", "content": "'
        for _ in range(30):
            yield b"a" * 1000
        yield b'"}]}'

    headers = {"content-type": "application/json"}
    with server.http(headers=headers) as http:
        for content in (b"".join(in_parts()), in_parts()):
            answer = http.post(CHAT, content=content)
            assert answer.status_code == 413
            assert answer.json()["error"]["message"] == "a request may have 20000 bytes at most"
        assert http.get("/health").status_code == 200


def test_a_body_that_does_not_come_ends_in_time(adapter, monkeypatch):
    """Else it would keep the server from ending, too."""
    from safe_rlhf_panacea.serving.guard import Guard

    monkeypatch.setattr(Guard.__init__, "__defaults__", (None, 0.3))
    monkeypatch.setattr(HEAD_SECONDS, 0.5)
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
    head += "Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{{"
    with serving(adapter, "--max_body", "1000") as running:
        for length, status in ((100, b"408"), (2000, b"413")):
            with socket.create_connection(running.address, timeout=10) as connection:
                connection.sendall(head.format(length).encode())
                answer = b"".join(iter(lambda: connection.recv(4096), b""))
            assert answer.split()[1] == status
            assert b"within 0.3 seconds" in answer or status == b"413"
        started = time.monotonic()
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    "sent",
    [
        b"",  # not a byte
        REQUEST,  # a head without its end, to which more is added
        REQUEST + b"\r\n" + REQUEST,  # the second one of a connection
        b"POST /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\n\r\n",
    ],
)
def test_a_request_that_does_not_come_ends_in_time(server, monkeypatch, sent):
    monkeypatch.setattr(HEAD_SECONDS, 0.5)
    with socket.create_connection(server.address, timeout=2) as connection, server.http() as http:
        connection.sendall(sent)
        started = time.monotonic()
        try:
            while sent and time.monotonic() - started < 3:  # longer than all that it may take
                connection.sendall(b"x: y\r\n")
                time.sleep(0.1)
            while connection.recv(65536):
                pass
        except ConnectionError:
            pass
        assert time.monotonic() - started < 3
        assert http.get("/health").status_code == 200


def test_so_many_connections_at_a_time(adapter, monkeypatch):
    monkeypatch.setattr(HEAD_SECONDS, 0.8)
    with serving(adapter, "--max_connections", "3") as running, ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(socket.create_connection(running.address))
        with running.http() as http:
            answer = http.get("/health")
            assert answer.status_code == 503 and answer.headers["retry-after"] == "1"
            assert "too many connections" in answer.json()["error"]["message"]
            time.sleep(1)
            assert http.get("/health").status_code == 200


def test_the_end_waits_for_nothing_that_has_not_arrived(adapter):
    """Nor for clients that do not read: the default would be 30 and 301 seconds."""
    with ExitStack() as stack, serving(adapter) as running:
        connections = [socket.create_connection(running.address) for _ in range(4)]
        _, begun, half, deaf = map(stack.enter_context, connections)
        begun.sendall(REQUEST)
        half.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{")
        deaf.setblocking(False)
        request, sent = REQUEST.replace(b"/health", b"/") + b"\r\n", 0
        with pytest.raises(BlockingIOError):  # the server reads no more of these
            while sent < 10**8:
                sent += deaf.send(1000 * request)
        time.sleep(0.3)
        started = time.monotonic()
    assert time.monotonic() - started < 5


def test_health_and_metrics(server):
    with server.http() as http:
        assert http.get("/health").json() == {"status": "ok"}
        before = http.get("/metrics").text
        http.post(CHAT, json={**BODY, "max_tokens": 7})
        http.get("/no/such/place")
        after = http.get("/metrics").text

    def value(text, name):
        lines = (line.split() for line in text.splitlines())
        return next((float(words[1]) for words in lines if words[0] == name), 0.0)

    for name, more in (
        ("panacea_generated_tokens_total", 7),
        ('panacea_requests_total{code="200",route="/v1/chat/completions"}', 1),
        ('panacea_requests_total{code="404",route="other"}', 1),
        ("panacea_first_token_seconds_count", 1),
        ('panacea_answer_seconds_bucket{le="+Inf"}', 1),
    ):
        assert value(after, name) == value(before, name) + more
    assert value(before, "panacea_prompt_tokens_total") < value(
        after, "panacea_prompt_tokens_total"
    )
    assert "panacea_rows 0.0\n" in after and "panacea_waiting 0.0\n" in after


@pytest.fixture(scope="module")
def guarded(adapter):
    """A server with a token and bounds."""
    flags = ["--token", " sesame-λ\n", "--allow", "helpful<=0.8", "--allow", "helpful>=0.25"]
    with serving(adapter, "--model_name", "tiny", *flags, "--max_length", "100") as running:
        yield running


TOKEN = {"authorization": "Bearer sesame-λ".encode()}


def test_on_loopback_without_a_token_other_hosts_names_are_refused(server, guarded):
    body = {**BODY, "max_tokens": 1}
    with server.http() as http:
        for host, status in (
            ("rebound.example", 400),
            ("rebound.example:8000", 400),
            ("127.0.0.1.rebound.example", 400),
            ("localhost:8000", 200),
            ("LOCALHOST", 200),
            ("[::1]:8000", 200),
        ):
            headers = {"host": host}
            assert http.post(CHAT, json=body, headers=headers).status_code == status
            assert http.get("/panacea.json", headers=headers).status_code == status
    with guarded.http(headers={**TOKEN, "host": "proxied.example"}) as http:
        assert http.post(CHAT, json=body).status_code == 200


def test_a_token_is_asked_for_everywhere_but_where_nothing_is_told(guarded):
    with guarded.http() as http:
        for path in ("/v1/models", "/metrics", "/panacea.json", "/openapi.json", "/nowhere"):
            answer = http.get(path)
            assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
        assert http.post(CHAT, json=BODY).status_code == 401
        for wrong in ("Bearer sesame", "Basic sesame-λ", "Bearer", "sesame-λ", "Bearer \xff"):
            headers = {"authorization": wrong.encode("utf-8")}
            assert http.get("/v1/models", headers=headers).status_code == 401
        assert http.get("/health").status_code == http.get("/").status_code == 200
        assert http.get("/panacea.json", headers=TOKEN).status_code == 200


def test_bounds_hold_whichever_way_a_preference_comes(guarded):
    with guarded.http(headers=TOKEN) as http:

        def asked(**more):
            return http.post(CHAT, json={**BODY, "max_tokens": 1, **more})

        for more in ({"preference": [0.9, 0.1]}, {"model": "tiny@1,0"}):
            answer = asked(**more)
            assert answer.status_code == 403
            assert "this server allows helpful<=0.8" in answer.json()["error"]["message"]
        assert asked(preference={"helpful": 0.2, "harmless": 0.8}).status_code == 403
        for allowed in ([0.8, 0.2], [0.25, 0.75]):
            assert asked(preference=allowed).status_code == 200
        values = asked().json()["preference"]
        assert values == {"helpful": 0.525, "harmless": 0.475}  # the middle
        assert [m["id"] for m in http.get("/v1/models").json()["data"]] == ["tiny"]
