"""Planted cells of a few types, by counts, and an algorithm that was trained on them: for what is said of other cells."""

from __future__ import annotations

import functools

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

import workbench
from workbench.operators.algorithm import Algorithm
from workbench.operators.exporting import HeldOutEncoder, TrainingCells, export_readouts
from workbench.operators.readout import Endpoint

TYPES, N_GENES, K = ("B", "NK", "T4", "T8", "mono"), 120, 4
PANEL = tuple(f"G{i}" for i in range(N_GENES))


@functools.cache
def rates() -> np.ndarray:
    """Expected share of counts of each gene in each type: programs of 12 genes, of which T4 and T8 share one."""
    rng = np.random.default_rng(7)
    base = rng.gamma(0.6, size=N_GENES)
    found = np.tile(base, (len(TYPES), 1))
    for i in range(len(TYPES)):
        found[i, 12 * i : 12 * i + 12] *= 2.5
    found[2:4, 72:96] *= 2.0
    return found / found.sum(1, keepdims=True)


def world(n: int, seed: int, library: float = 700.0, shares=None, batch: float = 0.0) -> ad.AnnData:
    """Counts of cells of planted types; `batch` is the spread of a factor that each gene has in this study."""
    rng = np.random.default_rng(seed)
    kind = rng.choice(len(TYPES), n, p=shares)
    sizes = rng.lognormal(np.log(library), 0.3, n)
    factor = np.exp(batch * rng.standard_normal(N_GENES))
    mean = rates()[kind] * factor
    counts = rng.poisson(mean / mean.sum(1, keepdims=True) * sizes[:, None]).astype(np.float32)
    obs = pd.DataFrame({"cell_type": np.array(TYPES)[kind]}, index=[f"s{seed}_{i}" for i in range(n)])
    return ad.AnnData(sp.csr_matrix(counts), obs=obs, var=pd.DataFrame(index=list(PANEL)))


def without(cells: ad.AnnData, share: float, seed: int = 0) -> ad.AnnData:
    """The cells with a share of the genes."""
    kept = np.sort(np.random.default_rng(seed).permutation(len(PANEL))[: round(share * len(PANEL))])
    return cells[:, kept].copy()


def right(found, cells: ad.AnnData) -> float:
    """Share of cells whose most probable type is their own."""
    said = np.array(found.classes["stage"])[found.probabilities["stage"].argmax(1)]
    return float((said == cells.obs["cell_type"].to_numpy()).mean())


def loaded(cells: ad.AnnData) -> ad.AnnData:
    return workbench.load(cells, values="counts", cell_type="cell_type")


def training(n: int = 400, seed: int = 0, order=None, genes=None) -> tuple[TrainingCells, np.ndarray]:
    from workbench.cells.expression import panel_expression

    cells = world(n, seed)
    cells = cells if order is None else cells[order].copy()
    genes = PANEL if genes is None else genes
    x, labels = panel_expression(loaded(cells), genes), cells.obs["cell_type"].to_numpy(dtype=str)
    t_cell = np.isin(labels, ("T4", "T8"))
    wanted = [
        Endpoint("stage", "classes", labels, np.arange(n)),
        Endpoint("T4 against T8", "binary", labels == "T4", np.flatnonzero(t_cell)),
        Endpoint(
            "depth", "depth", x.sum(1).A1 if hasattr(x.sum(1), "A1") else np.asarray(x.sum(1)).ravel(), np.arange(n)
        ),
    ]
    return TrainingCells(x, cells.obs_names.to_numpy(dtype=str), genes, wanted), labels


def encoder(cells: TrainingCells, labels: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Differences of class means as a latent, orthogonalised: linear, and without randomness."""
    x = cells.x.toarray().astype(float)
    means = np.stack([x[inside & (labels == one)].mean(0) for one in TYPES])
    matrix = np.linalg.svd(means - means.mean(0), full_matrices=False)[2][:K].T
    matrix = matrix * np.sign(matrix[np.abs(matrix).argmax(0), np.arange(K)])
    return matrix, -means.mean(0) @ matrix


def exported(cells: TrainingCells, labels: np.ndarray):
    n = len(labels)
    # By name, so that the order of cells decides no fold.
    fold = np.array([int(name.split("_")[1]) % 4 for name in cells.names])
    inner = [HeldOutEncoder(*encoder(cells, labels, fold != k), fold == k) for k in range(4)]
    matrix, offset = encoder(cells, labels, np.ones(n, dtype=bool))
    return (matrix, offset, *export_readouts(cells, matrix, offset, inner))


@functools.cache
def made():
    """What is exported of the training cells as they are. Read only."""
    return exported(*training())


@functools.cache
def algorithm() -> Algorithm:
    matrix, offset, readouts, reference = made()
    return Algorithm(PANEL, matrix, offset, readouts, {"data": "planted"}, reference)
