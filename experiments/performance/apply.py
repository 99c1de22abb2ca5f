"""An exported algorithm on a file of cells against scGPT's embedding of the same cells and a 3-layer MLP on it.

Ours reads an h5ad in blocks and writes latent, labels and probabilities to a new one. The peer tokenises cells that are already in
memory, runs a model of scGPT's real size (12 layers x 8 heads, width 512, random weights; no hooks, no gradients) and the MLP. It gets
far fewer cells, and cells per second are compared. The limit is the product of the panel's sparse expression, ready in memory, with
the algorithm's one matrix. A second, four times larger file shows whether memory grows.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import scipy.sparse as sp
import torch
from common import Result, Side, Sizes, arguments, measure, serve, show, synthetic_cells, versions

from workbench.cells.expression import panel_expression
from workbench.models.scgpt.config import ModelConfig
from workbench.models.scgpt.hooked import HookedScGPT
from workbench.models.vocabulary import Vocabulary
from workbench.operators.algorithm import Algorithm
from workbench.operators.apply import LATENT, apply_file
from workbench.operators.expression_model import RANK, ExpressionModel
from workbench.operators.readout_weights import Readout
from workbench.operators.reference import GENES, Level, TrainingReference
from workbench.operators.shift import LatentClasses

SIZES: Sizes = {
    "cells": 20_000,
    "peer_cells": 4,
    "genes": 3000,
    "expressed": 1200,
    "panel": 1200,
    "width": 512,
    "k": 10,
}
FULL: Sizes = {**SIZES, "cells": 250_000, "peer_cells": 8}
TOY: Sizes = {"cells": 50, "peer_cells": 1, "genes": 60, "expressed": 30, "panel": 40, "width": 16}
N_LAYERS, N_HEADS, N_CLASSES = 12, 8, 34
PEER = "scGPT embedding and 3-layer MLP"
_DRAWN = 1000  # cells are drawn once and repeated: drawing a million would take longer than all else


def expression(sizes: Sizes, times: int = 1) -> ad.AnnData:
    """Synthetic counts.

    Parameters
    ----------
    sizes
        Sizes.
    times
        How many times as many cells.
    """
    drawn = synthetic_cells(min(_DRAWN, sizes["cells"]), sizes["genes"], sizes["expressed"])
    rows = np.arange(sizes["cells"] * times) % drawn.shape[0]
    cells = ad.AnnData(drawn.X[rows], var=drawn.var, uns=drawn.uns)
    cells.obs_names = [f"cell{i}" for i in range(len(rows))]
    return cells


def algorithm(sizes: Sizes) -> Algorithm:
    """Random matrix and readouts of the paper's size.

    Parameters
    ----------
    sizes
        Sizes.
    """
    rng = np.random.default_rng(0)
    panel = np.sort(rng.choice(sizes["genes"], sizes["panel"], replace=False))
    k = sizes["k"]
    classes = tuple(f"stage{i:02d}" for i in range(N_CLASSES))
    readouts = {
        "stage": Readout(rng.standard_normal((k, N_CLASSES)), rng.standard_normal(N_CLASSES), classes),
        "depth": Readout(rng.standard_normal((k, 1)), rng.standard_normal(1), ()),
    }
    genes = tuple(f"GENE{i}" for i in panel)
    p = len(genes)
    known = ExpressionModel(rng.gamma(0.5, size=p), 0.1 * rng.standard_normal((p, RANK)), np.ones(p))
    where = LatentClasses(classes, rng.standard_normal((N_CLASSES, k)), np.eye(k))
    level = Level(GENES, 1.0, 1.0, 0.8, 0.05, 0.8, {}, 1.0, 10.0)
    reference = TrainingReference(
        known, where, np.full(p, 0.3), np.zeros(k), np.ones(k), 3000.0, 5.0, "stage", (level,)
    )
    return Algorithm(genes, 0.05 * rng.standard_normal((p, k)), rng.standard_normal(k), readouts, {}, reference)


def _files(sizes: Sizes, times: int = 1) -> tuple[Path, Path, Path]:
    folder = Path(tempfile.mkdtemp())
    expression(sizes, times).write_h5ad(folder / "cells.h5ad")
    return algorithm(sizes).save_pretrained(folder / "algorithm"), folder / "cells.h5ad", folder / "out.h5ad"


def ours(ready: tuple[Path, Path, Path]) -> Path:
    """Read, compute, write.

    Parameters
    ----------
    ready
        Algorithm, cells, output.
    """
    ready[2].unlink(missing_ok=True)
    # The displacement is found, and left where it is, so that latents can be compared.
    return apply_file(*ready, align=False, progress=False).out


def _latent(ready: tuple[Path, Path, Path], out: Path) -> Result:
    found = ad.read_h5ad(out)
    rows = np.unique(np.linspace(0, found.shape[0] - 1, 200).astype(int))
    return {"latent": np.asarray(found.obsm[LATENT])[rows], "rows": rows}


def prepare_limit(sizes: Sizes) -> tuple[sp.csr_matrix, np.ndarray]:
    """Panel expression in memory, and the matrix.

    Parameters
    ----------
    sizes
        Sizes.
    """
    known = algorithm(sizes)
    return panel_expression(expression(sizes), known.genes), known.matrix.astype(np.float32)


def prepare_peer(sizes: Sizes) -> tuple[HookedScGPT, torch.nn.Module, ad.AnnData]:
    """Model, MLP and cells.

    Parameters
    ----------
    sizes
        Sizes.
    """
    cells = expression({**sizes, "cells": sizes["peer_cells"]})
    vocabulary = Vocabulary.of_genes(cells.var_names)
    torch.manual_seed(0)
    width = sizes["width"]
    config = ModelConfig(len(vocabulary), width, N_LAYERS, N_HEADS, width, max_tokens=1200)
    model = HookedScGPT(config, vocabulary).requires_grad_(False).eval()
    relu, wide = torch.nn.ReLU, width // 2
    mlp = torch.nn.Sequential(
        torch.nn.Linear(width, wide),
        relu(),
        torch.nn.Linear(wide, wide // 2),
        relu(),
        torch.nn.Linear(wide // 2, N_CLASSES),
    )
    return model, mlp.requires_grad_(False).eval(), cells


def peer(ready: tuple[HookedScGPT, torch.nn.Module, ad.AnnData]) -> np.ndarray:
    """Embed and classify.

    Parameters
    ----------
    ready
        From `prepare_peer`.
    """
    model, mlp, cells = ready
    with torch.no_grad():
        tokens = model.tokenizer(cells)
        found = [torch.softmax(mlp(model(batch).cell), -1) for batch in tokens.batches(1)]
    return torch.cat(found).numpy()


SIDES = {
    "ours": Side(_files, ours, _latent),
    "ours_larger": Side(lambda sizes: _files(sizes, 4), ours, _latent),
    "limit": Side(prepare_limit, lambda ready: ready[0] @ ready[1], lambda _, z: {"z": z[:5]}),
    "peer": Side(prepare_peer, peer, lambda _, chance: {"chance": chance}),
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
    known, chance = algorithm(sizes), results["peer"]["chance"]
    cells = expression(sizes)[results["ours"]["rows"]].to_df().to_numpy(dtype=np.float64)
    place = [int(gene.removeprefix("GENE")) for gene in known.genes]
    dense = np.log1p(cells / cells.sum(1, keepdims=True) * 1e4)[:, place] @ known.matrix + known.offset
    difference = float(np.abs(dense - results["ours"]["latent"]).max() / np.abs(dense).max())
    if difference > 1e-4 or not np.allclose(chance.sum(1), 1, atol=1e-4) or len(chance) != sizes["peer_cells"]:
        raise SystemExit(f"The latent differs from the dense product by {difference:g}, or the peer is wrong.")
    per_cell = {
        "ours": {key: figures["ours"][key] / sizes["cells"] for key in ("seconds", "cpu_seconds")},
        "peer": {key: figures["peer"][key] / sizes["peer_cells"] for key in ("seconds", "cpu_seconds")},
    }
    share = figures["limit"]["seconds"] / figures["ours"]["seconds"]
    growth = figures["ours_larger"]["peak_bytes"] / figures["ours"]["peak_bytes"]
    return {
        "what": "apply: an algorithm of 1,200 x 10 weights on a file, against embedding and MLP of the same cells",
        "bounds": {"ratio": "at least 1000"},
        "data": "synthetic negative binomial counts; the larger sets repeat the same cells",
        "ratio": per_cell["peer"]["seconds"] / per_cell["ours"]["seconds"],
        "cpu_ratio": per_cell["peer"]["cpu_seconds"] / per_cell["ours"]["cpu_seconds"],
        "memory_ratio": figures["peer"]["peak_bytes"] / figures["ours"]["peak_bytes"],
        "ours": figures["ours"],
        "peer": figures["peer"],
        "peer_name": PEER,
        "limit": figures["limit"],
        "share_of_limit": share,
        "memory_growth": growth,
        "sizes": {**{key: sizes[key] for key in SIZES}, "layers": N_LAYERS, "heads": N_HEADS},
        "threads": sizes["threads"],
        "repetitions": sizes["repetitions"],
        "statistic": "best time and median peak memory over repetitions, each in a fresh process; the ratio is of cells per second",
        "greatest_difference": difference,
        "agree": True,
        "more": {
            "cells per second": 1 / per_cell["ours"]["seconds"],
            "cells per second of the peer": 1 / per_cell["peer"]["seconds"],
            "share of the sparse product's speed": share,
            "memory at four times the cells": growth,
        },
        "versions": versions("torch", "scipy", "numpy", "anndata"),
    }


def main() -> None:
    options = arguments(
        __doc__,
        threads={"type": int, "default": 1, "help": "threads of PyTorch for the peer (default: 1)"},
        cells={"type": int, "help": "cells of our file (default: 20,000; with --full 250,000)"},
    )
    if options.serve:
        return serve(SIDES, options.serve)
    outer = 1 if options.full else 2
    sizes = {**(FULL if options.full else SIZES), "threads": options.threads}
    sizes["cells"] = options.cells or sizes["cells"]
    figures, results = measure(__file__, [["ours"], ["ours_larger"], ["limit"], ["peer"]], sizes, TOY, outer)
    show(report(figures, results, {**sizes, "repetitions": outer}), options.json)


if __name__ == "__main__":
    main()
