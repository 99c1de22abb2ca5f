"""A campaign of repeated splits by the extracted anchor head against the same by scGPT's embedding and a 3-layer MLP.

Both are fitted on the training side of every split and answer for its test side: five endpoints, the same cells and splits. Ours gets the
three pooled operators of its feature map, as they are exported; a side of its own makes them from the checkpoint's weights (qk), which a
second ratio counts. The peer runs every cell once through a model of scGPT's real size (12 layers x 8 heads, width 512, random weights;
no hooks, no gradients), however many splits it is in, and fits the MLP in every split.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from common import Result, Side, Sizes, arguments, measure, serve, show, synthetic_cells, versions

from workbench.cells.expression import panel_expression
from workbench.cells.placed import PlacedCells
from workbench.engine.config import make_config
from workbench.evidence.methods import ANCHOR_HEAD, WITH_MLP, own_methods
from workbench.evidence.protocol import Training
from workbench.evidence.ruler import load_ruler
from workbench.models import CellTokenizer
from workbench.models.scgpt.config import ModelConfig
from workbench.models.scgpt.hooked import HookedScGPT
from workbench.models.vocabulary import Vocabulary
from workbench.operators.operator import thirds
from workbench.operators.readout import endpoints
from workbench.operators.weight_operators import weight_operators
from workbench.recipes.benchmark.config import BenchmarkConfig

SIZES: Sizes = {"cells": 60, "splits": 8, "genes": 3000, "expressed": 1200, "panel": 1200, "width": 512}
FULL: Sizes = {**SIZES, "cells": 240, "splits": 88}
TOY: Sizes = {"cells": 30, "splits": 2, "genes": 60, "expressed": 30, "panel": 40, "width": 16}
N_LAYERS, N_HEADS = 12, 8
STAGES = ("CD4 T", "CD8 T", "monocyte", "dendritic", "B")
PEER = "scGPT embedding and 3-layer MLP"
NAME = "cls"


@dataclass(frozen=True)
class Ready:
    """What a side starts from."""

    model: HookedScGPT
    tokenizer: CellTokenizer
    panel: tuple[str, ...]
    cells: PlacedCells
    held: list[np.ndarray]
    blocks: Pooled | None


@dataclass(frozen=True)
class Pooled:
    """Operators of which only the means over blocks of layers are at hand, as `workbench` exports them."""

    means: dict[tuple[int, ...], np.ndarray]

    @property
    def shape(self) -> tuple[int, int]:
        """Layers and heads."""
        return N_LAYERS, N_HEADS

    def head(self, layer: int, head: int) -> np.ndarray:
        """None is at hand; a method that asks for one could not be measured here."""
        raise LookupError(f"L{layer}H{head}: only means over blocks of layers are at hand.")

    def mean(self, layers: Sequence[int]) -> np.ndarray:
        """Mean over the heads of some layers."""
        return self.means[tuple(layers)]


def prepare(sizes: Sizes, operators: bool) -> Ready:
    """Cells with labels, a random model, splits.

    Parameters
    ----------
    sizes
        Sizes.
    operators
        Whether the three pooled operators are at hand.
    """
    n = sizes["cells"]
    adata = synthetic_cells(n, sizes["genes"], sizes["expressed"])
    vocabulary = Vocabulary.of_genes(adata.var_names)
    torch.manual_seed(0)
    width = sizes["width"]
    config = ModelConfig(len(vocabulary), width, N_LAYERS, N_HEADS, width, max_tokens=1200)
    model = HookedScGPT(config, vocabulary).requires_grad_(False).eval()
    rng = np.random.default_rng(0)
    panel = tuple(f"GENE{i}" for i in np.sort(rng.choice(sizes["genes"], sizes["panel"], replace=False)))
    ruler = load_ruler("hematopoiesis")
    stage = ruler.place([STAGES[i % len(STAGES)] for i in range(n)])[0]
    held = [np.isin(np.arange(n) // len(STAGES) % 4, [i % 4]) for i in range(sizes["splits"])]
    obs = pd.DataFrame({"stage": stage}, index=[f"c{i:05d}" for i in range(n)])
    cells = PlacedCells("synthetic cells", obs, panel, panel_expression(adata, panel), ruler)
    made = export(model, panel) if operators else None
    return Ready(model, model.tokenizer(adata), panel, cells, held, made)


def export(model: HookedScGPT, panel: tuple[str, ...]) -> Pooled:
    """The three pooled operators of the drift feature map, from the weights alone.

    Parameters
    ----------
    model, panel
        The checkpoint, and the genes.
    """
    made = weight_operators(model, panel, "qk")
    means = {}
    for block in thirds(N_LAYERS):
        total = sum(made.matrix(layer, head) for layer in block for head in range(N_HEADS))
        means[block] = total / np.float32(len(block) * N_HEADS)
    return Pooled(means)


def campaign(ready: Ready, name: str, cells: PlacedCells) -> np.ndarray:
    """Fit on every training side, predict every test side.

    Parameters
    ----------
    ready
        From `prepare`.
    name
        Of the method.
    cells
        With what the method stands on.

    Returns
    -------
    ndarray
        Probabilities of stages of the last split.
    """
    config = make_config(BenchmarkConfig, checkpoint="random", anchors={"min_cells": 2, "parts": 6})
    method = own_methods(config, N_LAYERS)[name].method
    for test in ready.held:
        fitted, held = (cells.take(np.flatnonzero(rows)) for rows in (~test, test))
        train = Training(fitted, tuple(endpoints(fitted.stage, cells.ruler)), 0, ready.blocks)
        predictions = method.fit(train).predict(held.without_labels())
    return predictions.of["stage"].values


def peer(ready: Ready) -> np.ndarray:
    """Embed every cell once, then the campaign.

    Parameters
    ----------
    ready
        From `prepare`.
    """
    with torch.no_grad():
        found = torch.cat([ready.model(batch).cell for batch in ready.tokenizer.batches(1)]).numpy()
    return campaign(ready, WITH_MLP, replace(ready.cells, embeddings={NAME: found}))


def _chance(_: Ready, chance: np.ndarray) -> Result:
    return {"chance": chance}


SIDES = {
    "ours": Side(lambda sizes: prepare(sizes, True), lambda ready: campaign(ready, ANCHOR_HEAD, ready.cells), _chance),
    "export": Side(
        lambda sizes: prepare(sizes, False),
        lambda ready: export(ready.model, ready.panel),
        lambda _, made: {"bytes": np.array(sum(one.nbytes for one in made.means.values()))},
    ),
    "peer": Side(lambda sizes: prepare(sizes, False), peer, _chance),
}


def report(figures: dict[str, dict[str, Any]], results: dict[str, Result], sizes: Sizes) -> dict[str, Any]:
    """Check both sides and put their figures together.

    Parameters
    ----------
    figures, results
        As `measure` gives them.
    sizes
        What was measured.
    """
    one, other = results["ours"]["chance"], results["peer"]["chance"]
    if one.shape != other.shape or not np.allclose(one.sum(1), 1) or not np.allclose(other.sum(1), 1):
        raise SystemExit(f"The sides answer for other cells: {one.shape} and {other.shape}, or with no probabilities.")
    ours, theirs, made = figures["ours"], figures["peer"], figures["export"]
    return {
        "what": "campaign: repeated splits by the anchor head, against embedding and MLP of the same cells and splits",
        "bounds": {"ratio": "at least 100"},
        "data": "synthetic negative binomial counts, labels in turn; what is measured is time, not how good the answers are",
        "ratio": theirs["seconds"] / ours["seconds"],
        "cpu_ratio": theirs["cpu_seconds"] / ours["cpu_seconds"],
        "ratio_with_export": theirs["seconds"] / (ours["seconds"] + made["seconds"]),
        "memory_ratio": theirs["peak_bytes"] / max(ours["peak_bytes"], made["peak_bytes"]),
        "ours": ours,
        "export": made,
        "peer": theirs,
        "peer_name": PEER,
        "sizes": {**{key: sizes[key] for key in SIZES}, "layers": N_LAYERS, "heads": N_HEADS},
        "threads": sizes["threads"],
        "repetitions": sizes["repetitions"],
        "statistic": "best time and median peak memory over repetitions, each in a fresh process",
        "agree": True,
        "more": {
            "seconds of ours": ours["seconds"],
            "seconds of the export": made["seconds"],
            "seconds of the peer": theirs["seconds"],
            "times faster, export included": theirs["seconds"] / (ours["seconds"] + made["seconds"]),
        },
        "versions": versions("torch", "scikit-learn", "numpy"),
    }


def main() -> None:
    options = arguments(
        __doc__,
        threads={"type": int, "default": 1, "help": "threads of PyTorch (default: 1)"},
        cells={"type": int, "help": "cells (default: 60; with --full 240)"},
    )
    if options.serve:
        return serve(SIDES, options.serve)
    sizes = {**(FULL if options.full else SIZES), "threads": options.threads}
    sizes["cells"] = options.cells or sizes["cells"]
    figures, results = measure(__file__, [["ours"], ["export"], ["peer"]], sizes, TOY, 1)
    show(report(figures, results, {**sizes, "repetitions": 1}), options.json)


if __name__ == "__main__":
    main()
