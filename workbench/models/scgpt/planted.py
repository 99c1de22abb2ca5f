"""A checkpoint with a known mechanism: one head alone carries a known signal to the cell embedding.

For testing methods: what they should find is known, because it was put there. Nothing here is trained, and nothing here
is biology. The format is scGPT's (`save_checkpoint` writes it), so everything that reads a checkpoint reads this one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from anndata import AnnData
from jaxtyping import Float

from workbench.errors import CheckpointError
from workbench.models.scgpt.components import Attention
from workbench.models.scgpt.config import ModelConfig
from workbench.models.scgpt.embedding import ContinuousValues
from workbench.models.scgpt.hooked import HookedScGPT
from workbench.models.vocabulary import Vocabulary
from workbench.seeds import generator, key

N_SIGNAL = 6
LABEL = "planted_label"


@dataclass(frozen=True)
class Planted:
    """A planted checkpoint and what is known of it.

    Attributes
    ----------
    model
        The model, in evaluation mode.
    layer, head
        The head that carries the signal.
    direction
        The direction of the residual stream that it writes to, of length 1; no other part of the model reads or writes
        it, but the LayerNorms rescale it together with everything else.
    genes
        The genes it reads: in cells of class ``up`` they are highly expressed, in cells of class ``down`` hardly.
    opposite
        As many genes that behave the other way round, so that the quantile bins of all other genes do not tell the
        class; no head reads their values.
    """

    model: HookedScGPT
    layer: int
    head: int
    direction: Float[np.ndarray, " d_model"]
    genes: tuple[str, ...]
    opposite: tuple[str, ...]


def plant_head(
    seed: int = 0,
    *,
    n_layers: int = 4,
    n_heads: int = 4,
    d_model: int = 32,
    n_genes: int = 60,
    layer: int | None = None,
    head: int | None = None,
) -> Planted:
    """Make a model in which one head alone carries the level of some genes to ``<cls>``.

    Five directions of the residual stream are set aside: a mark on the signal genes, a mark on ``<cls>``, the expression
    value, a constant of the value encoder, and the output. The planted head's query reads the mark of ``<cls>``, its key
    the mark of the genes, its value the expression value, and it writes the output direction. All other heads and all
    MLPs are random and neither read nor write these directions; the matrices of the other heads have the Frobenius norms
    of the planted head's.

    Parameters
    ----------
    seed
        Of the weights, and of the head's place where none is given.
    n_layers, n_heads, d_model, n_genes
        Shape; a head needs at least two dimensions.
    layer, head
        Place of the planted head; drawn when None.

    Returns
    -------
    Planted

    Raises
    ------
    CheckpointError
        If the shape has no room for the signal, or the place does not exist.
    """
    if d_model < 16 or d_model // n_heads < 2 or n_genes < 4 * N_SIGNAL:
        raise CheckpointError(
            f"A planted head needs d_model >= 16, two dimensions a head and {4 * N_SIGNAL} genes; found d_model {d_model}, "
            f"{n_heads} heads and {n_genes} genes."
        )
    rng = generator(seed, "planted")
    at = int(rng.integers(n_layers)), int(rng.integers(n_heads))
    layer, head = at[0] if layer is None else layer, at[1] if head is None else head
    if not (0 <= layer < n_layers and 0 <= head < n_heads):
        raise CheckpointError(f"Head L{layer}H{head} does not exist in {n_layers} layers of {n_heads} heads.")
    vocabulary = Vocabulary.of_genes([f"GENE{i:03d}" for i in range(n_genes)])
    config = ModelConfig(len(vocabulary), d_model, n_layers, n_heads, d_model, max_tokens=n_genes + 1)
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they were
        torch.default_generator.manual_seed(key(seed, "planted decoders") % 2**63)
        # The decoders keep PyTorch's own random weights.
        model = HookedScGPT(config, vocabulary).requires_grad_(False).eval()
    # Orthogonal to the all-ones vector, which every LayerNorm takes out.
    basis = np.linalg.qr(np.column_stack([np.ones(d_model), rng.standard_normal((d_model, 5))]))[0][:, 1:]
    mark, ask, value, constant, output = basis.T
    free = np.eye(d_model) - basis @ basis.T
    chosen = rng.permutation(n_genes)
    signal, opposite = chosen[:N_SIGNAL], chosen[N_SIGNAL : 2 * N_SIGNAL]
    names = vocabulary.decode(range(len(vocabulary)))
    genes = [f"GENE{i:03d}" for i in sorted(signal)]

    with torch.no_grad():
        embedding = _unit(rng.standard_normal((len(vocabulary), d_model)) @ free)
        embedding[vocabulary.encode(genes)] += mark
        embedding[names.index("<cls>")] += ask
        embedding[vocabulary.pad_id] = 0
        put(model.embed.gene.embedding.weight, embedding)
        plant_values(model, value, constant)
        for i in range(n_layers):
            block = model.block(i)
            _plant_attention(block.attn, rng, free, head if i == layer else None, (mark, ask, value, output))
            into, back = rng.standard_normal((2, d_model, d_model)) * d_model**-0.5
            put(block.mlp.linear1.weight, into @ free)
            put(block.mlp.linear1.bias, np.zeros(d_model))
            put(block.mlp.linear2.weight, 0.3 * free @ back)
            put(block.mlp.linear2.bias, np.zeros(d_model))
    others = tuple(f"GENE{i:03d}" for i in sorted(opposite))
    return Planted(model, layer, head, output, tuple(genes), others)


def put(parameter: torch.Tensor, array: np.ndarray) -> None:
    """Set a parameter in place.

    Parameters
    ----------
    parameter, array
        Parameter to fill and its new values, of one shape.
    """
    parameter.copy_(torch.as_tensor(array, dtype=parameter.dtype))


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def plant_values(model: HookedScGPT, value: np.ndarray, constant: np.ndarray) -> None:
    """Make the value encoder a line: bin 0 to the highest bin along a direction from -1 to 1, beside a constant.

    Parameters
    ----------
    model
        With a continuous value encoder.
    value, constant
        Directions of length 1, at right angles to each other.
    """
    encoder, d = model.embed.value, len(value)
    assert isinstance(encoder, ContinuousValues)
    middle = (model.config.n_bins - 1) / 2
    first = np.zeros((d, 1))
    first[0] = 1 / middle
    second = np.zeros((d, d))
    second[:, 0] = value
    put(encoder.linear1.weight, first)
    put(encoder.linear1.bias, np.zeros(d))
    put(encoder.linear2.weight, second)
    put(encoder.linear2.bias, constant - value)


def _plant_attention(
    attn: Attention,
    rng: np.random.Generator,
    free: np.ndarray,
    planted: int | None,
    directions: tuple[np.ndarray, ...],
) -> None:
    """Random heads beside the planted one, all with the same norms."""
    mark, ask, value, output = directions
    d, n, e = len(mark), attn.n_heads, attn.d_head
    strength = np.sqrt(0.75 * np.sqrt(e))
    q, k, v, o = (rng.standard_normal((n, d, e)) for _ in range(4))
    # In the residual stream's own terms: q, k and v read from columns of `free`, o writes into them.
    q, k, v, o = free @ q, free @ k, free @ v, free @ o
    size = np.linalg.norm
    q, k = (strength * w / size(w, axis=(1, 2), keepdims=True) for w in (q, k))
    v, o = (w / size(w, axis=(1, 2), keepdims=True) for w in (v, o))
    if planted is not None:
        first, second = np.eye(e)[:2]
        q[planted], k[planted] = strength * np.outer(ask, first), strength * np.outer(mark, first)
        v[planted], o[planted] = np.outer(value, second), np.outer(output, second)
    stacked = np.concatenate([w.transpose(0, 2, 1).reshape(n * e, d) for w in (q, k, v)])
    put(attn.qkv.weight, stacked)
    put(attn.qkv.bias, np.zeros(3 * d))
    put(attn.out.weight, o.transpose(1, 0, 2).reshape(d, n * e))
    put(attn.out.bias, np.zeros(d))


def planted_cells(planted: Planted, n_cells: int = 80, seed: int = 0, expressed: float = 0.7) -> AnnData:
    """Synthetic counts in which the planted genes follow a class.

    Parameters
    ----------
    planted
        Description of the model, with its signal genes.
    n_cells
        Cells, half of either class.
    seed
        Seed of classes, rates and counts.
    expressed
        Chance that a cell expresses a gene that has nothing to do with the class.

    Returns
    -------
    AnnData
        Counts; ``obs["planted_label"]`` is ``up`` or ``down``.
    """
    rng = generator(seed, "planted cells")
    names = list(planted.model.vocabulary.genes)
    label = rng.permutation(np.arange(n_cells) % 2)
    rate = np.tile(np.exp(rng.normal(2.5, 0.7, len(names))), (n_cells, 1))
    there = rng.random(rate.shape) < expressed
    for group, sign in ((planted.genes, 1), (planted.opposite, -1)):
        at = [names.index(gene) for gene in group]
        rate[:, at] = np.exp(2.5 + 1.8 * sign * (2 * label[:, None] - 1) + rng.normal(0, 0.4, (n_cells, len(at))))
        there[:, at] = True
    counts = np.where(there, rng.poisson(rate) + 1, 0).astype(np.float32)
    obs = pd.DataFrame({LABEL: np.where(label == 1, "up", "down")}, index=[f"cell{i:04d}" for i in range(n_cells)])
    return AnnData(sp.csr_matrix(counts), obs=obs, var=pd.DataFrame(index=names))
