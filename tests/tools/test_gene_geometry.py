"""Gene vectors against a plain loop, and `gene_geometry` on planted checkpoints and what it refuses."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from helpers import tiny_cells, tiny_model

import workbench
from workbench.errors import EvaluationError, HookError
from workbench.planted.cells import WorldShape, make_world, planted_cells
from workbench.planted.checkpoint import plant_world
from workbench.tools.gene_geometry import MODEL, RANDOM, TABLE
from workbench.tools.gene_inputs import gene_facts, measured_level, read_edges
from workbench.tools.gene_vectors import ALL, gene_vectors

FAST = {"n_axes": 3, "draws": 300, "progress": False}


@pytest.fixture(scope="module")
def tiny():
    cells = tiny_cells(15)
    cells.obs["group"] = pd.Categorical([("A", "B", None)[i % 3] for i in range(15)])
    return tiny_model(max_tokens=20), cells


@pytest.fixture(scope="module")
def planted():
    shape = WorldShape(branches=("erythroid", "B", "T"), stages_per_branch=3, cells_per_group=3, n_background=60)
    world = make_world(1, shape=shape)
    model = plant_world(world, 1, n_layers=2, n_heads=4, d_model=48).model
    names = np.array(world.genes)
    sets = {f"program {p}": names[world.program == p].tolist() for p in range(3)}
    background = names[(world.program < 0) & (world.nuisance < 0)]
    sets |= {f"background {i}": background[i::5].tolist() for i in range(5)}
    return model, planted_cells(world, ["D1", "D2"]), sets


@pytest.fixture(scope="module")
def found(planted):
    model, cells, sets = planted
    pairs = [(a, b) for p in range(3) for a in sets[f"program {p}"] for b in sets[f"program {p}"] if a < b][::2]
    edges = pd.DataFrame([*pairs, (pairs[0][0], "NOWHERE")], columns=["source", "target"])
    options = {**FAST, "draws": 1000}
    return workbench.gene_geometry(cells, model, sets=sets, edges=edges, groupby="tissue", **options)


def by_hand(model, cells):
    """Sums and counts by layer and gene, one cell at a time."""
    sums, n = {}, {}
    with torch.no_grad():
        for i in range(len(cells)):
            _, cache = model.run_with_cache(cells[i : i + 1].copy())
            for at, gene in enumerate(cache.tokens.gene_ids[0].tolist()):
                if at == 0 or bool(cache.tokens.padding[0, at]):
                    continue
                streams = [cache["blocks.0.hook_resid_pre"], *(cache["resid_post", k] for k in range(3))]
                value = np.stack([s[0, at].double().numpy() for s in streams])
                sums[gene] = sums.get(gene, 0) + value
                n[gene] = n.get(gene, 0) + 1
    return sums, n


def test_vectors_are_the_means_of_a_plain_loop(tiny):
    model, cells = tiny
    found = gene_vectors(cells, model, groupby="group", batch_size=7, progress=False)
    assert list(found) == [ALL, "A", "B"] and found[ALL].layers == (-1, 0, 1, 2)
    for name, rows in ((ALL, slice(None)), ("A", cells.obs["group"] == "A")):
        sums, n = by_hand(model, cells[rows].copy())
        ids = model.vocabulary.encode(found[name].genes)
        assert found[name].n.tolist() == [n.get(i, 0) for i in ids.tolist()]
        there = found[name].n > 0
        wanted = np.stack([sums[i] / n[i] for i in ids[there].tolist()], axis=1)
        np.testing.assert_allclose(found[name].vectors[:, there], wanted, rtol=1e-5, atol=1e-5)
    table = model.gene_embedding(torch.as_tensor(model.vocabulary.encode(found[ALL].genes)))
    np.testing.assert_allclose(found[ALL].table, table.numpy(), rtol=1e-6)


def test_vectors_do_not_depend_on_batch_or_order(tiny):
    model, cells = tiny
    one = gene_vectors(cells, model, batch_size=1, progress=False)[ALL]
    turned = cells[::-1].copy()
    for other in (
        gene_vectors(cells, model, batch_size=16, progress=False),
        gene_vectors(turned, model, progress=False),
    ):
        assert other[ALL].genes == one.genes and (other[ALL].n == one.n).all()
        np.testing.assert_allclose(other[ALL].vectors, one.vectors, rtol=1e-5, atol=1e-6)


def test_chosen_layers_alone_and_genes_that_no_cell_has(tiny):
    model, cells = tiny
    few = cells[:2].copy()
    found = gene_vectors(few, model, layers=[-1], progress=False)[ALL]
    assert found.layers == (-1, 2) and (found.n == 0).any()
    assert np.isnan(found.vectors[:, found.n == 0]).all() and np.isfinite(found.vectors[:, found.n > 0]).all()
    with pytest.raises(HookError, match="no layer 9"):
        gene_vectors(few, model, layers=[9], progress=False)
    few.obs["group"] = ALL
    with pytest.raises(EvaluationError, match="stands for every cell"):
        gene_vectors(few, model, groupby="group", progress=False)


def test_planted_programs_are_found_in_the_model_and_not_with_random_weights(found):
    called = found.axes[found.axes["called"] == "beyond level"]
    own = called[called["source"] == MODEL]
    programs = {f"program {p}" for p in range(3)}
    assert programs <= set(own["set"]) and programs <= set(called.loc[called["source"] == TABLE, "set"])
    assert set(own.loc[own["set"].isin(programs), "layer"]) == {-1.0, 0.0, 1.0}
    # q is a rate: among all calls few may be false.
    assert (~called["set"].isin(programs) | (called["source"] == RANDOM)).mean() < 0.15
    first = found.axes[found.axes["source"] == MODEL].sort_values("p", kind="stable")["set"].head(6)
    assert set(first) <= programs


def test_planted_edges_are_found_and_lists_are_counted(found):
    near = found.edges[(found.edges["axis"] == 0) & (found.edges["source"] == MODEL)]
    assert (near["called"] == "beyond level").all() and (near["n"] == 99).all()
    row = found.edge_lists.iloc[0]
    assert row["given"] == 100 and row["unmeasured"] == 1 and row["used"] == 99 and row["changed"] > 0.5
    assert (found.edges["changed"] == row["changed"]).all()


def test_tables_hold_every_layer_source_and_group(found, planted):
    _, _, sets = planted
    blocks = 3 + 1 + 3
    assert len(found.axes) == blocks * 4 * len(sets) and len(found.edges) == blocks * 4
    assert set(found.spectrum["group"]) == {ALL, "marrow", "blood"} == {ALL, *found.groups}
    whole = found.spectrum[found.spectrum["group"] == ALL]
    assert len(whole) == blocks * 3 and whole["level_r2"].between(0, 1).all() and whole["share"].between(0, 1).all()
    assert found.terms["kept"].all() and list(found.covariates) == ["expression", "detection", "tokens"]
    assert found.vectors.genes == found.untrained.genes and not np.allclose(found.vectors.table, found.untrained.table)


def test_an_axis_of_expression_level_is_called_that_in_a_model(planted):
    """A gene table whose widest direction is nothing but the expression of the cells at hand."""
    model, cells, sets = planted
    genes = model.vocabulary.genes
    match = model.tokenizer(cells).match
    level = dict(zip(match.genes, measured_level(cells, match, match.genes)[:, 0], strict=True))
    own = torch.as_tensor([level.get(gene, 0.0) for gene in genes])
    weights = model.embed.gene.embedding.weight
    before = weights.clone()
    ids = torch.as_tensor(model.vocabulary.encode(genes))
    direction = torch.nn.functional.normalize(torch.randn(48, generator=torch.Generator().manual_seed(0)), dim=0)
    direction = direction - direction.mean()
    try:
        with torch.no_grad():
            weights[ids] += 20 * ((own - own.mean()) / own.std()).float()[:, None] * direction
        found = workbench.gene_geometry(cells, model, sets=sets, **FAST)
    finally:
        with torch.no_grad():
            weights.copy_(before)
    first = found.spectrum[found.spectrum["axis"] == 1].set_index("source")["axis_is"]
    assert (first[[MODEL, TABLE]] == "expression level").all() and (first[RANDOM] == "").all()
    along = found.axes[(found.axes["axis"] == 1) & (found.axes["source"] == TABLE)]
    assert (along["axis_is"] == "expression level").all()


def test_covariates_families_and_chromosomes(planted):
    model, cells, sets = planted
    genes = model.vocabulary.genes
    table = pd.DataFrame({"length": np.arange(len(genes), dtype=float)}, index=list(genes))
    table["family"] = [gene.rsplit("-", 1)[0] if gene.startswith("PLANTED-B") else None for gene in genes]
    table["chromosome"] = [str(i % 4) for i in range(len(genes))]
    table.iloc[-1, 0] = np.nan
    found = workbench.gene_geometry(cells, model, sets=sets, covariates=table, **FAST)
    assert set(found.axes["kind"]) == {"set", "family", "chromosome"}
    assert list(found.covariates) == ["expression", "detection", "tokens", "length", "family", "chromosome"]
    assert len(found.vectors.genes) == len(genes) - 1 and "1 of" in found.notes[-1]
    model_rows = found.axes[(found.axes["source"] == MODEL) & (found.axes["axis"] > 0)]
    # The family is found as such, and the set that is the family adds nothing to it.
    assert (model_rows.loc[model_rows["set"] == "family PLANTED-B", "p"] < 0.01).any()
    assert not (model_rows.loc[model_rows["set"] == "program 1", "p"] < 0.01).any()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sets": {"S": "GENE1"}}, "give a list of genes"),
        ({"sets": {"S": ["GENE1", "GENE2"]}}, "No term of 'sets' has 5 to 500 genes"),
        ({"sets": {"S": ["ELSE1"]}}, "None of the 1 genes"),
        ({"edges": pd.DataFrame({"a": ["GENE1"], "b": ["GENE2"], "c": [1]})}, "columns a, b, c; it needs"),
        ({"edges": pd.DataFrame({"a": ["X"], "b": ["Y"]})}, "None of the 1 edges"),
        ({"edges": "nowhere.csv"}, "does not exist"),
        ({"n_axes": 0}, "n_axes is 0"),
        ({"level_share": 2.0}, "level_share is 2.0"),
        ({"min_cells": 1000}, "0 of 40 genes"),
        ({"covariates": pd.DataFrame({"length": [1.0]}, index=["ELSE"])}, "None of the 1 rows"),
        ({"covariates": pd.DataFrame({"length": [np.nan]}, index=["GENE1"])}, "for 0 of 40 genes"),
        ({"covariates": pd.DataFrame({"kind": ["a"]}, index=["GENE1"])}, "is text"),
        ({"covariates": pd.DataFrame({"tokens": [1.0]}, index=["GENE1"])}, "counted from the cells"),
        ({"covariates": pd.DataFrame({"length": [1.0, 2]}, index=["GENE1"] * 2)}, "two rows for gene 'GENE1'"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(tiny, options, words):
    model, cells = tiny
    with pytest.raises(EvaluationError, match=words):
        workbench.gene_geometry(cells, model, **{**FAST, "min_cells": 1, **options})


def test_genes_of_sets_that_are_not_there_are_counted(tiny):
    model, cells = tiny
    sets = {"S": [f"GENE{i}" for i in range(8)] + ["ELSE"]}
    found = workbench.gene_geometry(cells, model, sets=sets, min_cells=1, layers=[0], **FAST)
    assert any(
        "1 of the 9 genes of the sets are not measured or not in the vocabulary (ELSE)" in n for n in found.notes
    )
    assert found.terms["n_panel"].item() == 8


def test_edges_are_read_from_files(tmp_path):
    table = pd.DataFrame({"source": ["A", "B"], "target": ["B", "NA"], "score": ["1", "2"]})
    table.to_csv(tmp_path / "net.tsv", sep="\t", index=False)
    table.to_csv(tmp_path / "net.csv", index=False)
    lists = read_edges({"one": tmp_path / "net.tsv", "two": str(tmp_path / "net.csv")}, ["A", "B", "NA"])
    assert lists["one"].tolist() == lists["two"].tolist() == [[0, 1], [1, 2]]


def test_level_is_that_of_the_cells(tiny):
    model, cells = tiny
    match = model.tokenizer(cells).match
    level = measured_level(cells, match, match.genes)
    x = cells[:, list(match.genes)].X.toarray()
    np.testing.assert_allclose(level[:, 1], (x > 0).mean(0))
    np.testing.assert_allclose(level[:, 0], np.log1p(x / x.sum(1, keepdims=True) * 1e4).mean(0), rtol=1e-4)
    assert sp.issparse(cells.X)
    facts = gene_facts(match.genes, level, np.ones(len(match.genes), dtype=int), None)
    assert facts.family is None and list(facts.table.index) == list(match.genes)
