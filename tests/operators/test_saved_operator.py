"""An operator as a file: what it carries, and how it meets cells with other genes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from helpers import genes, tiny_cells

from workbench.cells.expression import panel_expression
from workbench.errors import ArtifactError, EvaluationError, GeneMatchError
from workbench.operators.saved_operator import CARD, WEIGHTS, Operator

PANEL = tuple(genes()[3:23])


@pytest.fixture
def operator():
    matrix = np.random.default_rng(0).standard_normal((20, 7)).astype(np.float32)
    return Operator(PANEL, matrix, "attention", "L2H1", "a1b2c3" * 5)


def test_the_round_trip_is_exact(operator, tmp_path):
    again = Operator.load(operator.save(tmp_path / "new" / "operator"))
    assert np.array_equal(again.matrix, operator.matrix) and again.matrix.dtype == np.float32
    assert (again.genes, again.kind, again.feature_map, again.checkpoint) == (PANEL, "attention", "L2H1", "a1b2c3" * 5)


def test_cells_with_another_gene_order_give_the_same_features(operator):
    cells = tiny_cells(9)
    expected = np.asarray(panel_expression(cells, PANEL) @ operator.matrix)
    shuffled = cells[:, np.random.default_rng(1).permutation(cells.n_vars)].copy()
    features, share = operator.apply(shuffled)
    np.testing.assert_allclose(features, expected, atol=1e-6)
    assert share == 1


def test_missing_genes_count_as_not_expressed_and_the_coverage_says_so(operator):
    cells = tiny_cells(9)
    fewer = cells[:, ~cells.var_names.isin(PANEL[:4])].copy()
    features, share = operator.apply(fewer)
    assert share == pytest.approx(16 / 20)
    x = np.asarray(panel_expression(fewer, PANEL).todense())
    assert (x[:, :4] == 0).all()
    np.testing.assert_allclose(features, x @ operator.matrix, atol=1e-5)


def test_missing_genes_count_with_their_means_where_the_operator_has_any(operator, tmp_path):
    means = np.random.default_rng(3).uniform(0, 2, 20)
    known = dataclasses.replace(operator, means=means)
    again = Operator.load(known.save(tmp_path / "operator"))
    cells = tiny_cells(9)
    fewer = cells[:, ~cells.var_names.isin(PANEL[:4])].copy()
    x = np.asarray(panel_expression(fewer, PANEL).todense(), dtype=float)
    x[:, :4] = means[:4]
    for one in (known, again):
        np.testing.assert_allclose(one.apply(fewer)[0], x @ operator.matrix, atol=1e-5)
    np.testing.assert_allclose(known.apply(cells)[0], operator.apply(cells)[0])


def test_aligned_rows_are_those_of_the_named_genes(operator):
    other = [*reversed(PANEL[5:]), "NOT KNOWN"]
    matrix, share = operator.aligned(other)
    assert share == pytest.approx(15 / 20) and (matrix[-1] == 0).all()
    assert np.array_equal(matrix[:-1], operator.matrix[5:][::-1])


def test_genes_that_do_not_fit(operator):
    with pytest.raises(GeneMatchError, match="0 of the operator's 20 genes"):
        operator.aligned(["A", "B"])
    with pytest.raises(GeneMatchError, match="5 of the operator's 20 genes.*stated share of 50%"):
        operator.aligned(PANEL[:5], min_coverage=0.5)
    with pytest.raises(GeneMatchError, match="named more than once"):
        operator.aligned([PANEL[0], PANEL[0]])
    with pytest.raises(GeneMatchError):
        operator.apply(tiny_cells(5)[:, :6].copy())


def test_another_checkpoint_is_said(operator):
    operator.check(operator.checkpoint)
    with pytest.raises(EvaluationError, match="hash a1b2c3a1b2c3, not from ffff"):
        operator.check("ffff")


def test_tampered_and_truncated_files_are_refused(operator, tmp_path):
    folder = operator.save(tmp_path / "a")
    Operator(PANEL, operator.matrix + 1, "qk", "L0H0", "other").save(tmp_path / "b")
    (folder / WEIGHTS).write_bytes((tmp_path / "b" / WEIGHTS).read_bytes())
    with pytest.raises(ArtifactError, match="not those that 'operator.json' describes"):
        Operator.load(folder)
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:50])
    with pytest.raises(ArtifactError, match="truncated"):
        Operator.load(folder)
    (folder / CARD).write_text("{}")
    operator_file = tmp_path / "b" / CARD
    operator_file.write_text(operator_file.read_text().replace('"format": 1', '"format": 9'))
    with pytest.raises(ArtifactError, match="holds no operator of format 1"):
        Operator.load(tmp_path / "b")
