"""Cells as 10x Genomics writes them: the .h5, and folders of a matrix, its features and its barcodes, as GEO hands them out."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from workbench.errors import CellsError

# The feature type that holds genes; others are antibodies, guides, peaks.
EXPRESSION = "Gene Expression"
_MATRIX = ("matrix.mtx", "matrix.mtx.gz")
_FEATURES = ("features.tsv", "features.tsv.gz", "genes.tsv", "genes.tsv.gz")
_BARCODES = ("barcodes.tsv", "barcodes.tsv.gz")


def matrix_file(path: Path) -> Path | None:
    """The matrix of a folder of 10x Genomics, or None where the path is something else.

    Parameters
    ----------
    path
        A folder, or the matrix itself, which tells samples of one folder apart.

    Raises
    ------
    CellsError
        If the folder holds the matrices of several samples.
    """
    if path.is_file():
        return path if path.name.endswith((".mtx", ".mtx.gz")) else None
    found = sorted(one for one in path.iterdir() if one.name.endswith(_MATRIX))
    if len(found) > 1:
        names = ", ".join(one.name for one in found[:3])
        raise CellsError(f"'{path}' holds {len(found)} matrices ({names} ...); give the path of one of them.")
    return found[0] if found else None


def read_matrix(path: Path) -> AnnData:
    """Read a matrix in the format of Matrix Market, with the features and barcodes that lie beside it.

    Parameters
    ----------
    path
        ``matrix.mtx``, also gzipped, with or without a prefix, which the names of the two tables then have too: as Cell Ranger
        of any version and STARsolo write them, packed or not.

    Returns
    -------
    AnnData
        Cells by features. Names of genes are the symbols where the table has them; ``gene_ids`` and ``feature_types`` stand
        in ``var`` as scanpy has them.

    Raises
    ------
    CellsError
        If a table is not there, or is not as long as the matrix.
    """
    from scipy.io import mmread

    prefix = path.name.removesuffix(".gz").removesuffix("matrix.mtx")
    features, barcodes = (_table(path, prefix, names) for names in (_FEATURES, _BARCODES))
    values = sp.csr_matrix(mmread(path).T)
    for table, n, what in ((features, values.shape[1], "features"), (barcodes, values.shape[0], "barcodes")):
        if len(table) != n:
            raise CellsError(
                f"'{path}' has {n:,} {what} and the table beside it {len(table):,}; rows of a matrix of 10x Genomics are features."
            )
    names = ("gene_ids", "gene_symbols", "feature_types")
    var = features.iloc[:, : len(names)].set_axis(names[: features.shape[1]], axis=1)
    symbols = var.pop("gene_symbols") if "gene_symbols" in var else var["gene_ids"]
    cells, genes = (pd.Index(column.to_numpy(dtype=object)) for column in (barcodes[0], symbols))
    return AnnData(values, obs=pd.DataFrame(index=cells), var=var.set_axis(genes, axis=0))


def genes_only(cells: AnnData) -> tuple[AnnData, str]:
    """The genes among features of several types, and what was left out.

    Parameters
    ----------
    cells
        As `read_matrix` and scanpy read them, with ``feature_types`` in ``var`` where the file has them.

    Returns
    -------
    cells, said
        All of them where no feature is said to be a gene; an empty text where nothing was left out.
    """
    types = cells.var["feature_types"].astype(str) if "feature_types" in cells.var else pd.Series(dtype=str)
    genes = (types == EXPRESSION).to_numpy()
    if genes.all() or not genes.any():
        return cells, ""
    other = ", ".join(sorted(set(types[~genes])))
    return cells[
        :, genes
    ].copy(), f"{np.sum(~genes):,} of {len(genes):,} features, which are no genes ({other}), left out"


def _table(matrix: Path, prefix: str, names: tuple[str, ...]) -> pd.DataFrame:
    """A table without a header beside a matrix; names such as NA are names."""
    found = next((path for name in names if (path := matrix.parent / f"{prefix}{name}").is_file()), None)
    if found is None:
        raise CellsError(
            f"'{matrix}' is a matrix without its '{prefix}{names[0]}' (or {', '.join(names[1:])}) beside it."
        )
    return pd.read_csv(found, sep="\t", header=None, dtype=str, keep_default_na=False, quoting=csv.QUOTE_NONE)
