"""An exported algorithm on a file of cells against scGPT's embedding of the same cells and a 3-layer MLP on it.

Ours reads an h5ad in blocks and writes latent, labels and probabilities to a new one. The peer tokenises cells that are already in
memory, runs a model of scGPT's real size (12 layers x 8 heads, width 512, random weights; no hooks, no gradients) and the MLP. It gets
far fewer cells, and cells per second are compared. The limit is the product of the panel's sparse expression, ready in memory, with
the algorithm's one matrix. A file of a quarter of the cells shows whether memory grows.

`reading` is reading alone: the same blocks of the same file, one after the other, as anndata gives them (`bare`: as h5py does, which makes no
matrix of them). The file is not compressed and lies in the system's memory, which is where reading costs least; `gzip` is the same with a file
as atlases come.
"""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from common import Result, Side, Sizes, arguments, measure, serve, show, synthetic_cells, versions

from workbench.cells.datasets import load
from workbench.cells.expression import expression_blocks, match_panel, panel_expression
from workbench.cells.matrix import row_blocks
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
    "cells": 100_000,
    "peer_cells": 4,
    "genes": 3000,
    "expressed": 1200,
    "panel": 1200,
    "width": 512,
    "k": 10,
}
FULL: Sizes = {**SIZES, "cells": 1_000_000, "peer_cells": 8}
TOY: Sizes = {"cells": 50, "peer_cells": 1, "genes": 60, "expressed": 30, "panel": 40, "width": 16}
N_LAYERS, N_HEADS, N_CLASSES = 12, 8, 34
PEER = "scGPT embedding and 3-layer MLP"
# Cells at a time; and which part of the cells the compressed file has, whose reading takes so much longer.
BLOCK, _GZIP = 512, 2
_DRAWN = 1000  # cells are drawn once and repeated: drawing a million would take longer than all else


def drawn(sizes: Sizes) -> ad.AnnData:
    """Synthetic counts of some cells, which are repeated where more are asked for.

    Parameters
    ----------
    sizes
        Sizes.
    """
    return synthetic_cells(min(_DRAWN, sizes["cells"]), sizes["genes"], sizes["expressed"])


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
        known, where, np.full(p, 0.3), np.zeros(k), np.ones(k), 3000.0, 5.0, "stage", (level,), {},
        Readout(0.05 * rng.standard_normal((p, N_CLASSES)), np.zeros(N_CLASSES), classes),
    )  # fmt: skip
    return Algorithm(genes, 0.05 * rng.standard_normal((p, k)), rng.standard_normal(k), readouts, {}, reference)


_FOLDER = tempfile.TemporaryDirectory()


@cache
def _file(cells: int, genes: int, expressed: int, compression: str | None) -> Path:
    """An h5ad of so many cells, written piece by piece."""
    few = drawn({"cells": cells, "genes": genes, "expressed": expressed})
    path = Path(_FOLDER.name) / f"{cells}-{genes}-{expressed}-{compression}.h5ad"
    few.write_h5ad(path, compression=compression)
    with h5py.File(path, "r+") as handle:
        held, left = ad.io.sparse_dataset(handle["X"]), cells - few.n_obs
        while left > 0:
            held.append(few.X[:left])
            left -= few.n_obs
        del handle["obs"]
        ad.io.write_elem(handle, "obs", pd.DataFrame(index=[f"cell{i}" for i in range(cells)]))
    return path


def _files(sizes: Sizes, share: int = 1, compression: str | None = None) -> tuple[Path, Path, Path]:
    cells = _file(max(sizes["cells"] // share, 1), sizes["genes"], sizes["expressed"], compression)
    folder = Path(tempfile.mkdtemp(dir=_FOLDER.name))
    return algorithm(sizes).save_pretrained(folder / "algorithm"), cells, folder / "out.h5ad"


def reading(ready: tuple[Path, Path, Path]) -> int:
    """Read all blocks, as anndata gives them.

    Parameters
    ----------
    ready
        Algorithm, cells, output.
    """
    with h5py.File(ready[1]) as handle:
        held, seen = ad.io.sparse_dataset(handle["X"]), 0
        for start in range(0, held.shape[0], BLOCK):
            seen += held[start : start + BLOCK].nnz
    return seen


def bare(ready: tuple[Path, Path, Path]) -> int:
    """Read all blocks as arrays.

    Parameters
    ----------
    ready
        Algorithm, cells, output.
    """
    with h5py.File(ready[1]) as handle:
        ends, data, indices = handle["X/indptr"][:], handle["X/data"], handle["X/indices"]
        seen = 0
        for start in range(0, len(ends) - 1, BLOCK):
            entries = slice(ends[start], ends[min(start + BLOCK, len(ends) - 1)])
            seen += min(len(data[entries]), len(indices[entries]))
    return seen


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


def blocks(ready: tuple[Path, Path, Path]) -> int:
    """Read all blocks as `apply` does: in order, and no gene twice.

    Parameters
    ----------
    ready
        Algorithm, cells, output.
    """
    return sum(block.nnz for _, block in row_blocks(load(ready[1], backed=True).X, BLOCK))


def logged(ready: tuple[Path, Path, Path]) -> int:
    """The same, and bring the panel's genes to log1p of counts per 10,000.

    Parameters
    ----------
    ready
        Algorithm, cells, output.
    """
    cells, genes = load(ready[1], backed=True), Algorithm.from_pretrained(ready[0]).genes
    return sum(block.nnz for _, block, _ in expression_blocks(cells, match_panel(cells, genes), genes, size=BLOCK))


def latents(ready: tuple[Path, Path, Path]) -> int:
    """The same, and multiply with the matrix of the algorithm.

    Parameters
    ----------
    ready
        Algorithm, cells, output.
    """
    return len(Algorithm.from_pretrained(ready[0]).transform(load(ready[1], backed=True)))


def _seen(ready: tuple[Path, Path, Path], seen: int) -> Result:
    return {"entries": np.array(seen)}


def prepare_limit(sizes: Sizes) -> tuple[sp.csr_matrix, np.ndarray]:
    """Panel expression in memory, and the matrix.

    Parameters
    ----------
    sizes
        Sizes.
    """
    known = algorithm(sizes)
    cells = drawn(sizes)
    held = panel_expression(cells, known.genes)
    return held[np.arange(sizes["cells"]) % cells.n_obs], known.matrix.astype(np.float32)


def prepare_peer(sizes: Sizes) -> tuple[HookedScGPT, torch.nn.Module, ad.AnnData]:
    """Model, MLP and cells.

    Parameters
    ----------
    sizes
        Sizes.
    """
    cells = drawn({**sizes, "cells": sizes["peer_cells"]})
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
    "reading": Side(_files, reading, _seen),
    "bare": Side(_files, bare, _seen),
    "blocks": Side(_files, blocks, _seen),
    "logged": Side(_files, logged, _seen),
    "latents": Side(_files, latents, _seen),
    "gzip": Side(lambda sizes: _files(sizes, _GZIP, "gzip"), ours, _latent),
    "gzip_reading": Side(lambda sizes: _files(sizes, _GZIP, "gzip"), reading, _seen),
    "ours_fewer": Side(lambda sizes: _files(sizes, 4), ours, _latent),
    "limit": Side(prepare_limit, lambda ready: ready[0] @ ready[1], lambda _, z: {"z": z[:5]}),
    "peer": Side(prepare_peer, peer, lambda _, chance: {"chance": chance}),
}


PROCESSES = [
    ["ours", "reading", "bare", "blocks", "logged", "latents"],
    ["gzip", "gzip_reading"],
    ["ours_fewer"],
    ["limit"],
    ["peer"],
]


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
    few = drawn(sizes)
    cells = few.X[results["ours"]["rows"] % few.n_obs].toarray().astype(np.float64)
    place = [int(gene.removeprefix("GENE")) for gene in known.genes]
    dense = np.log1p(cells / cells.sum(1, keepdims=True) * 1e4)[:, place] @ known.matrix + known.offset
    difference = float(np.abs(dense - results["ours"]["latent"]).max() / np.abs(dense).max())
    if difference > 1e-4 or not np.allclose(chance.sum(1), 1, atol=1e-4) or len(chance) != sizes["peer_cells"]:
        raise SystemExit(f"The latent differs from the dense product by {difference:g}, or the peer is wrong.")
    per_cell = {
        "ours": {key: figures["ours"][key] / sizes["cells"] for key in ("seconds", "cpu_seconds")},
        "peer": {key: figures["peer"][key] / sizes["peer_cells"] for key in ("seconds", "cpu_seconds")},
    }
    cpu = {
        name: 1e6 * figures[name]["cpu_seconds"] / sizes["cells"] for name in ("blocks", "logged", "latents", "ours")
    }
    spent = {
        "reading": cpu["blocks"],
        "normalising": cpu["logged"] - cpu["blocks"],
        "multiplying": cpu["latents"] - cpu["logged"],
        "the rest": cpu["ours"] - cpu["latents"],
    }
    if results["reading"]["entries"] != results["bare"]["entries"]:
        raise SystemExit("The two ways of reading saw other values.")
    share = figures["limit"]["seconds"] / figures["ours"]["seconds"]
    growth = figures["ours"]["peak_bytes"] / figures["ours_fewer"]["peak_bytes"]
    of = {
        f"{name}{what}": figures[name][key] / figures["gzip" if name.startswith("gzip") else "ours"][key]
        for name in ("reading", "bare", "gzip_reading")
        for key, what in (("seconds", ""), ("cpu_seconds", "_cpu"))
    }
    return {
        "what": "apply: an algorithm of 1,200 x 10 weights on a file, against embedding and MLP of the same cells",
        "bounds": {"ratio": "at least 1000", "share_of_reading": "at least 0.5"},
        "share_of_reading": of["reading"],
        "shares": of,
        "spent": spent,
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
            "share of the speed of reading": of["reading"],
            "the same in processor time": of["reading_cpu"],
            "share of reading bare arrays": of["bare"],
            "the same in processor time ": of["bare_cpu"],
            "share of reading, compressed file": of["gzip_reading"],
            "the same in processor time  ": of["gzip_reading_cpu"],
            **{f"microseconds of the processor a cell, {what}": value for what, value in spent.items()},
            "memory at four times the cells": growth,
        },
        "versions": versions("torch", "scipy", "numpy", "anndata"),
    }


def main() -> None:
    options = arguments(
        __doc__,
        threads={"type": int, "default": 1, "help": "threads of PyTorch for the peer (default: 1)"},
        cells={"type": int, "help": "cells of our file (default: 100,000; with --full 1,000,000)"},
    )
    if options.serve:
        return serve(SIDES, options.serve)
    outer = 1 if options.full else 2
    sizes = {**(FULL if options.full else SIZES), "threads": options.threads}
    sizes["cells"] = options.cells or sizes["cells"]
    figures, results = measure(__file__, PROCESSES, sizes, TOY, outer)
    show(report(figures, results, {**sizes, "repetitions": outer}), options.json)


if __name__ == "__main__":
    main()
