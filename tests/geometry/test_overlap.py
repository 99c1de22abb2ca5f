"""Overlap of neighbourhoods: by sets, by chance, inside batches; and the neighbours of counts against scanpy's residuals."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
import scanpy as sc
import scipy.sparse as sp

from workbench.errors import EvaluationError
from workbench.geometry.expression import expression_neighbors, technical_genes
from workbench.geometry.likeness import hsic
from workbench.geometry.neighbors import find_neighbors
from workbench.geometry.overlap import (
    area_over_log_k,
    batch_neighbors,
    beyond_chance,
    check_ks,
    overlap,
    shared_neighbors,
    split_batches,
)

RNG = np.random.default_rng(5)
X = RNG.normal(size=(180, 6))
Y = X[:, :3] + 0.3 * RNG.normal(size=(180, 3))
BATCH = np.array(["a"] * 100 + ["b"] * 60 + ["small"] * 20, dtype=object)


def counts(n=240, genes=120, seed=0):
    rng = np.random.default_rng(seed)
    rate = rng.lognormal(0, 1, genes) * rng.lognormal(0, 0.4, (n, 1))
    rate[: n // 2, :20] *= 4
    return sp.csr_matrix(rng.poisson(rate).astype(np.float32))


def test_shared_neighbours_are_those_of_sets():
    one, other = find_neighbors(X, 12, seed=0), find_neighbors(Y, 9, seed=0)
    found = shared_neighbors(one, other)
    assert found.shape == (180, 9)
    for k in (1, 4, 9):
        sets = [len(set(a[:k].tolist()) & set(b[:k].tolist())) for a, b in zip(one.indices, other.indices, strict=True)]
        assert found[:, k - 1].tolist() == sets
    with pytest.raises(EvaluationError, match="Neighbours of 180 and of 100 points"):
        shared_neighbors(one, find_neighbors(X[:100], 12, seed=0))


def test_overlap_is_one_with_itself_and_nothing_by_chance():
    here = batch_neighbors(X, BATCH, k=20, seed=0)
    np.testing.assert_allclose(overlap(here, here)[:160], 1)
    assert np.isnan(overlap(here, here)[160:]).all() and here.left_out == {"small": 20}
    chance = [
        np.nanmean(overlap(here, here.of(np.random.default_rng(100 + s).normal(size=(180, 6)), seed=0)), 0)
        for s in range(20)
    ]
    assert np.abs(np.mean(chance, 0)).max() < 0.02


def test_overlap_is_inside_batches_and_weighs_them_by_cells():
    here = batch_neighbors(X, BATCH, k=15, seed=0)
    found = np.nanmean(overlap(here, here.of(Y, seed=0)), 0)
    parts = []
    for rows in (slice(0, 100), slice(100, 160)):
        n = rows.stop - rows.start
        q = (
            shared_neighbors(find_neighbors(X[rows], 15, seed=0), find_neighbors(Y[rows], 15, seed=0))[:, 14].mean()
            / 15
        )
        parts.append(((n - 1) * q - 15) / (n - 1 - 15))
    assert found[14] == pytest.approx((100 * parts[0] + 60 * parts[1]) / 160, rel=1e-12)


@pytest.mark.parametrize("change", ["turned", "shifted", "scaled", "in another order", "a batch moved"])
def test_overlap_does_not_change(change):
    here = batch_neighbors(X, BATCH, k=15, seed=0)
    before = np.nanmean(overlap(here, here.of(Y, seed=0)), 0)
    y, x, batch = Y, X, BATCH
    if change == "turned":
        y = Y @ np.linalg.qr(RNG.normal(size=(3, 3)))[0]
    elif change == "shifted":
        y = Y + 5
    elif change == "scaled":
        y = Y * 3
    elif change == "a batch moved":
        y = Y + 100 * (BATCH == "b")[:, None]
    else:
        order = RNG.permutation(180)
        x, y, batch = X[order], Y[order], BATCH[order]
    here = batch_neighbors(x, batch, k=15, seed=0)
    np.testing.assert_allclose(np.nanmean(overlap(here, here.of(y, seed=0)), 0), before, rtol=1e-12)


def test_correction_and_area_in_closed_form():
    shared = np.array([[1, 1, 2]])
    np.testing.assert_allclose(beyond_chance(shared, 11), [[1, (10 * 0.5 - 2) / 8, (10 * 2 / 3 - 3) / 7]])
    assert area_over_log_k(np.array([[1.0, 0.0]])).tolist() == pytest.approx([1 / 1.5])
    assert area_over_log_k(np.full((4, 7), 0.3)).tolist() == pytest.approx([0.3] * 4)
    with pytest.raises(EvaluationError, match="Among 4 points the 3 nearest are all there are"):
        beyond_chance(shared, 4)


def test_bad_batches_and_sizes_are_refused(without_shape_checks):
    with pytest.raises(EvaluationError, match="None of 3 batches has the 102 cells .* the largest has 100"):
        batch_neighbors(X, BATCH, k=100, seed=0)
    with pytest.raises(EvaluationError, match="None of 1 batches has the 52 cells"):
        batch_neighbors(X[:51], k=50, seed=0)
    rows, left = split_batches(np.array(["a"] * 60 + [""] * 10, dtype=object), 70, 5)
    assert [len(own) for own in rows.values()] == [60] and left == {}
    here = batch_neighbors(X, BATCH, k=15, seed=0)
    with pytest.raises(EvaluationError, match="The space has 179 cells, its reference 180"):
        here.of(Y[1:], seed=0)
    with pytest.raises(EvaluationError, match="different cells or batches"):
        overlap(here, batch_neighbors(X, k=15, seed=0))
    for ks in ((), (0, 5), (16,)):
        with pytest.raises(EvaluationError, match="neighbours are there for 1 to 15"):
            check_ks(ks, 15)


def test_residuals_are_scanpys():
    x = counts()
    found = expression_neighbors(x, k=10, seed=0)
    cells = ad.AnnData(x.copy())
    sc.experimental.pp.normalize_pearson_residuals(cells)
    np.testing.assert_allclose(found.residuals[0].dense(), cells.X[:, found.genes], rtol=2e-5, atol=2e-5)
    near = find_neighbors(cells.X[:, found.genes], 10, seed=0)
    assert (near.indices == found.neighbors.near[0].indices).mean() > 0.999
    centred = found.residuals[0].centred()
    assert found.residuals[0].own_hsic == hsic(centred, centred)


def test_chosen_genes_are_those_of_the_highest_residual_variance():
    x = counts()
    cells = ad.AnnData(x.copy())
    sc.experimental.pp.normalize_pearson_residuals(cells)
    seen = (x > 0).sum(0).A1 if hasattr((x > 0).sum(0), "A1") else np.asarray((x > 0).sum(0)).ravel()
    variance = np.where(seen >= 10, np.asarray(cells.X).var(0), -1)
    found = expression_neighbors(x, k=10, n_genes=25, seed=0)
    assert set(found.genes.tolist()) == set(np.argsort(-variance)[:25].tolist())
    without = np.zeros(120, dtype=bool)
    without[found.genes[:5]] = True
    assert not set(expression_neighbors(x, k=10, n_genes=25, leave_out=without, seed=0).genes) & set(found.genes[:5])


def test_residuals_of_a_batch_do_not_know_the_others():
    x = counts()
    batch = np.array(["a"] * 130 + ["b"] * 110, dtype=object)
    both = expression_neighbors(x, batch, k=10, n_genes=500, seed=0)
    alone = expression_neighbors(x[:130], k=10, n_genes=500, seed=0)
    shared = np.intersect1d(both.genes, alone.genes)
    place = [
        np.flatnonzero(np.isin(f.genes, shared))[np.argsort(f.genes[np.isin(f.genes, shared)])] for f in (both, alone)
    ]
    np.testing.assert_array_equal(both.residuals[0].dense()[:, place[0]], alone.residuals[0].dense()[:, place[1]])


@pytest.mark.parametrize("make", [lambda x: x.toarray(), sp.csc_matrix, lambda x: x.astype(np.int32)])
def test_residuals_do_not_depend_on_how_counts_are_held(make):
    wanted, found = (expression_neighbors(x, k=10, seed=0) for x in (counts(), make(counts())))
    assert (wanted.genes == found.genes).all()
    assert (wanted.neighbors.near[0].indices == found.neighbors.near[0].indices).all()


def test_counts_can_stay_on_the_disk(tmp_path):
    ad.AnnData(counts()).write_h5ad(tmp_path / "cells.h5ad")
    backed = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    wanted, found = (expression_neighbors(x, k=10, seed=0) for x in (counts(), backed.X))
    assert (wanted.neighbors.near[0].indices == found.neighbors.near[0].indices).all()


def test_what_are_no_counts_is_refused():
    for spoil in (0.5, -1, np.nan):
        x = counts()
        x.data[3] = spoil
        with pytest.raises(EvaluationError, match="Pearson residuals need counts, whole numbers from 0"):
            expression_neighbors(x, k=10, seed=0)
    empty = sp.vstack([counts(), sp.csr_matrix((1, 120), dtype=np.float32)]).tocsr()
    with pytest.raises(EvaluationError, match=r"1 cells hold no count \(first: row 240\)"):
        expression_neighbors(empty, k=10, seed=0)
    with pytest.raises(EvaluationError, match="None of 120 genes is in 10 cells"):
        expression_neighbors(counts(), k=10, leave_out=np.ones(120, dtype=bool), seed=0)


def test_technical_genes_are_known_by_name():
    assert technical_genes(["mt-co1", "RPL3", "CD3D", "ERCC-0001", "RPS6", "MTOR"]).tolist() == [1, 1, 0, 1, 1, 0]
