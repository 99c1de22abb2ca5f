"""Cells placed on a ruler and on a gene panel: what every stage, worker and method of the package works on."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from jaxtyping import Float, Int, Shaped

from workbench.cells.anchors import Anchors, make_anchors
from workbench.engine.tables import as_text, from_text, read_table, write_table
from workbench.errors import CellsError, EvaluationError
from workbench.evidence.ruler import Ruler
from workbench.files import read_arrays, read_json, write_arrays, write_json

_TABLE, _ARRAYS, _ABOUT = "cells.csv", "cells.safetensors", "placed.json"


@dataclass(frozen=True)
class PlacedCells:
    """Cells on a gene panel, with their places on a ruler.

    Attributes
    ----------
    name
        Name of the data, for tables and captions.
    obs
        Index: cell names, each once. Columns: ``stage`` (number, -1 without a place on the ruler) and, as far as they are
        known, ``cell_type``, ``donor``, ``tissue``, ``batch``, ``group`` (see `make_groups`), ``fold`` and those of `anchors.TECHNICAL`. Cells that
        labels were taken from have no column at all.
    genes
        Columns of the matrices, in the vocabulary's spelling.
    expression
        Log-normalised, cell by gene, float32. A gene of the panel that the data do not measure is 0.
    ruler
        Stages, their branches, depths, distances and endpoints; None for cells that nobody has placed.
    counts
        Counts, cell by gene, float32; None where the data hold none.
    embeddings
        Embeddings of the frozen model by name, cell by width; each cell's depends on that cell alone.
    unplaced
        Labels that the ruler does not know, with stages of near names.
    anchors
        Centroids of these cells, or of the larger set that these are a sample of; None: `make_anchors` makes them.
    """

    name: str
    obs: pd.DataFrame
    genes: tuple[str, ...]
    expression: sp.csr_matrix
    ruler: Ruler | None = None
    counts: sp.csr_matrix | None = None
    embeddings: Mapping[str, Float[np.ndarray, "cell width"]] = field(default_factory=dict)
    unplaced: Mapping[str, str] = field(default_factory=dict)
    anchors: Anchors | None = None

    def __post_init__(self) -> None:
        n = len(self.obs)
        wrong = [m.shape for m in (self.expression, self.counts) if m is not None and m.shape != (n, len(self.genes))]
        if wrong:
            raise CellsError(f"A matrix of {wrong[0]} does not fit {n} cells x {len(self.genes)} genes.")
        if not self.obs.index.is_unique:
            twice = self.obs.index[self.obs.index.duplicated()][0]
            raise CellsError(
                f"Cell names of '{self.name}' must be unique because they key the random numbers; '{twice}' occurs more "
                "than once. Call adata.obs_names_make_unique() and write the file again."
            )

    def __len__(self) -> int:
        return len(self.obs)

    @property
    def names(self) -> Shaped[np.ndarray, " cell"]:
        """Cell names."""
        return self.obs.index.to_numpy(dtype=str)

    @property
    def stage(self) -> Int[np.ndarray, " cell"]:
        """Stage number of each cell, -1 without a place on the ruler."""
        return self.obs["stage"].to_numpy()

    @property
    def placed(self) -> Int[np.ndarray, " placed"]:
        """Numbers of the cells that have a place on the ruler."""
        return np.flatnonzero(self.stage >= 0)

    def column(self, name: str) -> Shaped[np.ndarray, " cell"] | None:
        """A column of `obs`, or None where the data do not have it.

        Parameters
        ----------
        name
            ``cell_type``, ``donor``, ``tissue``, ``batch``, ``group`` or ``fold``.
        """
        return self.obs[name].to_numpy() if name in self.obs else None

    @property
    def donor(self) -> Shaped[np.ndarray, " cell"] | None:
        """Donor of each cell; None where the data name none."""
        return self.column("donor")

    def named(self, what: Sequence, otherwise: str) -> Shaped[np.ndarray, " cell"]:
        """A property of each cell's stage.

        Parameters
        ----------
        what
            Of each stage of the ruler: ``ruler.stages``, ``ruler.branches`` or ``ruler.depths``.
        otherwise
            For cells without a place on the ruler.
        """
        found = np.asarray(what, dtype=object)[np.maximum(self.stage, 0)]
        return np.where(self.stage >= 0, found, otherwise)

    def take(self, rows: Int[np.ndarray, " row"]) -> PlacedCells:
        """Some of the cells, in the order given; anchors are left behind.

        Parameters
        ----------
        rows
            Numbers of the cells, in the order wanted.
        """
        return replace(
            self,
            obs=self.obs.iloc[rows],
            expression=self.expression[rows],
            counts=None if self.counts is None else self.counts[rows],
            embeddings={name: array[rows] for name, array in self.embeddings.items()},
            anchors=None,
        )

    def on_panel(self, genes: tuple[str, ...]) -> PlacedCells:
        """The same cells on other genes; a gene that is not measured is 0, and anchors are left behind.

        Parameters
        ----------
        genes
            The new panel, in the order of its columns.
        """
        if genes == self.genes:
            return self
        place = {gene: i for i, gene in enumerate(self.genes)}
        columns = np.array([place.get(gene, -1) for gene in genes])
        there = np.flatnonzero(columns >= 0)
        spread = sp.csr_matrix(
            (np.ones(len(there), dtype=np.float32), (columns[there], there)), shape=(len(self.genes), len(genes))
        )

        def moved(matrix: sp.csr_matrix | None) -> sp.csr_matrix | None:
            if matrix is None:
                return None
            out = sp.csr_matrix(matrix @ spread)
            out.sort_indices()
            return out

        expression = moved(self.expression)
        assert expression is not None
        return replace(self, genes=genes, expression=expression, counts=moved(self.counts), anchors=None)

    def without_labels(self) -> PlacedCells:
        """The same cells with nothing but their names: what a method may be asked about."""
        return replace(self, obs=self.obs[[]], ruler=None, unplaced={}, anchors=None)

    def make_anchors(
        self, rows: Int[np.ndarray, " row"] | None = None, *, min_cells: int, parts: int, weights: Any, seed: int
    ) -> Anchors:
        """Centroids of some cells over donor x tissue x cell type x stage.

        Parameters
        ----------
        rows
            Cell numbers; all cells when None.
        min_cells, parts, weights, seed
            As `make_anchors` of `workbench.cells.anchors` takes them.
        """
        some = self if rows is None else self.take(rows)
        return make_anchors(some.expression, some.obs, min_cells=min_cells, parts=parts, weights=weights, seed=seed)

    def distances(self, anchors: Anchors) -> Float[np.ndarray, "anchor anchor"]:
        """Ruler distances between anchors.

        Parameters
        ----------
        anchors
            Anchors of stages of this ruler.
        """
        assert self.ruler is not None
        return self.ruler.distances[np.ix_(anchors.stage, anchors.stage)]

    def outside(self, folds: Collection[int]) -> Shaped[np.ndarray, " cell"]:
        """Whether each cell is outside some folds.

        Parameters
        ----------
        folds
            Numbers of folds, as in the column ``fold``.
        """
        return ~np.isin(self.obs["fold"].to_numpy(), list(folds))

    def groups_in(self, folds: Collection[int]) -> frozenset[int]:
        """Groups of the cells of some folds: what operators have to leave out with them.

        Parameters
        ----------
        folds
            Numbers of folds, as in the column ``fold``.
        """
        return frozenset(self.obs["group"].to_numpy()[~self.outside(folds)].tolist())

    def save(self, folder: Path) -> None:
        """Write everything but the ruler and the embeddings.

        Parameters
        ----------
        folder
            Where to; files of earlier cells in it are replaced.
        """
        arrays = {
            f"{name}/{part}": array
            for name, matrix in (("expression", self.expression), ("counts", self.counts))
            if matrix is not None
            for part, array in _parts(matrix).items()
        }
        header = {}
        if self.anchors is not None:
            arrays |= {"anchors/centroids": self.anchors.centroids, "anchors/stage": self.anchors.stage}
            header["anchors"] = as_text(self.anchors.table)
        write_arrays(folder / _ARRAYS, arrays, header)
        write_table(folder / _TABLE, self.obs, index="cell_id")
        write_json(folder / _ABOUT, {"name": self.name, "genes": list(self.genes), "unplaced": dict(self.unplaced)})

    @classmethod
    def open(cls, folder: Path, ruler: Ruler | None = None, embeddings: Path | None = None) -> PlacedCells:
        """Cells as `save` left them.

        Parameters
        ----------
        folder
            Folder that `save` was given.
        ruler
            The ruler that their stage numbers belong to.
        embeddings
            Safetensors file with embeddings of these cells, by name; None: without.
        """
        about, (arrays, header) = read_json(folder / _ABOUT), read_arrays(folder / _ARRAYS)
        obs, genes = read_table(folder / _TABLE, index="cell_id"), tuple(about["genes"])

        def matrix(kind: str) -> sp.csr_matrix | None:
            if f"{kind}/data" not in arrays:
                return None
            parts = tuple(arrays[f"{kind}/{part}"] for part in ("data", "indices", "indptr"))
            return sp.csr_matrix(parts, shape=(len(obs), len(genes)))

        anchors = None
        if "anchors" in header:
            anchors = Anchors(arrays["anchors/centroids"], arrays["anchors/stage"], from_text(header["anchors"]))
        expression = matrix("expression")
        assert expression is not None
        embedded = {} if embeddings is None else read_arrays(embeddings)[0]
        return cls(about["name"], obs, genes, expression, ruler, matrix("counts"), embedded, about["unplaced"], anchors)


def place_cells(
    cells: AnnData, ruler: Ruler, labels: Mapping[str, str], rows: Int[np.ndarray, " row"] | None = None
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Table of cells with the stage of each, and the labels that the ruler does not know.

    Where a ruler names genes of phases and no label is one of its stages, the phase that is scored places a cell.

    Parameters
    ----------
    cells
        Cells as `datasets.load` gives them, with ``cell_type``.
    ruler
        Ruler whose stages the labels stand for.
    labels
        Labels beyond those that the ruler knows, and their stages.
    rows
        Numbers of the cells to place; all when None.

    Returns
    -------
    obs, unplaced
        Standard columns with ``stage``; unknown labels with stages of near names.

    Raises
    ------
    EvaluationError
        If the cells have no cell type.
    """
    name = cells.uns["workbench"]["name"]
    if "cell_type" not in cells.obs:
        raise EvaluationError(
            f"The cells of '{name}' have no cell type column, which the ruler needs; set data.cell_type to the column of obs."
        )
    # What a cell's counts add up to is a matter of its values, not of its place.
    obs = (cells.obs if rows is None else cells.obs.iloc[rows]).drop(columns="depth", errors="ignore")
    obs["stage"], unknown = ruler.place(obs["cell_type"], labels)
    if ruler.phases and (obs["stage"] < 0).all():
        # Scanpy takes a while to import, and only this needs it.
        from workbench.cells.cycle import scored_phases

        scored = scored_phases(cells, ruler.phases)
        obs["stage"], unknown = ruler.place(scored if rows is None else scored[rows])
    return obs, {label: ruler.hint(label) for label in unknown}


def _parts(matrix: sp.csr_matrix) -> dict[str, np.ndarray]:
    matrix = sp.csr_matrix(matrix)
    matrix.sort_indices()
    return {
        "data": matrix.data.astype(np.float32),
        "indices": matrix.indices.astype(np.int32),
        "indptr": matrix.indptr.astype(np.int64),
    }
