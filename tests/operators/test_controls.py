"""Controls hold what they are said to hold, and the comparison with them is that of Nadeau and Bengio."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from scipy import stats

from workbench.operators.controls import (
    CONTROLS,
    IDENTITY,
    RANDOM,
    added_value,
    codetection,
    coexpression,
    control,
    gaussian,
    gene_permuted,
    label_code,
    norm_matched,
    spectrum_matched,
)


@pytest.fixture
def like():
    rng = np.random.default_rng(0)
    return (rng.standard_normal((20, 20)) * 0.8 ** np.arange(20)) @ rng.standard_normal((20, 40))


def expression(n=60, genes=20, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.poisson(rng.gamma(1, 1, (n, 1)) * rng.gamma(1, 1, genes)).astype(np.float32)
    x[:, 3] = 0
    x[:, 5] = 2 * x[:, 4]
    return sp.csr_matrix(x)


def test_the_gaussian_control_has_the_shape_and_the_norm_and_nothing_else(like):
    found = gaussian(like, 3)
    assert found.shape == like.shape and np.linalg.norm(found) == pytest.approx(np.linalg.norm(like))
    assert np.array_equal(found, gaussian(like[::-1], 3)), "it looks at the norm alone"
    assert not np.array_equal(found, gaussian(like, 4))
    assert abs(np.corrcoef(found.ravel(), like.ravel())[0, 1]) < 0.2


def test_the_spectrum_control_has_the_singular_values_and_other_vectors(like):
    found = spectrum_matched(like, 1)
    values = [np.linalg.svd(m, compute_uv=False) for m in (found, like)]
    np.testing.assert_allclose(*values, rtol=1e-8)
    reads = [np.linalg.svd(m)[0][:, :3] for m in (found, like)]
    assert np.linalg.svd(reads[0].T @ reads[1], compute_uv=False).min() < 0.9
    assert not np.array_equal(found, spectrum_matched(like, 2))


def test_the_permuted_control_gives_rows_to_genes_of_about_the_same_expression(like):
    mean = np.random.default_rng(1).permutation(20) / 20
    found = gene_permuted(like, mean, 0)
    source = np.array([np.flatnonzero((like == row).all(1))[0] for row in found])
    assert sorted(source) == list(range(20)) and (source != np.arange(20)).any()
    tenth = np.argsort(np.argsort(mean)) // 2
    assert np.array_equal(tenth[source], tenth), "of 20 genes, two make a tenth"


def test_the_norm_control_keeps_lengths_and_ties_no_gene_to_another():
    # Two blocks of genes that go together, of very different lengths.
    like = np.repeat(np.eye(2, 400), 50, axis=0) * np.linspace(1, 30, 100)[:, None]
    drawn = [norm_matched(like, seed) for seed in range(20)]
    lengths = np.linalg.norm(like, axis=1)
    for one in drawn:
        np.testing.assert_allclose(np.linalg.norm(one, axis=1), lengths)
    cosines = np.array([one @ one.T / np.outer(lengths, lengths) for one in drawn])[:, *np.triu_indices(100, 1)]
    # Of independent directions in 400 dimensions: mean 0, sd 1 / 20.
    assert abs(cosines.mean()) < 4 * 0.05 / np.sqrt(cosines.size) and cosines.std() == pytest.approx(0.05, rel=0.02)


def test_codetection_counts_the_cells_in_which_both_are_seen():
    x = expression()
    dense = x.toarray() > 0
    wanted = [[(dense[:, i] & dense[:, j]).mean() for j in range(20)] for i in range(20)]
    np.testing.assert_allclose(codetection(x), wanted, atol=1e-12)


def test_random_controls_are_drawn_anew_and_the_others_are_not(like):
    for name in CONTROLS:
        first, again, other = (control(name, like, expression(), 5, draw) for draw in (0, 0, 1))
        assert np.array_equal(first, again)
        assert np.array_equal(first, other) == (name not in RANDOM)


def test_a_code_knows_which_anchors_are_of_one_label_and_no_more():
    labels, cells = np.repeat([f"t{i}" for i in range(30)], 4), np.full(120, 25)
    same = labels[:, None] == labels
    among, apart = [], []
    for draw in range(20):
        code = label_code(labels, cells, 0, draw)
        cosine = np.corrcoef(code)
        among.append(cosine[same & ~np.eye(120, dtype=bool)].mean())
        apart.append(cosine[~same].mean())
    # A mean over 25 cells has noise of variance 1 / 25 beside the code's 1.
    assert np.mean(among) == pytest.approx(1 / (1 + 1 / 25), abs=0.01) and abs(np.mean(apart)) < 0.01
    assert not np.array_equal(label_code(labels, cells, 0, 0), label_code(labels, cells, 0, 1))


def test_coexpression_is_pearson_and_no_nan():
    x = expression()
    found, dense = coexpression(x), x.toarray().astype(float)
    varies = np.arange(20) != 3
    np.testing.assert_allclose(found[np.ix_(varies, varies)], np.corrcoef(dense[:, varies].T), atol=1e-8)
    assert (found[3] == 0).all() and (found[:, 3] == 0).all() and found[4, 5] == pytest.approx(1)


def test_every_control_has_a_row_per_gene(like):
    for name in CONTROLS:
        found = control(name, like, expression(), 0)
        assert found.shape[0] == 20 and np.isfinite(found).all()
    assert np.array_equal(control(IDENTITY, like, expression(), 0), np.eye(20))


def folds(differences, n=5):
    rows = []
    for endpoint, difference in differences.items():
        base = np.linspace(0.4, 0.6, n)
        for name, values in (("ours", base + np.asarray(difference)), ("x", base), ("y", base + 0.5)):
            rows += [
                {"endpoint": endpoint, "metric": "m", "representation": name, "fold": k, "value": v}
                for k, v in enumerate(values)
            ]
    return pd.DataFrame(rows)


def test_added_value_is_the_corrected_t_test():
    d = np.array([0.1, 0.12, 0.08, 0.11, 0.09])
    row = added_value(folds({"a": d}), "ours", 0.2).query("control == 'x'").iloc[0]
    error = np.sqrt(d.var(ddof=1) * (1 / 5 + 0.2 / 0.8))
    reach = stats.t.ppf(0.975, 4) * error
    assert (row["low"], row["high"]) == pytest.approx((d.mean() - reach, d.mean() + reach))
    assert row["p"] == pytest.approx(2 * stats.t.sf(d.mean() / error, 4)) and row["difference"] == pytest.approx(0.1)
    plain = stats.ttest_1samp(d, 0).pvalue
    assert row["p"] > plain, "folds that share cells say less than independent ones"


def test_q_is_over_the_endpoints_of_a_control():
    rng = np.random.default_rng(0)
    table = added_value(folds({f"e{i}": rng.normal(0.02, 0.03, 5) for i in range(6)}), "ours", 0.2)
    assert len(table) == 12 and (table["q"] >= table["p"] - 1e-12).all()
    assert (table.query("control == 'y'")["difference"] < 0).all()


def test_folds_that_are_undefined_for_one_are_left_out_for_both():
    rows = folds({"a": [0.1, 0.2, 0.3, 0.1, 0.2]})
    rows = rows[~((rows["representation"] == "x") & (rows["fold"] > 1))]
    row = added_value(rows, "ours", 0.2).query("control == 'x'").iloc[0]
    assert (
        row["n_folds"] == 2 and np.isnan(row["p"]) and np.isnan(row["low"]) and row["difference"] == pytest.approx(0.15)
    )


def test_no_difference_at_all_is_no_evidence():
    row = added_value(folds({"a": np.zeros(5)}), "ours", 0.2).query("control == 'x'").iloc[0]
    assert row["difference"] == 0 and row["p"] == 1


def test_without_a_fold_there_is_a_table_without_rows():
    table = added_value(pd.DataFrame([]), "ours", 0.2)
    assert table.empty and {"endpoint", "control", "difference", "q"} <= set(table)
