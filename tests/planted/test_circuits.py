"""Circuits that were wired do what they are said to do, and nothing else in the checkpoint does."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from workbench.ablation.edits import ablated
from workbench.ablation.sites import Ablation, site
from workbench.ablation.study import intact_cells
from workbench.planted.circuits import CIRCUITS, HEADS, LAYERS, REDUNDANT, SERIES, THROUGH_MLP, circuit


def accuracy(train, labels, test=None):
    """Of a linear probe that was fitted on the intact cells, on these or on others."""
    probe = LogisticRegression(max_iter=5000).fit(train, labels)
    return probe.score(train if test is None else test, labels)


def without(model, tokens, *names):
    with ablated(model, Ablation(tuple(map(site, names)), "zero")):
        return intact_cells(model, tokens, 64)


@pytest.mark.parametrize("kind", CIRCUITS)
def test_the_label_reaches_the_cell_embedding_by_its_heads_and_by_no_other(kind):
    model, cells, wires = circuit(kind, 1)
    tokens, labels = model.tokenizer(cells).tokens(), cells.obs["cell_type"]
    intact = intact_cells(model, tokens, 64)
    assert accuracy(intact, labels) > 0.95
    carriers = {wire.name for wire in wires}
    assert accuracy(intact, labels, without(model, tokens, *sorted(carriers))) < 0.75
    others = {f"L{i}H{j}" for i in range(LAYERS) for j in range(HEADS)} - carriers
    assert accuracy(intact, labels, without(model, tokens, *sorted(others)[:2])) > 0.95


def test_redundant_heads_stand_in_for_each_other_and_heads_in_series_do_not():
    for kind, one_is_enough in ((REDUNDANT, True), (SERIES, False)):
        model, cells, wires = circuit(kind, 2)
        tokens, labels = model.tokenizer(cells).tokens(), cells.obs["cell_type"]
        intact = intact_cells(model, tokens, 64)
        left = [accuracy(intact, labels, without(model, tokens, wire.name)) for wire in wires]
        assert (min(left) > 0.8) if one_is_enough else (max(left) < 0.75)
        assert len({wire.layer for wire in wires}) == 2


def test_what_goes_through_an_mlp_is_not_linear_in_expression_and_is_gone_without_it():
    model, cells, _ = circuit(THROUGH_MLP, 3)
    tokens, labels = model.tokenizer(cells).tokens(), cells.obs["cell_type"]
    intact = intact_cells(model, tokens, 64)
    assert accuracy(intact, labels, without(model, tokens, "L1.mlp")) < 0.75
    x = np.log1p(cells.X.toarray())
    half = np.arange(len(x)) % 2 == 0
    probe = LogisticRegression(C=0.1, max_iter=5000).fit(x[half], labels[half])
    assert probe.score(x[~half], labels[~half]) < 0.75


def test_a_circuit_is_a_function_of_its_seed():
    (one, cells, _), (other, again, _) = circuit(REDUNDANT, 4), circuit(REDUNDANT, 4)
    assert (cells.X != again.X).nnz == 0 and all(
        (a == b).all() for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    )
    assert (circuit(REDUNDANT, 5)[1].X != cells.X).nnz > 0
