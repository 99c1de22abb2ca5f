"""Effects of features: those of hooks, the planted one first and the null alone above it, estimates beside exact effects."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from fixtures_dictionaries import HOOK, random_dictionary
from scipy.stats import t as student

from workbench.dictionaries.alike import alike, compare_features, draw_alike, feature_usage
from workbench.dictionaries.causing import feature_attribution, feature_effects
from workbench.dictionaries.splicing import edit_features
from workbench.engine.sweep import Backend
from workbench.errors import EvaluationError, HookError, OutputError
from workbench.planted.dictionary import plant_cause, plant_dictionary
from workbench.seeds import generator

QUIET = {"backend": Backend(progress=False), "bootstrap": 40}
SHIFT = {"metrics": ["cell_shift"], **QUIET}


@pytest.fixture(scope="module")
def dictionary(model):
    return random_dictionary(model)


def test_usage_is_how_often_and_how_strongly_features_fire(model, dictionary, cells):
    tokens = model.tokenizer(cells).tokens()
    usage = feature_usage(model, dictionary, tokens, 7)
    _, cache = model.run_with_cache(tokens, names_filter=[HOOK], return_cache_object=False)
    features = dictionary.encode(cache[HOOK])[tokens.genes].numpy()
    fired = features > 0
    assert np.allclose(usage["rate"], fired.mean(0))
    assert np.allclose(usage["norm"], np.sqrt((features**2).sum(0) / np.maximum(fired.sum(0), 1)), rtol=1e-5)


def test_alike_is_within_the_factor_in_both_and_drawn_by_the_seed():
    usage = pd.DataFrame({"rate": [0.1, 0.15, 0.1, 0.3, 0, 0.05], "norm": [1, 1, 3, 1, 1, 2.0]})
    assert alike(usage, 0, 2).tolist() == [1, 5] and alike(usage, 4, 2).tolist() == []
    many = pd.DataFrame({"rate": np.full(50, 0.1), "norm": np.ones(50)})
    first, again, other = (draw_alike(many, [3, 4], 10, 2, seed) for seed in (0, 0, 1))
    assert all((first[k] == again[k]).all() and len(first[k]) == 10 and k not in first[k] for k in (3, 4))
    assert (first[3] != first[4]).any() and (first[3] != other[3]).any()
    with pytest.raises(EvaluationError, match="a factor above 1"):
        draw_alike(usage, [0], 3, 1.0, 0)


def test_p_is_the_rank_among_those_that_are_alike():
    values = np.repeat([[5.0], [1.0], [-6.0], [2.0]], 8, axis=1)
    table = compare_features({"m": values}, [7, 8, 9, 11], {7: np.array([8, 9, 11])}, draws=20, seed=0)
    row = table.iloc[0]
    assert (row["effect"], row["p"], row["smallest_p"], row["n_null"]) == (5, 0.5, 0.25, 3)
    assert row["ratio"] == pytest.approx(5 / np.sqrt(41 / 3))


def test_a_feature_that_scatters_more_is_told_from_chance_of_the_cells():
    rng = np.random.default_rng(0)
    values = rng.normal(1, 0.5, (41, 1)) + rng.normal(size=(41, 100))
    values[0] = 4 + 20 * (values[0] - values[0].mean())
    others = {0: np.arange(1, 41)}
    one, donors = (
        compare_features({"m": values}, range(41), others, draws=20, seed=0, groups=groups).iloc[0]
        for groups in (None, np.arange(100) % 5)
    )
    se = values.std(1, ddof=1) / 10
    assert one["se"] == pytest.approx(se[0]) and one["null_se"] == pytest.approx(np.sqrt((se[1:] ** 2).mean()))
    more, null = np.sqrt(one["se"] ** 2 - one["null_se"] ** 2), values[1:].mean(1)
    tails = student.sf((4 - null) / more, 99) + student.sf((4 + null) / more, 99)
    # By its rank alone p would be 1 / 41.
    assert one["p"] == pytest.approx((1 + tails.sum()) / 41) and one["p"] > 0.1
    mean = values[0].reshape(20, 5).mean(0)
    assert donors["se"] == pytest.approx(mean.std(ddof=1) / np.sqrt(5)) and donors["p"] > 1 / 41
    # Of one that scatters no more it is the rank.
    values[0] = 4
    assert compare_features({"m": values}, range(41), others, draws=20, seed=0).iloc[0]["p"] == 1 / 41


@pytest.mark.parametrize(("how", "amount", "edit"), [("zero", None, {"scale": 0}), ("clamp", 2.0, {"value": 2})])
def test_effects_are_those_of_hooks_on_features(model, dictionary, cells, how, amount, edit):
    table = feature_effects(model, cells, dictionary, [2, 5], how=how, amount=amount, null_draws=4, within=50, **SHIFT)
    tokens = model.tokenizer(cells).tokens()
    before = model(tokens).cell
    for feature in (2, 5):
        hook = (f"{HOOK}.hook_features", edit_features([feature], **edit))
        with model.spliced({HOOK: dictionary}, error=True), model.hooks([hook]):
            after = model(tokens).cell
        shift = 1 - (after * before).sum(1) / after.norm(dim=1) / before.norm(dim=1)
        row = table[table["feature"] == feature].iloc[0]
        assert row["effect"] == pytest.approx(float(shift.mean()), abs=1e-5)
        assert row["ablation"] == f"{HOOK}.F{feature}" and row["n_null"] == 4 and row["n_cells"] == 60


def test_batches_and_interruptions_have_no_part_in_the_result(model, dictionary, cells, tmp_path):
    given = {"features": [2, 5], "null_draws": 3, "within": 50, **SHIFT}
    first = feature_effects(model, cells, dictionary, folder=tmp_path, batch_size=16, **given)
    rows = sorted((tmp_path / "rows").glob("*.parquet"))
    rows[0].unlink()
    again = feature_effects(model, cells, dictionary, folder=tmp_path, batch_size=5, **given)
    pd.testing.assert_frame_equal(first, again, rtol=1e-3, atol=1e-6)
    with pytest.raises(OutputError, match="another sweep"):
        feature_effects(model, cells, random_dictionary(model, seed=3), folder=tmp_path, **given)


def found(seed, **more):
    made = plant_cause(seed, **more)
    table = feature_effects(made.planted.model, made.planted.cells, made.dictionaries[0], seed=seed, **SHIFT)
    return made, table.sort_values("effect", ascending=False)


def check_cause(seed) -> bool:
    made, table = found(seed)
    first = table.iloc[0]["feature"] == made.feature
    named = [made.feature]
    one = feature_effects(made.planted.model, made.planted.cells, made.dictionaries[0], named, seed=seed, **SHIFT)
    # Named beforehand, it is told from the others: one test, and as many that are alike as p takes.
    assert one.iloc[0]["n_null"] >= 20
    return bool(first and one.iloc[0]["q"] <= 0.05 and one.iloc[0]["beyond"])


def check_null(seed) -> bool:
    """Three features by chance, of a model whose blocks are as before training: none does more than those like it."""
    made = plant_dictionary(seed, n_features=48, n_genes=600, n_cells=40, genes_per_cell=100)
    known = plant_cause(seed).dictionaries[0]
    known = type(known)("standard", known.weights, type(known.origin)(made.hook, made.hook, inner=(64,)))
    drawn = generator(seed, "test").permutation(48)[:3].tolist()
    table = feature_effects(made.model, made.cells, known, drawn, seed=seed, **SHIFT)
    return bool((table["q"] <= 0.05).any())


def test_the_planted_cause_comes_first():
    assert check_cause(0)


def test_where_nothing_is_read_nothing_is_found():
    _, table = found(0, gain=0.0)
    assert (table["effect"].abs() < 1e-6).all() and not table["beyond"].any()


@pytest.mark.slow
def test_the_planted_cause_comes_first_in_nineteen_of_twenty_seeds():
    assert sum(check_cause(seed) for seed in range(20)) >= 19


@pytest.mark.slow
def test_where_no_feature_matters_more_at_most_one_of_twenty_seeds_says_so():
    assert sum(check_null(seed) for seed in range(20)) <= 1


def test_all_features_at_once_can_only_be_ranked_and_that_is_said(capsys):
    made = plant_cause(1)
    loud = {**SHIFT, "backend": Backend()}
    table = feature_effects(made.planted.model, made.planted.cells, made.dictionaries[0], n_cells=8, **loud)
    assert not table["beyond"].any()
    assert "a feature alone cannot have a q below" in capsys.readouterr().err


def test_estimates_agree_with_exact_effects_where_these_are_small(model, dictionary, cells):
    given = {"metrics": ["masked_error", "label_loss"], **QUIET, "folds": 2}
    small = feature_attribution(model, cells, dictionary, how="scale", amount=0.99, check=12, **given)
    assert (small.agreement["spearman"] > 0.99).all() and np.allclose(small.agreement["slope"], 1, atol=0.05)
    assert (small.agreement["n_features"] == 12).all() and small.table["exact"].notna().sum() == 24
    other = feature_attribution(model, cells, dictionary, how="scale", amount=0.99, check=0, batch_size=7, **given)
    assert np.allclose(other.table["estimated"], small.table["estimated"], rtol=1e-3, atol=1e-8)
    with pytest.warns(UserWarning, match="ranks features unlike"):
        feature_attribution(model, cells, dictionary, how="clamp", amount=30.0, check=12, **given)


def test_what_cannot_be_asked_of_features_is_refused(model, dictionary, cells):
    with pytest.raises(HookError, match="features 0 to 23, but 24"):
        feature_effects(model, cells, dictionary, [24], **SHIFT)
    with pytest.raises(HookError, match="No feature was named"):
        feature_effects(model, cells, dictionary, [], **SHIFT)
    with pytest.raises(HookError, match="amount is given"):
        feature_effects(model, cells, dictionary, [1], how="clamp", **SHIFT)
    with pytest.raises(HookError, match="in no block"):
        feature_effects(model, cells, random_dictionary(model, "hook_cell"), [1], **SHIFT)
    with pytest.raises(HookError, match="this model has"):
        feature_effects(model.untrained(0), cells, dictionary, [1], **SHIFT)
    with pytest.raises(EvaluationError, match="differentiable"):
        feature_attribution(model, cells, dictionary, **SHIFT)
