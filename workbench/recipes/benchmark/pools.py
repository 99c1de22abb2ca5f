"""The cells of a campaign on the disk: every process reads them from there, and no label reaches a test side."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from jaxtyping import Int

from workbench.cells.genes import GeneMatch
from workbench.cells.matrix import COUNTS, check_block, describe_values, log_normalise, row_block
from workbench.errors import GeneMatchError
from workbench.evidence.protocol import Cells
from workbench.files import read_arrays, write_arrays, write_text

CELLS = "cells.csv"
_EXPRESSION, _GENES = "expression.safetensors", "genes.txt"


@dataclass(frozen=True)
class Pool:
    """Cells of one dataset on all genes that a panel may take.

    Attributes
    ----------
    name
        Of the data, for tables.
    obs
        Index: cell names. Columns: ``cell_type``, ``stage`` (number, -1 without a place on the ruler), ``unit`` and, where there
        are any, ``donor`` and ``tissue``.
    genes
        Columns of the matrices, in the vocabulary's spelling.
    expression
        Log-normalised by each cell's total over everything that was measured.
    counts
        Integer counts; None where the data hold none.
    embeddings
        Of frozen scGPT, by name.
    """

    name: str
    obs: pd.DataFrame
    genes: tuple[str, ...]
    expression: sp.csr_matrix
    counts: sp.csr_matrix | None
    embeddings: dict[str, np.ndarray]

    @property
    def names(self) -> np.ndarray:
        """Names of the cells."""
        return self.obs.index.to_numpy(dtype=str)

    @property
    def stage(self) -> np.ndarray:
        """Stage number of each cell."""
        return self.obs["stage"].to_numpy()

    @property
    def donor(self) -> np.ndarray | None:
        """Donor of each cell, where there are donors."""
        return self.obs["donor"].to_numpy(dtype=str) if "donor" in self.obs else None

    def cells(self, rows: Int[np.ndarray, " row"], panel: tuple[str, ...]) -> Cells:
        """Some cells on a panel, without their labels; a gene that is not measured is 0.

        Parameters
        ----------
        rows
            Cell numbers.
        panel
            Genes.
        """
        place = {gene: i for i, gene in enumerate(self.genes)}
        columns = np.array([place.get(gene, -1) for gene in panel])

        def on_panel(matrix: sp.csr_matrix) -> sp.csr_matrix:
            there = np.flatnonzero(columns >= 0)
            spread = sp.csr_matrix(
                (np.ones(len(there), dtype=np.float32), (columns[there], there)), shape=(len(self.genes), len(panel))
            )
            out = sp.csr_matrix(matrix[rows] @ spread)
            out.sort_indices()
            return out

        return Cells(
            self.names[rows],
            panel,
            on_panel(self.expression),
            None if self.counts is None else on_panel(self.counts),
            {name: array[rows] for name, array in self.embeddings.items()},
        )


def write_pool(
    folder: Path, cells: AnnData, match: GeneMatch, rows: Int[np.ndarray, " row"], exclude: Iterable[str]
) -> None:
    """Write matrices of drawn cells over all matched genes, labels beside them.

    Parameters
    ----------
    folder
        Where to.
    cells
        As `datasets.load` gives them, with ``stage`` and ``unit`` in ``obs``.
    match
        Their genes.
    rows
        The drawn cells, in ascending order.
    exclude
        Genes that no panel may take.

    Raises
    ------
    GeneMatchError
        If no gene is left.
    """
    left_out = set(exclude)
    genes = tuple(sorted(set(match.genes) - left_out))
    if not genes:
        raise GeneMatchError(f"All {len(match.genes)} matched genes are left out of the panel; exclude fewer.")
    column = dict(zip(match.genes, match.columns, strict=True))
    wanted = [column[gene] for gene in genes]
    # What the values are is a matter of all cells, whichever were drawn.
    kind = describe_values(cells.X).kind
    matrices: dict[str, list[sp.csr_matrix]] = {"expression": []} | ({"counts": []} if kind == COUNTS else {})
    for own, block in _drawn(cells.X, rows):
        check_block(block, cells.obs_names[own])
        part = block[:, wanted]
        totals = np.asarray(block.sum(1, dtype=np.float64)).ravel()
        matrices["expression"].append(log_normalise(part, kind, totals=totals))
        if kind == COUNTS:
            matrices["counts"].append(part)
    arrays = {
        f"{name}/{part}": array
        for name, blocks in matrices.items()
        for part, array in _parts(sp.vstack(blocks, format="csr")).items()
    }
    write_arrays(folder / _EXPRESSION, arrays)
    write_text(folder / _GENES, "\n".join(genes) + "\n")
    write_text(folder / CELLS, cells.obs.iloc[rows].to_csv(index_label="cell_id"))


def _drawn(matrix: Any, rows: Int[np.ndarray, " row"], size: int = 2048) -> Iterator[tuple[np.ndarray, sp.csr_matrix]]:
    """Some rows, and their numbers, without more in memory than a block of the others."""
    for start in range(0, matrix.shape[0], size):
        own = rows[(rows >= start) & (rows < start + size)]
        if len(own):
            yield own, row_block(matrix, start, min(start + size, matrix.shape[0]))[own - start]


def read_pool(folder: Path, name: str, embeddings: Path | None = None) -> Pool:
    """A pool that `write_pool` wrote.

    Parameters
    ----------
    folder
        Its folder.
    name
        Of the data.
    embeddings
        Safetensors file with embeddings of its cells.
    """
    text = dict.fromkeys(("cell_id", "cell_type", "donor", "tissue", "batch"), str)
    # A label such as "NA" is a label, and donor "01" is not donor 1.
    obs = pd.read_csv(folder / CELLS, index_col="cell_id", dtype=text, keep_default_na=False)
    genes = tuple((folder / _GENES).read_text(encoding="utf-8").splitlines())
    arrays = read_arrays(folder / _EXPRESSION)[0]
    embedded = {} if embeddings is None else read_arrays(embeddings)[0]

    def matrix(kind: str) -> sp.csr_matrix | None:
        if f"{kind}/data" not in arrays:
            return None
        parts = tuple(arrays[f"{kind}/{part}"] for part in ("data", "indices", "indptr"))
        return sp.csr_matrix(parts, shape=(len(obs), len(genes)))

    expression = matrix("expression")
    assert expression is not None
    return Pool(name, obs, genes, expression, matrix("counts"), embedded)


def _parts(matrix: sp.csr_matrix) -> dict[str, np.ndarray]:
    matrix = sp.csr_matrix(matrix)
    matrix.sort_indices()
    return {
        "data": matrix.data.astype(np.float32),
        "indices": matrix.indices.astype(np.int32),
        "indptr": matrix.indptr.astype(np.int64),
    }
