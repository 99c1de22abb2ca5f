"""The stages that pass cells through a model: one vector a cell from each hook."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from jaxtyping import Float

from workbench.capture import capture
from workbench.capture.pooled import AVERAGE, CLS, PooledSink
from workbench.engine.stages import Result, Results
from workbench.files import write_arrays
from workbench.recipes.geometry.context import SPACES, GeometryContext

FRONT = -1
_BEFORE = "blocks.0.hook_resid_pre"


def pass_stage(context: GeometryContext, name: str, folder: Path, _: Results) -> Result:
    """Pass the cells of the model or of a control through, and keep one vector a cell from each hook.

    Parameters
    ----------
    context
        Geometry whose cells are loaded.
    name
        Name of the pass, a key of `SOURCES`.
    folder
        Folder of the stage; an interrupted pass in it goes on.
    _
        Results of other stages, of which none is needed.

    Returns
    -------
    dict
        ``spaces``, the names of what was kept, and ``n_cells``.
    """
    sink, tokenizer = PooledSink(), context.tokenizer(context.cells_of(name))
    model, spaces = context.model_of(name), context.config.spaces
    capture(model, tokenizer, context.hooks, sink, batch_size=spaces.batch_size, state=folder / "state")
    found = spaces_of(sink.state())
    write_arrays(folder / SPACES, found)
    return {"spaces": list(found), "n_cells": len(tokenizer)}


def spaces_of(arrays: dict[str, Float[np.ndarray, "cell ..."]]) -> dict[str, Float[np.ndarray, "cell feature"]]:
    """Spaces by the names that tables have for them: layer, hook and how tokens were pooled, heads one by one.

    Parameters
    ----------
    arrays
        State of a `PooledSink`, by way of pooling and name of the hook.

    Returns
    -------
    dict
        ``LAYER/HOOK/POOL`` -> points. In front of the first layer ``<cls>`` is the same in every cell, and is left out.
    """
    found: dict[str, np.ndarray] = {}
    for name, points in arrays.items():
        pool, hook = name.split("/", 1)
        way = "mean" if pool == AVERAGE else CLS
        if hook == _BEFORE:
            if pool == AVERAGE:
                found[f"{FRONT}/resid_post/{way}"] = points
            continue
        layer, part = re.fullmatch(r"blocks\.(\d+)\.(?:attn\.)?hook_(\w+)", hook).groups()  # type: ignore[union-attr]
        if points.ndim == 2:
            found[f"{layer}/{part}/{way}"] = points
        else:
            found |= {f"{layer}/head {h}/{way}": np.ascontiguousarray(points[:, h]) for h in range(points.shape[1])}
    return dict(sorted(found.items(), key=lambda item: (int(item[0].split("/")[0]), item[0])))
