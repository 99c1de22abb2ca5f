"""The stages that pass cells through a model: one vector a cell from each hook."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from jaxtyping import Float

from workbench.capture import capture
from workbench.capture.pooled import FRONT, PooledSink
from workbench.engine.stages import Result, Results
from workbench.files import write_arrays
from workbench.recipes.geometry.context import SPACES, GeometryContext

BEFORE = -1


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
    found = spaces_of(sink.streams())
    write_arrays(folder / SPACES, found)
    return {"spaces": list(found), "n_cells": len(tokenizer)}


def spaces_of(
    streams: dict[tuple[str, str], Float[np.ndarray, "cell ..."]],
) -> dict[str, Float[np.ndarray, "cell feature"]]:
    """Spaces by the names that tables have for them: layer, hook and how tokens were pooled, heads one by one.

    Parameters
    ----------
    streams
        What a `PooledSink` has of all cells, by name of the hook and way of pooling.

    Returns
    -------
    dict
        ``LAYER/HOOK/POOL`` -> points; layer -1 in front of the first.
    """
    found: dict[str, np.ndarray] = {}
    for (hook, way), points in streams.items():
        if hook == FRONT:
            found[f"{BEFORE}/resid_post/{way}"] = points
            continue
        layer, part = re.fullmatch(r"blocks\.(\d+)\.(?:attn\.)?hook_(\w+)", hook).groups()  # type: ignore[union-attr]
        if points.ndim == 2:
            found[f"{layer}/{part}/{way}"] = points
        else:
            found |= {f"{layer}/head {h}/{way}": np.ascontiguousarray(points[:, h]) for h in range(points.shape[1])}
    return dict(sorted(found.items(), key=lambda item: (int(item[0].split("/")[0]), item[0])))
