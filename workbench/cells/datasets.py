"""Loading cells: the dataset that ships with the environment, a file of any common kind, or an AnnData in memory.

What comes back is an `AnnData` of its own: ``X`` holds the chosen values, ``var_names`` the gene symbols, and ``obs`` the
standard columns ``cell_type``, ``donor``, ``tissue`` and ``batch`` as far as the data have them.
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from workbench.cells.formats import Tables, check_anndata, open_tables, plain_text
from workbench.cells.genes import find_ids, gene_names
from workbench.cells.matrix import row_blocks
from workbench.cells.scale import FEW_GENES, parse_values
from workbench.cells.values import linear_totals, sample_block
from workbench.errors import CellsError, near_matches, unknown_name
from workbench.files import digest

STANDARD = ("cell_type", "donor", "tissue", "batch")
# What common tools call a cell's counts over all genes.
_DEPTHS = ("n_counts", "total_counts", "nCount_RNA", "n_umis", "n_umi", "nUMI", "total_umis", "n_counts_all")


@dataclass(frozen=True)
class CellMapping:
    """Which columns of a dataset mean what.

    Attributes
    ----------
    layer
        Where the expression lies: ``X``, ``raw``, or the name of a layer. A layer called ``raw`` beside a ``.raw`` is
        ``layers/raw``.
    values
        What the values are, such as ``counts`` or ``log1p:10000`` (see `scale.parse_values`); None to find it.
    gene_column
        Column of ``var`` with gene symbols; None for the index.
    depth
        Column of ``obs`` with each cell's counts over everything that was measured, needed only where the matrix holds some
        of the genes; None for a column of a usual name (``n_counts``, ``total_counts``, ``nCount_RNA``), if there is one.
    cell_type, donor, tissue, batch
        Columns of ``obs``; None where the data have none.
    embeddings
        Entries of ``obsm`` to read, cell by width, such as ``X_scVI``; no other is read.
    """

    layer: str = "X"
    values: str | None = None
    gene_column: str | None = None
    depth: str | None = None
    cell_type: str | None = None
    donor: str | None = None
    tissue: str | None = None
    batch: str | None = None
    embeddings: tuple[str, ...] = ()


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
        CellMapping(layer="raw", cell_type="bulk_labels"),
        "700 human peripheral blood mononuclear cells x 765 genes, log-normalised, 10 labels, no donors: the subset of "
        "10x Genomics' 68k PBMC data (Zheng et al., Nature Communications 2017) that the scanpy package carries",
    )
}


def load(
    name: str | Path | AnnData, mapping: CellMapping | None = None, *, backed: bool = False, **columns: Any
) -> AnnData:
    """Load cells by the name of a dataset, from a file, or from an AnnData in memory.

    Parameters
    ----------
    name
        ``"pbmc68k"``; the path of an h5ad (also gzipped), a zarr folder or its zip, an h5mu, or the .h5 or folder of a matrix
        of 10x Genomics; or cells in memory, which are not changed.
    mapping
        What the columns mean; a dataset brings its own.
    backed
        Leave the matrix on the disk and read rows as they are needed.
    **columns
        Fields of `CellMapping` by name, instead of a mapping: ``load("x.h5ad", cell_type="leiden", values="counts")``. Of a
        shipped dataset the other fields stay as they are.

    Returns
    -------
    AnnData
        ``obsm`` holds the embeddings that were named, in single precision. ``uns["workbench"]`` holds the name, the source and which standard columns are there. A file that the workbench
        made, such as planted cells, keeps saying what it is: name and source have that beside the path.

    Raises
    ------
    CellsError
        If it is no AnnData, or the file, a named column or an embedding does not exist, an embedding is no table of finite
        numbers, or there are no cells.

    Examples
    --------
    >>> import workbench
    >>> workbench.load("pbmc68k", layer="raw", cell_type="louvain").shape
    (700, 765)
    """
    if not isinstance(name, str | Path):
        check_anndata(name)
    if columns and (mapping is not None or (unknown := set(columns) - set(CellMapping.__dataclass_fields__))):
        what = f"'{min(unknown)}' is no field of CellMapping" if mapping is None else "a mapping was given beside"
        raise CellsError(f"The columns cannot be used: {what}; name fields of CellMapping, or give a mapping.")
    known = None if isinstance(name, AnnData) else DATASETS.get(str(name))
    source: Any = name
    if known is not None:
        source, mapping = _packaged(known), mapping or known.mapping
    elif not isinstance(name, AnnData):
        source = Path(name).expanduser()
        if not os.path.exists(source):  # a name may be too long for any file
            raise CellsError(f"{unknown_name('dataset', str(name), DATASETS)} No file of that name exists either.")
    mapping = replace(mapping or CellMapping(), **columns)
    if mapping.values is not None:
        parse_values(mapping.values)
    tables = open_tables(source, mapping.layer, backed, mapping.embeddings)
    return cells_of(
        tables, mapping, tables.name if isinstance(name, AnnData) else str(name), known.source if known else ""
    )


def cells_of(tables: Tables, mapping: CellMapping, title: str, source: str = "") -> AnnData:
    """Cells of opened tables, as `load` gives them.

    Parameters
    ----------
    tables, mapping
        What was opened, and which of its columns mean what.
    title
        What the cells are called in captions: the name of the dataset, or the path.
    source
        Where they are from; what the file says of it when empty.
    """
    if 0 in tables.matrix.shape:
        held = "{} cells x {} genes".format(*tables.matrix.shape)
        raise CellsError(f"'{tables.name}' holds {held}; nothing to work on.")
    obs = {}
    for standard in STANDARD:
        if (column := getattr(mapping, standard)) is not None:
            obs[standard] = _text(_column(tables, column, standard), standard, tables.name)
    depth = _depth(tables, mapping)
    if depth is not None:
        obs["depth"] = depth
    cell_names = pd.Index(tables.obs.index.astype(str).to_numpy(dtype=object))
    adata = AnnData(
        X=tables.matrix, obs=pd.DataFrame(obs, index=cell_names), var=plain_text(tables.var), obsm=dict(tables.obsm)
    )
    if (ids := find_ids(tables.var)) is not None:
        adata.var["gene_id"] = ids
    adata.var_names = pd.Index(gene_names(adata, mapping.gene_column).astype(object))
    adata.var_names.name = None
    said = tables.says
    adata.uns["workbench"] = {
        "name": f"{title} ({said['name']})" if "name" in said else title,
        "source": source or (f"{title}: {said['source']}" if "source" in said else title),
        "columns": [standard for standard in STANDARD if standard in obs],
        "batches": sorted(set(obs.get("batch", ()))),
        "mapping": {k: v for k, v in asdict(mapping).items() if v not in (None, ())},
        "depth": depth is not None,
    }
    # Left out where nothing is known: None comes back from a written file as a value of its own.
    if (values := said.get("values") if mapping.values is None else mapping.values) is not None:
        adata.uns["workbench"]["values"] = values
    return adata


def _column(tables: Tables, column: str, standard: str) -> pd.Series:
    if column not in tables.obs:
        parts = (
            f"'{tables.name}' has no obs column '{column}' (mapped to {standard});",
            near_matches(column, tables.obs.columns),
            f"it holds: {', '.join(map(str, tables.obs.columns)) or 'none'}.",
        )
        raise CellsError(" ".join(part for part in parts if part))
    return tables.obs[column]


def _text(column: pd.Series, standard: str, name: str) -> np.ndarray:
    """A column as text; a cell without a label has the empty one, a cell without a donor, tissue or batch is refused."""
    text = column.astype(object).where(column.notna(), "").astype(str).to_numpy(dtype=object)
    missing = np.array([not value.strip() for value in text])
    if missing.any() and standard != "cell_type":
        raise CellsError(
            f"'{name}' has {missing.sum()} of {len(missing)} cells without a {standard} (obs column '{column.name}'). Leave "
            f"these cells out, or name their {standard}: they would count as one of their own."
        )
    return np.where(missing, "", text)


def _depth(tables: Tables, mapping: CellMapping) -> np.ndarray | None:
    """Counts of each cell over all genes, from the column that is named, or from one of a usual name that shows more."""
    if mapping.depth is not None:
        depth = pd.to_numeric(_column(tables, mapping.depth, "depth"), errors="coerce").to_numpy(dtype=float)
        if bad := int((~(np.isfinite(depth) & (depth > 0))).sum()):
            raise CellsError(
                f"'{tables.name}' has {bad} cells whose depth is no number above 0 (obs column '{mapping.depth}'). Name the "
                "column with each cell's counts over all genes."
            )
        return depth
    if tables.matrix.shape[1] >= FEW_GENES:
        return None
    # Cells that were loaded and written again keep the depth that was found.
    for column in (*(("depth",) if tables.says.get("depth") == "True" else ()), *_DEPTHS):
        if column in tables.obs and pd.api.types.is_numeric_dtype(tables.obs[column]):
            depth = tables.obs[column].to_numpy(dtype=float)
            rows, block = sample_block(tables.matrix)
            sums = linear_totals(block, "linear")
            # Counted after genes were cut, such a column says nothing that the matrix does not.
            if (np.isfinite(depth) & (depth > 0)).all() and np.median(depth[rows] / np.maximum(sums, 1e-12)) > 1.02:
                return depth
    return None


def content_hash(adata: AnnData, values: str | None = None) -> str:
    """Hash of values and what they are said to be, names of cells and genes, columns and embeddings that are used; the same for a backed and an in-memory copy.

    Parameters
    ----------
    adata
        Cells as `load` returns them.
    values
        Their `values_hash`, where it is known: a large file is then not read again.
    """
    obs = {c: adata.obs[c].astype(str).tolist() for c in STANDARD if c in adata.obs}
    about = adata.uns.get("workbench", {})
    depth = adata.obs["depth"].tolist() if about.get("depth") else None
    embeddings = [part for key in sorted(adata.obsm) for part in (key, np.asarray(adata.obsm[key]))]
    return digest(values or values_hash(adata), obs, about.get("values"), depth, *embeddings)


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
    # What is said of the values decides how columns of one gene are added up.
    said = None if adata.var_names.is_unique else adata.uns.get("workbench", {}).get("values")
    return digest(blocks, adata.obs_names.tolist(), adata.var_names.tolist(), said)


def _packaged(dataset: Dataset) -> Path:
    spec = importlib.util.find_spec(dataset.package)
    folders = list(spec.submodule_search_locations or []) if spec else []
    for folder in folders:
        if (path := Path(folder) / dataset.file).is_file():
            return path
    raise CellsError(
        f"The installed '{dataset.package}' does not carry '{dataset.file}'; install the version named in constraints.txt."
    )
