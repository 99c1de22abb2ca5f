"""The stage that flattens each residual stream to a map, and says how far the map can be trusted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from workbench.engine.context import Handle
from workbench.engine.stages import Result, Results
from workbench.engine.sweep import Task, run_sweep
from workbench.geometry.quality import trustworthiness
from workbench.geometry.space_draws import MODEL
from workbench.recipes.geometry.context import GeometryContext
from workbench.recipes.geometry.measures import named
from workbench.recipes.geometry.probes import streams_of
from workbench.seeds import key

_K = 15


def maps_stage(context: GeometryContext, folder: Path, results: Results) -> Result:
    """Make a UMAP of each residual stream of the model, a task each.

    Parameters
    ----------
    context
        Geometry whose spaces lie on the disk.
    folder
        Folder of the stage; finished tasks in it are kept.
    results
        Results of the passes, which name their spaces.
    """
    spaces = [name for stage, name in streams_of(results) if stage == MODEL]
    tasks = [Task(name, (context.handle, name)) for name in spaces]
    context.write({"maps": run_sweep(folder / "sweep", {"maps": len(tasks)}, tasks, map_task, context.backend)})
    return {"k": _K}


def map_task(handle: Handle, name: str) -> pd.DataFrame:
    """Map of one space.

    Parameters
    ----------
    handle
        Opens the geometry in this process.
    name
        Name of the space among those of the model.

    Returns
    -------
    DataFrame
        A row per cell: ``layer``, ``hook``, ``cell_id``, ``cell_type``, ``umap_1``, ``umap_2``; ``trustworthiness`` is that of the whole map, NaN
        with too few cells for neighbourhoods of ``k``.
    """
    from umap import UMAP

    context = handle.open()
    points, names = context.space(MODEL, name), context.cells.obs_names.to_numpy(dtype=str)
    # By name: the order of the cells decides nothing.
    order = np.argsort(names, kind="stable")
    flat = np.empty((len(points), 2))
    seed = key(context.config.seed, "geometry umap") % 2**32
    flat[order] = UMAP(n_neighbors=min(_K, len(points) - 1), random_state=seed, n_jobs=1).fit_transform(points[order])
    kind, about = context.column("cell_type"), named(MODEL, name)
    enough = len(points) > 2 * _K
    return pd.DataFrame(
        {
            "layer": about["layer"],
            "hook": about["hook"],
            "cell_id": names,
            "cell_type": "" if kind is None else kind,
            "umap_1": flat[:, 0],
            "umap_2": flat[:, 1],
            "k": _K,
            "trustworthiness": float(trustworthiness(points, flat, _K).mean()) if enough else np.nan,
        }
    )
