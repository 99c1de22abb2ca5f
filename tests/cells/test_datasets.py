"""Loading cells."""

from __future__ import annotations

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from helpers import genes, tiny_cells

from workbench.cells.datasets import CellMapping, content_hash, load
from workbench.errors import CellsError

PBMC_LABELS = {
    "CD14+ Monocyte",
    "CD19+ B",
    "CD34+",
    "CD4+/CD25 T Reg",
    "CD4+/CD45RA+/CD25- Naive T",
    "CD4+/CD45RO+ Memory",
    "CD56+ NK",
    "CD8+ Cytotoxic T",
    "CD8+/CD45RA+ Naive Cytotoxic",
    "Dendritic",
}


@pytest.fixture(scope="module")
def source():
    """Cells with a layer, raw values, symbols in a column, and obs columns under names of their own."""
    cells = tiny_cells(12, 8)
    cells.layers["counts"] = cells.X * 2
    cells.raw = cells[:, :6].copy()
    cells.X = cells.X.toarray()
    cells.var["symbol"] = [f"SYM{i}" for i in range(8)]
    cells.obs["person"] = pd.Categorical([f"p{i % 3}" for i in range(12)])
    cells.obs["organ"] = "blood"
    cells.obs["plate"] = np.arange(12) % 2
    return cells


@pytest.fixture(scope="module")
def path(source, tmp_path_factory):
    place = tmp_path_factory.mktemp("h5ad") / "mine.h5ad"
    source.write_h5ad(place)
    return place


def dense(matrix):
    matrix = matrix[:] if not sp.issparse(matrix) else matrix
    return matrix.toarray() if sp.issparse(matrix) else np.asarray(matrix)


def test_pbmc68k_ships(pbmc68k):
    assert pbmc68k.shape == (700, 765)
    assert set(pbmc68k.obs["cell_type"]) == PBMC_LABELS and list(pbmc68k.obs) == ["cell_type"]
    assert pbmc68k.obs_names.is_unique and pbmc68k.var_names.is_unique and "CD4" in pbmc68k.var_names
    values = dense(pbmc68k.X)
    # Log-normalised: non-negative and small; undoing the logarithm gives a cell few distinct values, as counts do.
    assert values.min() == 0 and 4 < values.max() < 10
    assert np.median([len(np.unique(row.round(4))) for row in values]) < 30
    about = pbmc68k.uns["workbench"]
    assert about["name"] == "pbmc68k" and about["columns"] == ["cell_type"] and "Zheng" in about["source"]


def test_pbmc68k_backed_equals_memory(pbmc68k):
    backed = load("pbmc68k", backed=True)
    assert not isinstance(backed.X, np.ndarray) and not sp.issparse(backed.X), "the matrix should stay in the file"
    assert content_hash(backed) == content_hash(pbmc68k)
    pd.testing.assert_frame_equal(backed.obs, pbmc68k.obs)


@pytest.mark.parametrize("backed", [False, True], ids=["memory", "backed"])
@pytest.mark.parametrize("values", ["X", "raw", "counts"])
def test_values_come_from_where_the_mapping_says(source, path, values, backed):
    found = load(path, CellMapping(values=values), backed=backed)
    wanted = {"X": source.X, "raw": source.raw.X, "counts": source.layers["counts"]}[values]
    assert np.array_equal(dense(found.X), dense(wanted))
    assert list(found.var_names) == genes(6 if values == "raw" else 8) and list(found.obs_names) == list(
        source.obs_names
    )
    assert list(found.obs) == []


@pytest.mark.parametrize("backed", [False, True], ids=["memory", "backed"])
def test_columns_get_their_standard_names(source, path, backed):
    mapping = CellMapping("counts", "symbol", cell_type="cell_type", donor="person", tissue="organ", batch="plate")
    found = load(str(path), mapping, backed=backed)
    assert list(found.obs) == ["cell_type", "donor", "tissue", "batch"] == found.uns["workbench"]["columns"]
    for ours, theirs in (("cell_type", "cell_type"), ("donor", "person"), ("tissue", "organ"), ("batch", "plate")):
        assert found.obs[ours].tolist() == source.obs[theirs].astype(str).tolist()
    assert list(found.var_names) == [f"SYM{i}" for i in range(8)]
    assert found.uns["workbench"]["mapping"]["donor"] == "person"


@pytest.mark.parametrize("kind", [pd.Categorical, lambda values: np.array(values, dtype=object)])
def test_a_cell_without_a_label_has_none_and_one_without_a_donor_is_refused(tmp_path, kind):
    cells = tiny_cells(12, 8)
    cells.obs["label"] = kind(["B", None, "NA"] * 4)
    cells.write_h5ad(tmp_path / "it.h5ad")
    loaded = load(tmp_path / "it.h5ad", CellMapping(cell_type="label"))
    assert loaded.obs["cell_type"].tolist() == ["B", "", "NA"] * 4
    for standard in ("donor", "tissue", "batch"):
        with pytest.raises(CellsError, match=f"4 of 12 cells without a {standard} \\(obs column 'label'\\)"):
            load(tmp_path / "it.h5ad", CellMapping(**{standard: "label"}))


def test_cells_are_read_by_rows_however_the_file_holds_them(tmp_path):
    cells = tiny_cells(12, 8)
    expected = dense(cells.X)
    cells.X = sp.csc_matrix(cells.X)
    cells.write_h5ad(tmp_path / "columns.h5ad")
    loaded = load(tmp_path / "columns.h5ad")
    assert loaded.X.format == "csr" and np.array_equal(dense(loaded.X), expected)


def test_the_file_is_not_changed(path):
    before = path.read_bytes()
    for backed in (False, True):
        found = load(path, backed=backed)
        found.obs["mine"] = 1
        content_hash(found)
    assert path.read_bytes() == before


def test_a_dataset_takes_another_mapping(pbmc68k):
    found = load("pbmc68k", CellMapping(values="raw"))
    assert list(found.obs) == [] and found.shape == pbmc68k.shape
    assert content_hash(found) != content_hash(pbmc68k), "labels belong to the content"


def test_the_content_hash_follows_content_and_nothing_else(tmp_path):
    cells = tiny_cells()
    wanted = content_hash(cells)
    unsorted = cells.copy()
    part = slice(*unsorted.X.indptr[:2])
    unsorted.X.indices[part], unsorted.X.data[part] = (
        unsorted.X.indices[part][::-1].copy(),
        unsorted.X.data[part][::-1].copy(),
    )
    unsorted.X.has_sorted_indices = False
    same = {
        "dense": ad.AnnData(cells.X.toarray(), cells.obs, cells.var),
        "csc": ad.AnnData(cells.X.tocsc(), cells.obs, cells.var),
        "double": ad.AnnData(cells.X.astype(np.float64), cells.obs, cells.var),
        "unsorted": unsorted,
        "text labels": ad.AnnData(cells.X, cells.obs.astype(str), cells.var),
        "other column": ad.AnnData(cells.X, cells.obs.assign(mine=1), cells.var),
    }
    assert {what: content_hash(other) for what, other in same.items()} == dict.fromkeys(same, wanted)
    value, moved = cells.copy(), cells.copy()
    value.X.data[5] += 1
    moved.X = sp.csr_matrix(np.roll(cells.X.toarray(), 1, axis=1))
    different = {
        "value": value,
        "moved": moved,
        "order": cells[::-1],
        "fewer": cells[:-1],
        "cell name": ad.AnnData(cells.X, cells.obs.rename(index={"cell3": "other"}), cells.var),
        "gene name": ad.AnnData(cells.X, cells.obs, cells.var.rename(index={"GENE3": "other"})),
        "label": ad.AnnData(cells.X, cells.obs.assign(cell_type=["B"] * 20), cells.var),
        "donor": ad.AnnData(cells.X, cells.obs.assign(donor="d"), cells.var),
    }
    hashes = {what: content_hash(other) for what, other in different.items()}
    assert wanted not in hashes.values() and len(set(hashes.values())) == len(hashes), hashes


def test_an_unknown_name_lists_near_matches(tmp_path):
    with pytest.raises(CellsError, match="Unknown dataset 'pbmc68': did you mean 'pbmc68k'. No file of that name"):
        load("pbmc68")
    with pytest.raises(CellsError, match="Unknown dataset '.*nothing.h5ad'.* No file of that name"):
        load(tmp_path / "nothing.h5ad")
    with pytest.raises(CellsError, match="No file of that name"):
        load(tmp_path)


@pytest.mark.parametrize("backed", [False, True], ids=["memory", "backed"])
def test_what_the_file_does_not_hold_is_said(path, backed):
    with pytest.raises(
        CellsError, match="no obs column 'persn' .mapped to donor.; did you mean 'person'. it holds: cell_"
    ):
        load(path, CellMapping(donor="persn"), backed=backed)
    with pytest.raises(CellsError, match="no values 'count'; it holds X, raw, counts"):
        load(path, CellMapping(values="count"), backed=backed)
    with pytest.raises(CellsError, match="no gene column 'symbols' in var .did you mean 'symbol'"):
        load(path, CellMapping(gene_column="symbols"), backed=backed)


@pytest.mark.parametrize("content", [b"", b"gene,cell\n", b"\x89HDF\r\n\x1a\n" + bytes(100)])
def test_what_is_no_h5ad_is_refused(tmp_path, content):
    place = tmp_path / "no.h5ad"
    place.write_bytes(content)
    with pytest.raises(CellsError, match="no.h5ad' is no readable h5ad file"):
        load(place)


@pytest.mark.parametrize("backed", [False, True], ids=["memory", "backed"])
def test_an_hdf5_file_of_another_kind_is_refused(tmp_path, backed):
    place = tmp_path / "other.h5"
    with h5py.File(place, "w") as handle:
        handle["numbers"] = np.arange(3)
    with pytest.raises(CellsError, match="has no values 'X'; it holds none"):
        load(place, backed=backed)
    with h5py.File(place, "w") as handle:
        handle["X"] = np.ones((3, 2))
    with pytest.raises(CellsError, match="is no readable h5ad file|has no obs"):
        load(place, backed=backed)


def test_a_truncated_file_is_refused(path, tmp_path):
    place = tmp_path / "half.h5ad"
    place.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CellsError, match="half.h5ad' is no readable h5ad file"):
        load(place)


def test_empty_files_are_refused(tmp_path):
    tiny_cells()[:0].write_h5ad(tmp_path / "none.h5ad")
    with pytest.raises(CellsError, match="none.h5ad' holds 0 cells x 40 genes; nothing to work on"):
        load(tmp_path / "none.h5ad")


@pytest.mark.shared_data("kang2018_8donors.h5ad")
def test_real_donors(shared_data):
    mapping = CellMapping(cell_type="cell_type", donor="donor")
    found = load(shared_data / "kang2018_8donors.h5ad", mapping, backed=True)
    assert found.shape == (12261, 1287) and found.obs["donor"].nunique() == 8 and found.obs["cell_type"].nunique() == 8
