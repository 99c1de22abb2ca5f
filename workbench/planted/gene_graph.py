"""A planted graph of genes: one head's operator encodes how far genes are from each other on it, or nothing does."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from workbench.evidence.gene_ruler import build_gene_ruler
from workbench.evidence.ruler import Ruler
from workbench.models.scgpt.config import ModelConfig
from workbench.models.scgpt.hooked import HookedScGPT
from workbench.models.scgpt.planted import plant_values, put
from workbench.models.vocabulary import Vocabulary
from workbench.planted.checkpoint import set_heads
from workbench.seeds import generator, key

# Axes of the graph that the planted head reads.
_AXES = 6
_LOGIT = 3.0


@dataclass(frozen=True)
class PlantedGenes:
    """A checkpoint over genes of a known graph.

    Attributes
    ----------
    model
        Model in evaluation mode, with float32 weights that need no gradient.
    ruler
        Graph of the genes: a chain of genes in which further edges are drawn, towards hubs.
    level
        Expression level of each gene of the ruler. Neighbours on the graph are alike in it, and the gene table encodes it, planted or not.
    layer, head
        Place of the head that reads the graph.
    planted
        False where the gene table holds no place on the graph, and that head is random like all others.
    """

    model: HookedScGPT
    ruler: Ruler
    level: Float[np.ndarray, " gene"]
    layer: int
    head: int
    planted: bool


def plant_gene_graph(
    seed: int, *, planted: bool = True, n_genes: int = 80, strength: float = 1.0, share: float = 1.0
) -> PlantedGenes:
    """Make a model whose gene table holds places on a graph of genes, which one head reads.

    A gene's embedding is a random direction, its expression level along one direction and its degree along another, in both worlds: linked genes
    are alike in both. Where it is planted, classical scaling of the graph's distances lies along six more, and one head has
    W_Q W_K^T over these.

    Parameters
    ----------
    seed
        Seed of graph, levels and weights.
    planted
        False: neither the places nor the head.
    n_genes
        Genes of the graph, 20 or more.
    strength
        Length of a gene's place on the graph beside its random direction, which has length 1.
    share
        Cosine of a gene's place with the true one, from 0 to 1; the rest of it is random.
    """
    rng = generator(seed, "planted graph of genes")
    ruler = _graph(rng, n_genes)
    places = _scaled(ruler.distances, _AXES)
    level = _standard(places[:, 0] + 0.7 * places[:, 1] + 0.7 * rng.standard_normal(n_genes))
    degree = _standard(np.log(np.bincount(np.array([edge[:2] for edge in ruler.edges]).ravel(), minlength=n_genes)))
    vocabulary = Vocabulary.of_genes(list(ruler.stages))
    d_model, n_layers, n_heads = 64, 2, 4
    config = ModelConfig(len(vocabulary), d_model, n_layers, n_heads, d_model, max_tokens=n_genes + 1)
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they were
        torch.default_generator.manual_seed(key(seed, "planted graph decoders") % 2**63)
        model = HookedScGPT(config, vocabulary).requires_grad_(False).eval()
    basis = np.linalg.qr(np.column_stack([np.ones(d_model), rng.standard_normal((d_model, _AXES + 4))]))[0][:, 1:]
    marks, of_level, of_degree = basis[:, :_AXES], basis[:, _AXES], basis[:, _AXES + 1]
    free = np.eye(d_model) - basis @ basis.T - 1 / d_model
    embedding = rng.standard_normal((len(vocabulary), d_model)) @ free
    embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
    ids = np.array(vocabulary.encode(ruler.stages))
    embedding[ids] += 0.3 * (np.outer(level, of_level) + np.outer(degree, of_degree))
    if planted:
        other = generator(seed, "places beside the graph").standard_normal(places.shape)
        other -= (other * places).sum(1, keepdims=True) * places
        held = share * places + np.sqrt(1 - share**2) * other / np.linalg.norm(other, axis=1, keepdims=True)
        embedding[ids] += strength * held @ marks.T
    embedding[vocabulary.pad_id] = 0
    layer, head = int(rng.integers(n_layers)), int(rng.integers(n_heads))
    with torch.no_grad():
        put(model.embed.gene.embedding.weight, embedding)
        plant_values(model, basis[:, -2], basis[:, -1])
        for i in range(n_layers):
            own = head if planted and i == layer else None
            set_heads(model.block(i).attn, rng, marks, free, own, float(np.sqrt(_LOGIT / d_model**0.5)))
    return PlantedGenes(model, ruler, level, layer, head, planted)


def _graph(rng: np.random.Generator, n: int) -> Ruler:
    """A connected graph in which some genes have many edges and most have few."""
    links: list[tuple[str, str, float]] = []
    ends: list[int] = [0]
    for i in range(1, n):
        # Half by the number of edges, half by nearness in the order of arrival, so that there are hubs as well as neighbourhoods.
        to = ends[rng.integers(len(ends))] if rng.random() < 0.3 else int(rng.integers(max(0, i - 6), i))
        links.append((f"G{i}X", f"G{to}X", float(rng.uniform(0.5, 1.5))))
        ends += [i, to]
    near = rng.integers(0, n, n // 4)
    links += [
        (f"G{a}X", f"G{min(n - 1, a + int(step))}X", 1.0)
        for a, step in zip(near, rng.integers(1, 9, n // 4), strict=True)
    ]
    return build_gene_ruler("planted graph", links, lengths="square root", groups={}, about="Planted; no biology.")


def _scaled(distances: np.ndarray, axes: int) -> np.ndarray:
    """Classical scaling, each point of length 1."""
    n = len(distances)
    centre = np.eye(n) - 1 / n
    values, vectors = np.linalg.eigh(-0.5 * centre @ distances**2 @ centre)
    places = vectors[:, ::-1][:, :axes] * np.sqrt(np.maximum(values[::-1][:axes], 0))
    return places / np.linalg.norm(places, axis=1, keepdims=True)


def _standard(values: np.ndarray) -> np.ndarray:
    return (values - values.mean()) / values.std()
