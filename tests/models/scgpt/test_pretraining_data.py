"""Cells of several studies for a training: joined genes, whole donors and studies held out."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import genes, tiny_cells

from workbench.errors import CellsError, ConfigError, GeneMatchError
from workbench.models.scgpt.pretraining import draw_tokens, model_config
from workbench.models.scgpt.pretraining_data import prepare
from workbench.pretrain_settings import PretrainSettings

SETTINGS = PretrainSettings(held_out=0.25, seed=1)


def study(n_cells, names, donors=0, seed=0):
    cells = tiny_cells(n_cells, len(names), seed=seed)
    cells.var_names = names
    if donors:
        cells.obs["donor"] = [f"d{i % donors}" for i in range(n_cells)]
    return cells


@pytest.fixture(scope="module")
def studies():
    names = genes(30)
    return {
        "first": study(40, names[:20], donors=8),
        # Measured in another order, one gene under its former symbol, and ten of its own.
        "second": study(30, [*names[9::-1], "IGJ", *names[20:]], seed=1),
        "third": study(20, names[5:15], donors=2, seed=2),
    }


@pytest.fixture(scope="module")
def data(studies):
    first = studies["first"].copy()
    first.var_names = [*first.var_names[:-1], "JCHAIN"]
    return prepare({**studies, "first": first}, SETTINGS, {"third": 0.3})


def test_genes_of_all_studies_that_are_trained_on_are_joined_under_one_name(studies, data):
    names = genes(30)
    assert data.vocabulary.genes == tuple(sorted([*names[:19], "JCHAIN", *names[20:]]))
    assert data.matrix.shape == (90, 30) and (data.column_ids == np.arange(3, 33)).all()
    at = {gene: i for i, gene in enumerate(data.vocabulary.genes)}
    assert set(np.flatnonzero(data.measured["third"])) == {at[gene] for gene in names[5:15]}
    assert data.measured["first"].sum() == 20 and data.measured["second"].sum() == 21
    for name, rows in {"first": slice(0, 40), "second": slice(40, 70), "third": slice(70, 90)}.items():
        cells = studies[name]
        columns = [at["JCHAIN" if gene in ("IGJ", names[19]) else gene] for gene in cells.var_names]
        np.testing.assert_array_equal(data.matrix[rows].toarray()[:, columns], cells.X.toarray())
        assert data.matrix[rows].sum() == pytest.approx(cells.X.sum())


def test_whole_donors_cells_by_name_and_a_whole_study_are_held_out(studies, data):
    assert list(data.held_out_groups) == ["donors of first", "cells of second", "study third"]
    donors = studies["first"].obs["donor"].to_numpy()
    out = data.held_out_groups["donors of first"]
    assert len(set(donors[out])) == 2 and len(out) == 10, "a quarter of eight donors, each whole"
    assert (data.held_out_groups["study third"] == np.arange(70, 90)).all()
    assert 0 < len(data.held_out_groups["cells of second"]) < 20
    parts = [data.train, *data.held_out_groups.values()]
    assert sorted(np.concatenate(parts)) == list(range(90)) and len(data.held_out) == 90 - len(data.train)
    assert data.cell_ids[0] == "first/cell0" and data.cell_ids[70] == "third/cell0"


def test_the_donors_held_out_do_not_depend_on_the_order_of_cells_or_on_other_studies(studies):
    first = studies["first"]

    def out(cells, **others):
        found = prepare({"first": cells, **others}, SETTINGS)
        return set(cells.obs["donor"].iloc[next(iter(found.held_out_groups.values()))])

    beside = out(first, second=studies["second"])
    assert beside == out(first[::-1], second=studies["second"]) == out(first[:, ::-1], second=studies["second"])
    assert beside == out(first, second=studies["second"], third=studies["third"])
    # The file of a study alone may be called anything.
    alone = prepare({"first": first}, SETTINGS), prepare({"copy": first}, SETTINGS)
    assert alone[0].fingerprint() == alone[1].fingerprint() and list(alone[0].held_out_groups) == ["donors"]


def test_the_split_is_part_of_what_a_training_is(studies):
    some = {name: studies[name] for name in ("first", "second")}
    found = {prepare(some, SETTINGS).fingerprint(), prepare(some, SETTINGS, {"second": 0.1}).fingerprint()}
    without = {**some, "first": studies["first"].copy()}
    del without["first"].obs["donor"]
    assert len(found | {prepare(without, SETTINGS).fingerprint()}) == 3


def test_few_genes_are_those_of_most_studies_then_of_most_cells(studies):
    some, names = {name: studies[name] for name in ("first", "second")}, genes(30)
    found = prepare(some, SETTINGS.model_copy(update={"n_genes": 10})).vocabulary.genes
    assert found == tuple(sorted(names[:10])), "the ten that both measure"
    found = prepare(some, SETTINGS.model_copy(update={"n_genes": 14})).vocabulary.genes
    expressed = {
        gene: int((cells.X[:, i] > 0).sum())
        for cells in some.values()
        for i, gene in enumerate(cells.var_names)
        if gene not in names[:10]
    }
    fewest = min(expressed[gene] for gene in found if gene not in names[:10])
    assert set(names[:10]) < set(found) and len(found) == 14
    assert all(count <= fewest for gene, count in expressed.items() if gene not in found)


def test_simple_predictors_are_fitted_where_the_same_genes_are_measured(data):
    def names(group):
        return set(data.study[data.alike(group)])

    assert names("donors of first") == {"first"} and names("cells of second") == {"second"}
    # Ten of ten genes are in the first study, five in the second.
    assert names("study third") == {"first"}
    assert set(data.alike("study third")) <= set(data.train)


def test_a_cell_is_the_same_tokens_whatever_is_trained_beside_it(studies):
    some = {name: studies[name] for name in ("first", "second")}
    found = []
    for both in (some, dict(reversed(some.items()))):
        data = prepare(both, SETTINGS)
        rows = np.flatnonzero(data.study == "first")
        found.append(draw_tokens(data, rows, model_config(SETTINGS, data.vocabulary), 8, (0.5,), seed=3))
    assert all((one == other).all() for one, other in zip(found[0][1:], found[1][1:], strict=True))


def test_what_cannot_be_split_is_refused(studies):
    first, third = studies["first"], studies["third"]
    with pytest.raises(CellsError, match="1 donors of a, of whom 1 would be held out, leave none to train on"):
        prepare({"a": study(20, genes(20), donors=1), "b": first}, SETTINGS)
    with pytest.raises(ConfigError, match="No study is called 'thrid'; held_out_studies names some of first, third"):
        prepare({"first": first, "third": third}, SETTINGS, {"thrid": 0.3})
    with pytest.raises(ConfigError, match="Every study is held out"):
        prepare({"first": first}, SETTINGS, {"first": 0.3})
    other = study(20, [f"OTHER{i}" for i in range(20)])
    with pytest.raises(GeneMatchError, match=r"Only 0.0% of 20 genes"):
        prepare({"first": first, "other": other}, SETTINGS, {"other": 0.3})
    assert prepare({"first": first, "other": other}, SETTINGS).matrix.shape == (60, 40), "trained on, it adds its own"
