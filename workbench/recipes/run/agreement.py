"""The stage of a run of several rulers that says how far their latents agree."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from workbench.cells.expression import expression_on
from workbench.engine.stages import Result, Results
from workbench.geometry.agreement import agreement_rows

# What a ruler reads is made there, so this stage depends on that code.
from workbench.recipes.run.rulers import SeveralContext

AGREEMENT = "agreement"
ANCHORS, CELLS, GENES = "anchors", "cells", "genes"


def agreement_stage(context: SeveralContext, draws: int, _: Path, __: Results) -> Result:
    """Measure how far the latents of every two rulers agree, on anchors, on cells and on genes.

    Every latent is a matrix of genes and coordinates that expression is multiplied with, whatever its ruler lies over. So each can be had of
    anchors and cells, and its rows are the genes'.

    Parameters
    ----------
    context
        Run whose operators were read and whose cells were placed.
    draws
        Null draws: of a ruler over cells stages change places, one over genes is rewired, and the adaptor is fitted again.
    _, __
        Folder of the stage and results of those before it, of which neither is needed.

    Returns
    -------
    dict
        ``points``, the number of each kind.
    """
    expression = expression_on(context.adata, context.tokenizer.match, context.panel)[0]
    points = {CELLS: expression, GENES: np.eye(len(context.panel))}
    if (part := context.cells_of) is not None:
        points = {ANCHORS: part.anchors().centroids, **points}
    bar = tqdm(context.parts.items(), unit="ruler", desc="agreement", disable=not context.backend.progress)
    readings = {name: part.readings(draws) for name, part in bar}
    rows = []
    for one, other in combinations(readings, 2):
        for kind, x in points.items():
            latents = [[np.asarray(x @ matrix) for matrix in readings[name]] for name in (one, other)]
            for row in agreement_rows(*latents):
                null_of = {"ruler": one, "other": other}[row["null_of"]]
                rows.append({"ruler": one, "other": other, "points": kind, **row, "null_of": null_of})
    context.write({AGREEMENT: pd.DataFrame(rows)})
    return {"points": {kind: x.shape[0] for kind, x in points.items()}}
