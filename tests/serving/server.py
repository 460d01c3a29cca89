"""A real server in a thread of this process, on a free port."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from safe_rlhf_panacea.serve import COMMAND, make_server


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


@dataclass
class Running:
    """A server that answers."""

    url: str  # without a slash at the end
    service: Any

    @property
    def address(self):
        return "127.0.0.1", int(self.url.rpartition(":")[2])

    def client(self):
        """The official client."""
        from openai import OpenAI

        return OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=60)

    def http(self, **options):
        """A plain client."""
        import httpx2

        return httpx2.Client(base_url=self.url, timeout=60, **options)

    def wait_until_idle(self, seconds=20):
        engine = self.service.engine
        wait_for(lambda: engine.rows == engine.waiting == 0, seconds)


@contextmanager
def serving(adapter, *flags):
    """A server for the adapter of a folder."""
    options = COMMAND.read(["--adapter", str(adapter), "--port", "0", *flags])
    server, service, listening = make_server(options)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield Running(f"http://127.0.0.1:{listening.getsockname()[1]}", service)
    finally:
        server.should_exit = True
        thread.join()
        service.engine.close()
