"""Loading cells."""

from __future__ import annotations

import gzip
import shutil
import subprocess
import sys

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from helpers import genes, tiny_cells

from workbench.cells.datasets import CellMapping, content_hash, load
from workbench.cells.expression import panel_expression, scale_of
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
    assert set(pbmc68k.obs["cell_type"]) == PBMC_LABELS and list(pbmc68k.obs) == ["cell_type", "depth"]
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
    found = load(path, CellMapping(layer=values), backed=backed)
    wanted = {"X": source.X, "raw": source.raw.X, "counts": source.layers["counts"]}[values]
    assert np.array_equal(dense(found.X), dense(wanted))
    assert list(found.var_names) == genes(6 if values == "raw" else 8) and list(found.obs_names) == list(
        source.obs_names
    )
    assert list(found.obs) == []


@pytest.mark.parametrize("backed", [False, True], ids=["memory", "backed"])
def test_columns_get_their_standard_names(source, path, backed):
    mapping = CellMapping(
        "counts", gene_column="symbol", cell_type="cell_type", donor="person", tissue="organ", batch="plate"
    )
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
    found = load("pbmc68k", CellMapping(layer="raw"))
    assert list(found.obs) == ["depth"] and found.shape == pbmc68k.shape
    assert content_hash(found) != content_hash(pbmc68k), "labels belong to the content"


def test_the_content_hash_follows_content_and_nothing_else(tmp_path):
    cells = tiny_cells()
    del cells.uns["workbench"]
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
        "said": ad.AnnData(cells.X, cells.obs, cells.var, {"workbench": {"values": "counts"}}),
    }
    hashes = {what: content_hash(other) for what, other in different.items()}
    assert wanted not in hashes.values() and len(set(hashes.values())) == len(hashes), hashes


def test_an_unknown_name_lists_near_matches(tmp_path):
    with pytest.raises(CellsError, match="Unknown dataset 'pbmc68': did you mean 'pbmc68k'. No file of that name"):
        load("pbmc68")
    with pytest.raises(CellsError, match="Unknown dataset '.*nothing.h5ad'.* No file of that name"):
        load(tmp_path / "nothing.h5ad")
    with pytest.raises(CellsError, match="no readable file of cells"):
        load(tmp_path)


@pytest.mark.parametrize("backed", [False, True], ids=["memory", "backed"])
def test_what_the_file_does_not_hold_is_said(path, backed):
    with pytest.raises(
        CellsError, match="no obs column 'persn' .mapped to donor.; did you mean 'person'. it holds: cell_"
    ):
        load(path, CellMapping(donor="persn"), backed=backed)
    with pytest.raises(CellsError, match="no values 'count'; it holds X, raw, counts"):
        load(path, CellMapping(layer="count"), backed=backed)
    with pytest.raises(CellsError, match="no gene column 'symbols' in var .did you mean 'symbol'"):
        load(path, CellMapping(gene_column="symbols"), backed=backed)


@pytest.mark.parametrize("content", [b"", b"gene,cell\n", b"\x89HDF\r\n\x1a\n" + bytes(100)])
def test_what_is_no_h5ad_is_refused(tmp_path, content):
    place = tmp_path / "no.h5ad"
    place.write_bytes(content)
    with pytest.raises(CellsError, match="no.h5ad' is no readable file of cells"):
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
    with pytest.raises(CellsError, match="is no readable file of cells|has no obs"):
        load(place, backed=backed)


def test_a_truncated_file_is_refused(path, tmp_path):
    place = tmp_path / "half.h5ad"
    place.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CellsError, match="half.h5ad' is no readable file of cells"):
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


def written(cells, form, folder):
    """Cells as a file of a kind that people have."""
    path = folder / f"cells.{form}"
    if form == "h5ad.gz":
        cells.write_h5ad(folder / "plain.h5ad")
        path.write_bytes(gzip.compress((folder / "plain.h5ad").read_bytes()))
    elif form in ("zarr2", "zarr", "zarr.zip"):
        with ad.settings.override(zarr_write_format=2 if form == "zarr2" else 3):
            cells.write_zarr(folder / f"cells.{form.removesuffix('.zip')}")
        if form == "zarr.zip":
            shutil.make_archive(str(folder / "cells.zarr"), "zip", folder / "cells.zarr")
    elif form == "h5":
        matrix = sp.csr_matrix(cells.X)
        with h5py.File(path, "w") as handle:
            group = handle.create_group("matrix")
            group["data"], group["indices"], group["indptr"] = (
                matrix.data.astype(np.int32),
                matrix.indices,
                matrix.indptr,
            )
            group["shape"] = np.array(matrix.shape[::-1])
            group["barcodes"] = cells.obs_names.to_numpy(dtype="S")
            of = group.create_group("features")
            of["name"], of["id"] = cells.var_names.to_numpy(dtype="S"), cells.var_names.to_numpy(dtype="S")
            of["feature_type"], of["genome"] = (
                np.full(cells.n_vars, b"Gene Expression"),
                np.full(cells.n_vars, b"GRCh38"),
            )
    else:
        cells.write_h5ad(path)
    return path


@pytest.mark.parametrize("backed", [False, True], ids=["memory", "backed"])
@pytest.mark.parametrize("form", ["h5ad", "h5ad.gz", "zarr2", "zarr", "zarr.zip", "h5"])
def test_every_kind_of_file_holds_the_same_cells(tmp_path, form, backed):
    cells = tiny_cells(30, 8)
    found = load(written(cells, form, tmp_path), values="counts", backed=backed)
    assert np.array_equal(dense(found.X), dense(cells.X))
    assert list(found.obs_names) == list(cells.obs_names) and list(found.var_names) == genes(8)
    assert content_hash(found) == content_hash(load(cells)), form


@pytest.mark.parametrize("dtype", ["float16", "float64", "int32"])
def test_every_type_of_number_holds_the_same_cells(tmp_path, dtype):
    cells = tiny_cells(30, 8)
    expected = content_hash(load(cells))
    cells.X = cells.X.toarray().astype(dtype)
    cells.write_h5ad(tmp_path / "cells.h5ad")
    for backed in (False, True):
        assert content_hash(load(tmp_path / "cells.h5ad", backed=backed)) == expected
    assert content_hash(load(cells)) == expected


def test_a_backed_matrix_of_columns_is_turned_once_and_in_parts(tmp_path, monkeypatch):
    cells = tiny_cells(50, 30)
    expected = dense(cells.X)
    cells.X = sp.csc_matrix(cells.X)
    cells.write_h5ad(tmp_path / "columns.h5ad")
    for part in (2**26, 64, 7):
        monkeypatch.setattr("workbench.cells.formats._TURNED", part)
        found = load(tmp_path / "columns.h5ad", backed=True)
        assert found.X.format == "csr" and not sp.issparse(found.X)
        assert np.array_equal(dense(found.X), expected), part


def test_cells_in_memory_are_taken_and_not_changed(source):
    before = source.copy()
    for given in (source, source[::2], source[:, :6]):
        found = load(given, layer="counts", gene_column="symbol", donor="person")
        assert np.array_equal(dense(found.X), dense(given.layers["counts"]))
        assert found.obs["donor"].tolist() == given.obs["person"].astype(str).tolist()
        assert found.uns["workbench"]["name"] == "AnnData in memory"
    assert np.array_equal(dense(load(source, layer="raw").X), dense(source.raw.X))
    assert np.array_equal(dense(source.X), dense(before.X)) and list(source.var_names) == list(before.var_names)
    assert list(source.obs) == list(before.obs)


def test_columns_are_named_by_word(path, source):
    found = load(path, cell_type="cell_type", donor="person", layer="counts")
    assert found.obs["donor"].tolist() == source.obs["person"].astype(str).tolist()
    with pytest.raises(CellsError, match="'celltype' is no field of CellMapping"):
        load(path, celltype="cell_type")
    with pytest.raises(CellsError, match="a mapping was given beside"):
        load(path, CellMapping(), cell_type="cell_type")
    with pytest.raises(CellsError, match="Values 'count' are unknown"):
        load(path, values="count")


def test_a_layer_called_raw_is_found_and_told_from_raw(tmp_path):
    cells = tiny_cells(6, 4)
    cells.layers["raw"] = cells.X * 3
    cells.write_h5ad(tmp_path / "one.h5ad")
    cells.raw = cells.copy()
    cells.write_h5ad(tmp_path / "two.h5ad")
    for backed in (False, True):
        assert np.array_equal(dense(load(tmp_path / "one.h5ad", layer="raw", backed=backed).X), dense(cells.X) * 3)
        with pytest.raises(CellsError, match="both a layer and a .raw named 'raw'; say layers/raw"):
            load(tmp_path / "two.h5ad", layer="raw", backed=backed)
        assert np.array_equal(
            dense(load(tmp_path / "two.h5ad", layer="layers/raw", backed=backed).X), dense(cells.X) * 3
        )
        assert np.array_equal(dense(load(tmp_path / "two.h5ad", layer="raw/X", backed=backed).X), dense(cells.X))


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    tiny_cells(6, 4).write_h5ad(tmp_path / "cells.h5ad")
    assert load("~/cells.h5ad").shape == (6, 4)


def test_a_file_that_another_program_holds_open_is_read(tmp_path):
    tiny_cells(6, 4).write_h5ad(tmp_path / "cells.h5ad")
    program = "import h5py, sys, time; f = h5py.File(sys.argv[1], 'r+'); print('open', flush=True); sys.stdin.read()"
    holder = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "cells.h5ad")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout.readline() == b"open\n"
        assert load(tmp_path / "cells.h5ad").shape == (6, 4)
    finally:
        holder.communicate(b"")


def test_no_more_is_read_than_is_asked_for(tmp_path, monkeypatch):
    cells = tiny_cells(20, 8)
    cells.layers["other"], cells.obsm["X_pca"] = cells.X * 2, np.ones((20, 3))
    cells.obsp["distances"] = sp.csr_matrix(np.ones((20, 20)))
    cells.write_h5ad(tmp_path / "cells.h5ad")
    read = []
    plain = h5py.Dataset.__getitem__

    def counted(dataset, *key, **more):
        read.append(dataset.name)
        return plain(dataset, *key, **more)

    monkeypatch.setattr(h5py.Dataset, "__getitem__", counted)
    load(tmp_path / "cells.h5ad", backed=True, cell_type="cell_type")
    load(tmp_path / "cells.h5ad")
    assert any(name.startswith("/obs/") for name in read), "the test sees what is read"
    assert not [name for name in read if name.startswith(("/obsm", "/obsp", "/layers"))]


@pytest.mark.parametrize("empty", ["", "  "])
def test_an_empty_text_is_no_donor(tmp_path, empty):
    cells = tiny_cells(4, 4)
    cells.obs["donor"] = ["a", "b", empty, "a"]
    with pytest.raises(CellsError, match="1 of 4 cells without a donor"):
        load(cells, donor="donor")


def test_a_depth_is_taken_from_a_usual_column_where_it_says_more():
    cells = tiny_cells(10, 8)
    del cells.uns["workbench"]
    total = np.asarray(cells.X.sum(1)).ravel()
    with pytest.raises(CellsError, match="on 8 genes"):
        scale_of(load(cells))
    cells.obs["n_counts"] = total  # counted after the genes were cut
    with pytest.raises(CellsError, match="on 8 genes"):
        scale_of(load(cells))
    cells.obs["n_counts"] = total * 5
    found = load(cells)
    assert scale_of(found).by_depth and np.array_equal(found.obs["depth"], total * 5)
    cells.obs["mine"] = total * 7
    assert np.array_equal(load(cells, depth="mine").obs["depth"], total * 7)
    cells.obs["mine"] = "many"
    with pytest.raises(CellsError, match="10 cells whose depth is no number above 0"):
        load(cells, depth="mine")
    with pytest.raises(CellsError, match="no obs column 'depths' .mapped to depth."):
        load(cells, depth="depths")


@pytest.mark.parametrize("form", ["cells.h5ad", "cells.zarr", "memory"])
def test_cells_that_were_loaded_and_written_are_read_as_they_were(tmp_path, pbmc68k, form):
    few = pbmc68k[:30].copy()
    if form.endswith("h5ad"):
        few.write_h5ad(tmp_path / form)
    elif form.endswith("zarr"):
        few.write_zarr(tmp_path / form)
    again = load(few if form == "memory" else tmp_path / form, cell_type="cell_type")
    genes = tuple(few.var_names[:40])
    assert (panel_expression(again, genes) != panel_expression(few, genes)).nnz == 0
    assert again.obs["cell_type"].tolist() == few.obs["cell_type"].tolist()
