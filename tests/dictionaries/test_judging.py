"""Figures of a dictionary against closed forms, and the whole judgement on the tiny model."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from fixtures_dictionaries import HOOK, random_dictionary
from helpers import tiny_model
from sklearn.decomposition import PCA

from workbench.dictionaries.baselines import ONE_HOT, baselines
from workbench.dictionaries.dictionary import Dictionary, Origin
from workbench.dictionaries.judge import OWN, encoded, gather, judge
from workbench.dictionaries.judging import (
    by_gene,
    describe_features,
    explained_interval,
    gene_means,
    match_features,
    random_matches,
    recovered,
    variance_explained,
)
from workbench.errors import HookError
from workbench.seeds import generator


def test_gene_means_are_those_of_the_rows():
    x, genes = np.array([[1.0, 0], [3, 0], [0, 5]]), np.array([2, 2, 0])
    assert np.allclose(gene_means(x, genes, 4), [[0, 5], x.mean(0), [2, 0], x.mean(0)])


def test_a_gene_mean_explains_all_of_what_genes_alone_decide():
    rng = np.random.default_rng(0)
    table, genes = rng.normal(size=(20, 6)), rng.integers(0, 20, 500)
    x = table[genes]
    means = gene_means(x, genes, 20)
    assert variance_explained(x, means[genes], x.mean(0)) == pytest.approx(1)
    noisy = x + rng.normal(size=x.shape)
    assert variance_explained(noisy, gene_means(noisy, genes, 20)[genes], gene_means(noisy, genes, 20)[genes]) == 0


def test_features_by_gene_and_level():
    features = sp.csr_matrix(np.array([[2.0, 0, 0], [4, 1, 0], [6, 1, 0], [0, 2, 0]]))
    genes, levels = np.array([0, 0, 0, 1]), np.array([1.0, 2, 3, 9])
    sums, fires = by_gene(features, genes, 2)
    assert sums.toarray().tolist() == [[12, 0], [2, 2], [0, 0]] and fires.toarray().tolist() == [[3, 0], [2, 1], [0, 0]]
    table = describe_features(features, genes, levels, 2)
    assert table["density"].tolist() == [0.75, 0.75, 0]
    assert table["mean"].tolist() == [4, 4 / 3, 0]
    assert table["top_gene"].tolist() == [0, 0, -1]
    assert table["top_share"].tolist()[:2] == [1, 0.5] and table["n_genes"].tolist()[:2] == pytest.approx([1, 2])
    assert table["level_r"][0] == pytest.approx(1) and np.isnan(table["level_r"][2])


def test_features_are_matched_whatever_their_order_and_length():
    rng = np.random.default_rng(0)
    one = rng.normal(size=(30, 16))
    order = rng.permutation(30)
    rows, columns, cosine = match_features(one, 2 * one[order] + 1e-6)
    assert np.array_equal(order[columns], rows) and np.allclose(cosine, 1, atol=1e-5)
    assert match_features(one, rng.normal(size=(30, 16)))[2].mean() < 0.7


def test_a_loss_is_recovered_between_the_intact_and_the_ablated():
    assert recovered(1, 1, 3) == 1 and recovered(1, 3, 3) == 0 and recovered(1, 1.5, 3) == 0.75
    assert np.isnan(recovered(1, 1, 1))


@pytest.fixture(scope="module")
def codes():
    rng = np.random.default_rng(1)
    genes = rng.integers(0, 12, 3000)
    x = (rng.normal(size=(12, 8))[genes] + 0.3 * rng.normal(size=(3000, 8)) * np.arange(1, 9)).astype(np.float32)
    table = baselines(x[:2000], genes[:2000], x[2000:], genes[2000:], width=20, k=3, n_tokens=15, seed=0)
    return x, genes, table.set_index("code")


def test_codes_of_the_same_size_agree_with_their_closed_forms(codes):
    x, genes, table = codes
    train, test = x[:2000], x[2000:]
    pca = PCA(3, svd_solver="full").fit(train)
    want = variance_explained(test, pca.inverse_transform(pca.transform(test)), train.mean(0))
    assert table["variance_explained"]["PCA"] == pytest.approx(want, abs=1e-4)
    named = gene_means(train, genes[:2000], 15)[genes[2000:]]
    assert table["variance_explained"][ONE_HOT] == pytest.approx(variance_explained(test, named, train.mean(0)))
    assert table["within_genes"][ONE_HOT] == 0
    found = table["variance_explained"]
    assert found["PCA, largest k"] > found["PCA"] and found["ICA, largest k"] > 0.5
    assert 0 < found["k-means"] < 1 and 0 < found["random"] < 1


def test_halves_of_all_numbers_are_parts_enough(codes):
    """Above and below of eight numbers are sixteen parts, of which each row has eight: NMF loses nothing with these."""
    x, genes, table = codes
    table = baselines(x[:2000], genes[:2000], x[2000:], genes[2000:], width=20, k=8, n_tokens=15, seed=0)
    every = table.set_index("code")["variance_explained"]["NMF, largest k"]
    assert every > 0.97 and 0.3 < codes[2]["variance_explained"]["NMF, largest k"] < every


def test_random_directions_give_what_least_squares_does(codes):
    x, _, table = codes
    mean, rng = x[:2000].mean(0), generator(0, "baselines")
    rng.permutation(2000)
    directions = rng.standard_normal((20, 8)).astype(np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    found = []
    for row in x[2000:] - mean:
        atoms = directions[np.argsort(-(directions @ row))[:3]]
        found.append(mean + np.linalg.lstsq(atoms.T, row, rcond=None)[0] @ atoms)
    want = variance_explained(x[2000:], np.array(found), mean)
    assert table["variance_explained"]["random"] == pytest.approx(want, abs=1e-4)


@pytest.fixture(scope="module")
def judged(model, cells):
    return judge(model, cells[40:], random_dictionary(model), cells[:40], progress=False)


def test_a_judgement_agrees_with_the_activations(model, cells, judged):
    dictionary = random_dictionary(model)
    rows, known = gather(model, dictionary, cells[40:]), gather(model, dictionary, cells[:40])
    x, mean = rows.values[HOOK].numpy(), known.values[HOOK].numpy().mean(0)
    features, found = encoded(dictionary, rows)
    summary = judged.summary
    assert summary["variance_explained"] == pytest.approx(variance_explained(x, found, mean))
    assert summary["l0"] == pytest.approx(features.nnz / len(x)) and summary["n_cells"] == 20
    assert summary["dead"] == pytest.approx(1 - (np.diff(features.tocsc().indptr) > 0).mean())
    assert judged.codes["code"].tolist()[:2] == [OWN, ONE_HOT] and len(judged.features) == 24
    assert set(judged.features["gene"]) - {""} <= set(model.vocabulary.ids)


def test_losses_lie_between_intact_and_ablated(judged):
    losses = judged.losses.set_index(["metric", "replaced_by"])
    for metric in ("cell_shift", "masked_error"):
        assert losses.loc[(metric, "intact"), "recovered_zero"] == pytest.approx(1)
        assert losses.loc[(metric, "zero"), "recovered_zero"] == pytest.approx(0)
        assert losses.loc[(metric, "mean"), "recovered_mean"] == pytest.approx(0)
    assert losses.loc[("cell_shift", "intact"), "loss"] == pytest.approx(0, abs=1e-6)


def test_a_dictionary_that_keeps_everything_loses_nothing(model, cells):
    d = model.config.d_model
    eye, zeros = torch.eye(d), torch.zeros(d)
    both = {
        "W_enc": torch.cat([eye, -eye], 1),
        "b_enc": torch.zeros(2 * d),
        "W_dec": torch.cat([eye, -eye]),
        "b_dec": zeros,
    }
    whole = Dictionary("standard", both, Origin(HOOK, HOOK, inner=(d,)))
    found = judge(model, cells[40:], whole, cells[:40], progress=False)
    assert found.summary["variance_explained"] == pytest.approx(1) and found.summary["within_genes"] == pytest.approx(1)
    own = found.losses[found.losses["replaced_by"] == OWN]
    assert np.allclose(own[["recovered_zero", "recovered_mean"]], 1, atol=1e-4)


def test_a_hook_of_cells_has_no_gene(model, cells):
    found = judge(model, cells[40:], random_dictionary(model, "hook_cell"), cells[:40], progress=False)
    assert ONE_HOT not in set(found.codes["code"]) and np.isnan(found.summary["within_genes"])
    assert found.features["top_share"].isna().all() and set(found.losses["replaced_by"]) == {
        "intact",
        OWN,
        "mean",
        "zero",
    }


def test_a_dictionary_of_another_model_is_refused(model, cells):
    with pytest.raises(HookError, match="this model has"):
        judge(tiny_model(seed=7), cells, random_dictionary(model), cells)


def test_the_interval_over_cells_holds_the_value_and_widens_with_fewer_cells():
    rng = np.random.default_rng(0)
    cells = np.repeat(np.arange(200), 20)
    x = rng.normal(size=(4000, 3)) * np.repeat(rng.uniform(0.5, 2, 200), 20)[:, None]
    found = x + 0.5 * rng.normal(size=x.shape)
    ends = []
    for most in (200, 20):
        own = cells < most
        low, high = explained_interval(x[own], found[own], np.zeros(3), cells[own], draws=400, seed=1)
        assert low < variance_explained(x[own], found[own], np.zeros(3)) < high
        ends.append(high - low)
    assert ends[0] < ends[1]
    # Where all cells are alike there is nothing to draw.
    alike = np.tile(x[:20], (10, 1)), np.tile(found[:20], (10, 1))
    low, high = explained_interval(*alike, np.zeros(3), np.repeat(np.arange(10), 20), draws=50, seed=1)
    assert low == pytest.approx(high)
    assert np.isnan(explained_interval(x[:5], found[:5], np.zeros(3), np.zeros(5, dtype=int), draws=5, seed=1)).all()


def test_random_matches_are_those_of_directions_with_the_same_moments():
    rng = np.random.default_rng(0)
    # All features lie near one axis: random ones that lie so, too, match well, and say that matches are no wonder.
    narrow = rng.normal(size=(40, 16)) * 0.05 + np.eye(16)[0]
    wide = rng.normal(size=(40, 16))
    assert np.median(random_matches(narrow, narrow, 0)) > 0.95
    null = random_matches(wide, wide, 0)
    assert len(null) == 40 and 0.2 < np.median(null) < 0.8
    assert match_features(wide, wide)[2].min() == pytest.approx(1) and np.array_equal(
        null, random_matches(wide, wide, 0)
    )
