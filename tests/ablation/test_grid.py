"""The grid of a sweep: what is in it, what is refused, and what the rows depend on."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from helpers import N_HEADS, N_LAYERS, tiny_cells, tiny_model

from workbench.ablation.build import prepare
from workbench.ablation.grid import describe_grid, draw_pairs, identity, make_grid, make_pairs
from workbench.ablation.settings import StudyConfig, SweepConfig
from workbench.ablation.sites import Ablation, all_heads
from workbench.errors import EvaluationError, HookError
from workbench.files import plain

ALL = N_LAYERS * N_HEADS
SEED = 6


@pytest.fixture(scope="module")
def model():
    return tiny_model(1)


def grid_of(model, **settings):
    return make_grid(model, SweepConfig(**{"null_draws": 0, **settings}), SEED)


# What is in it


@pytest.mark.parametrize(
    ("settings", "numbers"),
    [
        ({}, {"head": ALL}),
        ({"null_draws": 3}, {"head": ALL, "null": 3 * ALL}),
        ({"layers": True}, {"head": ALL, "attention": N_LAYERS, "mlp": N_LAYERS}),
        ({"heads": False, "layers": True}, {"attention": N_LAYERS, "mlp": N_LAYERS}),
        ({"heads": False, "null_draws": 3, "sites": ("L0H0",)}, {"head": 1}),
        ({"sites": ("L0.gene.GENE4", ("L0H0", "L2H1", "L1.mlp"))}, {"head": ALL, "gene": 1, "set": 1}),
        (
            {"how": ("zero", "resample"), "layers": True, "null_draws": 2},
            {"head": 2 * ALL, "attention": 2 * N_LAYERS, "mlp": 2 * N_LAYERS, "null": 4 * ALL},
        ),
    ],
)
def test_the_grid_holds_what_was_asked_for(model, settings, numbers):
    table = describe_grid(grid_of(model, **settings))
    assert table.columns.tolist() == ["key", "places", "how", "kind", "layer", "head", "null"]
    assert table["key"].is_unique
    assert Counter(table["kind"].where(table["null"] < 0, "null")) == numbers


def test_null_draws_are_of_every_head_and_way_and_numbered_from_0(model):
    table = describe_grid(grid_of(model, how=("zero", "mean"), null_draws=3, sites=("L1.mlp",)))
    nulls = table[table["null"] >= 0]
    own = table[(table["null"] < 0) & (table["kind"] == "head")]
    assert {tuple(row) for row in nulls[["places", "how", "null"]].to_numpy().tolist()} == {
        (place, how, draw) for place, how in own[["places", "how"]].to_numpy().tolist() for draw in range(3)
    }


def test_a_row_says_where_and_how(model):
    grid = grid_of(model, how=("resample",), null_draws=1, sites=("L1.mlp", ("L2H1", "L0H3"), "L0.gene.GENE4"))
    rows = {row.key: row for row in describe_grid(grid).itertuples()}
    assert [rows[one.key].places for one in grid] == list(map(str, grid))
    head, null = (rows[Ablation("L2H1", "resample", seed=SEED, rotation=draw).key] for draw in (None, 0))
    assert (head.kind, head.layer, head.head, head.null, head.how) == ("head", 2, 1, -1, "resample")
    assert (null.kind, null.layer, null.head, null.null, null.places) == ("head", 2, 1, 0, "L2H1")
    mlp = rows[Ablation("L1.mlp", "resample", seed=SEED).key]
    assert (mlp.kind, mlp.layer, mlp.head, mlp.null) == ("mlp", 1, -1, -1)
    both = rows[Ablation(["L0H3", "L2H1"], "resample", seed=SEED).key]
    assert (both.places, both.kind, both.layer, both.head) == ("L0H3+L2H1", "set", -1, -1)
    gene = rows[Ablation("L0.gene.GENE4", "resample", seed=SEED).key]
    assert (gene.kind, gene.layer, gene.head) == ("gene", 0, -1)


@pytest.mark.parametrize(
    "settings",
    [
        {"sites": ("L1H1",)},
        {"sites": (("L1H1",),)},
        {"heads": False, "sites": ("L1H1", "L1H1")},
        {"heads": False, "sites": (("L1H1", "L0H0"), ("L0H0", "L1H1"))},
        {"layers": True, "sites": ("L1.mlp",)},
        {"how": ("mean", "mean")},
    ],
)
def test_what_is_named_twice_is_refused(model, settings):
    with pytest.raises(EvaluationError, match="The grid names 'L.*mean' twice"):
        grid_of(model, **settings)


def test_an_empty_grid_is_refused(model):
    with pytest.raises(EvaluationError, match="The grid is empty; switch on `heads` or `layers`, or name `sites`"):
        grid_of(model, heads=False, null_draws=5)


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ("L0H4", "There is no L0H4 in this model: it has layers 0 to 2 with heads 0 to 3 each"),
        (("L0H0", "L3H0"), "There is no L3H0"),
        ("L3.mlp", "There is no L3.mlp"),
        ("L0.gene.GENE", "Unknown gene 'GENE': did you mean"),
        ("head 3", "'head 3' is no place of the model"),
    ],
)
def test_a_place_that_the_model_does_not_have_is_refused(model, label, said):
    with pytest.raises(HookError, match=said):
        grid_of(model, sites=(label,))


# Pairs


def test_pairs_are_every_two_of_the_heads_in_whatever_order_they_are_named():
    pairs = make_pairs(["L2H1", "L0H3", "L1H0"], "zero", SEED)
    assert list(map(str, pairs)) == ["L0H3+L1H0", "L0H3+L2H1", "L1H0+L2H1"]
    assert all(one.how == "zero" and one.seed == SEED and one.rotation is None for one in pairs)
    assert make_pairs(["L1H0", "L2H1", "L0H3"], "zero", SEED) == pairs
    assert make_pairs(["L0H3"], "zero", SEED) == []
    far = make_pairs(["L10H0", "L2H0"], "mean", SEED)
    assert str(far[0]) == "L2H0+L10H0"


def test_random_pairs_are_as_many_as_asked_for_drawn_by_seed(model):
    pairs = make_pairs([str(one) for one in all_heads(model.config)], "mean", SEED)
    drawn = draw_pairs(pairs, 6, SEED)
    assert len(drawn) == len(set(drawn)) == 6 and set(drawn) <= set(pairs)
    assert draw_pairs(pairs, 6, SEED) == drawn != draw_pairs(pairs, 6, SEED + 1)
    assert draw_pairs(pairs[:4], 6, SEED) == pairs[:4] and draw_pairs([], 6, SEED) == []


# What the rows depend on


@pytest.fixture(scope="module")
def make(model):
    """Identity of a small study, with some of its ingredients changed."""

    def of(model=model, cells=None, grid=None, block=8, seed=SEED, **settings):
        adata = tiny_cells(24, seed=2) if cells is None else cells
        grid = all_heads(model.config)[:2] if grid is None else grid
        given = {"metrics": ("cell_shift", "label_loss"), "folds": 2, "reference": 10, **settings}
        study = prepare(model, adata, StudyConfig(**given), grid, seed=seed)
        return plain(identity(study, grid, block))

    return of


@pytest.fixture(scope="module")
def first(make):
    return make()


def changed(a, b):
    assert a.keys() == b.keys()
    return {name for name in a if a[name] != b[name]}


def test_the_same_study_has_the_same_identity_also_with_other_batches(make, first):
    assert changed(make(), first) == set()
    assert changed(make(batch_size=3), first) == set()
    assert changed(make(bootstrap=7), first) == set()


def test_every_ingredient_changes_the_identity(make, first, model):
    assert changed(make(model=tiny_model(9)), first) == {"checkpoint"}
    assert changed(make(metrics=("label_loss",)), first) == {"metrics"}
    assert changed(make(grid=all_heads(model.config)[:3]), first) == {"ablations"}
    assert changed(make(grid=all_heads(model.config, "zero")[:2]), first) == {"ablations", "reference cells"}
    assert changed(make(grid=all_heads(model.config)[:2][::-1]), first) == {"ablations"}
    assert changed(make(block=9), first) == {"cells per task"}
    assert changed(make(mask_share=0.5), first) == {"mask_share"}
    assert changed(make(reference=11), first) == {"reference cells"}
    assert changed(make(folds=3), first) == {"labels"}
    assert {"seed", "cells", "reference cells", "labels"} >= changed(make(seed=SEED + 1), first) >= {"seed"}


def test_other_cells_values_names_or_labels_change_the_identity(make, first):
    def cells(**more):
        adata = tiny_cells(24, seed=2)
        for name, value in more.items():
            setattr(adata, name, value)
        return adata

    assert changed(make(cells=cells()), first) == set()
    assert changed(make(cells=cells(X=cells().X[::-1].copy())), first) == {"cells"}
    renamed = make(cells=cells(obs_names=[f"other{i}" for i in range(24)]))
    assert changed(renamed, first) >= {"cells", "reference cells"}
    assert "cells" in changed(make(cells=cells()[:23].copy()), first)
    labelled = tiny_cells(24, seed=2)
    labelled.obs["cell_type"] = labelled.obs["cell_type"].astype(str).where(labelled.obs_names != "cell3", "B")
    assert changed(make(cells=labelled), first) == {"labels"}
    with_donors = tiny_cells(24, seed=2)
    with_donors.obs["donor"] = ["a", "b", "c", "c"] * 6
    assert changed(make(cells=with_donors), first) == {"labels"}
    assert changed(make(max_tokens=9), first) == {"cells"}


def test_batches_that_the_checkpoint_reads_change_the_identity(make):
    model, found = tiny_model(1, n_batches=2), []
    for batch in (0, 1):
        adata = tiny_cells(24, seed=2)
        adata.obs["batch"] = batch
        found.append(make(model=model, cells=adata))
    assert changed(*found) == {"cells"}


def test_the_number_of_ablations_is_said(make, model):
    assert make(grid=all_heads(model.config)[:5])["ablations"]["number"] == 5


def test_a_study_without_references_has_an_identity_too(make, model):
    grid = all_heads(model.config)[:1]
    study = prepare(model, tiny_cells(24, seed=2), StudyConfig(metrics=("cell_shift",)), grid, seed=0)
    bare = replace(study, reference=None)
    assert changed(plain(identity(bare, grid, 4)), plain(identity(study, grid, 4))) == {"reference cells"}
    assert torch.equal(bare.tokens.values, study.tokens.values)
