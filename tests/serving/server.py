"""A real server in a thread of this process, on a free port."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from safe_rlhf_panacea.serve import COMMAND, make_server


@dataclass
class Running:
    """A server that answers.

    Attributes:
        url: without a slash at the end.
        service: what it serves.
    """

    url: str
    service: Any

    def client(self, **options):
        """The official client."""
        from openai import OpenAI

        options = {"api_key": "none", "max_retries": 0, "timeout": 60, **options}
        return OpenAI(base_url=f"{self.url}/v1", **options)

    def http(self, **options):
        """A plain client."""
        import httpx2

        return httpx2.Client(base_url=self.url, timeout=60, **options)

    def wait_until_idle(self, seconds=20):
        """Until no row is taken; whether that came to be."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.service.engine.rows == self.service.engine.waiting == 0:
                return True
            time.sleep(0.01)
        return False


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
