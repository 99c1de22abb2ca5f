"""The stage of scVI, a baseline that is trained on the cells themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from workbench.engine.stages import Result, Results
from workbench.evidence.peers import scvi_latent
from workbench.evidence.protocol import NotRunError, OutOfTimeError
from workbench.files import write_arrays
from workbench.geometry.expression import Expression
from workbench.recipes.geometry.context import REFERENCE, SPACES, GeometryContext
from workbench.recipes.geometry.reference import read_reference


def scvi_stage(context: GeometryContext, folder: Path, _: Results) -> Result:
    """Train scVI on counts of the genes that the neighbours of expression are of, and keep its latent.

    Parameters
    ----------
    context
        Geometry whose cells are loaded.
    folder
        Where the latent is left.
    _
        Results of other stages: the genes lie on the disk.

    Returns
    -------
    dict
        ``spaces``, the name of the latent, and ``skipped``, why there is none.
    """
    asked, reference = context.config.scvi, read_reference(context.folder(REFERENCE))
    assert asked is not None
    if not isinstance(reference, Expression):
        return {"spaces": [], "skipped": "it needs counts, and these values are none"}
    counts = sp.csr_matrix(context.cells.X[:, reference.genes], dtype=np.float32)
    options: dict[str, Any] = {
        "python": asked.python,
        "seconds": asked.seconds,
        "epochs": asked.epochs,
        "latent": asked.latent,
    }
    try:
        latent = scvi_latent(counts, context.batches, **options, seed=context.config.seed)
    except (NotRunError, OutOfTimeError, RuntimeError) as error:
        return {"spaces": [], "skipped": str(error)}
    name = f"scVI, {latent.shape[1]} dimensions"
    write_arrays(folder / SPACES, {name: latent})
    return {"spaces": [name], "skipped": ""}
