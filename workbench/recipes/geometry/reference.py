"""The stage that no model has a part in: neighbours of expression, made once for every space, and the baselines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import scipy.sparse as sp

from workbench.engine.stages import Result, Results
from workbench.files import read_arrays, read_json, write_arrays, write_json
from workbench.geometry.expression import Expression, Residuals
from workbench.geometry.neighbors import Neighbors
from workbench.geometry.overlap import BatchNeighbors
from workbench.geometry.reference import make_reference
from workbench.recipes.geometry.context import SPACES, GeometryContext

_FILE, _ABOUT = "reference.safetensors", "reference.json"


def reference_stage(context: GeometryContext, folder: Path, _: Results) -> Result:
    """Find each cell's neighbours by expression inside its batch, and keep expression and its components as spaces.

    Parameters
    ----------
    context
        Geometry whose cells are loaded.
    folder
        Where neighbours and baselines are left.
    _
        Results of other stages, of which none is needed.

    Returns
    -------
    dict
        ``of``, what the neighbours are of; ``batches``, cells of each; ``left_out``, cells of batches that are too small; ``recall``;
        ``genes``, how many the baselines have; and ``spaces``, their names.
    """
    asked = context.config.measures
    found = make_reference(
        context.cells, context.batches, k=max(asked.neighbours), fewest=asked.min_batch, seed=context.config.seed
    )
    write_reference(folder, found.expression)
    near, spaces = found.neighbors, found.baselines(asked.components)
    write_arrays(folder / SPACES, {**spaces, **context.embeddings})
    return {
        "of": near.kind,
        "batches": {name: len(rows) for name, rows in zip(near.names, near.rows, strict=True)},
        "left_out": dict(near.left_out),
        "recall": near.recall,
        "genes": len(found.genes),
        "spaces": [*spaces, *context.embeddings],
    }


def write_reference(folder: Path, found: Expression | BatchNeighbors) -> None:
    """Keep neighbours inside batches, and the residuals that they are of, for every task after this.

    Parameters
    ----------
    folder
        Folder of the stage, which the neighbours lie in.
    found
        Neighbours by expression; with residuals where the values are counts.
    """
    near = found.neighbors if isinstance(found, Expression) else found
    arrays: dict[str, np.ndarray] = {}
    for i, (rows, one) in enumerate(zip(near.rows, near.near, strict=True)):
        arrays |= {f"rows {i}": rows, f"indices {i}": one.indices, f"distances {i}": one.distances}
    about = {
        "names": near.names,
        "searches": [[one.exact, one.recall, one.n_duplicates] for one in near.near],
        "left_out": dict(near.left_out),
        "n": near.n,
        "kind": near.kind,
        "theta": [],
    }
    if isinstance(found, Expression):
        arrays["genes"] = found.genes
        about["theta"] = [one.theta for one in found.residuals]
        for i, made in enumerate(found.residuals):
            parts = {"data": made.counts.data, "columns": made.counts.indices, "starts": made.counts.indptr}
            arrays |= {
                f"{name} {i}": part for name, part in {**parts, "library": made.library, "share": made.share}.items()
            }
    write_arrays(folder / _FILE, arrays)
    write_json(folder / _ABOUT, about)


def read_reference(folder: Path) -> Expression | BatchNeighbors:
    """Neighbours and residuals as `write_reference` has left them.

    Parameters
    ----------
    folder
        Folder of the stage, which the neighbours lie in.
    """
    about, arrays = read_json(folder / _ABOUT), read_arrays(folder / _FILE)[0]
    near = tuple(
        Neighbors(arrays[f"indices {i}"], arrays[f"distances {i}"], *found) for i, found in enumerate(about["searches"])
    )
    rows = tuple(arrays[f"rows {i}"] for i in range(len(near)))
    found = BatchNeighbors(tuple(about["names"]), rows, near, about["left_out"], about["n"], about["kind"])
    if not about["theta"]:
        return found
    residuals = []
    for i, theta in enumerate(about["theta"]):
        parts = arrays[f"data {i}"], arrays[f"columns {i}"], arrays[f"starts {i}"]
        counts = sp.csr_matrix(parts, shape=(len(rows[i]), len(arrays["genes"])))
        residuals.append(Residuals(counts, arrays[f"library {i}"], arrays[f"share {i}"], theta))
    return Expression(found, tuple(residuals), arrays["genes"])
