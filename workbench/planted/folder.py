"""A planted world as files: a checkpoint, four panels and a configuration, for the command line and for notebooks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from anndata import AnnData

from workbench.files import atomically, write_text
from workbench.model.checkpoint import save_checkpoint
from workbench.planted.cells import GRAPH, OFF_GRAPH, Signal, WorldShape, make_world, planted_cells
from workbench.planted.checkpoint import plant_world

_PANELS: dict[str, tuple[str, tuple[str, ...], tuple[str, ...], Signal]] = {
    "internal": ("internal", ("D1", "D2", "D3"), ("marrow", "blood"), GRAPH),
    "external": ("external", ("D4", "D5", "D6"), ("marrow", "blood"), GRAPH),
    "zero_shot": ("zero shot", ("D7", "D8"), ("marrow", "blood"), GRAPH),
    "off_graph": ("expected to fail", ("E1", "E2", "E3"), ("lung",), OFF_GRAPH),
}


def write_world(folder: str | Path, seed: int, shape: WorldShape | None = None, **model: Any) -> Path:
    """Write a planted world.

    Parameters
    ----------
    folder
        Where; files of an earlier world in it are replaced.
    seed
        Of the world and of the checkpoint.
    shape
        As in `make_world`.
    **model
        Shape of the checkpoint, as in `plant_world`.

    Returns
    -------
    Path
        ``gates.yaml``, for ``workbench gates``: the planted head's ``qk`` operator on all four panels.
    """
    folder, world = Path(folder), make_world(seed, shape=shape)
    planted = plant_world(world, seed, **model)
    checkpoint = f"planted-checkpoint-{seed}"  # its name is what captions say of it
    save_checkpoint(planted.model, folder / checkpoint)
    panels = {}
    for name, (role, donors, tissues, signal) in _PANELS.items():
        cells = planted_cells(world, donors, tissues, signal=signal)
        _write(cells, folder / f"{name}.h5ad")
        data = {"name": f"./{name}.h5ad", "cell_type": "cell_type", "donor": "donor", "tissue": "tissue"}
        panels[name] = {"role": role, "data": data}
    head = f"L{planted.layer}H{planted.head}"
    config = {
        "name": f"planted world, seed {seed}",
        "checkpoint": f"./{checkpoint}",
        "seed": seed,
        "operator": "qk",
        "adaptor": {"feature_map": "single", "layer": planted.layer, "head": planted.head},
        "panels": panels,
    }
    said = f"# Planted, not real: synthetic cells, and a checkpoint whose head {head} encodes their stage graph.\n"
    return write_text(folder / "gates.yaml", said + yaml.safe_dump(config, sort_keys=False))


def _write(cells: AnnData, path: Path) -> None:
    atomically(path, lambda part: cells.write_h5ad(part))
