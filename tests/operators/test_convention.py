"""Conventions of operators: closed forms of sum, mean and transpose, and two of them never mixed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from helpers import genes, tiny_cells, tiny_model

from workbench.capture.pairs import PATTERNS, GenePairSink
from workbench.capture.record import capture
from workbench.cells.panel import choose_panel
from workbench.engine.config import make_config
from workbench.errors import ArtifactError, ConfigError, GeneMatchError
from workbench.operators.algorithm import Algorithm
from workbench.operators.capturing import Reading, read_operators
from workbench.operators.convention import Convention
from workbench.operators.estimator import Extractor
from workbench.operators.saved_operator import Operator
from workbench.operators.store import StoredOperators, write_pairs
from workbench.recipes.benchmark.config import BenchmarkConfig
from workbench.recipes.run.config import RunConfig

PANEL = tuple(genes()[:9])
CONVENTIONS = [Convention(over_cells=o, orientation=t) for o in ("mean", "sum") for t in ("query x key", "key x query")]


@pytest.fixture(scope="module")
def sink():
    model, cells = tiny_model(), tiny_cells(18)
    sink = GenePairSink(PANEL, model.vocabulary, {name: i % 3 for i, name in enumerate(cells.obs_names)})
    capture(model, model.tokenizer(cells), [PATTERNS], [sink], progress=False)
    return sink


@pytest.mark.parametrize("convention", CONVENTIONS, ids=lambda c: c.label)
def test_sum_mean_and_transpose_have_their_closed_forms(sink, tmp_path, convention):
    write_pairs(tmp_path, sink, convention=convention)
    stored, all_of = StoredOperators(tmp_path), sink.result()
    assert stored.convention == convention
    plain = all_of.sums if convention.over_cells == "sum" else all_of.sums / np.maximum(all_of.counts, 1)
    wanted = plain.swapaxes(-1, -2) if convention.orientation == "key x query" else plain
    for at in np.ndindex(*stored.shape):
        np.testing.assert_allclose(stored.head(*at), wanted[at], atol=1e-6)
    np.testing.assert_allclose(stored.mean([0, 2]), wanted[[0, 2]].mean((0, 1)), atol=1e-6)
    parts = [stored.of_group(group, 1, 2) for group in range(3)]
    whole = sum(s for s, _ in parts) / np.maximum(
        sum(c for _, c in parts), 1e-12 if convention.over_cells == "sum" else 1
    )
    np.testing.assert_allclose(whole, wanted[1, 2], atol=1e-5)


def test_two_conventions_are_never_mixed_in_a_folder(sink, tmp_path):
    write_pairs(tmp_path, sink)
    with pytest.raises(ArtifactError, match="'scgpt', not of 'scgpt, sum over cells'"):
        write_pairs(tmp_path, sink, convention=Convention(over_cells="sum"))
    with pytest.raises(ArtifactError, match="never mixed"):
        StoredOperators(tmp_path).check(Convention("paper"))
    model, cells = tiny_model(), tiny_cells(4)
    groups = dict.fromkeys(cells.obs_names, 0)
    tokens = model.tokenizer(cells, panel=PANEL)
    with pytest.raises(ArtifactError, match="never mixed"):
        read_operators(tmp_path, Reading(model, tokens, PANEL, "attention", groups, convention=Convention("paper")))


def test_an_operator_keeps_its_convention_and_refuses_another(tmp_path):
    own = Operator(PANEL, np.eye(9), "attention", "L0H0", "abc", Convention("paper", "sum"))
    again = Operator.load(own.save(tmp_path))
    assert again.convention == own.convention
    again.check("abc", Convention("paper", "sum"))
    with pytest.raises(
        ArtifactError, match="The operator is of the convention 'paper, sum over cells', not of 'scgpt'"
    ):
        again.check("abc", Convention())


def test_an_extractor_keeps_its_convention_and_refuses_another(tmp_path):
    rng = np.random.default_rng(0)
    x = pd.DataFrame(
        3 * np.eye(3)[np.repeat([0, 1, 2], 12)] @ rng.random((3, 9)) + 0.1 * rng.random((36, 9)), columns=list(PANEL)
    )
    y = np.repeat(["B", "NK", "T"], 12)
    operator = Operator(PANEL, rng.random((9, 9)), "attention", "L0H0", "abc", Convention("paper"))
    fitted = Extractor(operator, k=2).fit(x, y)
    assert fitted.convention_ == Convention("paper")
    again = Extractor.from_pretrained(fitted.save_pretrained(tmp_path))
    assert (
        again.convention_ == Convention("paper")
        and Algorithm.from_pretrained(tmp_path).card["convention"]["convention"] == "paper"
    )
    assert "Convention of the operator: paper; comparable with no other" in (tmp_path / "README.md").read_text()
    with pytest.raises(ArtifactError, match="never mixed"):
        Extractor(operator, k=2, convention=Convention()).fit(x, y)
    with pytest.raises(ArtifactError, match="The extractor"):
        fitted.to_algorithm(card={"convention": Convention().told()})
    plain = Extractor(replace(operator, convention=Convention()), k=2, convention=Convention()).fit(x, y)
    assert plain.convention_ == Convention()


@pytest.mark.parametrize(
    ("kind", "settings", "said"),
    [
        (RunConfig, {"operator": "qk", "capture": {"convention": "paper"}}, "comes from the weights alone"),
        (RunConfig, {"panel": {"file": "x.txt", "size": 3}}, "give one of them"),
        (BenchmarkConfig, {"capture": {"convention": "paper"}}, "for operators only"),
        (BenchmarkConfig, {"panel": {"by": "variable", "size": 3}}, "a panel for each split"),
    ],
)
def test_configurations_that_cannot_be_are_refused(kind, settings, said):
    with pytest.raises(ConfigError, match=said):
        make_config(kind, checkpoint="somewhere", **settings)


def test_a_panel_by_variability_is_scanpys(pbmc68k):
    import scanpy as sc

    from workbench.cells.genes import match_genes

    match = match_genes(pbmc68k.var_names, list(pbmc68k.var_names))
    found = choose_panel(pbmc68k, match, 100, by="variable")
    wanted = sc.pp.highly_variable_genes(pbmc68k, n_top_genes=100, flavor="seurat", inplace=False)
    assert set(found) == set(pbmc68k.var_names[wanted["highly_variable"]]) and list(found) == sorted(found)
    assert found == choose_panel(pbmc68k[::-1].copy(), match, 100, by="variable")


def test_a_panel_from_a_file_is_in_its_order(tmp_path):
    from workbench.cells.genes import match_genes

    cells, file = tiny_cells(5), tmp_path / "panel.txt"
    match = match_genes(cells.var_names, genes())
    file.write_text(f"{PANEL[3]}\n\n {PANEL[0]}\n{PANEL[7]}\n")
    assert choose_panel(cells, match, file=file) == (PANEL[3], PANEL[0], PANEL[7])
    assert choose_panel(cells, match, file=file, exclude=[PANEL[0]]) == (PANEL[3], PANEL[7])
    for text, said in (
        (f"{PANEL[0]}\nNOGENE", "1 of the 2 genes"),
        (f"{PANEL[0]}\n{PANEL[0]}", "more than once"),
        ("", "is left"),
    ):
        file.write_text(text)
        with pytest.raises(GeneMatchError, match=said):
            choose_panel(cells, match, file=file)
    with pytest.raises(ConfigError, match="cannot be read"):
        choose_panel(cells, match, file=tmp_path / "none.txt")
