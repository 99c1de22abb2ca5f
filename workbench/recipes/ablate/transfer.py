"""The stage ``transfer``: what single heads carry from one cell type to another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int

from workbench.ablation.grid import identity
from workbench.ablation.patching import activation_patching
from workbench.engine.stages import Result, Results
from workbench.errors import EvaluationError, unknown_name
from workbench.recipes.ablate.config import ContrastConfig
from workbench.recipes.ablate.context import AblationContext


def sides(context: AblationContext, contrast: ContrastConfig) -> list[Int[np.ndarray, " cell"]]:
    """Numbers of the target cells and of the source cells of a contrast.

    Parameters
    ----------
    context
        Study whose cells have types.
    contrast
        Names of both cell types.

    Raises
    ------
    EvaluationError
        If the cells have no types, a type is not among them, or both are the same.
    """
    obs = context.study.obs
    if "cell_type" not in obs:
        raise EvaluationError("A contrast needs cell types, and the cells have none; set data.cell_type.")
    labels = obs["cell_type"].astype(str).to_numpy()
    for name in (contrast.target, contrast.source):
        if name not in labels:
            raise EvaluationError(f"Contrast: {unknown_name('cell type', name, sorted(set(labels)))}")
    if contrast.target == contrast.source:
        raise EvaluationError(f"Contrast: target and source are both '{contrast.target}'; name two cell types.")
    return [np.flatnonzero(labels == name) for name in (contrast.target, contrast.source)]


def transfer_inputs(context: AblationContext) -> dict[str, Any]:
    """What the table of transfer depends on, for the key of its stage.

    Parameters
    ----------
    context
        Configuration and study.
    """
    same = identity(context.study, [], 0)
    return {
        **{name: same[name] for name in ("checkpoint", "cells", "seed")},
        "contrasts": [[*vars(one).values(), *sides(context, one)] for one in context.config.contrasts],
        "donors": context.donors,
        "bootstrap": context.config.study.bootstrap,
    }


def transfer_stage(context: AblationContext, folder: Path, results: Results) -> Result:
    """Write the table of transfer, one contrast after the other.

    Parameters
    ----------
    context
        Configuration and study.
    folder
        Not used: the table goes to the tables of the run.
    results
        Not read.
    """
    config, study, parts = context.config, context.study, []
    for contrast in config.contrasts:
        target, source = sides(context, contrast)
        parts.append(
            activation_patching(
                study.model,
                study.tokens.take(target.tolist()),
                study.tokens.take(source.tolist()),
                names=(contrast.target, contrast.source),
                donors=None if study.donors is None else study.donors[target],
                seed=config.seed,
                draws=config.study.bootstrap,
                batch_size=config.study.batch_size,
            )
        )
    context.write({"transfer": pd.concat(parts, ignore_index=True)})
    return {}
