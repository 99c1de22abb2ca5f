"""Folders and files of 10x Genomics hold the cells that they hold, whichever version wrote them."""

from __future__ import annotations

import gzip

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from scipy.io import mmwrite

from workbench.cells.datasets import load
from workbench.errors import CellsError

COUNTS = np.random.default_rng(0).poisson(1.0, (5, 7))
CELLS = [f"AAAC{i}-1" for i in range(5)]
# The fly's gene nanchung, which readers of tables take for nothing; a symbol of two genes; a quote.
SYMBOLS = ["CD3D", "nan", "MT-CO1", "CD3D", 'H"2', "CD4_TotalSeqB", "CD8_TotalSeqB"]
IDS = [f"ENSG{i:011d}" for i in range(5)] + ["CD4_T", "CD8_T"]
TYPES = ["Gene Expression"] * 5 + ["Antibody Capture"] * 2


def lay(folder, prefix="", packed=True, features="features.tsv", columns=3, counts=COUNTS, types=TYPES):
    """A folder as a program leaves it."""
    folder.mkdir(exist_ok=True)
    rows = list(zip(IDS, SYMBOLS, types, strict=True))
    tables = {features: ["\t".join(row[:columns]) for row in rows], "barcodes.tsv": CELLS}
    mmwrite(folder / f"{prefix}matrix.mtx", sp.coo_matrix(counts.T))
    for name, lines in tables.items():
        (folder / f"{prefix}{name}").write_text("\n".join(lines) + "\n")
    if packed:
        for path in list(folder.glob(f"{prefix}*")):
            path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
    return folder


def tenx_h5(path):
    """The same as a file of version 3."""
    matrix = sp.csr_matrix(COUNTS)
    with h5py.File(path, "w") as handle:
        group = handle.create_group("matrix")
        for name in ("data", "indices", "indptr"):
            group[name] = getattr(matrix, name).astype(np.int32)
        group["shape"], group["barcodes"] = np.array(COUNTS.shape[::-1]), np.array(CELLS, dtype="S")
        of = group.create_group("features")
        for name, values in {"name": SYMBOLS, "id": IDS, "feature_type": TYPES, "genome": ["GRCh38"] * 7}.items():
            of[name] = np.array(values, dtype="S")
    return path


WAYS = {
    "Cell Ranger 3": {},
    "Cell Ranger 2": {"packed": False, "features": "genes.tsv", "columns": 2},
    "STARsolo": {"packed": False},
    "GEO": {"prefix": "GSM1_blood_"},
    "GEO, version 2": {"prefix": "GSM1_", "features": "genes.tsv", "columns": 2},
    "names alone": {"columns": 1},
}


@pytest.mark.parametrize("backed", [False, True], ids=["memory", "backed"])
@pytest.mark.parametrize("way", WAYS)
def test_a_folder_holds_its_cells(tmp_path, way, backed):
    keywords = WAYS[way]
    found = load(lay(tmp_path / "sample", **keywords), values="counts", backed=backed)
    n = 5 if keywords.get("columns", 3) == 3 else 7
    assert np.array_equal(found.X[:].toarray(), COUNTS[:, :n]) and list(found.obs_names) == CELLS
    assert list(found.var_names) == (IDS if keywords.get("columns") == 1 else SYMBOLS)[:n]
    assert list(found.var["gene_ids"]) == IDS[:n]
    said = ": 2 of 7 features, which are no genes (Antibody Capture), left out"
    assert found.uns["workbench"]["source"] == str(tmp_path / "sample") + (said if n == 5 else "")


def test_the_file_of_the_same_cells_is_read_alike(tmp_path):
    one, other = load(tenx_h5(tmp_path / "cells.h5")), load(lay(tmp_path / "sample"))
    assert np.array_equal(one.X.toarray(), other.X.toarray()) and list(one.var_names) == list(other.var_names)
    assert list(one.var["gene_ids"]) == list(other.var["gene_ids"])
    assert one.uns["workbench"]["source"].endswith("features, which are no genes (Antibody Capture), left out")


def test_scanpy_reads_the_same_where_no_name_misleads_it(tmp_path):
    import scanpy

    folder = lay(tmp_path / "sample")
    theirs, ours = scanpy.read_10x_mtx(folder, make_unique=False), load(folder)
    assert np.array_equal(theirs.X.toarray(), ours.X.toarray()) and list(theirs.obs_names) == list(ours.obs_names)
    wrong = [name for name, own in zip(theirs.var_names, ours.var_names, strict=True) if name != own]
    assert len(wrong) == 1 and pd.isna(wrong[0]), "a gene called nan is none to scanpy"


def test_of_several_samples_in_a_folder_one_is_named(tmp_path):
    folder = lay(lay(tmp_path / "both", prefix="GSM1_"), prefix="GSM2_", counts=COUNTS + 1)
    with pytest.raises(CellsError, match=r"2 matrices \(GSM1_matrix.mtx.gz, GSM2_matrix.mtx.gz"):
        load(folder)
    assert np.array_equal(load(folder / "GSM2_matrix.mtx.gz").X.toarray(), COUNTS[:, :5] + 1)


def test_what_does_not_fit_together_is_refused(tmp_path):
    folder = lay(tmp_path / "sample", packed=False)
    (folder / "barcodes.tsv").write_text("barcode\n" + "\n".join(CELLS) + "\n")
    with pytest.raises(CellsError, match="has 5 barcodes and the table beside it 6"):
        load(folder)
    (folder / "barcodes.tsv").unlink()
    with pytest.raises(CellsError, match=r"without its 'barcodes.tsv' \(or barcodes.tsv.gz\) beside it"):
        load(folder)
    with pytest.raises(CellsError, match="has 5 features and the table beside it 7"):
        load(lay(tmp_path / "turned", counts=COUNTS.T))


def test_genes_are_all_there_is_where_no_feature_is_said_to_be_one(tmp_path):
    assert load(lay(tmp_path / "sample", types=["Peaks"] * 7)).shape == (5, 7)


def test_an_empty_folder_is_no_cells(tmp_path):
    (tmp_path / "nothing").mkdir()
    with pytest.raises(CellsError, match="nothing' is no readable file of cells"):
        load(tmp_path / "nothing")


def test_a_truncated_matrix_is_refused(tmp_path):
    folder = lay(tmp_path / "sample", packed=False)
    text = (folder / "matrix.mtx").read_text()
    (folder / "matrix.mtx").write_text(text[: len(text) // 2])
    with pytest.raises(CellsError, match="is no readable file of cells"):
        load(folder)
    assert isinstance(load(lay(tmp_path / "whole")), ad.AnnData)
