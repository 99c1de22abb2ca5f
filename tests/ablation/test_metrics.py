"""Metrics: each against another way to compute it, and what their masks and probes may depend on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import N_GENES, make_tokens, tiny_model, vocabulary_ids
from scipy import stats
from sklearn.datasets import make_blobs
from sklearn.linear_model import LogisticRegression
from sklearn.manifold import trustworthiness as oracle_trustworthiness
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from workbench.ablation.metrics import (
    Metric,
    Run,
    cell_shift,
    fit_probes,
    gene_prediction,
    mask_values,
    masked_error,
    readout,
    ruler_correlation,
    trustworthiness,
)
from workbench.ablation.sites import all_heads
from workbench.ablation.study import Study, evaluate
from workbench.errors import CellsError, EvaluationError
from workbench.models.scgpt.hooked import Outputs
from workbench.models.tokens import Tokens


def outputs(cell=None, **more) -> Outputs:
    """Outputs with these fields; the residual stream fits their shape."""
    cell = None if cell is None else torch.as_tensor(cell)
    first = next(iter(more.values())) if cell is None else cell
    return Outputs(torch.zeros(len(first), first.shape[1], first.shape[1]), cell=cell, **more)


def cells_only(cell, intact=None, rows=None) -> Run:
    rows = np.arange(len(cell)) if rows is None else rows
    return Run(outputs(cell), outputs(cell if intact is None else intact), rows)


def by_name(tokens: Tokens, flags: torch.Tensor) -> dict[str, dict[int, bool]]:
    """Flag of each gene id per cell name, whatever the order."""
    return {
        name: {
            int(g): bool(f) for g, f, p in zip(tokens.gene_ids[i], flags[i], tokens.padding[i], strict=True) if not p
        }
        for i, name in enumerate(tokens.cell_ids)
    }


@pytest.fixture(scope="module")
def config():
    return tiny_model().config


# Run


def test_an_output_that_was_not_computed_is_named():
    run = Run(outputs(np.ones((2, 3))), outputs(np.zeros((2, 3))), np.arange(2))
    assert float(run.output().sum()) == 6 and float(run.output(intact=True).sum()) == 0
    for intact in (False, True):
        with pytest.raises(EvaluationError, match="'mvc'.*`needs`"):
            run.output("mvc", intact=intact)


# Precision


def test_metrics_of_a_model_in_half_precision_are_not_rounded_to_it(config):
    """1 - cosine has steps of 0.004 in bfloat16; in single precision it is that of the embeddings that were returned."""
    rng = np.random.default_rng(0)
    tokens = make_tokens(5, 12)
    intact = torch.as_tensor(rng.standard_normal((5, 6))).bfloat16()
    cell = (intact + 0.02 * torch.as_tensor(rng.standard_normal((5, 6)))).bfloat16()
    expression = torch.as_tensor(rng.uniform(0, 50, tokens.values.shape)).bfloat16()
    shown, target, masked = mask_values(tokens.to("cpu", torch.bfloat16), config, 0.4, 1)
    probe = fit_probes(rng.standard_normal((40, 6)), ["a", "b"] * 20, np.arange(40) // 2 % 2)

    def run(dtype) -> Run:
        first, second = (
            Outputs(torch.zeros(5, 12, 6), cell=x.to(dtype), expression=expression.to(dtype)) for x in (cell, intact)
        )
        return Run(first, second, np.arange(5), shown, target.to(dtype), masked)

    for metric in (cell_shift(), masked_error(), readout(probe, True), gene_prediction(3, "GENE3")):
        found, expected = metric.function(run(torch.bfloat16)), metric.function(run(torch.float64))
        assert found.dtype == torch.float32 and expected.dtype == torch.float64
        np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-5, atol=2e-7)


def test_cell_shifts_of_a_model_in_half_precision_are_near_those_in_single_precision():
    tokens, shifts = make_tokens(30, 20, padded=False), {}
    for dtype in (torch.float32, torch.bfloat16):
        model = tiny_model(n_layers=2).to(dtype)
        ablations = all_heads(model.config, "zero")
        table = evaluate(Study(model, tokens, (cell_shift(),)), ablations, range(30))
        shifts[dtype] = table[table["ablation"] != "intact"]["cell_shift"].to_numpy()
    half, single = shifts[torch.bfloat16], shifts[torch.float32]
    assert half.min() > -1e-6 and len(np.unique(half)) > 0.95 * len(half)
    assert np.abs(half - single).max() < 0.004 and np.corrcoef(half, single)[0, 1] > 0.99


# Cell shift


def test_cell_shift_is_one_minus_the_cosine():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 20, 7))
    found = cell_shift().function(cells_only(a, b)).numpy()
    cosine = (a * b).sum(1) / np.sqrt((a**2).sum(1) * (b**2).sum(1))
    assert np.allclose(found, 1 - cosine, atol=1e-12)
    same = cell_shift().function(cells_only(a, 3 * a)).numpy()
    assert np.abs(same).max() < 1e-12 and not cell_shift().differentiable


# Masking


@pytest.mark.parametrize("output", ["expression", "mvc"])
def test_masked_error_by_a_loop(output, config):
    tokens = make_tokens(5, 12)
    shown, target, masked = mask_values(tokens, config, 0.4, 1)
    masked = masked.clone()
    masked[2] = False
    predicted = torch.as_tensor(np.random.default_rng(0).uniform(0, 50, target.shape))
    other = torch.zeros_like(predicted)
    run = Run(outputs(**{output: predicted}), outputs(**{output: other}), np.arange(5), shown, target, masked)
    metric = masked_error(output)
    found = metric.function(run).numpy()
    for i in range(5):
        errors = [
            (float(predicted[i, j]) - float(target[i, j])) ** 2 for j in range(target.shape[1]) if bool(masked[i, j])
        ]
        assert np.isnan(found[i]) if not errors else found[i] == pytest.approx(np.mean(errors))
    assert np.isnan(found[2]) and np.isfinite(np.delete(found, 2)).all()
    assert metric.needs == (output,) and metric.masked and metric.worse == 1


def test_masked_values_are_the_masks_and_nothing_else_is_changed(config):
    tokens = make_tokens(5, 12)
    before = tokens.values.clone()
    shown, target, masked = mask_values(tokens, config, 0.5, 0)
    assert torch.equal(target, before) and torch.equal(tokens.values, before)
    assert (shown.values[masked] == config.mask_value).all() and torch.equal(shown.values[~masked], before[~masked])
    assert torch.equal(shown.gene_ids, tokens.gene_ids) and torch.equal(shown.padding, tokens.padding)
    assert shown.cell_ids == tokens.cell_ids
    assert masked.any() and not masked[:, 0].any() and not (masked & tokens.padding).any()


def test_all_or_no_genes_are_masked_at_the_ends_of_the_share(config):
    tokens = make_tokens(5, 12)
    everything = mask_values(tokens, config, 1.0, 0)[2]
    assert torch.equal(everything[:, 1:], ~tokens.padding[:, 1:]) and not everything[:, 0].any()
    assert not mask_values(tokens, config, 0.0, 0)[2].any()


def test_the_mask_depends_on_seed_and_name_alone(config):
    tokens = make_tokens(5, 12)
    mask = by_name(tokens, mask_values(tokens, config, 0.5, 0)[2])
    # Other cells, order and batch.
    for rows in ([4, 2], [3], [1, 1, 0]):
        part = tokens.take(rows)
        found = by_name(part, mask_values(part, config, 0.5, 0)[2])
        assert all(found[name] == mask[name] for name in found)
    # The order of the genes.
    order = np.arange(12)
    order[1:4] = order[[3, 1, 2]]  # no cell has padding there
    moved = Tokens(tokens.gene_ids[:, order], tokens.values[:, order], tokens.padding[:, order], tokens.cell_ids)
    assert by_name(moved, mask_values(moved, config, 0.5, 0)[2]) == mask
    # Values, and how far the batch is padded.
    other = replace(tokens, values=tokens.values + 1)
    assert by_name(other, mask_values(other, config, 0.5, 0)[2]) == mask
    # It does depend on these.
    assert by_name(tokens, mask_values(tokens, config, 0.5, 1)[2]) != mask
    renamed = replace(tokens, cell_ids=("new", *tokens.cell_ids[1:]))
    found = by_name(renamed, mask_values(renamed, config, 0.5, 0)[2])
    assert found.pop("new") != mask["cell0"] and all(found[name] == mask[name] for name in found)


@pytest.mark.parametrize("share", [0.15, 0.25, 0.6])
def test_the_share_is_right_on_average_for_every_gene(config, share):
    n, length = 600, 20
    ids = torch.arange(length).repeat(n, 1)
    ids[:, 0] = vocabulary_ids()["<cls>"]
    names = tuple(f"c{i}" for i in range(n))
    tokens = Tokens(ids, torch.ones(n, length), torch.zeros(n, length, dtype=torch.bool), names)
    masked = mask_values(tokens, config, share, 0)[2][:, 1:].double().numpy()
    sd = np.sqrt(share * (1 - share))
    assert abs(masked.mean() - share) < 4 * sd / np.sqrt(masked.size)
    assert np.abs(masked.mean(0) - share).max() < 4.5 * sd / np.sqrt(n), "no gene is masked more often than others"


def test_cells_without_names_cannot_be_masked(config):
    with pytest.raises(CellsError, match="cell_ids"):
        mask_values(replace(make_tokens(3, 12), cell_ids=()), config, 0.5, 0)


# Gene prediction


def test_gene_prediction_is_that_genes_value_and_nan_without_it():
    tokens = make_tokens(5, 12)
    predicted = torch.as_tensor(np.random.default_rng(0).uniform(0, 50, tokens.values.shape))
    for output in ("expression", "mvc"):
        run = Run(outputs(**{output: predicted}), outputs(**{output: predicted}), np.arange(5), tokens)
        n_absent = 0
        for gene in range(N_GENES):
            metric = gene_prediction(gene, f"GENE{gene}", output)
            found = metric.function(run)
            for i in range(5):
                at = [j for j in range(12) if int(tokens.gene_ids[i, j]) == gene and not bool(tokens.padding[i, j])]
                n_absent += not at
                assert found[i] == predicted[i, at[0]] if at else bool(found[i].isnan())
        assert 0 < n_absent < 5 * N_GENES and metric.name == f"gene:GENE{N_GENES - 1}"


# Probes


def labelled(classes: int, n: int = 90, d: int = 6, seed: int = 0, spread: float = 1.5):
    cell, number = make_blobs(n, d, centers=classes, cluster_std=4 * spread, random_state=seed)
    rng = np.random.default_rng(seed)
    cell = cell * rng.uniform(0.1, 10, d) + 3  # features of very different scales
    return cell, np.array([f"type {k}" for k in number]), rng.permutation(np.arange(n) % 3)


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_logits_are_those_of_scikit_learn(classes):
    cell, labels, fold = labelled(classes)
    probe = fit_probes(cell, labels.tolist(), fold)
    names = np.array(probe.classes)
    assert names.tolist() == sorted(set(labels)) and np.array_equal(names[probe.label], labels)
    other = cell + np.random.default_rng(1).standard_normal(cell.shape)
    rows = np.random.default_rng(2).permutation(len(cell))[:40]
    run = cells_only(other[rows], cell[rows], rows)
    loss, error = (readout(probe, loss).function(run).numpy() for loss in (True, False))
    seen = np.zeros(len(rows))
    for k in range(3):
        # One scale for all features.
        mean, scale = cell[fold != k].mean(0), np.sqrt(cell[fold != k].var(0).mean())
        shrink = FunctionTransformer(lambda x, mean=mean, scale=scale: (x - mean) / scale)
        oracle = make_pipeline(shrink, LogisticRegression(class_weight="balanced", max_iter=20_000, tol=1e-10))
        oracle.fit(cell[fold != k], labels[fold != k])
        wanted = oracle.predict_proba(other)
        logits = other @ probe.weights[k] + probe.offset[k]
        logits -= logits.max(1, keepdims=True)
        ours = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        assert oracle.classes_.tolist() == list(probe.classes) and np.abs(ours - wanted).max() < 1e-6
        held = fold[rows] == k
        right = wanted[rows, probe.label[rows]]
        assert np.allclose(loss[held], -np.log(right[held]), rtol=1e-5)
        assert np.array_equal(error[held], (oracle.predict(other[rows]) != labels[rows])[held])
        seen += held
    assert (seen == 1).all() and 0 < error.mean() < 0.9


def test_a_cell_is_read_by_a_probe_that_was_fitted_without_it():
    """More dimensions than cells: whoever saw a cell knows its label, and who did not can only guess."""
    rng = np.random.default_rng(0)
    n = 120
    cell, labels, fold = rng.standard_normal((n, 300)), np.array(["a", "b"])[rng.permutation(n) % 2], np.arange(n) % 4
    probe = fit_probes(cell, labels.tolist(), fold)
    honest = readout(probe, False).function(cells_only(cell)).numpy()
    leaky = replace(probe, fold=(probe.fold + 1) % 4)
    assert readout(leaky, False).function(cells_only(cell)).numpy().max() == 0, "the leak that was planted"
    assert abs(honest.mean() - 0.5) < 4 * np.sqrt(0.25 / n)


def test_the_probe_of_a_fold_does_not_depend_on_the_cells_of_that_fold():
    cell, labels, fold = labelled(3)
    spoiled_cells, spoiled_labels = cell.copy(), labels.copy()
    spoiled_cells[fold == 1] *= -5
    spoiled_labels[fold == 1] = np.roll(spoiled_labels[fold == 1], 1)
    a, b = fit_probes(cell, labels.tolist(), fold), fit_probes(spoiled_cells, spoiled_labels.tolist(), fold)
    assert np.array_equal(a.weights[1], b.weights[1]) and np.array_equal(a.offset[1], b.offset[1])
    assert not np.allclose(a.weights[0], b.weights[0]) and not np.allclose(a.weights[2], b.weights[2])


def test_folds_may_have_any_numbers():
    cell, labels, fold = labelled(2)
    a, b = fit_probes(cell, labels.tolist(), fold), fit_probes(cell, labels.tolist(), np.array([-4, 7, 30])[fold])
    assert np.array_equal(a.fold, b.fold) and np.array_equal(a.weights, b.weights)


def test_small_classes_and_cells_without_label_are_left_out():
    cell, labels, fold = labelled(3)
    few = np.flatnonzero(labels == "type 2")
    labels[few[9:]] = ""
    probe = fit_probes(cell, labels.tolist(), fold)
    assert probe.classes == ("type 0", "type 1") and (probe.label[few] == -1).all()
    for loss in (True, False):
        value = readout(probe, loss).function(cells_only(cell)).numpy()
        assert np.isnan(value[few]).all() and np.isfinite(np.delete(value, few)).all()
    kept = np.delete(np.arange(len(cell)), few)
    without = fit_probes(cell[kept], labels[kept].tolist(), fold[kept])
    assert np.allclose(probe.weights, without.weights), "they are not fitted on either"
    assert fit_probes(cell, labels.tolist(), fold, least=9).classes == ("type 0", "type 1", "type 2")


def test_labels_that_allow_no_readout_are_refused():
    cell, labels, fold = labelled(3)
    with pytest.raises(EvaluationError, match="0 labels have at least 999 cells; a readout needs two.*study.cells, "):
        fit_probes(cell, labels.tolist(), fold, least=999)
    with pytest.raises(EvaluationError, match="1 label has at least 31 cells; a readout needs two"):
        fit_probes(cell, np.where(labels == "type 0", "type 1", labels).tolist(), fold, least=31)
    with pytest.raises(EvaluationError, match="0 label"):
        fit_probes(cell, [""] * len(cell), fold)
    one_fold = np.where(labels == "type 1", 0, 1 + np.arange(len(cell)) % 2)
    with pytest.raises(EvaluationError, match="'type 1' lie in one fold"):
        fit_probes(cell, labels.tolist(), one_fold)


def test_one_class_can_be_judged_alone():
    cell, labels, fold = labelled(3)
    probe = fit_probes(cell, labels.tolist(), fold)
    for loss in (True, False):
        every = readout(probe, loss).function(cells_only(cell)).numpy()
        one = readout(probe, loss, only="type 1")
        value = one.function(cells_only(cell)).numpy()
        here = labels == "type 1"
        assert np.array_equal(value[here], every[here]) and np.isnan(value[~here]).all()
        assert "type 1" in one.name and one.differentiable is loss
    with pytest.raises(EvaluationError, match="Unknown class 'Type1': did you mean 'type"):
        readout(probe, True, only="Type1")


# Metrics over all cells


@pytest.mark.parametrize("n,k", [(30, 1), (30, 5), (61, 15), (61, 30)])
def test_trustworthiness_is_that_of_scikit_learn(n, k):
    rng = np.random.default_rng(n + k)
    x = rng.standard_normal((n, 12)) * rng.uniform(0.1, 3, 12) + 20
    for noise in (0.0, 0.3, 30.0):
        cell = x[:, :6] + noise * rng.standard_normal((n, 6))
        terms = trustworthiness(x, k).function(cells_only(cell)).numpy()
        assert terms.shape == (n,) and abs(terms.mean() - oracle_trustworthiness(x, cell, n_neighbors=k)) < 1e-10


def test_trustworthiness_of_single_precision_data_far_from_zero():
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((60, 10)) + 1000).astype(np.float32)
    cell = rng.standard_normal((60, 4))
    terms = trustworthiness(x, 10).function(cells_only(cell)).numpy()
    assert abs(terms.mean() - oracle_trustworthiness(x.astype(np.float64), cell, n_neighbors=10)) < 1e-10


def test_trustworthiness_is_one_where_neighbours_stay_and_has_one_scale():
    x = np.random.default_rng(0).standard_normal((40, 5))
    metric = trustworthiness(x, 7)
    assert (metric.function(cells_only(2 * x - 1)).numpy() == 1).all()
    assert metric.together and metric.worse == -1 and not metric.differentiable


@pytest.mark.parametrize("k", [0, 20, 21])
def test_trustworthiness_refuses_too_many_neighbours(k):
    with pytest.raises(EvaluationError, match=f"k = {k} for n = 40"):
        trustworthiness(np.zeros((40, 3)), k)
    trustworthiness(np.zeros((40, 3)), 19)


def test_ruler_correlation_by_a_loop():
    rng = np.random.default_rng(0)
    distances = rng.integers(1, 5, (6, 6)).astype(float)
    distances = np.triu(distances, 1) + np.triu(distances, 1).T  # with ties
    stage = np.concatenate([rng.integers(0, 4, 30), [-1, -1, 4]])  # stage 4 has one cell, stage 5 none
    cell = rng.standard_normal((33, 5)) + 2 * np.eye(6)[np.maximum(stage, 0)][:, :5]
    found = ruler_correlation(stage, distances).function(cells_only(cell)).numpy()
    for i in range(33):
        if stage[i] not in range(4):
            assert np.isnan(found[i])
            continue
        latent = []
        for s in range(4):
            others = [j for j in range(33) if stage[j] == s and j != i]
            latent.append(np.linalg.norm(cell[others].mean(0) - cell[i]))
        assert found[i] == pytest.approx(stats.spearmanr(latent, distances[stage[i], :4])[0])
    assert np.isfinite(found).sum() == 30


def test_ruler_correlation_is_one_on_a_line_and_refuses_two_stages():
    stage = np.repeat(np.arange(5), 4)
    ruler = np.abs(np.subtract.outer(np.arange(5.0), np.arange(5)))[:, :]
    ends = np.isin(stage, (0, 4))
    rng = np.random.default_rng(0)
    cell = stage[:, None] * np.ones((1, 3)) + 0.01 * rng.standard_normal((20, 3))
    metric = ruler_correlation(stage, ruler)
    assert np.allclose(metric.function(cells_only(cell)).numpy()[ends], 1) and metric.together and metric.worse == -1
    with pytest.raises(EvaluationError, match="2 stages have two cells or more"):
        ruler_correlation(np.array([0, 0, 1, 1, 2, -1, -1]), ruler)


# A metric of one's own


def test_a_metric_of_ones_own_plugs_in():
    def spread(run: Run) -> torch.Tensor:
        return run.output("classes").std(1) - run.output("classes", intact=True).std(1)

    model, tokens = tiny_model(), make_tokens(4, 12)
    ablations = all_heads(model.config, "zero")[:2]
    table = evaluate(Study(model, tokens, (Metric("spread", "logits", 0, spread, ("classes",)),)), ablations, range(4))
    intact = table[table["ablation"] == "intact"]
    assert (intact["spread"] == 0).all() and (table["spread"].drop(intact.index) != 0).all()
    forgetful = Metric("spread", "logits", 0, spread)
    with pytest.raises(EvaluationError, match="'classes'"):
        evaluate(Study(model, tokens, (forgetful,)), ablations, range(4))
