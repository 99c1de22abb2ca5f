"""Loading cells: the dataset that ships with the environment, or any h5ad, with its columns named.

What comes back is an `AnnData` of its own: ``X`` holds the chosen values, ``var_names`` the gene symbols, and ``obs`` the
standard columns ``cell_type``, ``donor``, ``tissue`` and ``batch`` as far as the data have them.
"""

from __future__ import annotations

import importlib.util
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from workbench.cells.genes import gene_names
from workbench.cells.matrix import row_blocks
from workbench.errors import CellsError, near_matches, unknown_name
from workbench.files import digest

STANDARD = ("cell_type", "donor", "tissue", "batch")


@dataclass(frozen=True)
class CellMapping:
    """Which columns of a dataset mean what.

    Attributes
    ----------
    values
        Where the expression lies: ``X``, ``raw``, or the name of a layer.
    gene_column
        Column of ``var`` with gene symbols; None for the index.
    cell_type, donor, tissue, batch
        Columns of ``obs``; None where the data have none.
    """

    values: str = "X"
    gene_column: str | None = None
    cell_type: str | None = None
    donor: str | None = None
    tissue: str | None = None
    batch: str | None = None


@dataclass(frozen=True)
class Dataset:
    """A dataset that needs no download: where it lies, how to read it, where it is from."""

    package: str
    file: str
    mapping: CellMapping
    source: str


DATASETS = {
    "pbmc68k": Dataset(
        "scanpy",
        "datasets/10x_pbmc68k_reduced.h5ad",
        CellMapping(values="raw", cell_type="bulk_labels"),
        "700 human peripheral blood mononuclear cells x 765 genes, log-normalised, 10 labels, no donors: the subset of "
        "10x Genomics' 68k PBMC data (Zheng et al., Nature Communications 2017) that the scanpy package carries",
    )
}


def load(name: str | Path, mapping: CellMapping | None = None, *, backed: bool = False) -> AnnData:
    """Load cells by the name of a dataset or from an h5ad file.

    Parameters
    ----------
    name
        ``"pbmc68k"``, or the path of an h5ad.
    mapping
        What the columns mean; a dataset brings its own.
    backed
        Leave the matrix on the disk and read rows as they are needed.

    Returns
    -------
    AnnData
        ``uns["workbench"]`` holds the name, the source and which standard columns are there. A file that the workbench
        made, such as planted cells, keeps saying what it is: name and source have that beside the path.

    Raises
    ------
    CellsError
        If the file or a named column does not exist, or there are no cells.
    """
    known = DATASETS.get(str(name))
    if known is not None:
        path, mapping = _packaged(known), mapping or known.mapping
    else:
        path, mapping = Path(name), mapping or CellMapping()
        if not path.is_file():
            raise CellsError(f"{unknown_name('dataset', str(name), DATASETS)} No file of that name exists either.")
    with warnings.catch_warnings():
        # Old files, the shipped one among them, are read all the same; what anndata says of their age helps nobody here.
        warnings.simplefilter("ignore")
        matrix, obs, var = _read(path, mapping.values, backed)
    columns = {}
    for standard in STANDARD:
        column = getattr(mapping, standard)
        if column is None:
            continue
        if column not in obs:
            raise CellsError(
                f"'{path.name}' has no obs column '{column}' (mapped to {standard}); "
                f"{near_matches(column, obs.columns)} it holds: {', '.join(map(str, obs.columns)) or 'none'}."
            )
        columns[standard] = _text(obs[column], standard, path.name)
    adata = AnnData(X=matrix, obs=pd.DataFrame(columns, index=obs.index.astype(str)), var=var)
    if adata.shape[0] == 0 or adata.shape[1] == 0:
        raise CellsError(f"'{path.name}' holds {adata.shape[0]} cells x {adata.shape[1]} genes; nothing to work on.")
    adata.var_names = pd.Index(gene_names(adata, mapping.gene_column))
    adata.var_names.name = None
    said = {} if known else _says(path)
    adata.uns["workbench"] = {
        "name": f"{name} ({said['name']})" if said else str(name),
        "source": known.source if known else f"{name}: {said['source']}" if said else str(name),
        "columns": list(columns),
        "mapping": {k: v for k, v in asdict(mapping).items() if v is not None},
    }
    return adata


def _text(column: pd.Series, standard: str, name: str) -> np.ndarray:
    """A column as text; a cell without a label has the empty one, a cell without a donor, tissue or batch is refused."""
    missing = column.isna().to_numpy()
    if missing.any() and standard != "cell_type":
        raise CellsError(
            f"'{name}' has {missing.sum()} of {len(missing)} cells without a {standard} (obs column '{column.name}'); leave "
            f"these cells out, or name their {standard}: they would count as one of their own."
        )
    return np.where(missing, "", column.astype(str).to_numpy())


def content_hash(adata: AnnData, values: str | None = None) -> str:
    """Hash of values, cell names, gene names and standard columns; the same for a backed and an in-memory copy.

    Parameters
    ----------
    adata
        Cells as `load` returns them.
    values
        Their `values_hash`, where it is known: a large file is then not read again.
    """
    obs = {c: adata.obs[c].astype(str).tolist() for c in STANDARD if c in adata.obs}
    return digest(values or values_hash(adata), obs)


def values_hash(adata: AnnData) -> str:
    """Hash of values, cell names and gene names: of what operators depend on, without any label.

    Parameters
    ----------
    adata
        Cells as `load` returns them.
    """
    blocks = []
    for _, block in row_blocks(adata.X):
        block = block.sorted_indices()
        blocks.append(digest(block.data.astype(np.float32), block.indices.astype(np.int32), np.diff(block.indptr)))
    return digest(blocks, adata.obs_names.tolist(), adata.var_names.tolist())


def _packaged(dataset: Dataset) -> Path:
    spec = importlib.util.find_spec(dataset.package)
    folders = list(spec.submodule_search_locations or []) if spec else []
    for folder in folders:
        if (path := Path(folder) / dataset.file).is_file():
            return path
    raise CellsError(
        f"The installed '{dataset.package}' does not carry '{dataset.file}'; install the version named in constraints.txt."
    )


def _says(path: Path) -> dict[str, str]:
    """What a file that the workbench made says of itself; empty for any other."""
    with h5py.File(path, "r") as handle:
        about = handle.get("uns/workbench")
        if not isinstance(about, h5py.Group) or not {"name", "source"} <= set(about):
            return {}
        return {key: about[key].asstr()[()] for key in ("name", "source")}


def _read(path: Path, values: str, backed: bool) -> tuple[Any, pd.DataFrame, pd.DataFrame]:
    import anndata as ad

    try:
        handle = h5py.File(path, "r")
    except OSError as error:
        raise CellsError(
            f"'{path}' is no readable h5ad file ({str(error)[:120]}); check the path and the file."
        ) from error
    try:
        # Files of before 2019 keep raw as raw.X and raw.var beside X.
        raw = next((prefix for prefix in ("raw/", "raw.") if f"{prefix}X" in handle), None)
        place = {"X": "X", "raw": f"{raw}X"}.get(values, f"layers/{values}")
        if place not in handle:
            layers = [*(["X"] if "X" in handle else []), *(["raw"] if raw else []), *handle.get("layers", {})]
            raise CellsError(f"'{path.name}' has no values '{values}'; it holds {', '.join(layers) or 'none'}.")
        if absent := [table for table in ("obs", "var") if table not in handle]:
            raise CellsError(f"'{path.name}' is no readable h5ad file: it has no {' and no '.join(absent)}.")
        # AnnData reads tables of every age.
        tables = ad.read_h5ad(path, backed="r" if backed else None)
        obs, var = tables.obs, tables.raw.var if values == "raw" else tables.var
        if backed:
            tables.file.close()  # rows are read by a handle of our own
            held = handle[place]
            return (ad.io.sparse_dataset(held) if isinstance(held, h5py.Group) else held), obs, var
        matrix = tables.raw.X if values == "raw" else tables.X if values == "X" else tables.layers[values]
        # Cells are read by rows, which of columns costs a look at everything each time.
        return (matrix.tocsr() if sp.issparse(matrix) else matrix), obs, var
    finally:
        if not backed:
            handle.close()
