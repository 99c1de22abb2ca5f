"""Dictionaries of all 12 layers trained in one pass over the cells: steps over active features alone against SAELens's own steps.

The model has 12 layers x 8 heads, width 512 and random weights; each layer's residual stream gets a dictionary of 2,048 features, 32 active. All
rows of all layers are trained on once. Beside both stand the forward passes alone (`times_passes`: passes and training in units of them).
"""

from __future__ import annotations

from typing import Any

import anndata as ad
import numba
import numpy as np
import torch
from common import Result, Side, Sizes, arguments, compared, measure, serve, show, synthetic_cells, versions

from workbench.dictionaries import stepping, training
from workbench.dictionaries.dictionary import Dictionary
from workbench.dictionaries.feeding import Reader, together
from workbench.dictionaries.judging import variance_explained
from workbench.dictionaries.settings import DictionaryConfig
from workbench.models.scgpt.config import ModelConfig
from workbench.models.scgpt.hooked import HookedScGPT
from workbench.models.vocabulary import Vocabulary

SIZES: Sizes = {
    "cells": 16, "genes": 3000, "expressed": 1600, "max_tokens": 1200, "width": 512, "layers": 12, "features": 2048, "k": 32,
    "rows": 2048, "buffer": 16384, "architecture": "topk",
}  # fmt: skip
FULL: Sizes = {**SIZES, "cells": 96, "buffer": 65536}
TOY: Sizes = {
    "cells": 8, "genes": 60, "expressed": 40, "width": 32, "layers": 2, "features": 64, "k": 8, "rows": 64, "buffer": 512,
}  # fmt: skip
HOOKS = "blocks.*.hook_resid_post"
PEER = "SAELens's own steps"
CELLS_AT_ONCE = 4

Ready = tuple[HookedScGPT, ad.AnnData, DictionaryConfig]


def prepare(sizes: Sizes) -> Ready:
    """Make model, cells and settings, the same in every process.

    Parameters
    ----------
    sizes
        Sizes; ``threads`` is also the number of threads that share a step.
    """
    numba.config.NUMBA_NUM_THREADS = sizes["threads"]  # type: ignore[attr-defined]
    cells = synthetic_cells(sizes["cells"], sizes["genes"], sizes["expressed"])
    vocabulary = Vocabulary.of_genes(cells.var_names)
    torch.manual_seed(0)
    width = sizes["width"]
    config = ModelConfig(len(vocabulary), width, sizes["layers"], 8, width, max_tokens=sizes["max_tokens"])
    model = HookedScGPT(config, vocabulary).requires_grad_(False).eval()
    settings = DictionaryConfig(
        width=sizes["features"], k=sizes["k"], rows=sizes["rows"], buffer=sizes["buffer"], epochs=1,
        architecture=sizes["architecture"], cells_at_once=CELLS_AT_ONCE,
    )  # fmt: skip
    return model, cells, settings


def train(ready: Ready) -> dict[str, Dictionary]:
    """Passes and training.

    Parameters
    ----------
    ready
        From `prepare`.
    """
    model, cells, settings = ready
    return training.train_dictionaries(model, cells, HOOKS, settings, progress=False)


def peer(ready: Ready) -> dict[str, Dictionary]:
    """The same by SAELens's step.

    Parameters
    ----------
    ready
        From `prepare`.
    """
    own = stepping.is_sparse
    stepping.is_sparse = lambda config, device: False
    try:
        return train(ready)
    finally:
        stepping.is_sparse = own


def passes(ready: Ready) -> np.ndarray:
    """The passes alone, nothing kept of any layer.

    Parameters
    ----------
    ready
        From `prepare`.
    """
    model, cells, _ = ready
    with torch.no_grad():
        return torch.cat([model(tokens).cell for tokens in model.tokenizer(cells).batches(CELLS_AT_ONCE)]).numpy()


def explained(ready: Ready, found: dict[str, Dictionary]) -> Result:
    """Variance that each dictionary explains of a few cells.

    Parameters
    ----------
    ready
        From `prepare`.
    found
        Dictionaries by hook.
    """
    model, cells, _ = ready
    rows = together(list(Reader(model, model.tokenizer(cells), tuple(found), CELLS_AT_ONCE).read(range(4))))
    values = {hook: x.numpy() for hook, x in rows.values.items()}
    each = [
        variance_explained(values[hook], one(rows.values[hook]).numpy(), values[hook].mean(0))
        for hook, one in found.items()
    ]
    return {"explained": np.array(each), "steps": np.array(next(iter(found.values())).origin.steps)}


SIDES = {
    "ours": Side(prepare, train, explained),
    "peer": Side(prepare, peer, explained),
    "passes": Side(prepare, passes, lambda _, cell: {"cell": cell}),
}


def report(figures: dict[str, dict[str, Any]], results: dict[str, Result], sizes: Sizes) -> dict[str, Any]:
    """Check that both trainings explain as much and put the figures together.

    Parameters
    ----------
    figures, results
        As `measure` gives them.
    sizes
        What was measured.
    """
    difference = float(np.abs(results["ours"]["explained"] - results["peer"]["explained"]).max())
    if not difference < 0.001:
        raise SystemExit(
            f"The trainings explain shares of variance that differ by {difference:g}; nothing was compared."
        )
    # Processes took turns: pairs of them saw the same load of the machine, which best times of all may not have.
    turns = (figures[name]["best_per_process"] for name in ("ours", "passes"))
    times = [own / passes for own, passes in zip(*turns, strict=True)]
    cost = {name: figures[name]["cpu_seconds"] / figures["passes"]["cpu_seconds"] for name in ("ours", "peer")}
    return {
        "what": "dictionaries: a training on the residual streams of all layers as they stream, random weights, synthetic counts",
        "bounds": {"times_passes": "at most 2"},
        "data": "synthetic negative binomial counts",
        "times_passes": float(np.median(times)),
        "passes": figures["passes"],
        **compared(figures, sizes, PEER),
        "sizes": {**{name: sizes[name] for name in SIZES}, "steps": int(results["ours"]["steps"])},
        "greatest_difference": difference,
        "more": {
            "times the passes, median of turns": float(np.median(times)),
            "each turn": ", ".join(f"{one:.2f}" for one in times),
            "times the passes, processor time": cost["ours"],
            "the same with SAELens's steps": cost["peer"],
            "passes alone, seconds": figures["passes"]["seconds"],
            "greatest difference of variance explained": difference,
            "threads": float(sizes["threads"]),
        },
        "versions": versions("torch", "sae-lens", "numpy", "numba"),
    }


def main() -> None:
    options = arguments(
        __doc__,
        threads={"type": int, "default": 2, "help": "threads of either side (default: 2)"},
        architecture={"default": "topk", "help": "topk, batchtopk or matryoshka (default: topk)"},
        turns={"type": int, "default": 3, "help": "pairs of processes, with and without training (default: 3)"},
    )
    if options.serve:
        return serve(SIDES, options.serve)
    sizes = {**(FULL if options.full else SIZES), "threads": options.threads, "architecture": options.architecture}
    figures, results = measure(__file__, [["ours"], ["passes"]], sizes, TOY, options.turns)
    # The peer takes longest by far, and is not what the bound is about: once.
    for found, more in zip((figures, results), measure(__file__, [["peer"]], sizes, TOY, 1), strict=True):
        found.update(more)
    show(report(figures, results, {**sizes, "repetitions": options.turns}), options.json)


if __name__ == "__main__":
    main()
