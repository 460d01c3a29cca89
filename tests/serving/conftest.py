"""One adapter and one server for all modules that ask a server."""

from __future__ import annotations

import pytest

from tests.serving.models import saved_adapter


@pytest.fixture(scope="session")
def adapter(tmp_path_factory):
    """The folder of an adapter whose λ changes what it says."""
    return saved_adapter(tmp_path_factory.mktemp("serving"))


@pytest.fixture(scope="module")
def server(adapter):
    pytest.importorskip("fastapi")
    pytest.importorskip("openai")
    from tests.serving.server import serving

    flags = ["--model_name", "tiny", "--max_rows", "4", "--max_waiting", "2"]
    with serving(adapter, *flags, "--max_new_tokens", "60", "--max_body", "20000") as running:
        yield running
