"""Files of several modalities, and of other programs."""

from __future__ import annotations

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from workbench.cells.datasets import load
from workbench.errors import CellsError

N = 6
NAMES = [f"cell{i}" for i in range(N)]


def expression():
    counts = sp.csr_matrix(np.random.default_rng(0).poisson(1.0, (N, 4)).astype(np.float32))
    obs = pd.DataFrame({"kind": pd.Categorical(["a", "b"] * 3)}, index=NAMES)
    return ad.AnnData(counts, obs=obs, var=pd.DataFrame(index=["CD3D", "CD4", "LYZ", "NKG7"]))


def mudata(path, modalities):
    """A file as MuData writes it: each modality an AnnData of its own, and a table of all cells."""
    everywhere = pd.DataFrame({"joint": ["x", "y"] * 3 + ["z"], "rna:kind": ["?"] * (N + 1)}, index=[*NAMES, "other"])
    with h5py.File(path, "w") as handle:
        handle.attrs["encoding-type"] = "MuData"
        for name, cells in modalities.items():
            ad.io.write_elem(handle, f"mod/{name}", cells)
        ad.io.write_elem(handle, "obs", everywhere.iloc[::-1])
    return path


def proteins():
    return ad.AnnData(np.ones((N + 1, 2), np.float32), obs=pd.DataFrame(index=[*NAMES, "other"]))


@pytest.mark.parametrize("backed", [False, True], ids=["memory", "backed"])
def test_of_several_modalities_the_genes_are_read(tmp_path, backed):
    path = mudata(tmp_path / "cells.h5mu", {"prot": proteins(), "rna": expression()})
    found = load(path, cell_type="kind", tissue="joint", values="counts", backed=backed)
    assert np.array_equal(found.X[:].toarray(), expression().X.toarray()) and list(found.obs_names) == NAMES
    assert list(found.obs["cell_type"]) == ["a", "b"] * 3, "the modality's own column"
    assert list(found.obs["tissue"]) == ["x", "y"] * 3, "of the table of all cells, which has another order"
    assert found.uns["workbench"]["source"] == f"{path}: modality rna of prot, rna"


def test_a_modality_alone_needs_no_name_and_of_others_none_is_guessed(tmp_path):
    alone = load(mudata(tmp_path / "one.h5mu", {"gex": expression()}))
    assert alone.shape == (N, 4) and alone.uns["workbench"]["source"].endswith("modality gex of gex")
    with pytest.raises(CellsError, match="modalities atac, gex and none called rna; write the one with genes as h5ad"):
        load(mudata(tmp_path / "two.h5mu", {"gex": expression(), "atac": proteins()}))


@pytest.mark.parametrize(("group", "kind"), [("row_attrs", "loom"), ("cell.names", "h5Seurat")])
def test_files_of_other_programs_are_named(tmp_path, group, kind):
    with h5py.File(tmp_path / "cells", "w") as handle:
        handle["matrix"] = np.ones((3, 2))
        handle.create_group(group)
    with pytest.raises(CellsError, match=f"is a file of the kind {kind}, which is not read; write it as h5ad first"):
        load(tmp_path / "cells")


@pytest.mark.parametrize("backed", [False, True], ids=["memory", "backed"])
def test_a_sparse_matrix_of_the_other_byte_order_is_refused(tmp_path, backed):
    path = tmp_path / "cells.h5ad"
    expression().write_h5ad(path)
    with h5py.File(path, "r+") as handle:
        values = handle["X/data"][:].astype(">f4")
        del handle["X/data"]
        handle["X/data"] = values
    with pytest.raises(CellsError, match="holds a sparse matrix of the other byte order"):
        load(path, backed=backed)
