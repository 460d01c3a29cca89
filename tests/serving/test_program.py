"""The program: what it refuses, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from safe_rlhf_panacea.serve import main

BODY = {"messages": [{"role": "user", "content": "a"}], "ignore_eos": True}


def refusal(capsys, *argv):
    with pytest.raises(SystemExit) as stop:
        main([*map(str, argv)])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1
    return error


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--device", "nowhere"], "--device nowhere: "),
        (["--max_length", "129"], "the model has 128 positions"),
        (["--host", "no such host"], "--host no such host"),
        (["--token", "open\nsesame"], "--token is not one line of text"),
        (["--token", "sesame\udcff"], "'sesame\\udcff' is not UTF-8 text"),
    ],
)
def test_refusals(adapter, flags, message, capsys):
    pytest.importorskip("fastapi")
    assert message in refusal(capsys, "--adapter", adapter, "--port", 0, *flags)


def test_what_the_machine_lacks(adapter, monkeypatch, capsys):
    pytest.importorskip("fastapi")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        error = refusal(capsys, "--adapter", adapter, "--port", port)
    assert f"--port {port}: Address already in use" in error
    monkeypatch.setenv("PANACEA_TOKEN", " \n")
    error = refusal(capsys, "--adapter", adapter, "--port", 0)
    assert "PANACEA_TOKEN holds nothing but white space" in error
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    error = refusal(capsys, "--adapter", adapter)
    assert "uvicorn is not installed: pip install 'safe-rlhf-panacea[serve]'" in error


@pytest.mark.multiprocess
def test_sigterm_finishes_what_runs(adapter):
    pytest.importorskip("fastapi")
    httpx2 = pytest.importorskip("httpx2")
    flags = ["--adapter", adapter, "--port", "0", "--preference", "1,0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "safe_rlhf_panacea.serve", *map(str, flags)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PANACEA_TOKEN": "from the environment\n"},
    )
    label, _, url = process.stdout.readline().split()
    assert label == "adapter@helpful=1,harmless=0"
    headers = {"authorization": "Bearer from the environment"}
    body = {**BODY, "n": 16, "max_tokens": 110, "stream": True}
    options = {"include_usage": True}
    with httpx2.Client(base_url=url, headers=headers, timeout=60) as http:
        with http.stream(
            "POST", "/v1/chat/completions", json={**body, "stream_options": options}
        ) as answer:
            lines = answer.iter_lines()
            next(lines)
            process.send_signal(signal.SIGTERM)
            rest = [line.removeprefix("data: ") for line in lines if line]
        with pytest.raises(httpx2.TransportError):
            http.get("/health")
    assert rest[-1] == "[DONE]"
    assert json.loads(rest[-2])["usage"]["completion_tokens"] == 16 * 110
    assert process.wait(30) == 0
