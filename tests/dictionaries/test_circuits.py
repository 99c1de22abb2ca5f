"""Edges between features: closed forms, a planted chain and a null, gradients beside ablation, and what is put in again at every layer."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from fixtures_dictionaries import HOOK, NEXT, random_dictionary
from helpers import make_tokens

from workbench.ablation import Ablation, ablated
from workbench.dictionaries.circuits import feature_circuit, pooled_p, without_rates
from workbench.dictionaries.dictionary import Dictionary, Origin
from workbench.errors import EvaluationError, HookError
from workbench.planted.dictionary import plant_chain, plant_dictionary
from workbench.seeds import generator


@pytest.fixture(scope="module")
def pair(model):
    return random_dictionary(model, architecture="standard"), random_dictionary(model, NEXT, architecture="standard")


def test_strengths_are_sums_of_activation_times_gradient(model, pair, cells):
    low, high = pair
    edges = feature_circuit(model, cells[:6], low, high, [3, 7], check=0, null_draws=3).edges
    tokens = model.tokenizer(cells[:6]).tokens()
    with model.spliced({HOOK: low, NEXT: high}, error=True):
        for target in (3, 7):
            _, cache = model.run_with_cache(
                tokens, names_filter=[f"{HOOK}.hook_features", f"{NEXT}.hook_features"], return_cache_object=False
            )
            kept = []

            def leaf(x, hook, kept=kept):
                kept.append(x.detach().requires_grad_())
                return kept[0]

            def score(x, hook, kept=kept, target=target):
                kept.append(x[..., target][tokens.genes].sum())

            with torch.enable_grad(), model.hooks([(f"{HOOK}.hook_features", leaf), (f"{NEXT}.hook_features", score)]):
                model(tokens)
                kept[1].backward()
            want = (kept[0].grad * kept[0].detach()).sum((0, 1)) / tokens.genes.sum()
            own = edges[edges["target"] == target].set_index("source")["strength"]
            assert np.allclose(own, want[torch.as_tensor(own.index.to_numpy())].numpy(), atol=1e-5)
            assert cache[f"{HOOK}.hook_features"].shape == kept[0].shape


def test_exact_strengths_are_those_of_ablation(model, pair, cells):
    low, high = pair
    with pytest.warns(UserWarning, match="rank pairs of features unlike"):
        found = feature_circuit(model, cells[:6], low, high, [3, 7], check=4, null_draws=3)
    tokens = model.tokenizer(cells[:6]).tokens()
    measured = found.edges.dropna(subset="exact")
    assert found.summary["exact_pairs"] == len(measured) == 8
    above = f"{NEXT}.hook_features"
    for row in measured.itertuples():
        with model.spliced({HOOK: low, NEXT: high}, error=True):
            means = []
            for hooks in ([], [Ablation(f"{HOOK}.F{row.source}")]):
                with ablated(model, hooks):
                    _, cache = model.run_with_cache(tokens, names_filter=above, return_cache_object=False)
                means.append(float(cache[above][..., row.target][tokens.genes].mean()))
        assert row.exact == pytest.approx(means[0] - means[1], abs=1e-5)


def test_the_size_of_batches_has_no_part_in_the_result(model, pair, cells):
    tables = [feature_circuit(model, cells[:20], *pair, check=0, batch_size=n).edges for n in (3, 16)]
    pd.testing.assert_frame_equal(*tables, rtol=1e-3, atol=1e-6)


def test_what_rates_let_expect_is_taken_off():
    rng = generator(0, "test")
    a, b = rng.uniform(-3, 0, (40, 1)), rng.uniform(-3, 0, (1, 30))
    noise = rng.standard_normal((21, 40, 30)) * 0.1
    sizes = 10 ** (1.5 + 0.8 * a + 0.5 * b + noise)
    adjusted, drawn = without_rates(sizes[0], sizes[1:], a, b)
    assert np.allclose(adjusted, noise[0], atol=0.01) and np.allclose(drawn, noise[1:], atol=0.01)
    sizes[0, 0, 0] = 0
    assert without_rates(sizes[0], sizes[1:], a, b)[0][0, 0] == -np.inf


def test_p_counts_the_pool_and_itself():
    null = np.array([1.0, 2.0, 3.0, -np.inf])
    assert pooled_p(np.array([2.5, 9.0, 2.0, -np.inf]), null).tolist() == [0.4, 0.2, 0.6, 1.0]


def check_chain(seed) -> bool:
    """What makes the new feature is found, and of all others only those that are passed on."""
    made = plant_chain(seed)
    low, high = made.dictionaries
    found = feature_circuit(made.planted.model, made.planted.cells, low, high, check=0, seed=seed).edges.query("found")
    edges = set(zip(found["source"], found["target"], strict=True))
    return edges == {(made.feature, high.width - 1), *((k, k) for k in range(low.width))}


def check_null(seed) -> bool:
    """Codes that have nothing to do with each other, in a model as before training: is any edge found?"""
    made, n = plant_dictionary(seed, n_features=48, n_genes=600, n_cells=30, genes_per_cell=100), 48
    both = []
    for name, hook in (("low", made.hook), ("high", "blocks.0.hook_resid_post")):
        rows = generator(seed, name).standard_normal((n, 64))
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        weights = {"W_enc": rows.T, "b_enc": np.full(n, -1.0), "W_dec": rows, "b_dec": np.zeros(64)}
        tensors = {key: torch.as_tensor(x, dtype=torch.float32) for key, x in weights.items()}
        both.append(Dictionary("standard", tensors, Origin(hook, hook, inner=(64,))))
    return bool(feature_circuit(made.model, made.cells, *both, check=0, seed=seed).edges["found"].any())


def test_a_planted_chain_is_found_and_measured():
    assert check_chain(0)
    made = plant_chain(0)
    circuit = feature_circuit(made.planted.model, made.planted.cells, *made.dictionaries, [48], check=48)
    own = circuit.edges.set_index("source")
    assert (
        own["exact"].idxmax() == made.feature and own.loc[made.feature, "exact"] > 5 * own["exact"].nlargest(2).iloc[1]
    )


@pytest.mark.slow
def test_a_planted_chain_is_found_in_nineteen_of_twenty_seeds():
    assert sum(check_chain(seed) for seed in range(20)) >= 19


@pytest.mark.slow
def test_unrelated_codes_have_edges_in_at_most_one_of_twenty_seeds():
    assert sum(check_null(seed) for seed in range(20)) <= 1


@pytest.mark.slow
def test_unrelated_codes_have_edges_as_often_as_the_documentation_says():
    # Measured on seeds 3000 to 3099, which nothing was chosen on: 5 of 100, and 2 to 11 as the documentation says.
    assert sum(check_null(seed) for seed in range(3000, 3100)) <= 11


def test_a_feature_that_is_held_is_put_in_again_at_every_layer(model, pair):
    """Ablated below alone, the features above are what the model makes anew; an ablation of both places holds both."""
    tokens, clamp = make_tokens(), {"how": "clamp", "amount": 2.0}
    below, above = f"{HOOK}.F3", f"{NEXT}.F5"

    def seen(ablation):
        with model.spliced(dict(zip((HOOK, NEXT), pair, strict=True)), error=True), ablated(model, ablation):
            names = [f"{HOOK}.hook_features", f"{NEXT}.hook_features"]
            _, cache = model.run_with_cache(tokens, names_filter=names, return_cache_object=False)
        return [cache[name][tokens.genes][:, k] for name, k in zip(names, (3, 5), strict=True)]

    first, second = seen(Ablation(below, **clamp))
    assert (first == 2).all() and not (second == 2).any()
    first, second = seen(Ablation((below, above), **clamp))
    assert (first == 2).all() and (second == 2).all()


def test_what_is_no_circuit_is_refused(model, pair, cells):
    low, high = pair
    few = cells[:4]
    with pytest.raises(HookError, match="is not behind"):
        feature_circuit(model, few, high, low)
    with pytest.raises(HookError, match="is not behind"):
        feature_circuit(model, few, low, low)
    with pytest.raises(HookError, match="features 0 to 23"):
        feature_circuit(model, few, low, high, [24])
    with pytest.raises(EvaluationError, match="0 draws"):
        feature_circuit(model, few, low, high, null_draws=0)
    with pytest.raises(EvaluationError, match="0 of the targets"):
        feature_circuit(model, few, low, high, [])
