"""No pages: drawing takes longer than training here."""

from __future__ import annotations

import pytest


@pytest.fixture
def no_page(monkeypatch):
    monkeypatch.setattr("safe_rlhf_panacea.show.writers.render", lambda *_, **__: "")
