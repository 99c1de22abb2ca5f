"""A tiny model, cells, and SAELens where it is installed."""

from __future__ import annotations

import pytest
from helpers import require_sae_lens, tiny_cells, tiny_model


@pytest.fixture(scope="session")
def sae_lens():
    """SAELens, which trains, and is the oracle; a skip with its reason, or a failure in CI, where it is not installed."""
    return require_sae_lens()


@pytest.fixture(scope="package")
def model():
    """Read only."""
    return tiny_model(seed=2)


@pytest.fixture(scope="package")
def cells():
    """Sixty tiny cells. Read only."""
    return tiny_cells(60)
