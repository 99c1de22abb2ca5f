"""A planted dictionary: a checkpoint whose residual stream is a sparse code that is known, and cells to run through it."""

from __future__ import annotations

from dataclasses import dataclass

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from jaxtyping import Float

from workbench.errors import CheckpointError
from workbench.models.scgpt.config import ModelConfig
from workbench.models.scgpt.hooked import HookedScGPT
from workbench.models.vocabulary import Vocabulary
from workbench.seeds import generator, key


@dataclass(frozen=True)
class PlantedDictionary:
    """A checkpoint, cells, and the code that its stream is.

    Attributes
    ----------
    model
        Model in evaluation mode; at `hook` a gene's activation is its row of `codes` times `directions`.
    cells
        Counts of random genes, with cell types that express other programs.
    hook
        Name of the hook at which the code is known.
    directions
        What each planted feature writes, rows of length 1.
    codes
        How much of each feature a gene has, in the order of ``cells.var_names``; few entries are above 0.
    """

    model: HookedScGPT
    cells: ad.AnnData
    hook: str
    directions: Float[np.ndarray, "feature d_model"]
    codes: Float[np.ndarray, "gene feature"]


def plant_dictionary(
    seed: int,
    *,
    n_genes: int = 3000,
    n_cells: int = 120,
    n_features: int = 96,
    active: int = 3,
    d_model: int = 64,
    genes_per_cell: int = 250,
) -> PlantedDictionary:
    """Make a checkpoint whose stream in front of the first block is a sparse code of genes.

    Each gene has `active` features of random size, and its embedding is their sum. Directions are random, without the mean that a
    LayerNorm takes off; the norm's scale is made part of the code. Values add nothing. Blocks above are as PyTorch draws them.

    Parameters
    ----------
    seed
        Seed of directions, codes, cells and the other weights.
    n_genes, n_cells
        Genes of the vocabulary, and cells.
    n_features, active
        Planted features, and how many of them a gene has.
    d_model
        Width of the residual stream, a multiple of four.
    genes_per_cell
        Genes that a cell expresses.

    Raises
    ------
    CheckpointError
        If a gene would have more features than there are, or a cell more genes.
    """
    if active > n_features or genes_per_cell > n_genes:
        raise CheckpointError(
            f"{active} of {n_features} features and {genes_per_cell} of {n_genes} genes were asked for; give parts that are no "
            "larger than the whole."
        )
    rng = generator(seed, "planted dictionary")
    directions = rng.standard_normal((n_features, d_model))
    directions -= directions.mean(1, keepdims=True)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    codes = np.zeros((n_genes, n_features))
    for gene in range(n_genes):
        codes[gene, rng.permutation(n_features)[:active]] = rng.uniform(0.5, 1.5, active)
    rows = codes @ directions
    # What the LayerNorm makes of a row without a mean is the row, divided by its spread.
    codes /= np.sqrt(rows.var(1) + 1e-5)[:, None]
    names = [f"GENE{i}" for i in range(n_genes)]
    vocabulary = Vocabulary({name: i for i, name in enumerate((*names, "<pad>", "<cls>", "<eoc>"))})
    config = ModelConfig(
        n_tokens=len(vocabulary), d_model=d_model, n_layers=2, n_heads=4, d_mlp=d_model, n_bins=51, max_tokens=1200
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(key(seed, "planted dictionary") % 2**63)
        model = HookedScGPT(config, vocabulary)
    with torch.no_grad():
        model.embed.gene.embedding.weight[:n_genes] = torch.as_tensor(rows, dtype=torch.float32)
        model.embed.gene.enc_norm.weight.fill_(1)
        model.embed.gene.enc_norm.bias.zero_()
        for name in ("weight", "bias"):
            model.get_parameter(f"embed.value.norm.{name}").zero_()
    matrix = np.zeros((n_cells, n_genes), dtype=np.float32)
    for cell in range(n_cells):
        matrix[cell, rng.permutation(n_genes)[:genes_per_cell]] = rng.integers(1, 20, genes_per_cell)
    obs = pd.DataFrame(index=[f"cell{i}" for i in range(n_cells)])
    cells = ad.AnnData(sp.csr_matrix(matrix), obs=obs, var=pd.DataFrame(index=names))
    cells.uns["workbench"] = {"values": "counts"}
    model = model.requires_grad_(False).eval()
    return PlantedDictionary(
        model, cells, "blocks.0.hook_resid_pre", directions.astype(np.float32), codes.astype(np.float32)
    )
