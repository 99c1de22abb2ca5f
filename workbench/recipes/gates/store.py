"""What workers of a gate run need, on the disk: anchors and cells of every panel, and one matrix per head."""

from __future__ import annotations

import io
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp

from workbench.cells.anchors import Anchors
from workbench.evidence.screen import Side
from workbench.files import read_arrays, write_arrays
from workbench.recipes.gates.panels import Measured
from workbench.seeds import key

MATRICES = "operators.safetensors"
_MOST_CELLS = 5000


def write_panel(folder: Path, measured: Measured, seed: int) -> None:
    """Write a panel's anchors and cells.

    Parameters
    ----------
    folder
        Of the run's panels.
    measured
        The panel.
    seed
        Above 5,000 cells a sample is kept, by seed and name, for the readouts of the screen; anchors are of all cells.
    """
    anchors, cells = measured.anchors, measured.panel.cells
    names = np.asarray(cells.obs_names, dtype=str)
    rows = np.argsort(names, kind="stable")  # what is drawn of them later goes by their place
    if len(rows) > _MOST_CELLS:
        rows = rows[
            np.sort(np.argsort([key(seed, "screen", name) for name in names[rows]], kind="stable")[:_MOST_CELLS])
        ]
    part = measured.expression[rows]
    arrays = {
        "centroids": anchors.centroids,
        "anchor_stage": anchors.stage,
        "stage": measured.stage[rows],
        "data": part.data,
        "indices": part.indices,
        "indptr": part.indptr,
    }
    write_arrays(_file(folder, measured.panel.name), arrays, {"table": anchors.table.to_csv(index=False)})


def read_panel(folder: Path, name: str) -> Side:
    """A panel as `write_panel` left it; read once per process for as long as the file is the same.

    Parameters
    ----------
    folder, name
        Of the run's panels, and of the panel.
    """
    path = _file(folder, name)
    found = path.stat() if path.is_file() else None
    return _read(path, (found.st_ino, found.st_mtime_ns, found.st_size) if found else ())


@lru_cache(maxsize=4)
def _read(path: Path, stamp: tuple[int, ...]) -> Side:
    arrays, header = read_arrays(path)
    # Donors such as "01" and labels such as "NA" stay what they are.
    text = dict.fromkeys(("donor", "tissue", "cell_type"), str)
    table = pd.read_csv(io.StringIO(header["table"]), dtype=text, keep_default_na=False)
    shape = (len(arrays["stage"]), arrays["centroids"].shape[1])
    expression = sp.csr_matrix((arrays["data"], arrays["indices"], arrays["indptr"]), shape=shape)
    return Side(Anchors(arrays["centroids"], arrays["anchor_stage"], table), expression, arrays["stage"])


def read_matrix(folder: Path, name: str) -> np.ndarray:
    """One matrix of the operators' file.

    Parameters
    ----------
    folder, name
        Of the stage, and of the matrix.
    """
    return read_arrays(folder / MATRICES, [name])[0][name]


def _file(folder: Path, name: str) -> Path:
    # A panel is called as its user likes; a file is not.
    return folder / f"{key(0, 'panel', name):016x}.safetensors"
