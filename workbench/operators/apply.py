"""``workbench apply``: an exported algorithm on a file of any number of cells, read and written in blocks, without torch."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from tqdm import tqdm

from workbench.cells.datasets import CellMapping, load
from workbench.errors import CellsError, OutputError
from workbench.files import atomically, digest
from workbench.operators.algorithm import CARD, Algorithm, coverage, panel_blocks
from workbench.operators.readout_weights import Readout

LATENT = "X_workbench"
_PREFIX = "workbench_"


@dataclass(frozen=True)
class Applied:
    """What `apply_file` did.

    Attributes
    ----------
    out
        The new file.
    n_cells
        Cells in it.
    coverage
        Share of the algorithm's genes that the cells measure.
    seconds
        Of the whole, reading and writing included.
    """

    out: Path
    n_cells: int
    coverage: float
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
        Folder that `Algorithm.save_pretrained` wrote.
    cells
        The h5ad: counts, normalised or log-normalised values with gene symbols.
    out
        New file; beside `cells`, with ``.workbench.h5ad`` at the end, when None.
    mapping
        Where values and gene symbols are, as in `datasets.load`.
    min_coverage
        Smallest share of the algorithm's genes that must be measured.
    block
        Cells at a time.
    progress
        Show a bar.

    Returns
    -------
    Applied
        The file has ``obsm["X_workbench"]`` (latent), ``obsm["workbench_NAME"]`` (probabilities; classes in
        ``uns["workbench"]``) and, in ``obs``, all columns of the input and ``workbench_NAME``,
        ``workbench_NAME_probability`` for each readout, ``workbench_pseudotime`` for a depth, and
        ``workbench_genes_expressed`` (share of the algorithm's genes that a cell expresses).

    Raises
    ------
    ArtifactError
        If the algorithm was changed or truncated.
    CellsError
        If the file cannot be read, or holds impossible values or cells without expression.
    GeneMatchError
        If too few of the genes are measured.
    OutputError
        If the new file exists already.
    """
    start = time.perf_counter()
    source = Path(cells)
    target = Path(out) if out is not None else source.with_name(f"{source.stem}.workbench.h5ad")
    if target.exists():
        raise OutputError(f"'{target}' exists already and is not overwritten; choose another with --out, or remove it.")
    known = Algorithm.from_pretrained(algorithm)
    if not source.is_file():
        raise CellsError(f"There is no file '{source}'; give the path of an h5ad.")
    data = load(source, mapping, backed=True)
    share = coverage(data, known.genes)

    def write(part: Path) -> None:
        with h5py.File(part, "w") as handle:
            _write(
                handle,
                known,
                data,
                source,
                {"coverage": share, **_origin(algorithm, known)},
                min_coverage,
                block,
                progress,
            )

    atomically(target, write)
    return Applied(target, data.shape[0], share, time.perf_counter() - start)


def _write(
    handle: h5py.File,
    algorithm: Algorithm,
    data: Any,
    source: Path,
    about: Mapping[str, Any],
    min_coverage: float,
    block: int,
    progress: bool,
) -> None:
    from anndata.io import write_elem

    n, k = data.shape[0], algorithm.matrix.shape[1]
    write_elem(handle, "obsm", {})
    latent = _array(handle, LATENT, (n, k), np.float32)
    labels, classes = dict[str, Any](), dict[str, list[str]]()
    for name, readout in algorithm.readouts.items():
        key = column_of(name)
        if readout.classes:
            classes[key] = class_names(name, readout)
            shape = (n, len(classes[key]))
            labels[name] = (
                _array(handle, _PREFIX + key, shape, np.float32),
                np.zeros(n, np.int16),
                np.zeros(n, np.float32),
            )
        else:
            labels[name] = (None, np.zeros(n, np.float32), None)
    expressed = np.zeros(n, np.float32)
    with tqdm(total=n, unit="cell", disable=not progress, desc="apply") as bar:
        for first, x in panel_blocks(data, algorithm.genes, min_coverage, block):
            rows = slice(first, first + x.shape[0])
            z = algorithm.encode_panel(x)
            latent[rows] = z
            expressed[rows] = np.diff(x.indptr) / len(algorithm.genes)
            for name, readout in algorithm.readouts.items():
                into, value, sure = labels[name]
                if into is None:
                    value[rows] = readout.predict(z)
                    continue
                chance = readout.probabilities(z)
                into[rows] = chance
                value[rows], sure[rows] = chance.argmax(1), chance.max(1)
            bar.update(x.shape[0])
    obs = _read_obs(source)
    for name, (into, value, sure) in labels.items():
        column = _PREFIX + column_of(name)
        if into is None:
            obs[column] = value
            continue
        obs[column] = pd.Categorical.from_codes(value, pd.Index(classes[column_of(name)]))
        obs[f"{column}_probability"] = sure
    obs[f"{_PREFIX}genes_expressed"] = expressed
    write_elem(handle, "obs", obs)
    write_elem(handle, "var", pd.DataFrame(index=pd.Index([], dtype=str)))
    write_elem(
        handle,
        "uns",
        {"workbench": {**about, "source": str(source), "classes": {k: np.array(v) for k, v in classes.items()}}},
    )
    handle.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})


def column_of(readout: str) -> str:
    """Column name of a readout; the depth along the ruler is called pseudotime, which is what users look for.

    Parameters
    ----------
    readout
        Its name.
    """
    return "pseudotime" if readout == "depth" else readout.replace(" ", "_").replace("/", "_")


def class_names(name: str, readout: Readout) -> list[str]:
    """Classes of a readout; yes and no of "A against B" are A and B.

    Parameters
    ----------
    name, readout
        The readout.
    """
    yes, against, no = name.partition(" against ")
    return [no, yes] if against and readout.classes == ("False", "True") else list(readout.classes)


def _array(handle: h5py.File, name: str, shape: tuple[int, int], dtype: Any) -> h5py.Dataset:
    made = handle.create_dataset(f"obsm/{name}", shape, dtype)
    made.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    return made


def _read_obs(source: Path) -> pd.DataFrame:
    import anndata as ad

    tables = ad.read_h5ad(source, backed="r")
    obs = tables.obs.copy()
    tables.file.close()
    taken = [column for column in obs if str(column).startswith(_PREFIX)]
    return obs.drop(columns=taken)  # from an earlier run of this command


def _origin(folder: str | Path, algorithm: Algorithm) -> dict[str, Any]:
    from workbench import __version__

    card = (Path(folder) / CARD).read_text(encoding="utf-8")
    return {
        "algorithm": str(folder),
        "algorithm_hash": digest(card),
        "n_genes": len(algorithm.genes),
        "version": __version__,
    }
