"""A planted dictionary: a checkpoint whose residual stream is a sparse code that is known, and cells to run through it.

On it, causes are planted: one feature that all outputs depend on (`plant_cause`), and one that makes another (`plant_chain`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from jaxtyping import Float

from workbench.dictionaries.dictionary import Dictionary, Origin, vocabulary_hash
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


@dataclass(frozen=True)
class PlantedCause:
    """A planted code of which one feature does something.

    Attributes
    ----------
    planted
        Checkpoint and cells, with the code that its stream is in front of the first block.
    feature
        Number of the feature that does it.
    dictionaries
        Dictionaries that know the code: of the stream in front of the first block, and for a chain of that behind it, whose last feature is
        the one that is made.
    """

    planted: PlantedDictionary
    feature: int
    dictionaries: tuple[Dictionary, ...]


def plant_cause(seed: int, *, gain: float = 4.0, **shape: int) -> PlantedCause:
    """Make a checkpoint whose cell embedding depends on one planted feature, and otherwise on nothing.

    The first block attends evenly to all genes, reads one feature's direction of them and writes it into another direction; all else in
    the blocks is zero.

    Parameters
    ----------
    seed
        Seed of the code, of the feature that is chosen, and of the direction it is written into.
    gain
        What is written, over what is read; 0 for a world in which no feature does anything.
    **shape
        As `plant_dictionary` takes them; of features there are 48 by default, fewer than the stream is wide, so that an encoder of one layer
        reads the code without error.
    """
    planted, feature, rng = _still(seed, "planted cause", shape)
    block, d = planted.model.block(0), planted.model.config.d_model
    written = _unit(rng, d)
    with torch.no_grad():
        block.attn.qkv.weight[2 * d] = torch.as_tensor(planted.directions[feature])  # type: ignore[attr-defined]
        block.attn.out.weight[:, 0] = gain * torch.as_tensor(written, dtype=torch.float32)  # type: ignore[attr-defined]
    known = _knowing(planted, planted.hook, planted.directions)
    return PlantedCause(planted, feature, (known,))


def plant_chain(seed: int, *, gain: float = 1.0, **shape: int) -> PlantedCause:
    """Make a checkpoint in which one planted feature makes another behind the first block, gene by gene.

    The first block's MLP reads one feature's direction and writes a direction that the code in front of it does not have. All other
    features pass as they are, but for what the LayerNorm takes off them.

    Parameters
    ----------
    seed
        Seed of the code, of the feature that is chosen, and of the new direction.
    gain
        What is written, over what is read; 0 for a world in which the new feature never fires.
    **shape
        Numbers of genes, cells and features, as `plant_cause` takes them.
    """
    planted, feature, rng = _still(seed, "planted chain", shape)
    block, d = planted.model.block(0), planted.model.config.d_model
    made = _unit(rng, d)
    # None of it lies in the code, or it would be there before it is made.
    basis = np.linalg.qr(planted.directions.T.astype(np.float64))[0]
    made -= basis @ (basis.T @ made)
    made /= np.linalg.norm(made)
    reads = np.linalg.pinv(planted.directions.astype(np.float64))[:, feature]
    with torch.no_grad():
        block.mlp.linear1.weight[0] = torch.as_tensor(reads, dtype=torch.float32)  # type: ignore[attr-defined]
        block.mlp.linear2.weight[:, 0] = gain * torch.as_tensor(made, dtype=torch.float32)  # type: ignore[attr-defined]
    after = np.concatenate([planted.directions, made[None].astype(np.float32)])
    known = _knowing(planted, planted.hook, planted.directions), _knowing(planted, "blocks.0.hook_resid_post", after)
    return PlantedCause(planted, feature, known)


def _still(seed: int, what: str, shape: Mapping[str, int]) -> tuple[PlantedDictionary, int, np.random.Generator]:
    """A planted code that passes all blocks as it is, and a feature of it drawn at random."""
    given = {"n_features": 48, "n_genes": 600, "n_cells": 40, "genes_per_cell": 100, **shape}
    planted, rng = plant_dictionary(seed, **given), generator(seed, what)
    with torch.no_grad():
        for name, value in planted.model.named_parameters():
            if name.startswith("blocks.") and "norm" not in name:
                value.zero_()
    return planted, int(rng.integers(given["n_features"])), rng


def _unit(rng: np.random.Generator, d: int) -> Float[np.ndarray, " d_model"]:
    """A random direction without the mean that a LayerNorm takes off."""
    one = rng.standard_normal(d)
    one -= one.mean()
    return one / np.linalg.norm(one)


def _knowing(planted: PlantedDictionary, hook: str, directions: np.ndarray) -> Dictionary:
    """The dictionary that reads a code of fewer features than the stream is wide without error."""
    if len(directions) >= planted.model.config.d_model:
        raise CheckpointError(
            f"{len(directions)} features of a stream of {planted.model.config.d_model} numbers have no encoder of one layer that knows them; ask for fewer."
        )
    encoder = np.linalg.pinv(directions.astype(np.float64))
    weights = {
        "W_enc": torch.as_tensor(encoder, dtype=torch.float32),
        # Rounding is no firing.
        "b_enc": torch.full((len(directions),), -1e-3),
        "W_dec": torch.as_tensor(directions, dtype=torch.float32),
        "b_dec": torch.zeros(directions.shape[1]),
    }
    model = planted.model
    origin = Origin(hook, hook, model.fingerprint(), vocabulary_hash(model), (model.config.d_model,))
    return Dictionary("standard", weights, origin)
