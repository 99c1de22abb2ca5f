"""Files of cells of every common kind, opened without reading more of them than is asked for."""

from __future__ import annotations

import atexit
import gzip
import shutil
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from jaxtyping import Float

from workbench.cells.tenx import genes_only, matrix_file, read_matrix
from workbench.errors import CellsError, near_matches

# Entries of a matrix stored by columns that are turned at a time: about 1 GB.
_TURNED = 2**26
# Other programs' files of HDF5, by a group that only theirs have.
_OTHERS = {"row_attrs": "loom", "cell.names": "h5Seurat"}
# What a file may say of itself in uns["workbench"].
SAYS = ("name", "source", "values", "depth")


@dataclass(frozen=True)
class Tables:
    """What a file, or cells in memory, hold of what is asked for.

    Attributes
    ----------
    name
        Name of the file, for errors.
    matrix
        Cells by genes, stored by rows, in memory or on the disk.
    obs, var
        Tables of cells and of the genes of `matrix`.
    says
        What the file says of itself in ``uns["workbench"]``: ``name`` and ``source``, where the workbench made it,
        ``values``, as `CellMapping` has it, and whether ``obs`` holds a ``depth`` that it has found.
    obsm
        The embeddings that were asked for, by name, in single precision.
    """

    name: str
    matrix: Any
    obs: pd.DataFrame
    var: pd.DataFrame
    says: Mapping[str, str] = field(default_factory=dict)
    obsm: Mapping[str, Float[np.ndarray, "cell width"]] = field(default_factory=dict)


def open_tables(source: Path | AnnData, layer: str, backed: bool, embeddings: Sequence[str] = ()) -> Tables:
    """Open cells.

    Parameters
    ----------
    source
        An h5ad (also gzipped), a zarr folder or its zip, an h5mu, the .h5 or the folder of a matrix of 10x Genomics, or cells
        in memory.
    layer
        ``X``, ``raw``, the name of a layer, or ``layers/NAME``.
    backed
        Leave the matrix on the disk. One that is stored by columns is turned once, into a temporary file.
    embeddings
        Names of entries of ``obsm`` to read; no other entry is read, and none by default.

    Raises
    ------
    CellsError
        If it is no such file, or has no such values or embeddings.
    """
    with warnings.catch_warnings():
        # Old files, the shipped one among them, are read all the same; what anndata says of their age helps nobody here.
        warnings.simplefilter("ignore")
        if isinstance(source, AnnData):
            return _of_memory(source, "AnnData in memory", layer, embeddings)
        try:
            store = _opened(source)
            if not isinstance(store, AnnData):
                return _of_store(store, source, layer, backed, embeddings)
            cells, said = genes_only(store)
            tables = _of_memory(cells, source.name, layer, embeddings)
            return replace(tables, says={"source": said}) if said else tables
        except (OSError, KeyError, ValueError, TypeError, NotImplementedError) as error:
            if isinstance(error, CellsError):
                raise
            raise CellsError(
                f"'{source}' is no readable file of cells ({str(error)[:120]}). Give an h5ad, an h5mu, a zarr folder or zip, or the "
                ".h5 or folder of 10x Genomics, and check that it is whole; write others as h5ad first."
            ) from error


def check_anndata(cells: Any) -> None:
    """Refuse what is no AnnData.

    Parameters
    ----------
    cells
        What was given where cells are asked for.

    Raises
    ------
    CellsError
        If it is something else; what to give instead is said.
    """
    if isinstance(cells, AnnData):
        return
    if hasattr(cells, "tokenizer"):
        instead = "the model and the cells have changed places"
    elif isinstance(getattr(cells, "mod", None), Mapping):
        instead = "give one modality, such as mdata['rna']"
    else:
        instead = "read a file by workbench.load, or make one of a table by anndata.AnnData"
    raise CellsError(f"Cells are asked for, as an AnnData; found {type(cells).__name__}: {instead}.")


def plain_text(table: pd.DataFrame) -> pd.DataFrame:
    """A table whose text is Python's own, which every version of anndata writes; other columns stay as they are.

    Parameters
    ----------
    table
        Table of cells or genes, as any version of pandas reads it.
    """
    text: dict[Any, Any] = {
        name: table[name].astype(object) for name in table if isinstance(table[name].dtype, pd.StringDtype)
    }
    return table.assign(**text).set_axis(pd.Index(table.index.astype(str).to_numpy(dtype=object)), axis=0)


def _of_memory(cells: AnnData, name: str, layer: str, embeddings: Sequence[str]) -> Tables:
    own = [kind for kind, held in (("X", cells.X), ("raw", cells.raw)) if held is not None]
    place = _place(own, list(cells.layers), layer, name)
    matrix = cells.X if place == "X" else cells.raw.X if place == "raw" else cells.layers[place.removeprefix("layers/")]
    var = cells.raw.var if place == "raw" else cells.var
    about = cells.uns.get("workbench", {})
    says = {key: str(about[key]) for key in SAYS if about.get(key)}
    obsm = _embeddings(cells.obsm.__getitem__, list(cells.obsm), embeddings, cells.n_obs, name)
    return Tables(name, by_rows(matrix), cells.obs, var, says, obsm)


def by_rows(matrix: Any) -> Any:
    """The matrix, by rows if it is sparse and in memory: cells are read by rows, of columns each costs a look at all.

    Parameters
    ----------
    matrix
        Cells by genes, of any kind.
    """
    if not sp.issparse(matrix):
        return matrix
    matrix = matrix.tocsr()
    if matrix.indices.dtype == matrix.indptr.dtype:
        return matrix
    # Files of other writers have indices of two widths, which SciPy cannot turn.
    return sp.csr_matrix((matrix.data, matrix.indices, matrix.indptr), shape=matrix.shape)


def _place(own: list[str], layers: list[str], layer: str, name: str) -> str:
    """Where the values lie: ``X``, ``raw`` or ``layers/NAME``."""
    if layer in own and layer in layers:
        raise CellsError(
            f"'{name}' holds both a layer and a .{layer} named '{layer}'; say layers/{layer} for the layer, or {layer}/X for the other."
        )
    found = {**{f"{known}/X": known for known in own}, **{f"layers/{known}": f"layers/{known}" for known in layers}}
    found |= {**{known: f"layers/{known}" for known in layers}, **{known: known for known in own}}
    if layer not in found:
        raise CellsError(f"'{name}' has no values '{layer}'; it holds {', '.join([*own, *layers]) or 'none'}.")
    return found[layer]


def _opened(path: Path) -> Any:
    """A group of HDF5 or zarr, or the cells of a file or folder of 10x Genomics."""
    if matrix := matrix_file(path):
        return read_matrix(matrix)
    if path.is_dir() or path.suffix == ".zip":
        import zarr

        store = zarr.storage.ZipStore(path, mode="r") if path.is_file() else path
        return zarr.open_group(store, mode="r")
    if path.suffix == ".gz":
        folder = Path(tempfile.mkdtemp(prefix="workbench-"))
        with gzip.open(path, "rb") as packed, open(folder / "cells.h5ad", "wb") as plain:
            shutil.copyfileobj(packed, plain, 2**24)
        handle = h5py.File(folder / "cells.h5ad", "r")
        _forget(folder)
        return handle
    try:
        handle = h5py.File(path, "r")
    except BlockingIOError:
        # Another program holds it open for writing; it is only read here.
        handle = h5py.File(path, "r", locking=False)
    if other := next((name for key, name in _OTHERS.items() if key in handle), None):
        handle.close()
        raise CellsError(f"'{path}' is a file of the kind {other}, which is not read; write it as h5ad first.")
    if "obs" not in handle and (
        "matrix" in handle or any("barcodes" in group for group in handle.values() if isinstance(group, h5py.Group))
    ):
        import scanpy

        handle.close()
        return scanpy.read_10x_h5(path, gex_only=False)
    return handle


def _forget(folder: Path) -> None:
    """Remove a temporary folder: now where open files may go, else at the end of the program."""
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        atexit.register(shutil.rmtree, folder, ignore_errors=True)


def _of_store(store: Any, path: Path, layer: str, backed: bool, embeddings: Sequence[str]) -> Tables:
    import anndata as ad

    if "mod" in store and "X" not in store:
        return _of_modality(store, path, layer, backed, embeddings)
    # Files of before 2019 keep raw as raw.X and raw.var beside X, and tables as compounds.
    raw = next((prefix for prefix in ("raw/", "raw.") if f"{prefix}X" in store), None)
    own = [*(["X"] if "X" in store else []), *(["raw"] if raw else [])]
    place = _place(own, list(store["layers"]) if "layers" in store else [], layer, path.name)
    matrix = store[f"{raw}X" if place == "raw" else place]
    table = f"{raw}var" if place == "raw" else "var"
    if absent := [name for name in ("obs", table) if name not in store]:
        raise CellsError(f"'{path.name}' is no readable file of cells: it has no {' and no '.join(absent)}.")
    if isinstance(store["obs"], h5py.Dataset):
        tables = ad.read_h5ad(path, backed="r")
        obs, var = tables.obs, tables.raw.var if place == "raw" else tables.var
        tables.file.close()
    else:
        obs, var = ad.io.read_elem(store["obs"]), ad.io.read_elem(store[table])
    sparse = hasattr(matrix, "keys")
    if sparse:
        if not matrix["data"].dtype.isnative:
            raise CellsError(
                f"'{path.name}' holds a sparse matrix of the other byte order; write it again on this machine."
            )
        matrix = ad.io.sparse_dataset(matrix)
    if backed:
        matrix = _turned(matrix) if sparse and matrix.format == "csc" else matrix
    else:
        matrix = by_rows(matrix.to_memory()) if sparse else matrix[:]
    held: Any = store["obsm"] if "obsm" in store else {}
    # In files of before 2019 it is one compound, whose fields are read by name as well.
    old = isinstance(held, h5py.Dataset)
    known = list(held.dtype.names if old else held)
    obsm = _embeddings(
        lambda key: held[key] if old else ad.io.read_elem(held[key]), known, embeddings, len(obs), path.name
    )
    return Tables(path.name, matrix, obs, var, _says(store), obsm)


def _of_modality(store: Any, path: Path, layer: str, backed: bool, embeddings: Sequence[str]) -> Tables:
    """The gene expression of a MuData, with the columns that are of all its modalities."""
    import anndata as ad

    known = sorted(store["mod"])
    name = known[0] if len(known) == 1 else "rna"
    if name not in known:
        raise CellsError(
            f"'{path.name}' holds the modalities {', '.join(known)} and none called rna; write the one with genes as h5ad."
        )
    tables = _of_store(store["mod"][name], path, layer, backed, embeddings)
    shared = ad.io.read_elem(store["obs"]).reindex(tables.obs.index)
    # The modality's own columns stand there once more, under its name.
    more = [column for column in shared if column.removeprefix(f"{name}:") not in tables.obs]
    obs = tables.obs.join(shared[more])
    said = f"modality {name} of {', '.join(known)}"
    return replace(tables, obs=obs, says={**tables.says, "source": said})


def _embeddings(
    read: Callable[[str], Any], known: list[str], wanted: Sequence[str], n_cells: int, name: str
) -> dict[str, np.ndarray]:
    """The embeddings that were asked for, checked; no other is read."""
    found = {}
    for key in wanted:
        if key not in known:
            parts = (
                f"'{name}' has no obsm '{key}';",
                near_matches(key, known),
                f"it holds: {', '.join(sorted(known)) or 'none'}.",
            )
            raise CellsError(" ".join(part for part in parts if part))
        found[key] = _embedding(read(key), n_cells, f"The embedding '{key}' of '{name}'")
    return found


def _embedding(value: Any, n_cells: int, what: str) -> Float[np.ndarray, "cell width"]:
    """One embedding as numbers in single precision."""
    if sp.issparse(value):
        raise CellsError(f"{what} is sparse, which no embedding is; put obsm[key].toarray() in its place.")
    if isinstance(value, pd.DataFrame):
        other = [str(column) for column in value if not pd.api.types.is_numeric_dtype(value[column])]
        if other:
            raise CellsError(f"{what} has columns that are no numbers ({', '.join(other[:3])}); leave them out.")
        value = value.to_numpy(dtype=float, na_value=np.nan)
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise CellsError(f"{what} holds values of type {array.dtype}, not numbers; give a table of numbers.")
    if array.ndim != 2 or array.shape[0] != n_cells or not array.shape[1]:
        raise CellsError(f"{what} has the shape {array.shape}; give a table of {n_cells} cells by one column or more.")
    with np.errstate(over="ignore"):
        array = np.ascontiguousarray(array, dtype=np.float32)
    if bad := int((~np.isfinite(array)).any(axis=1).sum()):
        raise CellsError(
            f"{what} holds NaN or infinite values in {bad} of {n_cells} cells; leave these cells out, or make it again."
        )
    return array


def _says(store: Any) -> dict[str, str]:
    about = store["uns/workbench"] if "uns/workbench" in store else {}
    # None is written as a value without a shape.
    return {key: _string(about[key]) for key in SAYS if key in about and getattr(about[key], "shape", None) is not None}


def _string(element: Any) -> str:
    value = element[()]
    return value.decode() if isinstance(value, bytes) else str(value)


def _turned(matrix: Any) -> Any:
    """A backed matrix of columns as one of rows, in a temporary file; memory holds about 64 million entries at a time."""
    import anndata as ad

    group, (n_cells, n_genes) = matrix.group, matrix.shape
    indptr, n = group["indptr"][:], group["data"].shape[0]
    per_cell = np.zeros(n_cells, np.int64)
    for start in range(0, n, _TURNED):
        per_cell += np.bincount(group["indices"][start : start + _TURNED], minlength=n_cells)
    ends = np.cumsum(per_cell)
    folder = Path(tempfile.mkdtemp(prefix="workbench-"))
    file = h5py.File(folder / "rows.h5", "w")
    _forget(folder)
    rows = file.create_group("X")
    rows.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": np.array(matrix.shape)})
    rows["indptr"] = np.concatenate([[0], ends])
    data = rows.create_dataset("data", (n,), group["data"].dtype)
    indices = rows.create_dataset("indices", (n,), np.int32 if n_genes < 2**31 else np.int64)
    first = 0
    while first < n_cells:
        begin = ends[first] - per_cell[first]
        last = max(first + 1, int(np.searchsorted(ends, begin + _TURNED, side="right")))
        parts = []
        for start in range(0, n, _TURNED):
            cells = group["indices"][start : start + _TURNED]
            mine = np.flatnonzero((cells >= first) & (cells < last))
            if len(mine):
                columns = np.searchsorted(indptr, start + mine, side="right") - 1
                values = group["data"][start : start + _TURNED][mine]
                parts.append((cells[mine] - first, columns, values))
        if parts:
            cells, columns, values = (np.concatenate(part) for part in zip(*parts, strict=True))
            order = np.argsort(cells, kind="stable")
            data[begin : ends[last - 1]], indices[begin : ends[last - 1]] = values[order], columns[order]
        first = last
    return ad.io.sparse_dataset(rows)
