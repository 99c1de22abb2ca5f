"""A planted world as files: a checkpoint, cells and configurations, for the command line and for notebooks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from anndata import AnnData

from workbench.files import atomically, keep_others, write_text
from workbench.models.scgpt.checkpoint import save_checkpoint
from workbench.planted.cells import GRAPH, OFF_GRAPH, Signal, World, WorldShape, make_world, planted_cells
from workbench.planted.checkpoint import PlantedModel, plant_world
from workbench.planted.factor_proof import planted_sets

_COHORTS: dict[str, tuple[str, tuple[str, ...], tuple[str, ...], Signal]] = {
    "internal": ("internal", ("D1", "D2", "D3"), ("marrow", "blood"), GRAPH),
    "external": ("external", ("D4", "D5", "D6"), ("marrow", "blood"), GRAPH),
    "zero_shot": ("zero shot", ("D7", "D8"), ("marrow", "blood"), GRAPH),
    "off_graph": ("expected to fail", ("E1", "E2", "E3"), ("lung",), OFF_GRAPH),
}
# Donors of the run: as many as make enough pairs to leave out; one tissue, so that its anchors stay few.
_DONORS, _TISSUES = ("D1", "D2", "D3", "D4", "D5", "D6"), ("marrow",)
_FILES = (
    "gates.yaml",
    "run.yaml",
    "benchmark.yaml",
    "programs.gmt",
    "donors.h5ad",
    *(f"{name}.h5ad" for name in _COHORTS),
)
_SAID = "# Planted, not real: synthetic cells, and a checkpoint whose head {} encodes their stage graph.\n"


def write_world(folder: str | Path, seed: int, shape: WorldShape | None = None, **model: Any) -> Path:
    """Write a planted world.

    Parameters
    ----------
    folder
        Folder to write to, made if need be; files of an earlier world in it are replaced, and files of other origin refused.
    seed
        Seed of both the world and the checkpoint; it is also the one of the configurations.
    shape
        Numbers of genes and cells, and strengths; those of `WorldShape` by default.
    **model
        Arguments of `plant_world`, such as ``n_layers``, ``n_heads`` and ``d_model``.

    Returns
    -------
    Path
        The folder, with ``gates.yaml`` for ``workbench gates`` (four cohorts), ``run.yaml`` for ``workbench run`` (six donors,
        the planted gene sets among decoys in ``programs.gmt``) and ``benchmark.yaml`` for ``workbench benchmark`` (the same
        donors, each with its batch effect), all of the planted head's ``qk`` operator.
    """
    folder = Path(folder).expanduser()
    mine = next(folder.glob("planted-checkpoint-*/args.json"), folder)
    keep_others(folder, _FILES, mine, "workbench")
    world = make_world(seed, shape=shape)
    planted = plant_world(world, seed, **model)
    checkpoint = f"planted-checkpoint-{seed}"  # its name is what captions say of it
    save_checkpoint(planted.model, folder / checkpoint)
    shared = {"name": f"planted world, seed {seed}", "checkpoint": f"./{checkpoint}", "seed": seed, "operator": "qk"}
    adaptor = {"feature_map": "single", "layer": planted.layer, "head": planted.head}
    run = {"adaptor": {**adaptor, "k": len(world.shape.branches)}, **_run(folder, world, _head(planted))}
    said = _SAID.format(_head(planted))
    held_out = {"adaptor": run["adaptor"], "data": run["data"], "splits": {"n": 15, "test_share": 0.34}}
    configs = {"gates": {"adaptor": adaptor, **_gates(folder, world)}, "run": run, "benchmark": held_out}
    for name, more in configs.items():
        write_text(folder / f"{name}.yaml", said + yaml.safe_dump({**shared, **more}, sort_keys=False))
    return folder


def _gates(folder: Path, world: World) -> dict[str, Any]:
    cohorts = {}
    for name, (role, donors, tissues, signal) in _COHORTS.items():
        _write(planted_cells(world, donors, tissues, signal=signal), folder / f"{name}.h5ad")
        cohorts[name] = {"role": role, "data": _data(name)}
    return {"cohorts": cohorts}


def _run(folder: Path, world: World, head: str) -> dict[str, Any]:
    _write(planted_cells(world, _DONORS, _TISSUES, signal=GRAPH), folder / "donors.h5ad")
    sets = planted_sets(world)
    lines = ["\t".join([term, sets.sources[term], *genes]) for term, genes in sets.sets.items()]
    write_text(folder / "programs.gmt", "\n".join(lines) + "\n")
    n, size = len(world.shape.branches), world.shape.genes_per_program
    pairs = len(_DONORS) * (len(_DONORS) - 1) // 2
    return {
        "data": _data("donors"),
        "evaluation": {"folds": len(_DONORS), "holdouts": 4, "permutations": 100, "refits": 10, "head_refits": 2},
        "gates": {"refits": 4},
        "cell_heads": {"hybrid": False},
        "compaction": {"splits": pairs, "head": head, "n_factors": n, "n_read": size, "n_write": size},
        "factors": {
            **{"head": head, "n": n, "n_genes": size, "splits": pairs},
            **{"gene_sets": "./programs.gmt", "program_draws": 5000},
        },
    }


def _data(name: str) -> dict[str, str]:
    return {"name": f"./{name}.h5ad", "cell_type": "cell_type", "donor": "donor", "tissue": "tissue"}


def _head(planted: PlantedModel) -> str:
    return f"L{planted.layer}H{planted.head}"


def _write(cells: AnnData, path: Path) -> None:
    atomically(path, lambda part: cells.write_h5ad(part))
