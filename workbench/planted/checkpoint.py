"""A planted checkpoint: one head's operator encodes the stage graph, all others are random with the same norms."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from workbench.errors import CheckpointError
from workbench.models.scgpt.components import Attention
from workbench.models.scgpt.config import ModelConfig
from workbench.models.scgpt.hooked import HookedScGPT
from workbench.models.scgpt.planted import plant_values, put
from workbench.models.vocabulary import Vocabulary
from workbench.planted.cells import World
from workbench.seeds import generator, key

_LOGIT = 3.0  # attention score between two genes of one program


@dataclass(frozen=True)
class PlantedModel:
    """A planted checkpoint and what is known of it.

    Attributes
    ----------
    model
        Model in evaluation mode, with float32 weights that need no gradient.
    world
        World whose stage graph the planted head encodes.
    layer, head
        Place of the planted head, both counted from 0.
    read
        Orthonormal basis of what the planted operator reads from expression: the span of its program marks over genes,
        centred, because what all genes share does not tell which gene it is.
    planted
        False where the place holds a random head like all others.
    """

    model: HookedScGPT
    world: World
    layer: int
    head: int
    read: Float[np.ndarray, "gene program"]
    planted: bool


def plant_world(
    world: World,
    seed: int,
    *,
    n_layers: int = 4,
    n_heads: int = 8,
    d_model: int = 64,
    layer: int | None = None,
    head: int | None = None,
    planted: bool = True,
) -> PlantedModel:
    """Make a model in which one head encodes a world's graph.

    A gene's embedding is a random direction and, for genes of a program or a nuisance set, the mark of that set: nuisance
    has as coherent directions as the programs have. The planted head has W_Q W_K^T and W_V W_O proportional to
    sum_pq M_pq mark_p mark_q^T with M_pq = exp(-4 distance of the tips of branches p and q on the ruler), so that its
    ``qk``, ``ov`` and ``attention`` operators tie genes together as near as their branches are on the graph. All other
    heads are random, read every direction, and have the Frobenius norms of the planted one; they and the MLPs write to
    none of the marks, so these reach every layer.

    Parameters
    ----------
    world
        World whose programs and stage graph are planted; its genes are the vocabulary.
    seed
        Seed of the weights, and of the head's place where none is given.
    n_layers, n_heads
        Layers, and heads of each layer; one of all is planted.
    d_model
        Width of the stream, a multiple of `n_heads`. Width per head must be at least the number of programs.
    layer, head
        Place of the planted head; drawn when None.
    planted
        False: the same model with a random head in that place.

    Raises
    ------
    CheckpointError
        If the shape has no room for the programs, or the place does not exist.
    """
    n_programs, n_marks = len(world.tips), len(world.tips) + world.shape.n_nuisance
    if d_model % n_heads or d_model // n_heads < n_programs or d_model < n_marks + 8:
        raise CheckpointError(
            f"{n_programs} programs and {world.shape.n_nuisance} nuisance sets need a head width of {n_programs} and d_model of "
            f"{n_marks + 8}. Found {n_heads} heads of width {d_model / n_heads:g}, d_model {d_model}."
        )
    rng = generator(seed, "planted world checkpoint")
    at = int(rng.integers(n_layers)), int(rng.integers(n_heads))
    layer, head = at[0] if layer is None else layer, at[1] if head is None else head
    if not (0 <= layer < n_layers and 0 <= head < n_heads):
        raise CheckpointError(f"Head L{layer}H{head} does not exist in {n_layers} layers of {n_heads} heads.")
    vocabulary = Vocabulary.of_genes(list(world.genes))
    n_genes = len(world.genes)
    config = ModelConfig(len(vocabulary), d_model, n_layers, n_heads, d_model, max_tokens=n_genes + 1)
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they were
        torch.default_generator.manual_seed(key(seed, "planted world decoders") % 2**63)
        model = HookedScGPT(config, vocabulary).requires_grad_(False).eval()
    # Orthogonal to the all-ones vector, which every LayerNorm takes out.
    basis = np.linalg.qr(np.column_stack([np.ones(d_model), rng.standard_normal((d_model, n_marks + 2))]))[0][:, 1:]
    marks, value, constant = basis[:, :n_marks], basis[:, -2], basis[:, -1]
    free = np.eye(d_model) - basis @ basis.T - 1 / d_model
    mark_of = np.where(world.program >= 0, world.program, n_programs + world.nuisance)
    embedding = _unit(rng.standard_normal((len(vocabulary), d_model)) @ free)
    marked = np.flatnonzero((world.program >= 0) | (world.nuisance >= 0))
    ids = np.array(vocabulary.encode(world.genes))
    embedding[ids[marked]] += world.sign[marked, None] * marks.T[mark_of[marked]]
    embedding[vocabulary.pad_id] = 0
    # Half of the square of a gene's embedding lies along its mark, and a quarter of its stream's after the first block,
    # where the LayerNorm has taken gene and value together; both squares are d_model.
    along = d_model / (2 if layer == 0 else 4)
    strength = float(np.sqrt(_LOGIT * np.sqrt(d_model // n_heads) / along))
    core = _root(world.nearness)
    with torch.no_grad():
        put(model.embed.gene.embedding.weight, embedding)
        plant_values(model, value, constant)
        for i in range(n_layers):
            block = model.block(i)
            own = head if planted and i == layer else None
            set_heads(block.attn, rng, marks[:, :n_programs] @ core, free, own, strength)
            into, back = rng.standard_normal((2, d_model, d_model)) * d_model**-0.5
            put(block.mlp.linear1.weight, into)
            put(block.mlp.linear1.bias, np.zeros(d_model))
            put(block.mlp.linear2.weight, 0.3 * free @ back)
            put(block.mlp.linear2.bias, np.zeros(d_model))
    read = np.linalg.qr(world.members - world.members.mean(0))[0]
    return PlantedModel(model, world, layer, head, read, planted)


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def _root(positive: np.ndarray) -> np.ndarray:
    """Symmetric square root, scaled to a largest diagonal of 1 in its square."""
    values, vectors = np.linalg.eigh(positive / positive.diagonal().max())
    return vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T


def set_heads(
    attn: Attention, rng: np.random.Generator, graph: np.ndarray, free: np.ndarray, planted: int | None, strength: float
) -> None:
    """Random heads, one of them replaced by the graph; W_Q, W_K, W_V, W_O of all have the same norms.

    Parameters
    ----------
    attn
        Attention of a layer, whose weights are set.
    rng
        Generator of the random heads.
    graph
        What the planted head reads and writes: width of the stream by some directions, no more than the width of a head.
    free
        Projection that keeps what heads write off directions that are set aside.
    planted
        Number of the planted head; None where the layer has none.
    strength
        Factor of W_Q and W_K, which sets how large scores are.
    """
    d, n, e = len(graph), attn.n_heads, attn.d_head
    size = np.linalg.norm(graph)
    q, k, v, o = (rng.standard_normal((n, d, e)) for _ in range(4))
    o = free @ o
    q, k, v, o = (size * w / np.linalg.norm(w, axis=(1, 2), keepdims=True) for w in (q, k, v, o))
    turn = np.linalg.qr(rng.standard_normal((e, e)))[0][: graph.shape[1]]
    if planted is not None:
        q[planted] = k[planted] = v[planted] = o[planted] = graph @ turn
    q, k = strength * q, strength * k
    v, o = v / size, o / size
    stacked = np.concatenate([w.transpose(0, 2, 1).reshape(n * e, d) for w in (q, k, v)])
    put(attn.qkv.weight, stacked)
    put(attn.qkv.bias, np.zeros(3 * d))
    put(attn.out.weight, o.transpose(1, 0, 2).reshape(d, n * e))
    put(attn.out.bias, np.zeros(d))
