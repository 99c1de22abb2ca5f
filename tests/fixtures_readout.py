"""A latent of a few cells, and an endpoint of it, for the tests of readouts."""

from __future__ import annotations

import numpy as np
import pytest

from workbench.operators.readout import Endpoint

N = 120


@pytest.fixture
def latent():
    rng = np.random.default_rng(0)
    return rng.standard_normal((N, 6)) * [1, 2, 5, 0.1, 1, 1] + 3


def endpoint(kind, target, cells=None):
    return Endpoint("it", kind, np.asarray(target), np.arange(len(target)) if cells is None else cells)
