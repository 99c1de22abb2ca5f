"""Drops go to the factor that carries a label and to no other, and p is uniform where none carries it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from workbench.errors import EvaluationError, ShapeError
from workbench.factors.factorise import Factors, hard_sparse, svd_factors
from workbench.factors.necessity import HOWS, ablate_factors, contributions, relabellings
from workbench.factors.necessity_tables import impacts, persistence, summarise, summarise_subsets
from workbench.operators.adaptor import LETAdaptor
from workbench.operators.readout import Endpoint, probe, said, score

D, N, CELLS = 12, 6, 240
GENES = tuple(f"g{i:02d}" for i in range(D))
TRAIN, TEST = np.arange(0, CELLS, 2), np.arange(1, CELLS, 2)
# Two groups on either side.
GROUPS = np.arange(CELLS) % 4
PLAN = {"split": "s", "groups": GROUPS}


def orthogonal(d, seed):
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((d, d)))[0]


def world(seed=0):
    """Cells, six factors of equal strength and an adaptor that hears each of them alike."""
    x = np.random.default_rng(seed).standard_normal((CELLS, D)) + 1
    factors = Factors(GENES, orthogonal(D, 1)[:, :N], np.full(N, 2.0), orthogonal(D, 2)[:N], "planted")
    return x, factors, orthogonal(D, 3), np.random.default_rng(4).standard_normal(D)


def endpoints(x, factors):
    heard = x @ factors.read
    every = np.arange(CELLS)
    third = np.digitize(heard[:, 4], np.quantile(heard[:, 4], [1 / 3, 2 / 3]))
    return [
        Endpoint("two", "binary", heard[:, 2] > np.median(heard[:, 2]), every),
        Endpoint("four", "classes", np.array(["a", "b", "c"])[third], every),
        Endpoint("depth", "depth", heard[:, 0] + heard[:, 1], every),
    ]


@pytest.fixture(scope="module")
def planted():
    x, factors, encoder, bias = world()
    wanted = endpoints(x, factors)
    return ablate_factors(x, factors, encoder, bias, wanted, TRAIN, TEST, **PLAN, null_draws=200, seed=0)


@pytest.fixture(scope="module")
def summary(planted):
    return summarise(planted.effects).set_index(["how", "endpoint", "metric", "factor"]).sort_index()


@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix, sp.csr_array])
def test_contributions_and_offset_add_up_to_the_latent_of_the_adaptor(form):
    rng = np.random.default_rng(0)
    x = rng.poisson(0.7, (50, D)).astype(float)
    factors = svd_factors(rng.standard_normal((D, D)), GENES, 7)
    labels = rng.random((9, 9))
    adaptor = LETAdaptor(k=3, steps=20).fit(x[:9] @ factors.matrix(), (labels + labels.T) / 2)
    parts, offset = contributions(form(x), factors, adaptor.encoder_, adaptor.bias_)
    assert parts.shape == (50, 7, 3)
    np.testing.assert_allclose(parts.sum(1) + offset, adaptor.transform(x @ factors.matrix()), atol=1e-10)
    some = factors.keep([0, 5])
    np.testing.assert_allclose(parts[:, [0, 5]].sum(1) + offset, adaptor.transform(x @ some.matrix()), atol=1e-10)


def test_the_factor_that_carries_a_label_has_the_largest_drop_and_is_beyond_its_null(summary):
    for how in HOWS:
        rows = summary.loc[(how, "two", "AUROC")]
        assert rows["drop"].idxmax() == "f02" and rows.loc["f02", "drop"] > 0.2
        assert rows.loc["f02", "q"] <= 0.05 and (rows["n_null"] == 200).all()
        others = rows.drop("f02")
        assert (others["drop"].abs() < 0.1).all() and (others["q"] > 0.05).all()
        classes = summary.loc[(how, "four", "balanced accuracy")]
        assert classes["drop"].idxmax() == "f04" and classes.loc["f04", "p"] == 1 / 201


def test_effects_are_those_of_a_loop_over_cells_with_the_adaptor_and_a_fixed_probe(planted):
    x, factors, encoder, bias = world()
    endpoint = endpoints(x, factors)[1]
    z = (x @ factors.matrix() - bias) @ encoder.T
    model = probe("classes").fit(z[TRAIN], endpoint.target[TRAIN])
    truth = endpoint.target[TEST]
    rows = planted.effects.set_index(["factor", "how", "endpoint", "metric"])
    for f in range(N):
        gone = factors.keep([f]).matrix()
        shifts = {"zero": 0.0, "mean": (x[TRAIN] @ gone @ encoder.T).mean(0)}
        for how, shift in shifts.items():
            expected = score("classes", truth, said(model, "classes", (z - x @ gone @ encoder.T + shift)[TEST]))
            for metric, value in expected.items():
                row = rows.loc[(f"f{f:02d}", how, "four", metric)]
                assert row["value"] == pytest.approx(value) and row["drop"] == pytest.approx(row["intact"] - value)
                assert row["intact"] == pytest.approx(score("classes", truth, said(model, "classes", z[TEST]))[metric])


def test_without_any_factor_a_probe_says_the_same_of_all_cells(planted):
    rows = planted.effects.set_index(["endpoint", "metric"])["none"].sort_index()
    assert (rows.loc[("two", "AUROC")] == 0.5).all()
    np.testing.assert_allclose(rows.loc[("four", "balanced accuracy")], 1 / 3)
    assert (rows.loc[("depth", "|Spearman|")] == 0).all()


def test_p_is_uniform_where_no_label_has_to_do_with_the_latent_however_far_factors_move_it():
    rng = np.random.default_rng(2)
    x, factors, encoder, bias = world(8)
    # What the factors read varies ten times as much as what a random vector reads.
    x = x + 9 * (rng.standard_normal((CELLS, N)) + 1) @ factors.read.T
    wanted = [Endpoint(f"e{i}", "binary", rng.permutation(CELLS) < CELLS // 2, np.arange(CELLS)) for i in range(30)]
    wanted += [Endpoint(f"c{i}", "classes", rng.integers(0, 4, CELLS), np.arange(CELLS)) for i in range(15)]
    given = (x, factors, encoder, bias, wanted, TRAIN, TEST)
    table = summarise(ablate_factors(*given, **PLAN, n_core=1, null_draws=19, seed=1).effects)
    for how in HOWS:
        p = table.loc[table["how"] == how, "p"].to_numpy()
        assert len(p) == 360 and 0.02 <= (p <= 0.05).mean() <= 0.08 and abs(p.mean() - 0.525) < 0.06, how
        assert 0.14 <= (p <= 0.2).mean() <= 0.27


def test_each_of_six_factors_that_is_the_only_carrier_of_a_class_is_found():
    x, factors, encoder, bias = world(5)
    kind = np.random.default_rng(3).integers(0, N, CELLS)
    x = x + 3 * factors.read.T[kind]
    wanted = [Endpoint("class", "classes", kind, np.arange(CELLS))]
    found = ablate_factors(x, factors, encoder, bias, wanted, TRAIN, TEST, **PLAN, null_draws=199, seed=0)
    assert (impacts(found.effects)["q"] <= 0.02).all() and (summarise(found.effects)["q"] <= 0.02).all()


def test_a_relabelling_deals_out_the_labels_of_a_group_again_and_says_how_many_it_changes():
    every = np.arange(CELLS)
    wanted = [Endpoint("some", "classes", every % 3, every[:200])]
    names = np.array([f"c{i:03d}" for i in range(CELLS)])
    orders = relabellings(TEST, wanted, GROUPS, names, 60, 0)
    assert orders.shape == (60, len(TEST)) and (np.sort(orders, axis=1) == TEST).all()
    assert (GROUPS[orders] == GROUPS[TEST]).all() and (orders[:, TEST >= 200] == TEST[TEST >= 200]).all()
    stay = (orders == TEST)[:, TEST < 200].mean()
    assert stay == pytest.approx(1 / 50, rel=0.3), "one cell of fifty keeps its own label, on average"
    # The same in another split, and in another order of the cells.
    alone = relabellings(TEST[GROUPS[TEST] == 3], wanted, GROUPS, names, 60, 0)
    assert np.array_equal(orders[:, GROUPS[TEST] == 3], alone)
    x, factors, encoder, bias = world()
    some = np.random.default_rng(0).integers(0, 3, CELLS)
    place = {"split": "s", "null_draws": 50, "seed": 0}
    for groups, low, high in ((GROUPS, 0.6, 0.7), (2 * some + every % 2, 0, 0)):
        wanted = [Endpoint("some", "classes", some, every)]
        found = ablate_factors(x, factors, encoder, bias, wanted, TRAIN, TEST, groups=groups, **place)
        assert found.effects["moved"].between(low, high).all(), (
            "of three classes two thirds; of groups of one class none"
        )
    assert (impacts(found.effects)["p"] == 1).all(), "where nothing moves, nothing is shown"


def test_the_core_is_chosen_on_the_training_cells_and_all_its_subsets_are_tried(planted):
    x, factors, encoder, bias = world()
    alone = planted.subsets.query("kind == 'alone'")
    assert alone["subset"].nunique() == 15 and set(alone["subset"]) >= {"f00", "f02", "f04"}
    effects = planted.effects.query("how == 'mean'")
    order = effects.groupby("factor")["training_drop"].mean().sort_values(ascending=False)
    assert set(alone[alone["size"] == 1]["subset"]) == set(order.index[:4])
    # Other labels for the test cells: what is judged changes, what is chosen does not.
    rng = np.random.default_rng(0)
    other = []
    for endpoint in endpoints(x, factors):
        target = endpoint.target.copy()
        target[TEST] = rng.permutation(target[TEST])
        other.append(Endpoint(endpoint.name, endpoint.kind, target, endpoint.cells))
    again = ablate_factors(x, factors, encoder, bias, other, TRAIN, TEST, **PLAN, null_draws=1, seed=0)
    assert list(again.subsets["subset"]) == list(planted.subsets["subset"])
    assert not np.allclose(again.subsets["value"], planted.subsets["value"])


def test_kept_and_removed_meet_at_the_ends_and_agree_with_leaving_one_out(planted):
    table = summarise_subsets(planted.subsets).set_index(["subset", "how", "endpoint", "metric"])
    for place in (("two", "AUROC"), ("four", "macro-F1"), ("depth", "|Spearman|")):
        for how in HOWS:
            row = table.loc[("top 6", how, *place)]
            assert row["value"] == pytest.approx(row["intact"]) and row["fraction"] == pytest.approx(1)
            assert table.loc[("without top 6", how, *place), "value"] == pytest.approx(row["none"])
    first = planted.effects.query("how == 'mean'").groupby("factor")["training_drop"].mean().idxmax()
    left_out = planted.effects.query("how == 'zero' and endpoint == 'two' and factor == @first")["value"].iloc[0]
    assert table.loc[("without top 1", "zero", "two", "AUROC"), "value"] == pytest.approx(left_out)
    assert table.loc[(first, "zero", "two", "AUROC"), "value"] == pytest.approx(
        table.loc[("top 1", "zero", "two", "AUROC"), "value"]
    )


def test_interaction_is_what_a_subset_does_beyond_its_factors_one_by_one(planted):
    table = summarise_subsets(planted.subsets).query("how == 'mean' and endpoint == 'depth'").set_index("subset")
    singles = table.loc[["f00", "f01"], "value"]
    row = table.loc["f00+f01"]
    assert row["none"] == 0 and row["additive"] == pytest.approx(singles.sum())
    assert row["interaction"] == pytest.approx(row["value"] - singles.sum()) and row["value"] > 0.95
    np.testing.assert_allclose(table.query("kind == 'alone' and size == 1")["interaction"], 0, atol=1e-12)
    assert table.query("kind != 'alone'")["additive"].isna().all()


def test_impact_is_the_mean_drop_and_shares_are_of_the_positive_ones(planted):
    table = impacts(planted.effects)
    for how in HOWS:
        rows = table[table["how"] == how]
        drops = planted.effects[planted.effects["how"] == how].groupby("factor")["drop"].mean()
        np.testing.assert_allclose(rows["impact"], drops[rows["factor"]])
        assert rows["impact"].is_monotonic_decreasing and set(rows["factor"].iloc[:2]) <= {"f00", "f01", "f02", "f04"}
        np.testing.assert_allclose(rows["share"], rows["impact"].clip(lower=0) / rows["impact"].clip(lower=0).sum())
        assert rows["cumulative"].iloc[-1] == pytest.approx(1)
        assert (rows["n_metrics"] == 4).all() and (rows["n_splits"] == 1).all()
    assert table["q"].iloc[0] <= 0.05


def test_means_over_splits_are_of_the_draws_too():
    x, factors, encoder, bias = world()
    wanted = endpoints(x, factors)[:1]
    halves = [(TRAIN, TEST), (TEST, TRAIN)]
    found = [
        ablate_factors(x, factors, encoder, bias, wanted, a, b, split=str(i), groups=GROUPS, null_draws=4, seed=0)
        for i, (a, b) in enumerate(halves)
    ]
    effects = pd.concat([part.effects for part in found])
    table = summarise(effects).set_index(["factor", "how"])
    own = np.mean(effects.query("factor == 'f03' and how == 'zero'")["relabelled"].to_list(), axis=0)
    row = table.loc[("f03", "zero")]
    assert row["n_splits"] == 2 and row["n_null"] == len(own) == 4
    assert row["null_mean"] == pytest.approx(own.mean()) and row["null_high"] == pytest.approx(np.quantile(own, 0.975))
    drops = effects.query("factor == 'f03' and how == 'zero'")["drop"]
    assert row["drop"] == pytest.approx(drops.mean()) and row["sd"] == pytest.approx(drops.std())


def test_neither_the_order_of_cells_nor_the_storage_of_expression_matters():
    x, factors, encoder, bias = world()
    options, names = {"split": "s", "null_draws": 2, "seed": 3}, np.array([f"c{i:03d}" for i in range(CELLS)])
    own = {"groups": GROUPS, "names": names}
    plain = ablate_factors(x, factors, encoder, bias, endpoints(x, factors), TRAIN, TEST, **own, **options)
    order = np.random.default_rng(1).permutation(CELLS)
    place = np.argsort(order)
    moved = [Endpoint(e.name, e.kind, e.target[order], place[e.cells]) for e in endpoints(x, factors)]
    own = {"groups": GROUPS[order], "names": names[order]}
    again = ablate_factors(
        sp.csr_matrix(x[order]), factors, encoder, bias, moved, place[TRAIN], place[TEST], **own, **options
    )
    for one, other in ((plain.effects, again.effects), (plain.subsets, again.subsets)):
        pd.testing.assert_frame_equal(one, other, rtol=1e-6)


def test_an_endpoint_of_one_class_is_listed_as_undefined_and_never_scored():
    x, factors, encoder, bias = world()
    one_sided = np.zeros(CELLS, dtype=bool)
    one_sided[TRAIN[:20]] = True
    wanted = [
        Endpoint("constant", "binary", np.ones(CELLS, dtype=bool), np.arange(CELLS)),
        Endpoint("train only", "binary", one_sided, np.arange(CELLS)),
        Endpoint("no test cell", "classes", np.where(one_sided, "a", "b"), TRAIN),
    ]
    found = ablate_factors(x, factors, encoder, bias, wanted, TRAIN, TEST, **PLAN, null_draws=2, seed=0)
    assert found.effects[["intact", "value", "drop", "none"]].isna().all(axis=None)
    status = found.effects.groupby("endpoint")["status"].first()
    assert status["constant"] == "undefined: fewer than two classes among the training and the test cells"
    assert status["train only"].endswith("among the test cells") and status["no test cell"].endswith("the test cells")
    table = summarise(found.effects)
    assert (
        len(table) == N * 2 * 4 and (table["n_splits"] == 0).all() and table[["drop", "p", "q"]].isna().all(axis=None)
    )
    assert table["status"].str.startswith("undefined").all()
    ranked = impacts(found.effects)
    assert len(ranked) == N * 2 and ranked[["impact", "share", "p"]].isna().all(axis=None)
    assert summarise_subsets(found.subsets)[["value", "fraction", "interaction"]].isna().all(axis=None)


def test_undefined_endpoints_do_not_change_the_others(planted):
    x, factors, encoder, bias = world()
    wanted = [*endpoints(x, factors), Endpoint("constant", "binary", np.ones(CELLS, dtype=bool), np.arange(CELLS))]
    more = ablate_factors(x, factors, encoder, bias, wanted, TRAIN, TEST, **PLAN, null_draws=200, seed=0)
    kept = impacts(more.effects)
    pd.testing.assert_frame_equal(kept, impacts(planted.effects))


def test_the_important_factors_persist_where_they_are_the_same_and_not_where_they_are_shuffled(planted):
    before = impacts(planted.effects)
    same = persistence(before, before, permutations=300, seed=0)
    assert (same["spearman"] == 1).all() and (same["overlap"] == 4).all() and (same["p"] < 0.05).all()
    assert (same["top_before"] == same["top_after"]).all() and set(same["how"]) == set(HOWS)
    turned = before.assign(impact=-before["impact"])
    other = persistence(before, turned, permutations=300, seed=0)
    assert (other["spearman"] == -1).all() and (other["p"] > 0.9).all() and (other["overlap"] == 2).all()
    # Two of six fall among the top four of both in any case.
    assert (other["overlap_p"] == 1).all()


def test_persistence_after_hard_sparse_runs_on_the_same_names(planted):
    x, factors, encoder, bias = world()
    sparse = hard_sparse(factors, 8, 8)
    found = ablate_factors(x, sparse, encoder, bias, endpoints(x, factors), TRAIN, TEST, **PLAN, null_draws=0, seed=0)
    table = persistence(impacts(planted.effects), impacts(found.effects), permutations=200, seed=0)
    assert (table["n_factors"] == N).all() and (table["spearman"] > 0.3).all()
    assert impacts(found.effects)[["p", "q", "null_mean"]].isna().all(axis=None), "no draw, no p"


def test_persistence_of_other_factors_is_refused(planted):
    before = impacts(planted.effects)
    with pytest.raises(EvaluationError, match="f05 on one side only"):
        persistence(before, before[before["factor"] != "f05"], seed=0)
    with pytest.raises(EvaluationError, match="have no impact for 'mean'"):
        persistence(before, before.assign(impact=np.nan), seed=0)


def test_input_that_does_not_fit_is_refused(without_shape_checks):
    x, factors, encoder, bias = world()
    wanted = endpoints(x, factors)

    def run(x=x, encoder=encoder, wanted=wanted, train=TRAIN, test=TEST, groups=GROUPS, draws=1, core=None):
        place = {"split": "s", "groups": groups, "core": core, "null_draws": draws, "seed": 0}
        return ablate_factors(x, factors, encoder, bias, wanted, train, test, **place)

    with pytest.raises(EvaluationError, match="120 training and 0 test cells"):
        run(test=TEST[:0])
    with pytest.raises(EvaluationError, match="0 training and 120 test cells"):
        run(train=TRAIN[:0])
    with pytest.raises(EvaluationError, match="3 are named twice"):
        run(test=np.concatenate([TEST, TRAIN[:3]]))
    with pytest.raises(EvaluationError, match="from 0 to 240"):
        run(test=np.array([1, CELLS]))
    with pytest.raises(EvaluationError, match="factors 0 to 5"):
        run(core=[0, 6])
    with pytest.raises(EvaluationError, match="0 endpoints and 1 null draws"):
        run(wanted=[])
    with pytest.raises(EvaluationError, match="3 endpoints and -1 null draws"):
        run(draws=-1)
    with pytest.raises(EvaluationError, match="3 groups of cells are on both sides of the split, 0 among them"):
        run(groups=np.arange(CELLS) % 3)
    with pytest.raises(ShapeError, match="5 groups were given for 240 cells"):
        run(groups=GROUPS[:5])
    with pytest.raises(ShapeError, match="factors are of 12 genes, the cells of 11"):
        run(x=x[:, :11])
    with pytest.raises(ShapeError, match="the adaptor of 24"):
        run(encoder=np.hstack([encoder, encoder]))


def test_a_core_that_is_given_is_used_in_its_order():
    x, factors, encoder, bias = world()
    found = ablate_factors(
        x, factors, encoder, bias, endpoints(x, factors), TRAIN, TEST, **PLAN, core=[5, 1], null_draws=1, seed=0
    )
    assert list(dict.fromkeys(found.subsets.query("kind == 'alone'")["subset"])) == ["f05", "f01", "f05+f01"]
