"""The exported algorithm: what it computes, on which cells, and that its files are whole."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from helpers import genes, tiny_cells

from workbench.cells.expression import panel_expression
from workbench.errors import ArtifactError, CellsError, GeneMatchError, ShapeError
from workbench.operators.algorithm import CARD, README, WEIGHTS, Algorithm
from workbench.operators.readout_weights import Readout

PANEL = tuple(genes()[3:33])


def make(seed=0):
    rng = np.random.default_rng(seed)
    readouts = {
        "stage": Readout(rng.standard_normal((4, 3)), rng.standard_normal(3), ("B", "NK", "T")),
        "CD4 against CD8": Readout(rng.standard_normal((4, 1)), rng.standard_normal(1), ("False", "True")),
        "depth": Readout(rng.standard_normal((4, 1)), rng.standard_normal(1), ()),
    }
    card = {"data": "tiny cells", "score": 0.25, "undefined": float("nan"), "nested": {"list": [1, None, "µ"]}}
    return Algorithm(PANEL, rng.standard_normal((30, 4)), rng.standard_normal(4), readouts, card)


@pytest.fixture
def algorithm():
    return make()


def logged(cells):
    """Dense oracle: counts per 10,000 over all genes, logged."""
    x = cells.X.toarray().astype(np.float64)
    return np.log1p(x / x.sum(1, keepdims=True) * 1e4)


def expected(cells, algorithm):
    at = [list(cells.var_names).index(gene) for gene in algorithm.genes]
    return logged(cells)[:, at] @ algorithm.matrix + algorithm.offset


# What it computes


def test_counts_are_normalised_over_all_measured_genes_and_logged(algorithm):
    cells = tiny_cells()
    np.testing.assert_allclose(algorithm.transform(cells), expected(cells, algorithm), rtol=1e-5)


def test_counts_and_logged_values_of_the_same_cells_agree(algorithm):
    cells = tiny_cells()
    as_logged = ad.AnnData(sp.csr_matrix(logged(cells).astype(np.float32)), var=cells.var.copy())
    as_logged.uns["workbench"] = {"values": "log1p:10000"}
    np.testing.assert_allclose(algorithm.transform(as_logged), algorithm.transform(cells), rtol=1e-5, atol=1e-5)
    per_ten_thousand = ad.AnnData(sp.csr_matrix(np.expm1(logged(cells)).astype(np.float32)), var=cells.var.copy())
    per_ten_thousand.uns["workbench"] = {"values": "cp10k"}
    np.testing.assert_allclose(algorithm.transform(per_ten_thousand), algorithm.transform(cells), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "form", [np.asarray, sp.csc_matrix, lambda x: x.astype(np.int64), lambda x: x.astype(np.float64)]
)
def test_any_form_of_the_matrix(algorithm, form):
    cells = tiny_cells()
    other = ad.AnnData(form(cells.X.toarray()), var=cells.var.copy(), uns=cells.uns)
    np.testing.assert_allclose(algorithm.transform(other), algorithm.transform(cells), rtol=1e-6)


def test_backed_cells(algorithm, tmp_path):
    cells = tiny_cells()
    cells.write_h5ad(tmp_path / "cells.h5ad")
    backed = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    np.testing.assert_array_equal(algorithm.transform(backed), algorithm.transform(cells))


def test_blocks_of_many_cells_are_joined(algorithm):
    few = tiny_cells(10)
    many = ad.AnnData(sp.vstack([few.X] * 500, format="csr"), var=few.var.copy(), uns=few.uns)
    np.testing.assert_allclose(algorithm.transform(many), np.tile(algorithm.transform(few), (500, 1)), rtol=1e-12)


def test_genes_are_found_by_name_whatever_their_order(algorithm):
    cells = tiny_cells()
    order = np.random.default_rng(0).permutation(40)
    np.testing.assert_allclose(algorithm.transform(cells[:, order].copy()), algorithm.transform(cells), rtol=1e-6)


def test_absent_genes_count_as_not_expressed(algorithm):
    cells = tiny_cells(kind="log-normalised")
    kept = [g for g in cells.var_names if g not in ("GENE5", "GENE20")]
    zeroed = ad.AnnData(
        sp.csr_matrix(cells.X.toarray() * cells.var_names.isin(kept)), var=cells.var.copy(), uns=cells.uns
    )
    np.testing.assert_allclose(algorithm.transform(cells[:, kept].copy()), algorithm.transform(zeroed), rtol=1e-6)


def test_columns_of_one_name_add_up(algorithm):
    cells = tiny_cells()
    twice = ad.AnnData(sp.hstack([cells.X, cells.X * 2], format="csr"), var=pd.DataFrame(index=[*cells.var_names] * 2))
    twice.uns["workbench"] = cells.uns["workbench"]
    np.testing.assert_allclose(algorithm.transform(twice), algorithm.transform(cells), rtol=1e-5)


def test_names_in_another_case_are_found_where_no_name_fits(algorithm):
    cells = tiny_cells()
    expected = algorithm.transform(cells)
    cells.var_names = [name.lower() if i % 2 else name for i, name in enumerate(cells.var_names)]
    np.testing.assert_allclose(algorithm.transform(cells), expected, rtol=1e-6)
    both = ad.AnnData(sp.hstack([cells.X * 0, cells.X], format="csr"), uns=cells.uns)
    both.var_names = [*(name.title() for name in cells.var_names), *(name.upper() for name in cells.var_names)]
    np.testing.assert_allclose(algorithm.transform(both), expected, rtol=1e-6)


def test_too_few_measured_genes_are_an_error(algorithm):
    cells = tiny_cells()[:, genes()[:10]].copy()
    message = (
        r"The cells measure 7 of the 30 panel genes, under the stated share of 50% \(absent: GENE10, GENE11, GENE12"
    )
    with pytest.raises(GeneMatchError, match=message):
        algorithm.transform(cells)
    assert algorithm.transform(cells, min_coverage=0.2).shape == (20, 4)
    with pytest.raises(GeneMatchError, match="measure 0 of the 30"):
        algorithm.transform(tiny_cells()[:, genes()[:3]].copy(), min_coverage=0.0)


@pytest.mark.parametrize(
    ("value", "said"), [(-1.0, "negative values"), (np.nan, "NaN or infinite"), (np.inf, "NaN or inf")]
)
def test_impossible_values_are_an_error(algorithm, value, said):
    cells = tiny_cells(kind="log-normalised")
    cells.X.data[cells.X.indptr[4]] = value
    with pytest.raises(CellsError, match=rf"1 cells hold .*{said}.* \(cell4\)"):
        algorithm.transform(cells)


@pytest.mark.parametrize("kind", ["counts", "log-normalised"])
def test_the_caller_s_cells_are_left_alone(algorithm, kind):
    cells = tiny_cells(kind=kind)
    cells.X.data[::5] = 0  # stored zeros
    before = cells.copy()
    algorithm.transform(cells)
    assert cells.X.dtype == before.X.dtype and np.array_equal(cells.X.data, before.X.data)
    assert np.array_equal(cells.X.indices, before.X.indices) and np.array_equal(cells.X.indptr, before.X.indptr)
    pd.testing.assert_frame_equal(cells.obs, before.obs)
    pd.testing.assert_frame_equal(cells.var, before.var)
    assert list(cells.uns) == ["workbench"] and not cells.layers


def test_panel_expression_is_sparse_and_sorted():
    cells = tiny_cells()
    found = panel_expression(cells, PANEL[::-1])
    assert sp.issparse(found) and found.dtype == np.float32 and found.has_sorted_indices
    at = [list(cells.var_names).index(gene) for gene in PANEL[::-1]]
    np.testing.assert_allclose(found.toarray(), logged(cells)[:, at], rtol=1e-5)


# Files


def test_save_and_load_are_bit_exact(algorithm, tmp_path):
    again = Algorithm.from_pretrained(algorithm.save_pretrained(tmp_path / "new" / "algorithm"))
    assert again.genes == algorithm.genes
    for ours, theirs in ((again.matrix, algorithm.matrix), (again.offset, algorithm.offset)):
        assert ours.dtype == theirs.dtype and ours.tobytes() == theirs.tobytes()
    assert list(again.readouts) == list(algorithm.readouts)
    for name, readout in algorithm.readouts.items():
        assert again.readouts[name].weights.tobytes() == readout.weights.tobytes()
        assert again.readouts[name].offset.tobytes() == readout.offset.tobytes()
        assert again.readouts[name].classes == readout.classes
    assert again.card == {**algorithm.card, "undefined": None}
    cells = tiny_cells()
    z = again.transform(cells)
    assert np.array_equal(z, algorithm.transform(cells))
    for name, readout in algorithm.readouts.items():
        assert np.array_equal(again.readouts[name].predict(z), readout.predict(z))
    assert sorted(p.name for p in (tmp_path / "new" / "algorithm").iterdir()) == [README, CARD, WEIGHTS]
    assert json.loads((tmp_path / "new" / "algorithm" / CARD).read_text())["k"] == 4


def test_a_missing_file_is_an_error(algorithm, tmp_path):
    for name in (CARD, WEIGHTS):
        folder = algorithm.save_pretrained(tmp_path / name)
        (folder / name).unlink()
        with pytest.raises(ArtifactError, match=name):
            Algorithm.from_pretrained(folder)


@pytest.mark.parametrize("name", [CARD, WEIGHTS])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_truncated_file_is_an_error(algorithm, tmp_path, name, share):
    path = algorithm.save_pretrained(tmp_path) / name
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(ArtifactError, match=name):
        Algorithm.from_pretrained(tmp_path)


def test_changed_weights_are_an_error(algorithm, tmp_path):
    path = algorithm.save_pretrained(tmp_path) / WEIGHTS
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(ArtifactError, match="a file was changed or swapped; export it again"):
        Algorithm.from_pretrained(tmp_path)


def test_swapped_weights_are_an_error(algorithm, tmp_path):
    algorithm.save_pretrained(tmp_path / "a")
    make(seed=1).save_pretrained(tmp_path / "b")
    shutil.copy(tmp_path / "b" / WEIGHTS, tmp_path / "a" / WEIGHTS)
    with pytest.raises(ArtifactError, match="a file was changed or swapped; export it again"):
        Algorithm.from_pretrained(tmp_path / "a")


def swap_genes(card):
    card["genes"][:2] = card["genes"][1::-1]


CHANGES = {
    "order of the genes": swap_genes,
    "a gene": lambda card: card["genes"].__setitem__(0, "OTHER"),
    "no genes": lambda card: card.pop("genes"),
    "classes": lambda card: card["readouts"]["stage"]["classes"].reverse(),
    "a readout": lambda card: card["readouts"].pop("depth"),
    "no readouts": lambda card: card.pop("readouts"),
    "evidence": lambda card: card["card"].__setitem__("score", 0.95),
    "no card": lambda card: card.pop("card"),
    "no hash": lambda card: card.pop("content"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_card_is_an_error(algorithm, tmp_path, change):
    path = algorithm.save_pretrained(tmp_path) / CARD
    card = json.loads(path.read_text())
    change(card)
    path.write_text(json.dumps(card))
    with pytest.raises(ArtifactError, match="a file was changed or swapped; export it again"):
        Algorithm.from_pretrained(tmp_path)


@pytest.mark.parametrize("content", ["[]", "{}", '{"format": 2}', "3"])
def test_another_format_is_an_error(algorithm, tmp_path, content):
    (algorithm.save_pretrained(tmp_path) / CARD).write_text(content)
    with pytest.raises(ArtifactError, match=f"{CARD}' is no algorithm of format 1; export it again"):
        Algorithm.from_pretrained(tmp_path)


def test_it_is_read_and_applied_without_torch_or_scanpy(algorithm, tmp_path):
    algorithm.save_pretrained(tmp_path / "algorithm")
    cells = tiny_cells()
    cells.write_h5ad(tmp_path / "cells.h5ad")
    code = (
        "import sys, anndata, numpy as np\n"
        "from workbench.operators.algorithm import Algorithm\n"
        f"z = Algorithm.from_pretrained({str(tmp_path / 'algorithm')!r})"
        f".transform(anndata.read_h5ad({str(tmp_path / 'cells.h5ad')!r}))\n"
        f"np.save({str(tmp_path / 'z.npy')!r}, z)\n"
        "print(*(m for m in ('torch', 'scgpt', 'transformer_lens', 'sklearn', 'scanpy') if m in sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [], "nothing of these may be imported"
    assert np.array_equal(np.load(tmp_path / "z.npy"), algorithm.transform(cells))


def test_a_folder_that_is_not_there_or_of_something_else_is_said(algorithm, tmp_path):
    with pytest.raises(ArtifactError, match="There is no folder '.*nowhere'; give the one"):
        Algorithm.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(ArtifactError, match="is no algorithm: config.json and weights.safetensors is not there"):
        Algorithm.from_pretrained(tmp_path)
    algorithm.save_pretrained(tmp_path / "run" / "algorithm")
    with pytest.raises(ArtifactError, match="is no algorithm.*did you mean '.*run/algorithm'"):
        Algorithm.from_pretrained(tmp_path / "run")
    (tmp_path / "run" / "algorithm" / WEIGHTS).unlink()
    with pytest.raises(ArtifactError, match="is no algorithm: weights.safetensors is not there"):
        Algorithm.from_pretrained(tmp_path / "run" / "algorithm")


def test_every_row_has_a_name_of_its_own(algorithm):
    for genes_ in (PANEL[:-1], (*PANEL[:-1], PANEL[0])):
        with pytest.raises(ShapeError, match="30 rows need the name of a gene each; found"):
            Algorithm(genes_, algorithm.matrix, algorithm.offset, {}, {})
