"""The table of changes is one that can be tried."""

from __future__ import annotations

import pytest

from tests.must_be_caught import problem, read_changes


@pytest.mark.parametrize("change", read_changes(), ids=str)
def test_every_change_can_be_tried(change):
    assert problem(change) is None
