"""Planted cells and checkpoint are what they are said to be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score

from workbench.cells.expression import panel_expression
from workbench.errors import CheckpointError, EvaluationError
from workbench.models import load_model
from workbench.models.scgpt.checkpoint import save_checkpoint
from workbench.operators.weight_operators import weight_operators
from workbench.planted.cells import OFF_GRAPH, REMOVED, WorldShape, make_world, planted_cells
from workbench.planted.checkpoint import plant_world
from workbench.planted.proof import operators_of, overlap
from workbench.stats import spearman

SMALL = WorldShape(
    branches=("erythroid", "B", "T"),
    stages_per_branch=4,
    genes_per_program=8,
    n_nuisance=5,
    genes_per_nuisance=4,
    n_background=12,
)


@pytest.fixture(scope="module")
def world():
    return make_world(3, shape=SMALL)


@pytest.fixture(scope="module")
def planted(world):
    return plant_world(world, 3, n_layers=3, n_heads=4, d_model=32, layer=1, head=2)


# Cells


def test_programs_are_full_at_the_tip_and_fade_with_every_step(world):
    ruler = world.ruler
    for p, tip in enumerate(world.tips):
        assert ruler.branches[tip] == SMALL.branches[p]
        distances = ruler.distances[world.stages, tip]
        assert world.activity[world.stages.tolist().index(tip), p] == 1
        assert spearman(world.activity[:, p], -distances) == pytest.approx(1)
        assert world.activity[:, p].min() >= 0
    named = dict(zip(world.genes, world.program, strict=True))
    assert all((named[gene] >= 0) == gene.startswith("PLANTED") for gene in named)
    assert (world.nuisance >= 0).sum() == 20 and world.sign[world.nuisance >= 0].sum() == 0


def test_a_donors_cells_are_the_same_in_any_company(world):
    both = planted_cells(world, ["D1", "D2"])
    turned = planted_cells(world, ["D2", "D1"])
    alone = planted_cells(world, ["D2"])
    assert both.obs_names.is_unique and set(alone.obs_names) < set(both.obs_names)
    for other in (turned, both):
        again = other[alone.obs_names]
        assert (again.X != alone.X).nnz == 0 and (again.obs == alone.obs).all().all()
    assert (planted_cells(world, ["D3"]).X.sum() != alone.X.sum()) and "planted" in both.uns["workbench"]["source"]
    assert set(both.obs["cell_type"]) == {world.ruler.stages[s] for s in world.stages}


def test_counts_are_negative_binomial_with_dropout():
    """One group without any effect: variance is mean + mean^2 / dispersion, once dropout is taken out."""
    shape = WorldShape(
        branches=("B", "T"), stages_per_branch=1, n_nuisance=1, cells_per_group=4000, spread=0, donor_nuisance=0, batch=0,
        stage_nuisance=0, depth=4000.0,
    )  # fmt: skip
    world = make_world(0, shape=shape)
    cells = planted_cells(world, ["D1"], ["blood"])
    x = cells[cells.obs["cell_type"] == cells.obs["cell_type"].iloc[0]].X.toarray()
    depth = x.sum(1, keepdims=True) / x.sum(1).mean()
    large = np.flatnonzero(x.mean(0) > 15)
    assert len(large) > 20
    zero = (x[:, large] == 0).mean()
    assert zero == pytest.approx(0.1, abs=0.02), "at these means hardly a zero is not dropout"
    there = np.where(x[:, large] > 0, x[:, large] / depth, np.nan)
    mean, variance = np.nanmean(there, 0), np.nanvar(there, 0)
    assert np.median((variance - mean) / mean**2) == pytest.approx(1 / shape.dispersion, rel=0.25)


def logged(cells):
    return panel_expression(cells, tuple(cells.var_names)).toarray()


def accuracy(cells):
    probe = LogisticRegression(max_iter=2000)
    return cross_val_score(probe, logged(cells), cells.obs["cell_type"].astype(str), cv=3).mean()


def test_labels_say_what_they_are_said_to_say():
    """Without the nuisance of donors and cells, which makes labels hard to read in so few cells."""
    world = make_world(3, shape=replace(SMALL, donor_nuisance=0.0))
    chance = 1 / len(world.stages)
    by_signal = {
        s: planted_cells(world, ["D1", "D2", "D3"], ["blood"], signal=s) for s in ("graph", OFF_GRAPH, REMOVED)
    }
    assert accuracy(by_signal["graph"]) > 4 * chance and accuracy(by_signal[OFF_GRAPH]) > 4 * chance
    assert accuracy(by_signal[REMOVED]) < 2.5 * chance
    assert set(by_signal["graph"].obs_names).isdisjoint(by_signal[OFF_GRAPH].obs_names)


def test_off_the_graph_programs_follow_nothing(world):
    found = {"graph": [], OFF_GRAPH: []}
    for signal, values in found.items():
        for seed in range(6):
            other = make_world(seed, shape=SMALL)
            cells = planted_cells(other, ["D1"], ["blood"], signal=signal)
            x = logged(cells)
            stage = other.ruler.place(cells.obs["cell_type"])[0]
            for p, tip in enumerate(other.tips):
                values.append(spearman(x[:, other.program == p].mean(1), -other.ruler.distances[stage, tip]))
    assert np.mean(found["graph"]) > 0.5 and abs(np.mean(found[OFF_GRAPH])) < 0.2


def test_impossible_worlds_are_refused():
    with pytest.raises(EvaluationError, match="two branches"):
        make_world(0, shape=WorldShape(branches=("B",)))
    with pytest.raises(EvaluationError, match="nknown branch"):
        make_world(0, shape=WorldShape(branches=("B", "nerve")))


# Checkpoint


def test_all_heads_have_the_same_norms(planted):
    for layer in range(3):
        attn = planted.model.block(layer).attn
        for weights in (attn.W_Q, attn.W_K, attn.W_V, attn.W_O):
            norms = weights.norm(dim=(1, 2))
            torch.testing.assert_close(norms, norms[:1].expand_as(norms), rtol=1e-4, atol=0)
    first, second = (planted.model.block(i).attn.W_Q[0].norm() for i in (0, 1))
    torch.testing.assert_close(first, second, rtol=1e-4, atol=0)


@pytest.mark.parametrize("kind", ["qk", "ov"])
def test_the_planted_operator_has_the_rank_and_the_subspace_of_the_programs(planted, kind):
    found = weight_operators(planted.model, planted.world.genes, kind)
    operator = found.matrix(planted.layer, planted.head).astype(float)
    values = np.linalg.svd(operator, compute_uv=False)
    assert values[3] < 1e-4 * values[0] < values[2]
    assert overlap(operator, planted.read) > 0.999
    others = [overlap(found.matrix(*at), planted.read) for at in np.ndindex(3, 4) if at != (1, 2)]
    assert np.median(others) < 0.4
    block = operator[np.ix_(planted.world.program >= 0, planted.world.program >= 0)]
    near = np.exp(-4 * planted.world.ruler.distances[np.ix_(planted.world.tips, planted.world.tips)])
    member = planted.world.program[planted.world.program >= 0]
    assert np.corrcoef(block.ravel(), near[np.ix_(member, member)].ravel())[0, 1] > 0.99


def test_patterns_show_the_planted_head_and_no_other(planted):
    found = operators_of(planted, planted_cells(planted.world, ["D1", "D2"]), "attention")
    assert overlap(found[planted.layer, planted.head], planted.read) > 0.95
    others = [overlap(found[at], planted.read) for at in np.ndindex(3, 4) if at != (1, 2)]
    assert np.median(others) < 0.4


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_the_score_within_a_program_is_the_stated_one_at_any_depth(world, layer):
    model = plant_world(world, 3, n_layers=3, n_heads=4, d_model=32, layer=layer, head=0).model
    tokens = model.tokenizer(planted_cells(world, ["D1"])).tokens(0, 6)
    name = f"blocks.{layer}.attn.hook_scores"
    scores = model.run_with_cache(tokens, names_filter=name)[1][name][:, 0]
    inside = []
    for cell in range(6):
        names = model.vocabulary.decode(tokens.gene_ids[cell].tolist())
        own = [i for i, gene in enumerate(names) if gene.startswith("PLANTED-T-")]
        inside.append(scores[cell][own][:, own].mean().item())
    assert np.mean(inside) == pytest.approx(3, rel=0.25)


def test_without_the_plant_only_that_place_differs(world, planted):
    bare = plant_world(world, 3, n_layers=3, n_heads=4, d_model=32, layer=1, head=2, planted=False).model.state_dict()
    for name, value in planted.model.state_dict().items():
        same = torch.equal(value, bare[name])
        assert same or (name.startswith("blocks.1.attn") or "layers.1.self_attn" in name), name
    assert any(not torch.equal(value, bare[name]) for name, value in planted.model.state_dict().items())


def test_it_is_a_checkpoint_like_any_other(planted, tmp_path):
    save_checkpoint(planted.model, tmp_path)
    again = load_model(tmp_path)
    one, other = (weight_operators(m, planted.world.genes, "qk").matrix(1, 2) for m in (planted.model, again))
    np.testing.assert_allclose(one, other, rtol=1e-6)


def test_impossible_shapes_are_refused(world):
    with pytest.raises(CheckpointError, match="need a head width of 3"):
        plant_world(world, 0, n_heads=16, d_model=32)
    with pytest.raises(CheckpointError, match="L9H0 does not exist"):
        plant_world(world, 0, d_model=32, n_heads=4, layer=9, head=0)


def test_the_overlap_of_chance_is_small_and_of_the_same_is_one():
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.standard_normal((60, 3)) - 0)[0]
    basis = np.linalg.qr(basis - basis.mean(0))[0]
    assert overlap(basis @ rng.standard_normal((3, 60)), basis) == pytest.approx(1)
    by_chance = [overlap(rng.standard_normal((60, 60)), basis) for _ in range(30)]
    assert np.mean(by_chance) == pytest.approx(3 / 60, abs=0.03)


def test_names_and_obs_are_plain(world):
    cells = planted_cells(world, ["D1"])
    assert isinstance(cells.obs, pd.DataFrame) and list(cells.obs.columns) == ["cell_type", "donor", "tissue"]
    assert stats.skew(np.asarray(cells.X.sum(1)).ravel()) < 2
