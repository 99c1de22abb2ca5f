"""``workbench apply``: an exported algorithm on a file of any number of cells, read and written in blocks, without torch."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
from tqdm import tqdm

from workbench.cells.datasets import CellMapping, cells_of
from workbench.cells.expression import expression_blocks, match_panel, scale_of
from workbench.cells.formats import open_tables, plain_text
from workbench.errors import CellsError, OutputError
from workbench.files import atomically, digest
from workbench.operators.algorithm import CARD, Algorithm
from workbench.operators.readout_weights import Readout

LATENT = "X_workbench"
_PREFIX = "workbench_"
_EXPRESSED = f"{_PREFIX}genes_expressed"


@dataclass(frozen=True)
class Applied:
    """What `apply_file` did.

    Attributes
    ----------
    out
        The new h5ad that was written.
    n_cells
        Cells in it, which are those of the input.
    coverage
        Share of the algorithm's genes that the cells measure.
    values
        What the values were found or said to be, and what was done about it.
    genes
        How many of the algorithm's genes the cells measure, and by which other names.
    unlabelled
        Cells that express none of the algorithm's genes: their labels, probabilities and latents are missing.
    seconds
        Time that the whole took, reading and writing included.
    """

    out: Path
    n_cells: int
    coverage: float
    values: str
    genes: str
    unlabelled: int
    seconds: float


def apply_file(
    algorithm: str | Path,
    cells: str | Path,
    out: str | Path | None = None,
    *,
    mapping: CellMapping | None = None,
    min_coverage: float = 0.5,
    block: int = 1024,
    progress: bool = True,
) -> Applied:
    """Apply an algorithm to an h5ad and write a new h5ad without its matrix.

    Memory does not grow with the matrix; the columns of ``obs``, which are copied, are held whole.

    Parameters
    ----------
    algorithm
        Folder of the algorithm, as `Algorithm.save_pretrained` wrote it.
    cells
        File of any kind that `datasets.load` reads: counts, normalised or log-normalised values with gene symbols.
    out
        New file; beside `cells`, with ``.workbench.h5ad`` at the end, when None.
    mapping
        Where values and gene symbols are and what the values are, as in `datasets.load`.
    min_coverage
        Smallest share of the algorithm's genes that must be measured, above 0.
    block
        Cells that are read, encoded and written at a time; memory grows with it.
    progress
        Show a progress bar of cells on stderr.

    Returns
    -------
    Applied
        The file has ``obsm["X_workbench"]`` (latent), ``obsm["workbench_NAME"]`` (probabilities; classes in
        ``uns["workbench"]``) and, in ``obs``, all columns of the input and ``workbench_NAME``,
        ``workbench_NAME_probability`` for each readout, ``workbench_pseudotime`` for a depth, and
        ``workbench_genes_expressed`` (share of the algorithm's genes that a cell expresses). A cell that expresses none
        of them has no label and NaN for the numbers.

    Raises
    ------
    ArtifactError
        If the algorithm was changed or truncated.
    CellsError
        If the file cannot be read, or holds impossible values or values whose scale cannot be known.
    GeneMatchError
        If too few of the genes are measured.
    OutputError
        If the new file exists already, or is there at the end.
    """
    start = time.perf_counter()
    source = Path(cells).expanduser()
    stem = source.name.removesuffix(".gz").rsplit(".", 1)[0]
    if not 0 < min_coverage <= 1:
        raise CellsError(
            f"The smallest coverage is {min_coverage}; --min-coverage takes a share of the genes above 0, and 1 at most."
        )
    target = Path(out).expanduser() if out is not None else source.with_name(f"{stem}.workbench.h5ad")
    if target.exists():
        raise OutputError(f"'{target}' exists already and is not overwritten; choose another with --out, or remove it.")
    known = Algorithm.from_pretrained(algorithm)
    if not source.exists():
        raise CellsError(f"There is no file '{source}'; give the path of an h5ad.")
    mapping = mapping or CellMapping()
    tables = open_tables(source, mapping.layer, backed=True)
    obs = tables.obs.drop(columns=[name for name in tables.obs if str(name).startswith(_PREFIX)])  # of an earlier run
    data = cells_of(tables, mapping, str(source))
    match, scale, n = match_panel(data, known.genes, min_coverage), scale_of(data), data.shape[0]
    share = len(match.genes) / len(known.genes)
    found = f"{len(match.genes)} of the algorithm's {len(known.genes)} are measured"
    genes = "; ".join(part for part in (found, match.changes, *match.hints) if part)

    unlabelled: list[int] = []

    def write(part: Path) -> None:
        from anndata.io import write_elem

        with h5py.File(part, "w") as handle, tqdm(total=n, unit="cell", disable=not progress, desc="apply") as bar:
            write_elem(handle, "obsm", {})
            blocks = expression_blocks(data, match, known.genes, size=block)
            columns, classes = _stream(handle, known, blocks, n, bar)
            unlabelled.append(int((columns[_EXPRESSED] == 0).sum()))
            write_elem(handle, "obs", plain_text(obs).assign(**columns))
            write_elem(handle, "var", pd.DataFrame(index=pd.Index([], dtype=str)))
            told = {"coverage": share, "values": scale.said, "genes_matched": genes, "unlabelled": unlabelled[0]}
            about = {**told, **_origin(algorithm, known), "source": str(source), "classes": classes}
            write_elem(handle, "uns", {"workbench": about})
            handle.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})

    atomically(target, write, new=True)
    return Applied(target, n, share, scale.said, genes, unlabelled[0], time.perf_counter() - start)


def _stream(
    handle: h5py.File, algorithm: Algorithm, blocks: Iterator[tuple[int, sp.csr_matrix, Any]], n: int, bar: tqdm
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Write latent and probabilities block by block; columns of `obs`, and classes by readout, are given back."""
    latent = _array(handle, LATENT, (n, algorithm.matrix.shape[1]))
    keys = {name: column_of(name) for name in algorithm.readouts}
    classes = {keys[name]: np.array(class_names(name, r)) for name, r in algorithm.readouts.items() if r.classes}
    chances = {key: _array(handle, _PREFIX + key, (n, len(names))) for key, names in classes.items()}
    # Numbers of classes until the end, which take the least memory.
    columns: dict[str, Any] = {}
    for key in keys.values():
        columns[_PREFIX + key] = np.zeros(n, np.int16 if key in classes else np.float32)
        if key in classes:
            columns[f"{_PREFIX}{key}_probability"] = np.zeros(n, np.float32)
    columns[_EXPRESSED] = np.zeros(n, np.float32)
    for first, x, _ in blocks:
        rows = slice(first, first + x.shape[0])
        z = algorithm.encode_panel(x)
        latent[rows], bare = z, np.diff(x.indptr) == 0
        z[bare] = 0.0  # so that readouts can be asked; their answers are taken out again
        columns[_EXPRESSED][rows] = np.diff(x.indptr) / len(algorithm.genes)
        for name, readout in algorithm.readouts.items():
            column = _PREFIX + keys[name]
            if not readout.classes:
                columns[column][rows] = np.where(bare, np.nan, readout.predict(z))
                continue
            chance = readout.probabilities(z)
            columns[column][rows] = np.where(bare, -1, chance.argmax(1))
            chance[bare] = np.nan
            chances[keys[name]][rows], columns[f"{column}_probability"][rows] = chance, chance.max(1)
        bar.update(x.shape[0])
    for key, names in classes.items():
        columns[_PREFIX + key] = pd.Categorical.from_codes(columns[_PREFIX + key], pd.Index(names))
    return columns, classes


def column_of(readout: str) -> str:
    """Column name of a readout; the depth along the ruler is called pseudotime, which is what users look for.

    Parameters
    ----------
    readout
        Name of the readout, that of its endpoint.

    Examples
    --------
    >>> from workbench.operators.apply import column_of
    >>> column_of("CD4 against CD8"), column_of("depth")
    ('CD4_against_CD8', 'pseudotime')
    """
    return "pseudotime" if readout == "depth" else readout.replace(" ", "_").replace("/", "_")


def class_names(name: str, readout: Readout) -> list[str]:
    """Classes of a readout; yes and no of "A against B" are A and B.

    Parameters
    ----------
    name
        Name of the readout, that of its endpoint.
    readout
        Readout with two classes or more.
    """
    yes, against, no = name.partition(" against ")
    return [no, yes] if against and readout.classes == ("False", "True") else list(readout.classes)


def _array(handle: h5py.File, name: str, shape: tuple[int, int]) -> h5py.Dataset:
    made = handle.create_dataset(f"obsm/{name}", shape, np.float32)
    made.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    return made


def _origin(folder: str | Path, algorithm: Algorithm) -> dict[str, Any]:
    from workbench import __version__

    known = {"algorithm": str(folder), "algorithm_hash": digest((Path(folder) / CARD).read_text(encoding="utf-8"))}
    return {**known, "n_genes": len(algorithm.genes), "version": __version__}
