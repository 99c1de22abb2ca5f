"""A mechanistic-interpretability research workbench for scGPT.

>>> import workbench
>>> model = workbench.load_model("artifacts/scgpt-blood-mini")  # doctest: +SKIP
>>> cells = workbench.load("pbmc68k")  # doctest: +SKIP
>>> outputs, cache = model.run_with_cache(cells[:8])  # doctest: +SKIP
>>> cells = workbench.embed(cells, model)  # doctest: +SKIP

Names are imported when they are first used, so that ``import workbench`` stays quick.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_WHERE = {
    "load_model": "workbench.models.load",
    "from_upstream": "workbench.models.scgpt.checkpoint",
    "save_checkpoint": "workbench.models.scgpt.checkpoint",
    "HookedScGPT": "workbench.models.scgpt.hooked",
    "Tokens": "workbench.models.tokens",
    "load": "workbench.cells.datasets",
    "CellMapping": "workbench.cells.datasets",
    "choose_panel": "workbench.cells.panel",
    "ablate": "workbench.ablation.ablate",
    "Ablation": "workbench.ablation.sites",
    "ablated": "workbench.ablation.edits",
    "Benchmark": "workbench.recipes.benchmark.benchmark",
    "carry_out": "workbench.recipes.carry",
    "plant_head": "workbench.models.scgpt.planted",
    "write_world": "workbench.planted.folder",
    "make_anchors": "workbench.cells.anchors",
    "load_ruler": "workbench.evidence.ruler",
    "MemorySink": "workbench.capture.ragged",
    "ShardSink": "workbench.capture.ragged",
    "read_shards": "workbench.capture.ragged",
    "MomentsSink": "workbench.capture.sinks",
    "HookFilter": "workbench.capture.sinks",
    "GenePairSink": "workbench.capture.pairs",
    "weight_operators": "workbench.operators.weight_operators",
    "LETAdaptor": "workbench.operators.adaptor",
    "Algorithm": "workbench.operators.algorithm",
    "Operator": "workbench.operators.saved_operator",
    "Extractor": "workbench.operators.estimator",
    "CellAdaptor": "workbench.operators.cell_adaptor",
    "Dictionary": "workbench.dictionaries.dictionary",
    "train_dictionaries": "workbench.dictionaries.training",
    "feature_effects": "workbench.dictionaries.causing",
    "feature_attribution": "workbench.dictionaries.causing",
    "feature_circuit": "workbench.dictionaries.circuits",
    "svd_factors": "workbench.factors.factorise",
    **{
        name: "workbench.tools"
        for name in ("embed", "latent", "attention", "lens", "probe", "patch", "steer", "gene_geometry")
    },
    "load_gene_sets": "workbench.factors.gene_sets",
    "enrich": "workbench.factors.programs",
    "explore": "workbench.explorer.widget",
}

# Rooms of the package, so that `workbench.figures.effect_map` needs no import of its own.
_PACKAGES = (
    "ablation", "capture", "cells", "dictionaries", "engine", "errors", "evidence", "explorer", "factors", "figures", "geometry", "models", "operators", "planted",
    "recipes", "seeds", "stats", "tools",
)  # fmt: skip

__all__ = ["__version__", *_WHERE]


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return import_module(f"workbench.{name}")
    if name not in _WHERE:
        raise AttributeError(f"module 'workbench' has no attribute '{name}'; it has {', '.join(_WHERE)}")
    return getattr(import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted((*__all__, *_PACKAGES))
