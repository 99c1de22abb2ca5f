"""Features planted on genes, programs and donors get their names; random lists and random directions of the cells get none."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from fixtures_dictionaries import random_dictionary

from workbench.dictionaries.directions import cell_directions, ranked
from workbench.dictionaries.lists import name_lists, name_rankings, on_top
from workbench.dictionaries.naming import (
    activity_by_label,
    leading_donor,
    leading_label,
    name_features,
    top_cells,
    top_genes,
)
from workbench.dictionaries.regulation import name_regulators
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
    """Twelve programs of fifteen genes, most of them highly expressed, levels of expression, and directions of cells in which no genes go together."""
    rng = np.random.default_rng(0)
    strata = np.repeat(np.arange(6), 100)
    weight = np.array([1, 1, 2, 4, 8, 16.0])[strata]
    members = np.zeros((TERMS, N_GENES), dtype=bool)
    for row in members:
        row[rng.choice(N_GENES, 15, replace=False, p=weight / weight.sum())] = True
    peers = cell_directions(sp.csr_matrix(rng.normal(size=(100, N_GENES))), strata[:, None])
    return rng, strata, members, [f"T{i}" for i in range(TERMS)], peers


def test_planted_programs_are_named_and_permuted_ones_are_not(world):
    rng, strata, members, terms, peers = world
    planted = [
        np.concatenate([rng.permutation(np.flatnonzero(row))[:8], rng.permutation(N_GENES)[:12]]) for row in members
    ]
    planted = [np.unique(one) for one in planted]
    table, summary = name_lists(planted, members, terms, peers, draws=1000, seed=0)
    assert (table["named"] & (table["program"] == terms)).mean() >= 0.9 and summary["named"] >= 0.9
    weight = np.array([1, 1, 2, 4, 8, 16.0])[strata]
    random = [rng.choice(N_GENES, 20, replace=False, p=weight / weight.sum()) for _ in range(300)]
    table, summary = name_lists(random, members, terms, peers, draws=300, seed=0)
    assert table["named"].mean() <= 0.05
    assert summary["rule"] == pytest.approx(summary["rule_random"], abs=0.05) and summary["rule_random"] > 0.05
    assert 0.4 < table["p"].mean() < 0.75  # overlaps are whole numbers, and ties count against a list


def test_planted_rankings_are_named_and_permuted_ones_are_not(world):
    (_, strata, members, terms, peers), rng = world, np.random.default_rng(5)
    # Not too strong: where a few genes have most of a score, any set that is dealt one of them has as large a score.
    planted = rng.gamma(4, 0.25, (TERMS, N_GENES))
    planted[members] *= 3
    table, summary = name_rankings(planted, members, terms, peers, draws=300, seed=0)
    assert ((table["ranked_q"] <= 0.05) & (table["ranked_program"] == terms)).mean() >= 0.9 and summary["named"] >= 0.9
    # Scores that follow expression, of which the sets have more: the usual rule names them, the matched one does not.
    random = rng.gamma(1, 0.2, (60, N_GENES)) * (1 + strata) ** 2
    random[:, ::3] = 0
    table, summary = name_rankings(random, members, terms, peers, draws=200, seed=0)
    assert summary["named"] <= 0.05 and 0.4 < table["ranked_p"].mean() < 0.6
    assert summary["rule"] == pytest.approx(summary["rule_random"], abs=0.08) and summary["rule_random"] > 0.05
    flat = np.repeat([[0.0], [2.0]], N_GENES, axis=1)
    assert name_rankings(flat, members, terms, peers, draws=9, seed=0)[0]["ranked_p"].isna().all()


def test_directions_of_genes_that_go_together_get_no_name(world):
    """Genes of a set correlate by .8: the usual rule names a third of random directions, and p is uniform."""
    (_, strata, members, terms, _), rng = world, np.random.default_rng(8)

    def together(rows):
        shared = rng.normal(size=(rows, TERMS)) @ members * np.sqrt(0.8 / np.maximum(members.sum(0), 1))
        return shared + np.sqrt(np.where(members.any(0), 0.2, 1)) * rng.normal(size=(rows, N_GENES))

    peers = cell_directions(sp.csr_matrix(together(300)), strata[:, None])
    features = together(150)
    lists = list(on_top(features, np.full(150, 20)).indices.reshape(150, 20))
    table, summary = name_lists(lists, members, terms, peers, draws=200, seed=0)
    assert summary["rule"] > 0.2 and summary["rule_random"] == pytest.approx(summary["rule"], abs=0.1)
    assert summary["named"] <= 0.05 and (table["p"] <= 0.05).mean() <= 0.1 and 0.4 < table["p"].mean() < 0.7
    ranked, _ = name_rankings(np.maximum(features[:60], 0), members, terms, peers, draws=99, seed=0)
    assert (ranked["ranked_p"] <= 0.05).mean() <= 0.1 and 0.4 < ranked["ranked_p"].mean() < 0.6


def test_scores_of_rankings_are_those_of_the_library(world):
    from workbench.factors.programs import preranked

    (_, _, members, terms, peers), rng = world, np.random.default_rng(6)
    own = np.where(rng.random(N_GENES) < 0.5, rng.gamma(1, 1, N_GENES), 0)
    # The score is over the mean of the observed one and of the draws where these are above 0.
    table, _ = name_rankings(own[None], members[:1], terms[:1], peers, draws=1, seed=0)
    order = np.argsort(-ranked(next(peers.steps(own[None])), next(peers.draws(1, 0))[None])[0], kind="stable")
    drawn = np.empty(N_GENES)
    drawn[order] = np.sort(own)[::-1]
    es, other = (preranked(one, members[:1])["es"].iloc[0] for one in (own, drawn))
    expected = max(es, 0) / np.mean([x for x in (es, other) if x > 0])
    assert table["ranked_score"].iloc[0] == pytest.approx(expected, rel=1e-5)
    assert table["ranked_p"].iloc[0] == (1 if other >= es else 0.5)


def network(rng, n=30, targets=20):
    """Regulators 0 to n, each with random targets, of which some genes have more than others."""
    often = rng.gamma(1, 1, N_GENES - n)
    return np.array(
        [(r, n + g) for r in range(n) for g in rng.choice(N_GENES - n, targets, replace=False, p=often / often.sum())]
    )


def test_planted_regulators_are_found_and_genes_that_are_often_regulated_are_not(world):
    rng = np.random.default_rng(3)
    peers, names = world[4], [f"G{i}" for i in range(N_GENES)]
    edges = network(rng)
    lists = [
        np.concatenate([rng.permutation(edges[edges[:, 0] == r, 1])[:10], rng.permutation(N_GENES)[:10]])
        for r in range(20)
    ]
    lists = [np.unique(one) for one in lists]
    table, summary = name_regulators(lists, edges, names, peers, draws=400, seed=0)
    assert (table["regulated"] & (table["regulator"] == [f"G{r}" for r in range(20)])).mean() >= 0.9
    # Genes with many regulators: they are targets together in any network.
    degree = np.bincount(edges[:, 1], minlength=N_GENES) + 0.01
    often = [rng.choice(N_GENES, 20, replace=False, p=degree / degree.sum()) for _ in range(150)]
    table, summary = name_regulators([*often, np.zeros(0, dtype=int)], edges, names, peers, draws=200, seed=0)
    assert summary["named"] <= 0.05 and summary["features"] == 150 and np.isnan(table["regulator_p"].iloc[-1])
    assert min(summary["rule"], summary["rule_random"]) > 0.5
    with pytest.raises(EvaluationError, match="0 edges of the network"):
        name_regulators(often, edges[:2], names, peers, draws=9, seed=0)


def test_top_cells_are_by_mean_over_their_genes_and_ties_by_name():
    features = sp.csr_matrix(np.array([[2.0, 0], [0, 0], [3, 0], [1, 0], [1, 0]]))
    table = top_cells(features, np.array([0, 0, 1, 2, 2]), np.array(["b", "c", "a"]))
    assert table["cell"].tolist() == ["c", "a", "b"] and table["mean"].tolist() == [3, 1, 1]
    assert table["firings"].tolist() == [1, 2, 1] and set(table["feature"]) == {0}


def test_names_of_a_dictionary(model, cells):
    cells = cells.copy()
    cells.obs["donor"] = [f"d{i % 3}" for i in range(60)]
    sets = GeneSets("mine", {"P": tuple(f"GENE{i}" for i in range(6))}, {"P": ""})
    found = name_features(
        model, cells, random_dictionary(model), sets, cell_type="cell_type", donor="donor", n_top=5, draws=50, ranked_draws=20,
        network=pd.DataFrame({"source": [f"GENE{i % 8}" for i in range(40)], "target": [f"GENE{8 + i * 7 % 30}" for i in range(40)]}),
    )  # fmt: skip
    assert found.summary["method"].tolist() == ["top genes", "ranking", "regulators"]
    assert {"ranked_program", "ranked_q", "regulator", "regulated"} <= set(found.features) and found.cells[
        "rank"
    ].max() == 5
    assert len(found.features) == 24 and set(found.features["donor"]) <= {"d0", "d1", "d2", ""}
    assert not found.features["one_donor"].any() and found.terms["kept"].all()
    assert found.genes.groupby("feature")["rank"].max().max() <= 5 and (found.genes["lift"] > 1).all()
    again = name_features(model, cells[::-1], random_dictionary(model), sets, n_top=5, draws=50, ranked_draws=20)
    assert again.cells.equals(found.cells) and again.features["ranked_p"].equals(found.features["ranked_p"])
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
    table = name_features(model, cells, one, sets, donor="donor", draws=9, ranked_draws=0).features
    assert table["one_donor"].tolist() == [True] + [False] * 15 and table["genes"][0] == "GENE7"


def test_what_cannot_be_named_is_refused(model, cells, world):
    sets = GeneSets("mine", {"P": ("GENE1", "GENE2", "GENE3")}, {"P": ""})
    with pytest.raises(HookError, match="no gene to name a feature by"):
        name_features(model, cells, random_dictionary(model, "hook_cell"), sets)
    _, _, members, terms, peers = world
    with pytest.raises(EvaluationError, match="random directions"):
        name_lists([np.arange(3)], members, terms, peers, draws=0, seed=0)
