"""A small planted world as the two cohorts of a screen, and one that is expected to fail."""

from __future__ import annotations

import pytest

from workbench.operators.adaptor import LETAdaptor
from workbench.planted.cells import OFF_GRAPH, WorldShape, make_world, planted_cells
from workbench.planted.checkpoint import plant_world
from workbench.planted.proof import operators_of, placed_cells

SMALL = WorldShape(
    branches=("erythroid", "B", "T"),
    stages_per_branch=4,
    genes_per_program=8,
    n_nuisance=5,
    genes_per_nuisance=4,
    n_background=12,
)


@pytest.fixture(scope="session")
def world():
    return make_world(3, shape=SMALL)


@pytest.fixture(scope="session")
def operators(world):
    model = plant_world(world, 3, n_layers=1, n_heads=2, d_model=32, layer=0, head=1)
    return operators_of(model, planted_cells(world, ["D1"]), "qk")


@pytest.fixture(scope="session")
def planted_matrix(operators):
    return operators[0, 1]


@pytest.fixture(scope="session")
def internal(world):
    return placed_cells(world, planted_cells(world, ["D1", "D2", "D3"]))


@pytest.fixture(scope="session")
def external(world):
    return placed_cells(world, planted_cells(world, ["D4", "D5", "D6"]))


@pytest.fixture(scope="session")
def doomed(world):
    return placed_cells(world, planted_cells(world, ["E1", "E2", "E3"], ["lung"], signal=OFF_GRAPH))


@pytest.fixture(scope="session")
def adaptor():
    return LETAdaptor(k=4, steps=60)
