"""Lineages: found where they are planted, uniform p where they are not, and never fitted on."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from workbench.errors import EvaluationError
from workbench.evidence.ruler import build_ruler, load_ruler
from workbench.evidence.ruler_matrix import read_matrix
from workbench.geometry.trajectories import lineage, progression, trajectories_of, trajectory_table
from workbench.operators.adaptor import LETAdaptor


@pytest.fixture(scope="module")
def ruler():
    return load_ruler("hematopoiesis")


def on_an_arc(depth, noise=0.01, seed=0):
    """Points whose angle from the first axis is their depth over four."""
    rng = np.random.default_rng(seed)
    z = np.column_stack([np.cos(depth / 4), np.sin(depth / 4), np.zeros(len(depth))])
    return z * rng.uniform(0.5, 2, (len(depth), 1)) + noise * rng.standard_normal(z.shape)


def test_a_lineage_is_the_branch_and_all_it_comes_from(ruler):
    names = {ruler.stages[i] for i in lineage(ruler, "erythroid")}
    assert names == {"HSC", "MPP", "CMP", "MEP", "erythroid progenitor", "erythroid", "erythrocyte"}
    with pytest.raises(EvaluationError, match="did you mean 'erythroid'"):
        lineage(ruler, "erythroids")


def test_a_matrix_has_no_ancestors(tmp_path):
    (tmp_path / "m.csv").write_text("s,a,b,branch\na,0,1,x\nb,1,0,y\n")
    assert lineage(read_matrix(tmp_path / "m.csv"), "y").tolist() == [1]


def test_progress_that_follows_depth_is_found_whatever_way_the_latent_lies():
    depth = np.repeat(np.arange(5.0), 4)
    z = on_an_arc(depth)
    root = depth == 0
    found = progression(z, depth, root, draws=500, seed=0)
    assert found.spearman > 0.95 and found.p == 1 / 501 and found.n == 16 and found.n_root == 4 and found.n_depths == 4
    turn = np.linalg.qr(np.random.default_rng(1).standard_normal((3, 3)))[0]
    again = progression(-3 * z @ turn, depth, root, draws=500, seed=0)
    assert (again.spearman, again.p) == pytest.approx((found.spearman, found.p))


def test_the_null_by_hand():
    from workbench.evidence.null_rulers import permute_in_blocks

    rng = np.random.default_rng(3)
    depth, z = rng.integers(0, 4, 25).astype(float), rng.standard_normal((25, 4))
    root = depth == 0
    blocks = rng.integers(0, 2, 25)
    found = progression(z, depth, root, blocks=blocks, draws=30, seed=1)
    unit = z / np.linalg.norm(z, axis=1, keepdims=True)
    start = unit[root].mean(0)
    angle = np.arccos(unit[~root] @ start / np.linalg.norm(start))
    draws = permute_in_blocks(depth[~root], blocks[~root], 1, 30)[0]
    null = np.array([stats.spearmanr(angle, d).statistic for d in draws])
    assert found.spearman == pytest.approx(stats.spearmanr(angle, depth[~root]).statistic)
    assert (
        found.null_mean == pytest.approx(null.mean()) and found.p == (1 + (null >= found.spearman - 1e-12).sum()) / 31
    )


def test_p_is_uniform_where_there_is_nothing():
    depth = np.repeat(np.arange(5.0), 4)
    p = [
        progression(np.random.default_rng(s).standard_normal((20, 3)), depth, depth == 0, draws=199, seed=s).p
        for s in range(150)
    ]
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_where_nothing_can_move_there_is_no_p():
    depth = np.repeat(np.arange(5.0), 4)
    found = progression(on_an_arc(depth), depth, depth == 0, blocks=np.arange(20), seed=0)
    assert np.isnan(found.p) and found.spearman > 0.9 and found.n_movable == 0 and "16 have one member" in found.note


def anchors_of(ruler, names, copies=3):
    stage = np.repeat([ruler.stages.index(name) for name in names], copies)
    return stage, on_an_arc(ruler.depths[stage], noise=0.02)


def test_the_table_follows_lineages_and_says_what_it_cannot(ruler):
    names = ["HSC", "CMP", "MEP", "erythroid progenitor", "erythroid", "erythrocyte", "B naive"]
    stage, z = anchors_of(ruler, names)
    table = trajectories_of(z, stage, ruler, draws=200, seed=0).set_index("lineage")
    row = table.loc["erythroid"]
    assert row["status"] == "ok" and row["spearman"] > 0.9 and row["root"] == "HSC" and row["n_depths"] == 3
    assert row["stages"] == "HSC > CMP > MEP > erythroid progenitor > erythroid > erythrocyte".replace(
        "CMP > MEP > ", ""
    ), "of the ancestors only the root is used"
    assert row["n_anchors"] == 9 and row["n_root"] == 3 and row["q"] == row["p"]
    assert table.loc["B", "status"].startswith("not applicable: 3 anchors at 1 depths")
    assert table.loc["T", "status"] == "not applicable: no anchor is of this branch"
    assert table.loc[["B", "T", "monocyte"], "spearman"].isna().all()


def test_without_ancestors_the_branch_starts_at_its_own_first_stage(ruler):
    stage, z = anchors_of(ruler, ["pro-B", "pre-B", "B naive", "B memory", "plasma"])
    row = trajectories_of(z, stage, ruler, branches=["B"], draws=100, seed=0).iloc[0]
    assert row["root"] == "pro-B" and row["n_anchors"] == 12 and row["spearman"] > 0.9


def test_lineages_are_the_ruler_s_own_where_none_is_named(ruler):
    stage, z = anchors_of(ruler, ["HSC", "MEP", "erythroid progenitor", "erythroid", "erythrocyte"])
    assert ruler.lineages == ("erythroid", "monocyte", "B", "T")
    for made in (
        trajectories_of(z, stage, ruler, draws=20, seed=0),
        trajectory_table(z, stage, ruler, LETAdaptor(k=2, steps=5), draws=20, seed=0),
    ):
        assert tuple(made["lineage"]) == ruler.lineages
    named = trajectories_of(z, stage, ruler, branches=["mast", "erythroid"], draws=20, seed=0)
    assert named["lineage"].tolist() == ["mast", "erythroid"]


def test_a_lineage_that_is_no_branch_is_an_error_and_so_is_none_at_all(ruler):
    stage, z = anchors_of(ruler, ["HSC", "MEP", "erythroid"])
    with pytest.raises(EvaluationError, match="Lineages are branches: Unknown branch 'erythroids': did you mean 'eryt"):
        trajectories_of(z, stage, ruler, branches=["B", "erythroids"], seed=0)
    plain = build_ruler("plain", {"a": {"from": [], "branch": "x"}, "b": {"from": ["a"], "branch": "y"}}, {})
    with pytest.raises(EvaluationError, match="The ruler 'plain' names no lineages to follow; list branches"):
        trajectories_of(np.eye(2), np.array([0, 1]), plain, seed=0)


def test_no_anchor_of_the_branch_is_fitted_on(ruler, monkeypatch):
    names = ["HSC", "MEP", "erythroid progenitor", "erythroid", "erythrocyte", "pro-B", "pre-B", "plasma", "CLP"]
    stage, _ = anchors_of(ruler, names)
    features = np.random.default_rng(0).standard_normal((len(stage), 6))
    seen = []

    class Spy(LETAdaptor):
        def fit(self, X, distances, sample_weight=None):
            seen.append(X.copy())
            return super().fit(X, distances, sample_weight)

    monkeypatch.setattr("workbench.operators.adaptor.LETAdaptor", Spy)
    table = trajectory_table(
        features, stage, ruler, LETAdaptor(k=3, steps=20), branches=["erythroid", "B"], draws=50, seed=0
    )
    assert (table["status"] == "ok").all() and len(seen) == 2
    for branch, trained in zip(("erythroid", "B"), seen, strict=True):
        own = np.array(ruler.branches)[stage] == branch
        assert len(trained) == (~own).sum()
        assert not any((features[i] == trained).all(1).any() for i in np.flatnonzero(own))


def test_the_weights_of_the_anchors_count(ruler):
    stage, z = anchors_of(ruler, ["HSC", "MEP", "erythroid", "CLP", "pro-B", "pre-B", "plasma"])
    features, table = z @ np.random.default_rng(1).standard_normal((z.shape[1], 6)), []
    for weights in (None, np.ones(len(stage)), np.linspace(0.1, 5, len(stage))):
        table.append(
            trajectory_table(
                features, stage, ruler, LETAdaptor(k=2, steps=20), branches=["B"], weights=weights, draws=20, seed=0
            )
        )
    assert table[0].equals(table[1]) and not table[0].equals(table[2])


def test_nothing_left_to_fit_on_is_said(ruler):
    stage, z = anchors_of(ruler, ["pro-B", "pre-B", "B naive", "B memory"])
    row = trajectory_table(z, stage, ruler, LETAdaptor(k=2), branches=["B"], seed=0).iloc[0]
    assert row["status"].startswith("not applicable: 0 anchors are left without the branch")
    with pytest.raises(EvaluationError, match="needs a root"):
        progression(z, ruler.depths[stage], np.zeros(len(stage), dtype=bool), seed=0)
