"""One adapter and one server for all modules that ask a server; the model as a server loads it."""

from __future__ import annotations

import pytest

from tests.export.models import saved


@pytest.fixture(scope="session")
def adapter(tmp_path_factory):
    """The folder of an adapter whose λ changes what it says."""
    return saved("llama", tmp_path_factory.mktemp("serving"))[1]


@pytest.fixture(scope="module")
def server(adapter):
    pytest.importorskip("fastapi")
    pytest.importorskip("openai")
    from tests.serving.server import serving

    flags = ["--model_name", "tiny", "--max_rows", "4", "--max_waiting", "2"]
    with serving(adapter, *flags, "--max_new_tokens", "60", "--max_body", "20000") as running:
        yield running


@pytest.fixture
def slow(server, monkeypatch):
    """The server; a step takes so long that a test can look on."""
    import time

    step = server.service.engine.batch.step

    def stepped():
        time.sleep(0.05)
        return step()

    monkeypatch.setattr(server.service.engine.batch, "step", stepped)
    return server
