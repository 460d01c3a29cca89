"""What the tests of adapters share."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture
def ids():
    """Token ids, size = (3, 6)."""
    return torch.randint(3, 60, (3, 6), generator=torch.Generator().manual_seed(2))


@pytest.fixture
def preferences():
    """A λ for each of these rows."""
    return torch.tensor([[1.0, 0.0], [0.4, 0.6], [0.0, 1.0]])
