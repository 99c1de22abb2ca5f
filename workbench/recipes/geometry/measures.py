"""The stages that measure: each space by itself, and each pair of them."""

from __future__ import annotations

from functools import lru_cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from workbench.engine.context import Handle
from workbench.engine.stages import Result, Results
from workbench.engine.sweep import Task, run_sweep
from workbench.errors import EvaluationError
from workbench.geometry.expression import Expression
from workbench.geometry.likeness import cka, principal_angle
from workbench.geometry.overlap import BatchNeighbors
from workbench.geometry.space_draws import BASELINE, COLUMNS, MODEL, Measured
from workbench.geometry.space_tables import measure_space
from workbench.recipes.geometry.context import REFERENCE, SCVI, SOURCES, GeometryContext
from workbench.recipes.geometry.reference import read_reference
from workbench.seeds import generator, order_of

CKA, ANGLE = "debiased CKA", "principal angle"
# The residual stream that a model is read from as a whole.
STREAM = "resid_post mean"


def listed(results: Results) -> list[tuple[str, str]]:
    """Every space that stages have left, as the stage and the space's name.

    Parameters
    ----------
    results
        Results of the reference and the passes.
    """
    return [
        (stage, name) for stage in (*SOURCES, REFERENCE, SCVI) if stage in results for name in results[stage]["spaces"]
    ]


def named(stage: str, name: str) -> dict[str, Any]:
    """Source, layer and hook of a space, as tables have them.

    Parameters
    ----------
    stage, name
        Stage that has left the space, and the name of the space in it, as `listed` gives them.
    """
    if stage in (REFERENCE, SCVI):
        return {"source": BASELINE, "layer": np.nan, "hook": name}
    layer, hook, pool = name.split("/")
    return {"source": SOURCES[stage], "layer": float(layer), "hook": f"{hook} {pool}"}


def measures_stage(context: GeometryContext, folder: Path, results: Results) -> Result:
    """Measure each space, a task each.

    Parameters
    ----------
    context
        Geometry whose spaces lie on the disk.
    folder
        Folder of the stage; finished tasks in it are kept.
    results
        Results of the reference and the passes.

    Returns
    -------
    dict
        ``skipped``: why a space could not be measured, by its name.
    """
    spaces = listed(results)
    tasks = [Task(f"{stage}/{name}", (context.handle, stage, name)) for stage, name in spaces]
    rows = run_sweep(folder / "sweep", {"spaces": len(tasks)}, tasks, measure_task, context.backend)
    refused = rows["refused"].astype(str) != ""
    held = rows[~refused].reset_index(drop=True)
    context.write({"geometry": held.drop(columns=["refused", "drawn", "n_units"]), "differences": differences(held)})
    return {"skipped": dict(zip(rows.loc[refused, "space"], rows.loc[refused, "refused"], strict=True))}


def differences(rows: pd.DataFrame) -> pd.DataFrame:
    """What each layer has more than the one before it, and the last than the first, paired by donor: each draw is of the same donors.

    Parameters
    ----------
    rows
        Rows of all spaces with their draws, as `measure_task` gives them; baselines have no layer and are left out.

    Returns
    -------
    DataFrame
        ``source``, ``hook``, ``layer``, ``beside`` (the layer that is taken away; -1 in front of the first), and the columns of a measured space.
        The note says whether donors or groups of cells were drawn.
    """
    found = []
    for (source, hook), own in rows[rows["source"] != BASELINE].groupby(["source", "hook"], sort=False):
        spaces = {
            float(str(layer)): Measured(part[COLUMNS], np.stack(part["drawn"].to_list()), int(part["n_units"].iloc[0]))
            for layer, part in own.groupby("layer")
        }
        layers = sorted(spaces)
        pairs = dict.fromkeys([*zip(layers[1:], layers[:-1], strict=True), (layers[-1], layers[0])])
        for layer, beside in pairs:
            if layer != beside:
                about: dict[str, Any] = {"source": source, "hook": hook, "layer": layer, "beside": beside}
                more = spaces[layer].beyond(spaces[beside])
                found.append(more[COLUMNS].assign(**about)[[*about, *COLUMNS]])
    return (
        pd.concat(found, ignore_index=True)
        if found
        else pd.DataFrame(columns=["source", "hook", "layer", "beside", *COLUMNS])
    )


def measure_task(handle: Handle, stage: str, name: str) -> pd.DataFrame:
    """Measures of one space.

    Parameters
    ----------
    handle
        Opens the geometry in this process.
    stage, name
        Stage that has left the space, and the name of the space in it, as `listed` gives them.

    Returns
    -------
    DataFrame
        A row per measure and scope, with its value in each draw (``drawn``) of ``n_units`` donors or groups of cells; one row with the reason where the
        space cannot be measured.
    """
    context = handle.open()
    asked, about = context.config.measures, {"space": f"{stage}/{name}", **named(stage, name)}
    try:
        found = measure_space(
            context.space(stage, name),
            expression=_reference(handle),
            cell_type=context.column("cell_type"),
            batch=context.batches,
            donor=context.column("donor"),
            ks=asked.neighbours,
            trust_k=asked.trustworthiness,
            order=order_of(context.config.seed, context.cells.obs_names, "part of cells"),
            n_draws=asked.bootstrap,
            seed=context.config.seed,
        )
    except EvaluationError as error:
        return pd.DataFrame([{**about, "refused": str(error)}])
    return found.table.assign(drawn=list(found.draws), n_units=found.n_units, **about, refused="")


@lru_cache(maxsize=1)
def _reference(handle: Handle) -> Expression | BatchNeighbors:
    return read_reference(handle.open().folder(REFERENCE))


def likeness_stage(context: GeometryContext, folder: Path, results: Results) -> Result:
    """Lay each pair of layers of the model beside each other, and each layer beside the baselines.

    Parameters
    ----------
    context
        Geometry whose spaces lie on the disk.
    folder
        Folder of the stage; finished tasks in it are kept.
    results
        Results of the reference and the passes.

    Returns
    -------
    dict
        ``n_pairs``.
    """
    spaces = [
        one for one in listed(results) if one[0] in (REFERENCE, SCVI) or (one[0] == MODEL and _hook(one) == STREAM)
    ]
    pairs = [Task(f"{one} {other}", (context.handle, one, other)) for one, other in combinations(spaces, 2)]
    rows = run_sweep(folder / "sweep", {"pairs": len(pairs)}, pairs, likeness_task, context.backend)
    context.write({"likeness": rows})
    return {"n_pairs": len(pairs)}


def likeness_task(handle: Handle, one: tuple[str, str], other: tuple[str, str]) -> pd.DataFrame:
    """Debiased CKA and mean principal angle of two spaces, beside those where the cells of one are dealt anew.

    Parameters
    ----------
    handle
        Opens the geometry in this process.
    one, other
        Two spaces, as `listed` gives them.

    Returns
    -------
    DataFrame
        A row per measure: ``one``, ``other``, ``value``, ``null_mean``, ``null_low``, ``null_high`` (2.5 and 97.5 % of the draws), ``n_null``, ``n``.
    """
    context = handle.open()
    x, y = context.space(*one), context.space(*other)
    rng = generator(context.config.seed, "likeness", *one, *other)
    dealt = [rng.permutation(len(y)) for _ in range(context.config.measures.draws)]
    rows = []
    for measure, of in ((CKA, cka), (ANGLE, principal_angle)):
        null = np.array([of(x, y[order]) for order in dealt])
        low, high = np.nanquantile(null, [0.025, 0.975])
        found = {"one": said(one), "other": said(other), "measure": measure, "value": of(x, y)}
        rows.append(
            {
                **found,
                "null_mean": np.nanmean(null),
                "null_low": low,
                "null_high": high,
                "n_null": len(null),
                "n": len(x),
            }
        )
    return pd.DataFrame(rows)


def said(space: tuple[str, str]) -> str:
    """Name of a space in figures.

    Parameters
    ----------
    space
        Stage and name of the space, as `listed` gives them.
    """
    about = named(*space)
    if about["source"] == BASELINE:
        return str(about["hook"])
    layer = int(float(str(about["layer"])))
    return "embedding" if layer < 0 else f"layer {layer}"


def _hook(space: tuple[str, str]) -> str:
    return str(named(*space)["hook"])
