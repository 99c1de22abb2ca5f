"""A user's own embeddings: entries of obsm that are named are read, from every kind of file; what is none is refused by name."""

from __future__ import annotations

import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData

from workbench.cells.datasets import content_hash, load, values_hash
from workbench.errors import CellsError


@pytest.fixture
def cells():
    rng = np.random.default_rng(0)
    cells = AnnData(
        sp.csr_matrix(rng.poisson(1.0, (6, 9)).astype(np.float32)),
        pd.DataFrame(index=[f"c{i}" for i in range(6)]),
        pd.DataFrame(index=[f"G{i}" for i in range(9)]),
    )
    cells.obsm["X_scVI"] = rng.normal(size=(6, 3))
    cells.obsm["X_table"] = pd.DataFrame({"a": range(6), "b": 0.5}, index=cells.obs_names)
    return cells


def written(cells, folder, kind):
    if kind == "memory":
        return cells
    path = folder / f"cells.{kind}"
    cells.write_zarr(path) if kind == "zarr" else cells.write_h5ad(path)
    return path


@pytest.mark.parametrize("backed", [False, True])
@pytest.mark.parametrize("kind", ["memory", "h5ad", "zarr"])
def test_named_embeddings_are_read_in_single_precision(cells, tmp_path, kind, backed):
    found = load(written(cells, tmp_path, kind), embeddings=("X_scVI", "X_table"), backed=backed)
    assert sorted(found.obsm) == ["X_scVI", "X_table"] and found.obsm["X_table"][:, 0].tolist() == list(range(6))
    np.testing.assert_array_equal(found.obsm["X_scVI"], cells.obsm["X_scVI"].astype(np.float32))
    assert "embeddings" not in load(cells).uns["workbench"]["mapping"] and not load(cells).obsm


def test_no_other_entry_is_read(cells, tmp_path):
    path = written(cells, tmp_path, "h5ad")
    with h5py.File(path, "r+") as handle:
        handle["obsm/X_table"].attrs["encoding-type"] = "of nobody"
    assert list(load(path, embeddings=("X_scVI",)).obsm) == ["X_scVI"]


def test_entries_of_files_of_before_2019_are_read(cells, tmp_path):
    path = written(cells, tmp_path, "h5ad")
    with h5py.File(path, "r+") as handle:
        del handle["obsm"]
        handle["obsm"] = np.rec.fromarrays([cells.obsm["X_scVI"]], dtype=[("X_scVI", float, (3,))])
    np.testing.assert_allclose(load(path, embeddings=("X_scVI",)).obsm["X_scVI"], cells.obsm["X_scVI"], rtol=1e-6)
    with pytest.raises(CellsError, match="no obsm 'X_pca'.*it holds: X_scVI"):
        load(path, embeddings=("X_pca",))


def test_values_of_an_embedding_are_part_of_the_content_and_of_no_forward_pass(cells):
    plain, first = load(cells), load(cells, embeddings=("X_scVI",))
    cells.obsm["X_scVI"][2, 1] += 0.1
    second = load(cells, embeddings=("X_scVI",))
    assert len({content_hash(one) for one in (plain, first, second)}) == 3
    assert values_hash(plain) == values_hash(first) == values_hash(second)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (lambda a: np.where(a == a[2, 1], np.nan, a), "holds NaN or infinite values in 1 of 6 cells"),
        (lambda a: np.where(a == a[2, 1], np.inf, a), "holds NaN or infinite values in 1 of 6 cells"),
        (lambda a: np.where(a == a[2, 1], 1e300, a), "holds NaN or infinite values in 1 of 6 cells"),
        (lambda a: a[:, :0], r"has the shape \(6, 0\)"),
        (lambda a: a[:, :, None], r"has the shape \(6, 3, 1\)"),
        (lambda a: sp.csr_matrix(a), "is sparse, which no embedding is"),
        (lambda a: a + 1j, "holds values of type complex128"),
        (lambda a: pd.DataFrame({"a": a[:, 0], "kind": "b"}), r"has columns that are no numbers \(kind\)"),
        (lambda a: pd.DataFrame({"a": pd.array([1, None, 2, 3, 4, 5])}), "holds NaN or infinite values in 1 of 6"),
    ],
)
@pytest.mark.parametrize("kind", ["memory", "h5ad"])
def test_what_is_no_embedding_is_refused_by_name(cells, tmp_path, value, said, kind):
    made = value(cells.obsm["X_scVI"])
    cells.obsm["X_bad"] = made.set_axis(cells.obs_names) if isinstance(made, pd.DataFrame) else made
    with pytest.raises(CellsError, match=f"The embedding 'X_bad' of '.*' {said}"):
        load(written(cells, tmp_path, kind), embeddings=("X_bad",))


@pytest.mark.parametrize(("shape", "said"), [((6,), r"\(6,\)"), ((5, 2), r"\(5, 2\)")])
def test_an_entry_of_another_shape_in_a_file_is_refused(cells, tmp_path, shape, said):
    path = written(cells, tmp_path, "h5ad")
    with h5py.File(path, "r+") as handle:
        handle["obsm/X_bad"] = np.ones(shape)
    with pytest.raises(CellsError, match=f"'X_bad' .* has the shape {said}; give a table of 6 cells"):
        load(path, embeddings=("X_bad",))


@pytest.mark.parametrize("kind", ["memory", "h5ad", "zarr"])
def test_a_name_that_is_not_there_is_refused_with_near_ones(cells, tmp_path, kind):
    with pytest.raises(CellsError, match="has no obsm 'X_scvi'; did you mean 'X_scVI'.*it holds: X_scVI, X_table"):
        load(written(cells, tmp_path, kind), embeddings=("X_scvi",))
    bare = AnnData(cells.X, cells.obs, cells.var)
    (tmp_path / "bare").mkdir()
    with pytest.raises(CellsError, match="it holds: none"):
        load(written(bare, tmp_path / "bare", kind), embeddings=("X_scVI",))
