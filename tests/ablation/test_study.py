"""Studies: a cell's values are its own, whatever else is evaluated, and are what the model says by hand."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from helpers import make_tokens, tiny_model

from workbench.ablation.edits import ablated
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
from workbench.ablation.reference import build_reference, needed_hooks
from workbench.ablation.sites import Ablation, all_heads, site
from workbench.ablation.study import INTACT, Study, differences, evaluate, intact_cells
from workbench.ablation.sweeping import check_memory, peak_bytes
from workbench.engine.sweep import Backend
from workbench.errors import CellsError, EvaluationError
from workbench.models.scgpt.hooked import Outputs
from workbench.models.tokens import Tokens

N, SHARE, SEED, GENE = 24, 0.3, 5, 11


def cells(n: int = N, seed: int = 1) -> Tokens:
    """Cells of several lengths, some of them without the gene that is asked for."""
    tokens = make_tokens(n, 16, padded=False, seed=seed)
    padding = torch.arange(16)[None] >= torch.as_tensor(np.random.default_rng(seed).integers(9, 17, n))[:, None]
    cls = padding.new_zeros(padding.shape)
    cls[:, 0] = True
    values = torch.where(padding | cls, torch.tensor(-2.0), tokens.values)
    return Tokens(torch.where(padding, torch.tensor(40), tokens.gene_ids), values, padding, tokens.cell_ids)


@pytest.fixture(scope="module")
def study() -> Study:
    model, tokens = tiny_model(2), cells()
    cell = intact_cells(model, tokens)
    labels = ["a" if x > np.median(cell[:, 0]) else "b" for x in cell[:, 0]]
    labels[3] = ""
    probe = fit_probes(cell, labels, np.arange(N) % 3, least=3)
    reference_cells = tokens.take(range(0, N, 2))
    shown = mask_values(reference_cells, model.config, SHARE, SEED)[0]
    hooks = needed_hooks(ABLATIONS)
    return Study(
        model,
        tokens,
        (cell_shift(), masked_error(), masked_error("mvc"), readout(probe, True), gene_prediction(GENE, "GENE11")),
        build_reference(model, reference_cells, hooks),
        build_reference(model, shown, hooks),
        mask_share=SHARE,
        seed=SEED,
        batch_size=7,
    )


ABLATIONS = [
    Ablation((site("L0H1"),), "zero"),
    Ablation((site("L1H3"),), "mean"),
    Ablation((site("L2H0"),), "resample"),
    Ablation((site("L1H2"),), "mean", rotation=1),
    Ablation((site("L0H0"), site("L2H1")), "mean"),
    Ablation((site("L1.mlp"),), "mean"),
    Ablation((site("L2H2"),), "direction", np.random.default_rng(0).standard_normal((2, 16))),
]


def assert_same(a: pd.DataFrame, b: pd.DataFrame) -> None:
    a, b = (t.sort_values(["ablation", "row"]).reset_index(drop=True) for t in (a, b))
    pd.testing.assert_frame_equal(a, b, rtol=1e-4, atol=2e-5)


@pytest.fixture(scope="module")
def table(study):
    return evaluate(study, ABLATIONS, range(N))


def test_every_ablation_and_cell_has_one_row(study, table):
    assert len(table) == (len(ABLATIONS) + 1) * N
    assert set(table["ablation"]) == {INTACT, *(a.key for a in ABLATIONS)}
    assert not table.duplicated(["ablation", "row"]).any()
    assert (table["cell_id"] == [study.tokens.cell_ids[row] for row in table["row"]]).all()
    assert {m.name for m in study.metrics} < set(table.columns) and "cell" not in table


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_values_do_not_depend_on_the_batch(study, table, batch_size):
    assert_same(evaluate(replace(study, batch_size=batch_size), ABLATIONS, range(N)), table)


def test_values_do_not_depend_on_order_and_company(study, table):
    order = np.random.default_rng(0).permutation(N)
    assert_same(evaluate(study, ABLATIONS, order.tolist()), table)
    rows, keys = [17, 2, 9, 4, 3], [INTACT, *(a.key for a in ABLATIONS[4:])]
    some = evaluate(study, ABLATIONS[:3:-1], rows)
    assert_same(some, table[table["row"].isin(rows) & table["ablation"].isin(keys)])


def test_values_are_those_of_the_ablated_model(study, table):
    model = study.model
    for masked in (False, True):
        for i in (0, 3, 10, 23):
            tokens, target, mask = study.tokens.take([i]), None, None
            reference = study.reference
            if masked:
                tokens, target, mask = mask_values(tokens, model.config, SHARE, SEED)
                reference = study.masked_reference
            with torch.no_grad():
                intact = model(tokens, outputs=("cell", "expression", "mvc"))
                for one in ABLATIONS:
                    with ablated(model, one, reference):
                        out = model(tokens, outputs=("cell", "expression", "mvc"))
                    run = Run(out, intact, np.array([i]), tokens, target, mask)
                    found = table[(table["ablation"] == one.key) & (table["row"] == i)].iloc[0]
                    for metric in study.metrics:
                        if metric.masked == masked:
                            value = float(metric.function(run)[0])
                            assert found[metric.name] == pytest.approx(value, rel=1e-4, abs=2e-5, nan_ok=True)


def test_cells_without_a_value_are_nan_everywhere(study, table):
    has = ((study.tokens.gene_ids == GENE) & ~study.tokens.padding).any(1).numpy()
    assert 0 < has.sum() < N
    assert (table["gene:GENE11"].notna() == has[table["row"]]).all()
    assert (table["label_loss"].isna() == (table["row"] == 3)).all()


def test_the_intact_rows_are_intact(study, table):
    rows = table[table["ablation"] == INTACT].set_index("row")
    assert rows["cell_shift"].abs().max() < 1e-6
    assert (rows[["fallbacks", "fallbacks_masked"]] == 0).all(axis=None)


def test_fallbacks_are_counted(study, table):
    narrow = replace(
        study, reference=build_reference(study.model, study.tokens.take([0, 1, 2, 4]), needed_hooks(ABLATIONS))
    )
    assert (table["fallbacks"] == table["fallbacks_masked"]).all(), "masking hides values, not genes"
    for one, other in ((study, study.reference), (narrow, narrow.reference)):
        genes = set(other.tokens.gene_ids[~other.tokens.padding].tolist())
        found = evaluate(replace(one, metrics=(cell_shift(),)), [ABLATIONS[1]], range(N))
        found = found[found["ablation"] != INTACT].set_index("row")["fallbacks"]
        for i in range(N):
            ids = one.tokens.gene_ids[i][~one.tokens.padding[i]].tolist()
            assert found[i] == sum(g not in genes for g in ids)
    assert found.sum() > 0


# Differences


def test_differences_are_value_minus_intact_value_in_the_order_asked(study, table):
    shuffled = table.sample(frac=1, random_state=0)
    wanted = [ABLATIONS[i] for i in (4, 0, 2)]
    found = differences(study, shuffled, wanted)
    assert list(found) == [m.name for m in study.metrics]
    values = table.set_index(["ablation", "row"])
    for metric in study.metrics:
        assert found[metric.name].shape == (3, N)
        for k, one in enumerate(wanted):
            for i in range(N):
                expected = np.subtract(*(np.float64(values.loc[(key, i), metric.name]) for key in (one.key, INTACT)))
                assert found[metric.name][k, i] == pytest.approx(expected, nan_ok=True)


@pytest.fixture(scope="module")
def together(study):
    rng = np.random.default_rng(0)
    stage = np.where(np.arange(N) == 6, -1, np.arange(N) % 4)
    ruler = np.abs(np.subtract.outer(np.arange(4.0), np.arange(4)))
    metrics = (trustworthiness(rng.standard_normal((N, 6)), 5), ruler_correlation(stage, ruler), cell_shift())
    return replace(study, metrics=metrics)


def test_metrics_over_all_cells_see_all_cells_of_one_ablation(study, together):
    table = evaluate(together, ABLATIONS, range(N))
    found = differences(together, table.sample(frac=1, random_state=0), ABLATIONS)
    intact = torch.as_tensor(intact_cells(study.model, study.tokens))
    for k, one in enumerate(ABLATIONS):
        with ablated(study.model, one, study.reference):
            cell = torch.as_tensor(intact_cells(study.model, study.tokens))
        out, before = (Outputs(residual=x[:, None], cell=x) for x in (cell, intact))
        for metric in together.metrics[:2]:
            run, without = Run(out, before, np.arange(N)), Run(before, before, np.arange(N))
            expected = (metric.function(run) - metric.function(without)).numpy()
            assert np.allclose(found[metric.name][k], expected, atol=1e-5, equal_nan=True)
            assert np.nanmax(np.abs(expected)) > 0.01
    assert np.isnan(found["ruler"][:, 6]).all() and np.isfinite(found["ruler"]).sum() > 0


def test_metrics_over_all_cells_know_the_intact_cells_and_their_numbers(study):
    def turned(run: Run) -> torch.Tensor:
        return torch.as_tensor(run.rows) + (run.output() - run.output(intact=True)).norm(dim=1)

    own = replace(study, metrics=(Metric("turned", "", 0, turned, together=True),))
    table = evaluate(own, ABLATIONS[:1], range(N))
    intact = intact_cells(study.model, study.tokens)
    with ablated(study.model, ABLATIONS[0]):
        moved = intact_cells(study.model, study.tokens)
    expected = np.linalg.norm(moved - intact, axis=1)
    assert np.allclose(differences(own, table, ABLATIONS[:1])["turned"][0], expected, atol=1e-5)
    seen = []
    spy = replace(own.metrics[0], function=lambda run: (seen.append(run.rows), turned(run))[1])
    differences(replace(own, metrics=(spy,)), table, ABLATIONS[:1])
    assert all(np.array_equal(rows, np.arange(N)) for rows in seen) and len(seen) == 2


def test_metrics_over_all_cells_are_refused_for_some_of_them(together):
    table = evaluate(together, ABLATIONS[:1], range(N - 1))
    with pytest.raises(EvaluationError, match=f"all {N} cells.*{N - 1} were evaluated"):
        differences(together, table, ABLATIONS[:1])
    single = replace(together, metrics=together.metrics[2:])
    assert differences(single, table, ABLATIONS[:1])["cell_shift"].shape == (1, N - 1)


# What else holds


def test_intact_cells_are_the_models_and_in_order(study):
    cell = intact_cells(study.model, study.tokens, batch_size=5)
    assert cell.dtype == np.float64
    for i in (0, 8, 23):
        with torch.no_grad():
            assert np.allclose(cell[i], study.model(study.tokens.take([i])).cell[0].numpy(), atol=1e-5)


def test_the_model_stays_as_it_was(study):
    before = study.model.fingerprint()
    evaluate(study, ABLATIONS, [0, 1])
    assert study.model.fingerprint() == before
    assert not any(hook.fwd_hooks for hook in study.model.hook_dict.values())


def test_studies_that_make_no_sense_are_refused(study):
    with pytest.raises(CellsError, match="no cell"):
        replace(study, tokens=study.tokens.take([]))
    with pytest.raises(CellsError, match="names"):
        replace(study, tokens=replace(study.tokens, cell_ids=()))
    with pytest.raises(EvaluationError, match="name of its own.*'cell_shift', 'cell_shift'"):
        replace(study, metrics=(cell_shift(), cell_shift()))
    with pytest.raises(EvaluationError, match="needs metrics"):
        replace(study, metrics=())


# Memory


GROWTH = """
import sys, threading, time
import numpy as np, psutil, torch
from helpers import randomise
from workbench.ablation.metrics import cell_shift
from workbench.ablation.sites import Ablation
from workbench.ablation.study import Study, evaluate
from workbench.models.scgpt.config import ModelConfig
from workbench.models.scgpt.hooked import HookedScGPT
from workbench.models.tokens import Tokens
from workbench.models.vocabulary import Vocabulary

vocabulary = Vocabulary.of_genes([f"G{i}" for i in range(400)])
config = ModelConfig(n_tokens=len(vocabulary), d_model=128, n_layers=2, n_heads=2, d_mlp=16, max_tokens=300)
model = randomise(HookedScGPT(config, vocabulary), 0).requires_grad_(False).eval()
ids = torch.arange(299).repeat(8, 1) + 2
ids = torch.cat([torch.full((8, 1), vocabulary.cls_id), ids], 1)
tokens = Tokens(ids, torch.ones(8, 300), torch.zeros(8, 300, dtype=torch.bool), tuple("abcdefgh"))
study, process, peak, done = Study(model, tokens, (cell_shift(),), batch_size=8), psutil.Process(), [0], []

def watch():
    while not done:
        peak[0] = max(peak[0], process.memory_info().rss)
        time.sleep(0.002)

threading.Thread(target=watch, daemon=True).start()
for n in (10, 110):
    peak[0] = 0
    evaluate(study, [Ablation("L0H0", "zero", rotation=draw) for draw in range(n)], range(8))
    print(peak[0])
done.append(True)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_ablations():
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "OMP_NUM_THREADS": "1",
    }
    told = subprocess.run([sys.executable, "-c", GROWTH], capture_output=True, text=True, check=True, env=environment)
    few, many = map(int, told.stdout.split())
    stream = 4 * 8 * 300 * 128
    assert many - few < 30 * stream, "each of 100 more ablations once kept a residual stream's memory"


def test_the_memory_of_a_sweep_is_said_and_more_than_is_free_is_refused(study, monkeypatch, capsys):
    grid = all_heads(study.model.config)
    small = peak_bytes(study, grid)
    assert peak_bytes(replace(study, batch_size=1), grid) < small <= peak_bytes(study, [*grid, *grid])
    check_memory(study, grid, Backend("loky", 2))
    assert "GiB of memory a worker, beside the model" in capsys.readouterr().err
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1.5 * small))
    check_memory(study, grid, Backend(progress=False))
    check_memory(study, grid, Backend("dask", 2, progress=False))
    for backend in (Backend("loky", 2), Backend("threading", -1)):
        with pytest.raises(CellsError, match="The passes would take about .* Lower study.batch_size"):
            check_memory(study, grid, backend)
