"""A factor that is in the data comes back in every draw, and one that is noise does not."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import hypergeom

from workbench.errors import EvaluationError, ShapeError
from workbench.factors.factorise import hard_sparse, nmf_factors, svd_factors, top_genes
from workbench.factors.stability import stability

D, TOP = 40, 8
GENES = tuple(f"g{i:02d}" for i in range(D))


def grouped(noise=0.02, n_groups=12, seed=0, seen=30):
    """Two planted factors on 8 genes a side each, seen through groups of cells."""
    rng = np.random.default_rng(seed)
    truth = np.zeros((D, D))
    truth[:8, 8:16] = np.outer(rng.uniform(1, 2, 8), rng.uniform(1, 2, 8))
    truth[16:24, 24:32] = -0.6 * np.outer(rng.uniform(1, 2, 8), rng.uniform(1, 2, 8))
    counts = rng.poisson(seen, (n_groups, D, D))
    sums = counts * truth + noise * np.sqrt(counts) * rng.standard_normal(counts.shape) * np.sqrt(seen)
    return sums.astype(np.float32), counts


def reference(sums, counts, n=4):
    return svd_factors(sums.sum(0, dtype=float) / np.maximum(counts.sum(0), 1), GENES, n)


@pytest.fixture(scope="module")
def found():
    sums, counts = grouped()
    return stability(sums, counts, GENES, reference(sums, counts), n_top=TOP, draws=40, seed=1)


def test_planted_factors_and_their_genes_come_back_and_noise_does_not(found):
    table = found.factors.set_index(["factor", "side"])
    planted, noise = table.loc[["f00", "f01"]], table.loc[["f02", "f03"]]
    assert len(table) == 8 and (planted["jaccard"] == 1).all() and (planted["low"] == 1).all()
    assert (planted["cosine"] > 0.99).all() and (planted["beats_other"] == 1).all()
    assert (planted["other_jaccard"] < 0.4).all()
    assert (noise["jaccard"] < 0.7).all() and (noise["cosine"] < 0.9).all()
    assert (table["low"] <= table["jaccard"]).all() and (table["jaccard"] <= table["high"]).all()
    assert (table["n_draws"] == 40).all() and (table["n_groups"] == 12).all()


def test_the_intervals_of_strength_hold_the_planted_strengths(found):
    table = found.factors.query("side == 'read'").set_index("factor")
    whole = table.loc[["f00", "f01"]]
    assert (whole["strength_low"] < whole["strength"] * 1.001).all()
    assert (whole["strength_high"] > whole["strength"] * 0.999).all()


def test_genes_of_planted_factors_have_share_one_and_the_sign_of_the_reference(found):
    sums, counts = grouped()
    best = top_genes(reference(sums, counts), TOP)
    table = found.genes
    merged = best.merge(table, on=["factor", "side", "gene"], suffixes=("", "_found"), validate="one_to_one")
    assert len(merged) == len(best) and (merged["rank"] == merged["rank_found"]).all()
    np.testing.assert_allclose(merged["loading"], merged["loading_found"])
    planted = table[table["factor"].isin(["f00", "f01"]) & (table["rank"] <= TOP)]
    assert (planted["share"] == 1).all() and (planted["sign"] == 1).all()
    assert {*planted.query("factor == 'f00' and side == 'read'")["gene"]} == set(GENES[:8])
    others = table[table["rank"] > TOP]
    assert (others["share"] > 0).all() and (others["share"] < 1).all()
    # Every draw names TOP genes a side.
    np.testing.assert_allclose(table.groupby(["factor", "side"])["share"].sum(), TOP)


def test_the_jaccard_of_two_random_sets_is_that_of_random_sets(found):
    rng = np.random.default_rng(0)
    sets = [set(rng.permutation(D)[:TOP].tolist()) for _ in range(4000)]
    drawn = np.mean([len(a & b) / len(a | b) for a, b in zip(sets[::2], sets[1::2], strict=True)])
    assert found.factors["null_jaccard"].iloc[0] == pytest.approx(drawn, abs=0.01)
    k = np.arange(TOP + 1)
    assert found.factors["null_jaccard"].nunique() == 1
    assert found.factors["null_jaccard"].iloc[0] == pytest.approx(hypergeom(D, TOP, TOP).pmf(k) @ (k / (2 * TOP - k)))


def test_an_operator_of_pure_noise_has_no_stable_genes():
    rng = np.random.default_rng(3)
    counts = np.full((10, D, D), 5)
    sums = rng.standard_normal((10, D, D)).astype(np.float32)
    table = stability(sums, counts, GENES, reference(sums, counts), n_top=TOP, draws=20, seed=0).factors
    assert (table["jaccard"] < 0.6).all() and table["jaccard"].mean() < 0.45


def test_groups_without_noise_give_the_reference_in_every_draw():
    sums, counts = grouped(noise=0.0, n_groups=3)
    table = stability(sums, counts, GENES, reference(sums, counts, 2), n_top=TOP, draws=5, seed=0).factors
    np.testing.assert_allclose(table["cosine"], 1, atol=1e-6)
    np.testing.assert_allclose(table["strength_low"], table["strength"], rtol=1e-5)
    assert (table["jaccard"] == 1).all()


def test_neither_the_order_of_genes_nor_which_group_is_which_breaks_the_match():
    sums, counts = grouped(noise=0.005)
    plain = stability(sums, counts, GENES, reference(sums, counts, 2), n_top=TOP, draws=10, seed=2)
    order = np.random.default_rng(0).permutation(D)
    genes = tuple(np.array(GENES)[order])
    moved_sums, moved_counts = sums[:, order][:, :, order], counts[:, order][:, :, order]
    mean = moved_sums.sum(0, dtype=float) / np.maximum(moved_counts.sum(0), 1)
    moved = stability(moved_sums, moved_counts, genes, svd_factors(mean, genes, 2), n_top=TOP, draws=10, seed=2)
    columns = ["jaccard", "other_jaccard", "cosine", "strength_low", "strength_high"]
    np.testing.assert_allclose(plain.factors[columns], moved.factors[columns], atol=1e-9)


def test_pairs_that_were_never_seen_count_as_zero():
    sums, counts = grouped(noise=0.005)
    counts[:, 39], counts[:, :, 39], sums[:, 39], sums[:, :, 39] = 0, 0, 0, 0
    table = stability(sums, counts, GENES, reference(sums, counts, 2), n_top=TOP, draws=5, seed=0)
    assert np.isfinite(table.factors.drop(columns=["factor", "side"]).to_numpy(dtype=float)).all()
    assert "g39" not in set(table.genes["gene"])


def test_one_factor_has_no_other_to_be_taken_for():
    sums, counts = grouped()
    table = stability(sums, counts, GENES, reference(sums, counts, 1), n_top=TOP, draws=5, seed=0).factors
    assert (table["other_jaccard"] == 0).all() and (table["beats_other"] == 1).all()


def test_input_that_does_not_fit_is_refused(without_shape_checks):
    sums, counts = grouped()
    whole = reference(sums, counts)
    with pytest.raises(EvaluationError, match="another panel"):
        stability(sums, counts, GENES[::-1], whole, n_top=TOP, seed=0)
    with pytest.raises(ShapeError, match="need sums and counts of"):
        stability(sums, counts, GENES[:-1], whole, n_top=TOP, seed=0)
    with pytest.raises(ShapeError, match="need sums and counts of"):
        stability(sums, counts[:3], GENES, whole, n_top=TOP, seed=0)
    with pytest.raises(EvaluationError, match="1 groups, 50 draws and 8 top genes"):
        stability(sums[:1], counts[:1], GENES, whole, n_top=TOP, seed=0)
    with pytest.raises(EvaluationError, match="41 top genes of 40"):
        stability(sums, counts, GENES, whole, n_top=41, seed=0)
    for other in (hard_sparse(whole, 8, 8), nmf_factors(np.abs(whole.matrix()), GENES, 2, 0)):
        with pytest.raises(EvaluationError, match="only svd_factors can be drawn again"):
            stability(sums, counts, GENES, other, n_top=TOP, seed=0)
