"""Binning, sampling and padding: equal to upstream's in distribution, and a function of seed, cell name and values only."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from helpers import N_GENES, by_gene, genes, require_upstream, tiny_cells, vocabulary_ids
from scipy import stats

from workbench.cells.matrix import row_block
from workbench.errors import CellsError, CheckpointError, GeneMatchError
from workbench.models.scgpt.config import ModelConfig
from workbench.models.scgpt.tokenizer import Tokenizer, check_tokens
from workbench.models.vocabulary import Vocabulary

SIGNIFICANT = 0.001


def config(n_bins: int = 51, **shape) -> ModelConfig:
    return ModelConfig(n_tokens=5000, d_model=8, n_layers=1, n_heads=1, d_mlp=8, n_bins=n_bins, **shape)


def tokenizer(cells, **options) -> Tokenizer:
    return Tokenizer(cells, options.pop("config", config()), Vocabulary(vocabulary_ids()), **options)


def copies(row: np.ndarray, n: int) -> tuple[ad.AnnData, Vocabulary]:
    """One cell under `n` names, and a vocabulary of its genes."""
    names = genes(len(row))
    cells = ad.AnnData(sp.csr_matrix(np.tile(row.astype(np.float32), (n, 1))), var=pd.DataFrame(index=names))
    cells.obs_names = [f"copy{i}" for i in range(n)]
    return cells, Vocabulary.of_genes(names)


def edges(row: np.ndarray, n_bins: int) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest bin that scGPT may give each value of a cell without zeros."""
    quantiles = np.quantile(row, np.linspace(0, 1, n_bins - 1))
    left, right = np.digitize(row, quantiles), np.digitize(row, quantiles, right=True)
    return np.minimum(right + 1, left), left


@pytest.mark.parametrize("n_bins", [51, 11, 3])
@pytest.mark.parametrize("kind", ["counts", "continuous", "log-normalised counts", "one value", "one gene"])
def test_bins_lie_between_the_bounds_of_np_quantile_and_np_digitize(kind, n_bins):
    rng = np.random.default_rng(0)
    for n in (1,) if kind == "one gene" else (2, 3, 50, 51, 199, 700):
        row = {
            "counts": rng.geometric(0.4, n),
            "continuous": rng.gamma(2, size=n) + 1e-3,
            "log-normalised counts": np.log1p(rng.geometric(0.4, n) * 3.7),
            "one value": np.full(n, 2.5),
            "one gene": 2 * np.ones(1),
        }[kind].astype(np.float32)
        cells, vocabulary = copies(row, 3)
        tokens = Tokenizer(cells, config(n_bins), vocabulary).tokens()
        low, high = edges(row, n_bins)
        bins = tokens.values[:, 1:].numpy()
        assert (bins == bins.round()).all() and bins.min() >= 1 and bins.max() <= n_bins - 1
        assert (bins >= low).all() and (bins <= high).all()
        exact = low == high
        assert (bins[:, exact] == high[exact]).all()
        if kind == "continuous":
            # Only the largest value may lie on more than one edge.
            assert exact.sum() >= n - 1


def test_the_distribution_of_tied_bins_equals_upstreams():
    upstream_binning = require_upstream("preprocess").binning
    rng = np.random.default_rng(1)
    row = np.concatenate([np.repeat([1.0, 2.0, 3.0, 5.0], [90, 40, 15, 5]), rng.gamma(2, size=10)]).astype(np.float32)
    n = 300
    cells, vocabulary = copies(row, n)
    ours = Tokenizer(cells, config(), vocabulary).tokens().values[:, 1:].numpy().astype(int)
    np.random.seed(5)
    theirs = np.stack([upstream_binning(row, 51) for _ in range(n)]).astype(int)
    compared = 0
    for value in np.unique(row):
        tied = row == value
        counts = np.stack([np.bincount(draws[:, tied].ravel(), minlength=51) for draws in (ours, theirs)])
        counts = counts[:, counts.sum(0) > 0]
        assert (counts > 0).all(), f"{value}: the two do not reach the same bins"
        if counts.shape[1] > 1:
            assert stats.chi2_contingency(counts).pvalue > SIGNIFICANT
            compared += 1
    assert compared == 4


def test_tied_bins_are_uniform_and_independent_between_genes_and_cells():
    row = 2 * np.ones(60)
    cells, vocabulary = copies(row, 600)
    bins = Tokenizer(cells, config(6), vocabulary).tokens().values[:, 1:].numpy().astype(int)
    assert set(np.unique(bins)) == {1, 2, 3, 4, 5}
    for gene in (0, 31, 59):
        assert stats.chisquare(np.bincount(bins[:, gene])[1:]).pvalue > SIGNIFICANT
    within_cells = np.stack([np.bincount(cell, minlength=6)[1:] for cell in bins])
    # Sum over cells of a chi-square with 4 degrees of freedom each: too large if genes repeat, too small if they share out.
    total = ((within_cells - 12) ** 2 / 12).sum()
    assert SIGNIFICANT < stats.chi2.cdf(total, 4 * 600) < 1 - SIGNIFICANT
    for a, b in ((0, 1), (7, 8), (3, 50)):
        assert stats.chi2_contingency(np.histogram2d(bins[:, a], bins[:, b], 5)[0]).pvalue > SIGNIFICANT
    assert stats.chi2_contingency(np.histogram2d(bins[:-1].ravel(), bins[1:].ravel(), 5)[0]).pvalue > SIGNIFICANT


def kept_genes(tokens) -> np.ndarray:
    kept = np.zeros((len(tokens), 3 + N_GENES), dtype=bool)
    kept[np.arange(len(tokens))[:, None], tokens.gene_ids[:, 1:]] = True
    return kept[:, 3:]


def test_sampling_keeps_every_gene_equally_often():
    n, keep = 800, 12
    cells, vocabulary = copies(2 * np.ones(N_GENES), n)
    tokens = Tokenizer(cells, config(6), vocabulary, max_tokens=keep + 1).tokens()
    kept = kept_genes(tokens)
    assert (kept.sum(1) == keep).all()
    # Draws without replacement: each gene is binomial, and together they have N_GENES - 1 degrees of freedom.
    share = keep / N_GENES
    statistic = ((kept.sum(0) - n * share) ** 2 / (n * share * (1 - share))).sum() * (N_GENES - 1) / N_GENES
    assert SIGNIFICANT < stats.chi2.cdf(statistic, N_GENES - 1) < 1 - SIGNIFICANT
    pairs = [kept[:, a] & kept[:, b] for a, b in ((0, 1), (1, 2), (10, 30))]
    for both in pairs:
        expected = keep * (keep - 1) / N_GENES / (N_GENES - 1)
        assert stats.binomtest(int(both.sum()), n, expected).pvalue > SIGNIFICANT


def test_being_kept_says_nothing_about_the_bin():
    cells, vocabulary = copies(2 * np.ones(N_GENES), 300)
    every = Tokenizer(cells, config(6), vocabulary).tokens()
    kept = kept_genes(Tokenizer(cells, config(6), vocabulary, max_tokens=21).tokens())
    table = np.histogram2d(kept.ravel(), every.values[:, 1:].numpy().ravel(), (2, 5))[0]
    assert stats.chi2_contingency(table).pvalue > SIGNIFICANT


def test_a_longer_sequence_keeps_the_genes_and_bins_of_a_shorter_one():
    cells = tiny_cells()
    some, more = (by_gene(tokenizer(cells, max_tokens=n).tokens()) for n in (6, 11))
    for cell in some:
        assert len(some[cell]) == 5 and some[cell].items() <= more[cell].items()


def test_cls_comes_first_and_padding_last():
    cells, ids = tiny_cells(share=0.4), vocabulary_ids()
    tokens = tokenizer(cells, max_tokens=20, config=config(pad_value=-5)).tokens()
    expressed = np.diff(cells.X.indptr)
    assert tokens.gene_ids.shape == (20, min(expressed.max(), 19) + 1)
    assert (tokens.gene_ids[:, 0] == ids["<cls>"]).all() and (tokens.values[:, 0] == -5).all()
    assert not tokens.padding[:, 0].any()
    assert ((~tokens.padding).sum(1).numpy() == np.minimum(expressed, 19) + 1).all()
    assert (tokens.padding[:, 1:] >= tokens.padding[:, :-1]).all()
    assert (tokens.gene_ids[tokens.padding] == ids["<pad>"]).all() and (tokens.values[tokens.padding] == -5).all()
    names = np.array(genes())
    for row, found in enumerate(by_gene(tokenizer(cells).tokens()).values()):
        assert set(names[list(found)]) == set(names[cells.X[row].indices])


@pytest.mark.parametrize("max_tokens", [8, None])
def test_a_cell_depends_on_nothing_but_itself(max_tokens):
    cells = tiny_cells()
    rng = np.random.default_rng(0)
    whole = tokenizer(cells, max_tokens=max_tokens)
    wanted = by_gene(whole.tokens())
    for size in (1, 3, 7, 64):
        batches = list(whole.batches(size))
        assert [cell for batch in batches for cell in batch.cell_ids] == list(cells.obs_names)
        assert {k: v for batch in batches for k, v in by_gene(batch).items()} == wanted
    others = {
        "order of cells": cells[rng.permutation(20)],
        "order of genes": cells[:, rng.permutation(N_GENES)],
        "both": cells[rng.permutation(20)][:, rng.permutation(N_GENES)],
        "other cells": cells[5:12],
    }
    for what, other in others.items():
        found = by_gene(tokenizer(other, max_tokens=max_tokens).tokens())
        assert found == {cell: wanted[cell] for cell in other.obs_names}, what


def test_genes_outside_the_vocabulary_do_not_count():
    cells = tiny_cells()
    stranger = ad.AnnData(
        sp.csr_matrix(np.full((20, 15), 9.0, np.float32)), cells.obs, pd.DataFrame(index=genes(55)[40:])
    )
    both = ad.concat([stranger[:, :7], cells, stranger[:, 7:]], axis=1)
    found = tokenizer(both, max_tokens=10)
    assert found.match.missing == tuple(genes(55)[40:])
    assert by_gene(found.tokens()) == by_gene(tokenizer(cells, max_tokens=10).tokens())


def test_seeds_and_names_change_ties_and_sample():
    cells = tiny_cells()
    first = by_gene(tokenizer(cells, max_tokens=8).tokens())
    assert first == by_gene(tokenizer(cells, max_tokens=8, seed=0).tokens())
    second = by_gene(tokenizer(cells, max_tokens=8, seed=1).tokens())
    assert all(first[cell] != second[cell] for cell in first)
    renamed = cells.copy()
    renamed.obs_names = [f"other{i}" for i in range(20)]
    third = by_gene(tokenizer(renamed, max_tokens=8).tokens())
    assert all(a != b for a, b in zip(first.values(), third.values(), strict=True))


def test_values_without_ties_give_the_same_bins_as_counts_and_logged():
    rng = np.random.default_rng(2)
    counts = np.stack([rng.permutation(N_GENES) + 1 for _ in range(6)]).astype(np.float32)
    logged = np.log1p(counts / counts.sum(1, keepdims=True) * 1e4)
    found = []
    for matrix in (counts, logged):
        cells = ad.AnnData(matrix, var=pd.DataFrame(index=genes()))
        found.append(tokenizer(cells, config=config(20)).tokens().values)
    # The largest value lies on the last edge alone; only which values tie decides what is random.
    assert torch.equal(*found)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """The same cells as dense, csr and csc, in memory and in files."""
    folder = tmp_path_factory.mktemp("stored")
    cells = tiny_cells(share=0.5)
    unsorted = cells.X.copy()
    for row in range(20):
        part = slice(*unsorted.indptr[row : row + 2])
        unsorted.indices[part], unsorted.data[part] = unsorted.indices[part][::-1], unsorted.data[part][::-1]
    unsorted.has_sorted_indices = False
    zeros = cells.X.tolil().tocsr()
    zeros = sp.csr_matrix(
        (
            np.insert(zeros.data, zeros.indptr[1], 0.0),
            np.insert(zeros.indices, zeros.indptr[1], np.setdiff1d(np.arange(N_GENES), zeros[0].indices)[0]),
            zeros.indptr + (np.arange(21) > 0),
        ),
        zeros.shape,
    )
    matrices = {
        "dense": cells.X.toarray(),
        "fortran dense": np.asfortranarray(cells.X.toarray()),
        "dense float64": cells.X.toarray().astype(np.float64),
        "dense integers": cells.X.toarray().astype(np.int64),
        "csr": cells.X,
        "csr array": sp.csr_array(cells.X),
        "csc": cells.X.tocsc(),
        "csr integers": cells.X.astype(np.int32),
        "csr with unsorted columns": unsorted,
        "csr with stored zeros": zeros,
    }
    found = {}
    for name, matrix in matrices.items():
        found[name] = ad.AnnData(matrix, obs=cells.obs, var=cells.var)
    for name in ("dense", "csr", "csr with stored zeros", "csc"):
        found[name].write_h5ad(folder / f"{name}.h5ad")
        found[f"backed {name}"] = ad.read_h5ad(folder / f"{name}.h5ad", backed="r")
    return found


@pytest.mark.parametrize(
    "form",
    [
        "dense",
        "fortran dense",
        "dense float64",
        "dense integers",
        "csr array",
        "csc",
        "csr integers",
        "csr with unsorted columns",
        "csr with stored zeros",
        "backed dense",
        "backed csr",
        "backed csr with stored zeros",
    ],
)
def test_every_storage_gives_the_same_tokens(stored, form):
    wanted = tokenizer(stored["csr"], max_tokens=10)
    found = tokenizer(stored[form], max_tokens=10)
    assert by_gene(found.tokens()) == by_gene(wanted.tokens())
    assert {k: v for b in found.batches(6) for k, v in by_gene(b).items()} == by_gene(wanted.tokens())
    assert (found.lengths() == wanted.lengths()).all() and found.values == wanted.values


def test_a_backed_csc_is_refused_with_the_reason(stored):
    with pytest.raises(CellsError, match="stores its matrix by columns .csc., so that rows cannot be read"):
        tokenizer(stored["backed csc"])


def test_the_callers_object_is_not_changed():
    cells = tiny_cells()
    cells.X.data[3] = 0  # a stored zero, which the tokeniser must drop from a copy
    before = cells.copy()
    found = tokenizer(cells, max_tokens=8)
    list(found.batches(4))
    found.lengths()
    for name in ("data", "indices", "indptr"):
        a, b = getattr(cells.X, name), getattr(before.X, name)
        assert a.dtype == b.dtype and np.array_equal(a, b)
    pd.testing.assert_frame_equal(cells.obs, before.obs)
    pd.testing.assert_frame_equal(cells.var, before.var)
    assert list(cells.uns) == ["workbench"] and not cells.layers and not cells.obsm


def test_views_work():
    cells = tiny_cells()
    view = cells[[3, 4, 9]]
    wanted = by_gene(tokenizer(cells).tokens())
    assert by_gene(tokenizer(view).tokens()) == {cell: wanted[cell] for cell in view.obs_names}
    assert view.is_view


def test_lengths_rows_and_stops():
    cells = tiny_cells(share=0.4)
    found = tokenizer(cells, max_tokens=12)
    assert len(found) == 20
    assert (found.lengths() == (~found.tokens().padding).sum(1).numpy()).all()
    assert found.tokens(17, 99).cell_ids == ("cell17", "cell18", "cell19")
    assert [b.cell_ids for b in found.batches(2, 3, 6)] == [("cell3", "cell4"), ("cell5",)]
    with pytest.raises(CellsError, match="Rows 20 to 20 hold no cell"):
        found.tokens(20)


def test_batch_labels_follow_the_cells():
    cells = tiny_cells()
    cells.obs["batch"] = np.arange(20) % 3
    found = tokenizer(cells, batch_column="batch")
    assert [b.batch_labels.tolist() for b in found.batches(8)] == [
        [i % 3 for i in range(*span)] for span in ((0, 8), (8, 16), (16, 20))
    ]
    assert tokenizer(cells).tokens().batch_labels is None
    with pytest.raises(CellsError, match="no batch column 'btch' in obs"):
        tokenizer(cells, batch_column="btch")


@pytest.mark.parametrize("kind", ["counts", "normalised", "log-normalised"])
def test_the_kind_of_values_is_said(kind):
    cells = tiny_cells(kind=kind)
    report = tokenizer(cells).values
    assert report.kind == {"counts": kind, "normalised": "linear", "log-normalised": "log1p"}[kind]
    assert str(report).startswith({"log-normalised": "log1p of cells normalised to 10,000"}.get(kind, kind))
    assert report.maximum == cells.X.max() and report.n_cells == 20
    assert report.median_genes == np.median(np.diff(cells.X.indptr))
    assert report.median_total == pytest.approx(np.median(np.asarray(cells.X.sum(1))))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (-1.0, "2 cells hold negative values .cell4, cell7."),
        (np.nan, "2 cells hold values that are NaN or infinite .cell4, cell7."),
        (np.inf, "2 cells hold values that are NaN or infinite .cell4, cell7."),
    ],
)
@pytest.mark.parametrize("dense", [True, False], ids=["dense", "sparse"])
def test_impossible_values_are_refused_with_the_cells(value, message, dense):
    cells = tiny_cells()
    matrix = cells.X.toarray()
    matrix[[4, 7], [4, 7]] = value
    cells.X = matrix if dense else sp.csr_matrix(matrix)
    with pytest.raises(CellsError, match=message):
        tokenizer(cells).tokens()
    with pytest.raises(CellsError, match=message.replace("2 cells", "1 cells").replace(", cell7", "")):
        list(tokenizer(cells).batches(5))


def test_cells_without_expression_are_refused_by_name():
    cells = tiny_cells(8)
    matrix = cells.X.toarray()
    matrix[[0, 2, 3, 5]] = 0
    with pytest.raises(CellsError, match="4 cells express no gene that is used .cell0, cell2, cell3, ...."):
        tokenizer(ad.AnnData(matrix, cells.obs, cells.var)).tokens()
    with pytest.raises(CellsError, match="8 cells x 40 genes holds no value above zero"):
        tokenizer(ad.AnnData(matrix * 0, cells.obs, cells.var))
    matrix[:, 0] = 1
    with pytest.raises(CellsError, match="4 cells express no gene that is used .cell0"):
        outside = cells.var.rename(index={"GENE0": "STRANGER"})
        tokenizer(ad.AnnData(matrix, cells.obs, outside)).tokens()


def test_selections_and_settings_that_cannot_be_tokenised():
    cells = tiny_cells()
    with pytest.raises(CellsError, match="selection holds no cell"):
        tokenizer(cells[:0])
    with pytest.raises(CellsError, match="max_tokens is 1; at least <cls> and one gene"):
        tokenizer(cells, max_tokens=1)
    with pytest.raises(CheckpointError, match="input_style 'log1p'. Only binned"):
        tokenizer(cells, config=config(input_style="log1p"))
    with pytest.raises(GeneMatchError, match="Only 0.0% of 40 genes"):
        Tokenizer(cells, config(), Vocabulary.of_genes(["A"]))
    twice = cells.copy()
    twice.obs_names = ["cell0", *twice.obs_names[1:19], "cell0"]
    with pytest.raises(CellsError, match="must be unique .*'cell0' occurs more than once"):
        tokenizer(twice)


def test_fingerprints_follow_what_decides_the_tokens():
    cells = tiny_cells()
    first = tokenizer(cells).fingerprint()
    assert first == tokenizer(cells.copy()).fingerprint()
    other = cells.copy()
    other.X.data[0] += 1
    renamed = cells.copy()
    renamed.obs_names = [f"other{i}" for i in range(20)]
    changed = [
        tokenizer(cells, seed=1),
        tokenizer(cells, max_tokens=9),
        tokenizer(other),
        tokenizer(renamed),
        tokenizer(cells[:, ::-1]),
    ]
    assert first not in {t.fingerprint() for t in changed}


@pytest.mark.shared_data("combat_pbmc_6donors.h5ad", "ranzoni2021_progenitors.h5ad")
def test_real_cells_backed_and_in_memory(shared_data):
    kinds = {"combat_pbmc_6donors": "counts", "ranzoni2021_progenitors": "log1p"}
    for name, kind in kinds.items():
        backed = ad.read_h5ad(shared_data / f"{name}.h5ad", backed="r")
        vocabulary = Vocabulary.of_genes(backed.var_names)
        wanted = backed[:40].to_memory()
        first = Tokenizer(wanted, config(), vocabulary, max_tokens=200).tokens()
        found = Tokenizer(backed, config(), vocabulary, max_tokens=200)
        assert found.values.kind == kind
        batches = [batch for batch in found.batches(15, 0, 40)]
        assert {k: v for b in batches for k, v in by_gene(b).items()} == by_gene(first)
        backed.file.close()


@pytest.mark.parametrize(
    ("row", "position", "what", "value", "says"),
    [
        (3, 2, "values", 51, "Cell 'cell3' has the value 51 for gene '{}', no bin from 1 to 50"),
        (3, 2, "values", 0, "Cell 'cell3' has the value 0 for gene '{}', no bin from 1 to 50"),
        (3, 2, "values", 2.5, "Cell 'cell3' has the value 2.5 for gene '{}', no bin"),
        (2, 3, "gene_ids", "that of position 1", "Cell 'cell2' has the value .* for gene '{}', .*or its second"),
        (
            0,
            1,
            "values",
            "the highest or the lowest",
            "Cell 'cell0' .* for gene '{}', none from .*, which its quantiles allow",
        ),
    ],
)
def test_tokens_that_no_rule_gives_are_an_error_that_names_cell_and_gene(row, position, what, value, says):
    cells, vocabulary, settings = tiny_cells(5), Vocabulary(vocabulary_ids()), config()
    made = Tokenizer(cells, settings, vocabulary).tokens()
    arrays = {
        "gene_ids": made.gene_ids.numpy(),
        "values": made.values.numpy().astype(np.float32),
        "padding": made.padding.numpy(),
    }
    ids = vocabulary.encode(genes())
    block = row_block(cells.X, 0, 5)
    check_tokens(block, *arrays.values(), ids, cells.obs_names, settings, vocabulary)
    if value == "that of position 1":
        value = arrays["gene_ids"][row, 1]
    elif value == "the highest or the lowest":
        value = 1 if arrays["values"][row, position] > 25 else 50
    arrays[what][row, position] = value
    gene = vocabulary.decode([int(arrays["gene_ids"][row, position])])[0]
    with pytest.raises(CellsError, match=says.format(gene)):
        check_tokens(block, *arrays.values(), ids, cells.obs_names, settings, vocabulary)


def test_columns_of_one_gene_are_one_token_of_their_sum():
    cells = tiny_cells(6)
    whole = cells.X.toarray()
    half = np.floor(whole[:, 3] / 2)
    parts = np.column_stack([whole, half])
    parts[:, 3] -= half
    twice = ad.AnnData(sp.csr_matrix(parts), cells.obs, pd.DataFrame(index=[*genes(), "GENE3"]), uns=cells.uns)
    assert by_gene(tokenizer(twice).tokens()) == by_gene(tokenizer(cells).tokens())
    logged = ad.AnnData(np.log1p(parts), cells.obs, twice.var, {"workbench": {"values": "log1p:50"}})
    assert by_gene(tokenizer(logged).tokens()) == by_gene(tokenizer(cells).tokens())


def test_entries_that_are_held_twice_are_one_token():
    cells = tiny_cells(6)
    matrix = cells.X.tocoo()
    rows, columns = np.tile(matrix.row, 2), np.tile(matrix.col, 2)
    order = np.argsort(rows, kind="stable")
    data = np.tile(matrix.data / 2, 2)[order]
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=6))])
    doubled = sp.csr_matrix((data, columns[order], indptr), shape=matrix.shape)
    assert doubled.nnz == 2 * cells.X.nnz
    other = ad.AnnData(doubled, cells.obs, cells.var)
    assert by_gene(tokenizer(other).tokens()) == by_gene(tokenizer(cells).tokens())


def test_presence_is_refused():
    cells = tiny_cells(6)
    cells.X.data[:] = 1
    del cells.uns["workbench"]
    with pytest.raises(CellsError, match="0/1 .*presence ranks no gene above another"):
        tokenizer(cells)
