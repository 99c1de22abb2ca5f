"""Features planted on genes, programs and donors get their names; genes that were dealt out anew get none."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from fixtures_dictionaries import random_dictionary

from workbench.dictionaries.naming import (
    activity_by_label,
    leading_donor,
    leading_label,
    name_features,
    name_lists,
    top_genes,
)
from workbench.errors import EvaluationError, HookError
from workbench.factors.gene_sets import GeneSets


def test_top_genes_are_by_mean_activation_among_those_with_lift():
    # Gene 0 is nearly everywhere; the feature fires hardest on gene 1, more on gene 2 than there is of it, twice on gene 3.
    genes = np.array([0] * 20 + [1] * 4 + [2] * 4 + [3] * 4)
    fired = np.array([1.0] + [0] * 19 + [3] * 4 + [2] * 4 + [9, 9, 0, 0])
    features = sp.csr_matrix(np.column_stack([fired, np.zeros(32)]))
    lists, table = top_genes(features, genes, ["A", "B", "C", "D"], 5)
    assert [one.tolist() for one in lists] == [[1, 2], []]
    assert table["gene"].tolist() == ["B", "C"] and table["mean"].tolist() == [3, 2]
    assert table["lift"].tolist() == pytest.approx([(4 / 11) / (4 / 32)] * 2)


def test_labels_are_by_lift_and_silent_features_have_none():
    labels = np.array(["a", "a", "a", "b", ""])
    features = sp.csr_matrix(np.array([[1.0, 0], [1, 0], [0, 0], [2, 0], [9, 0]]))
    label, share, lift = leading_label(features, labels)
    assert label.tolist() == ["b", ""] and share[0] == 0.5 and lift[0] == 2 and np.isnan(lift[1])


def test_activity_counts_silent_rows_and_leaves_out_those_without_a_label():
    features = sp.csr_matrix(np.array([[1.0, 0], [3, 0], [0, 0], [2, 4], [9, 9]]))
    table = activity_by_label(features, np.array(["a", "a", "a", "b", ""])).set_index(["feature", "label"])
    assert table.loc[(0, "a")].tolist() == pytest.approx([4 / 3, 2 / 3]) and table.loc[(1, "b")].tolist() == [4, 1]
    assert table.loc[(1, "a"), "density"] == 0 and len(table) == 4


def test_a_feature_is_of_one_donor_where_it_fires_often_and_nearly_only_there():
    donors = np.array(["x"] * 12 + ["y"] * 12)
    often, seldom, both = np.zeros(24), np.zeros(24), np.ones(24)
    often[:12], seldom[:3] = 1, 1
    features = sp.csr_matrix(np.column_stack([often, seldom, both]))
    table = leading_donor(features, donors)
    assert table["one_donor"].tolist() == [True, False, False] and table["donor"].tolist()[:2] == ["x", "x"]
    # With one donor every feature is of that one, which says nothing.
    assert not leading_donor(features, np.array(["x"] * 24))["one_donor"].any()


N_GENES, TERMS = 600, 12


@pytest.fixture(scope="module")
def world():
    """Twelve programs of fifteen genes, most of them highly expressed, and strata of expression."""
    rng = np.random.default_rng(0)
    strata = np.repeat(np.arange(6), 100)
    weight = np.array([1, 1, 2, 4, 8, 16.0])[strata]
    members = np.zeros((TERMS, N_GENES), dtype=bool)
    for row in members:
        row[rng.choice(N_GENES, 15, replace=False, p=weight / weight.sum())] = True
    return rng, strata, members, [f"T{i}" for i in range(TERMS)]


def test_planted_programs_are_named_and_permuted_ones_are_not(world):
    rng, strata, members, terms = world
    planted = [
        np.concatenate([rng.permutation(np.flatnonzero(row))[:8], rng.permutation(N_GENES)[:12]]) for row in members
    ]
    planted = [np.unique(one) for one in planted]
    table, summary = name_lists(planted, members, terms, strata, draws=1000, seed=0)
    assert (table["named"] & (table["program"] == terms)).mean() >= 0.9 and summary["named"] >= 0.9
    weight = np.array([1, 1, 2, 4, 8, 16.0])[strata]
    random = [rng.choice(N_GENES, 20, replace=False, p=weight / weight.sum()) for _ in range(300)]
    table, summary = name_lists(random, members, terms, strata, draws=300, seed=0)
    assert table["named"].mean() <= 0.05
    assert summary["rule"] == pytest.approx(summary["rule_random"], abs=0.05) and summary["rule_random"] > 0.05
    assert 0.4 < table["p"].mean() < 0.75  # overlaps are whole numbers, and ties count against a list


def test_names_of_a_dictionary(model, cells):
    cells = cells.copy()
    cells.obs["donor"] = [f"d{i % 3}" for i in range(60)]
    sets = GeneSets("mine", {"P": tuple(f"GENE{i}" for i in range(6))}, {"P": ""})
    found = name_features(
        model, cells, random_dictionary(model), sets, cell_type="cell_type", donor="donor", n_top=5, draws=50
    )
    assert len(found.features) == 24 and set(found.features["donor"]) <= {"d0", "d1", "d2", ""}
    assert not found.features["one_donor"].any() and found.terms["kept"].all()
    assert found.genes.groupby("feature")["rank"].max().max() <= 5 and (found.genes["lift"] > 1).all()
    again = name_features(model, cells[::-1], random_dictionary(model), sets, n_top=5, draws=50)
    assert again.features["p"].equals(found.features["p"]) and again.features["genes"].equals(found.features["genes"])


def test_a_feature_of_one_donor_is_marked(model, cells):
    """One donor alone expresses gene 7, on which one feature fires."""
    import torch

    cells = cells.copy()
    cells.obs["donor"] = [f"d{i % 3}" for i in range(60)]
    matrix = cells.X.toarray()
    matrix[cells.obs["donor"].to_numpy() != "d1", 7] = 0
    matrix[cells.obs["donor"].to_numpy() == "d1", 7] = 3
    cells.X = sp.csr_matrix(matrix)
    hook = "embed.hook_gene"
    direction = model.gene_embedding(torch.tensor([7]))[0]
    one = random_dictionary(model, hook, architecture="standard", width=16)
    one.W_enc.zero_(), one.b_enc.fill_(-1.0), one.b_dec.zero_()
    others = model.gene_embedding(torch.arange(40)) @ direction
    one.W_enc[:, 0] = direction
    one.b_enc[0] = -float(others[torch.arange(40) != 7].max())
    sets = GeneSets("mine", {"P": tuple(f"GENE{i}" for i in range(6))}, {"P": ""})
    table = name_features(model, cells, one, sets, donor="donor", draws=9).features
    assert table["one_donor"].tolist() == [True] + [False] * 15 and table["genes"][0] == "GENE7"


def test_what_cannot_be_named_is_refused(model, cells, world):
    sets = GeneSets("mine", {"P": ("GENE1", "GENE2", "GENE3")}, {"P": ""})
    with pytest.raises(HookError, match="no gene to name a feature by"):
        name_features(model, cells, random_dictionary(model, "hook_cell"), sets)
    _, strata, members, terms = world
    with pytest.raises(EvaluationError, match="random lists"):
        name_lists([np.arange(3)], members, terms, strata, draws=0, seed=0)
