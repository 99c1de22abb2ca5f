"""Checkpoints in which a known circuit of heads and MLPs brings a label to the cell embedding: redundant, divided, through an MLP, in series."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from anndata import AnnData

from workbench.models.scgpt.config import ModelConfig
from workbench.models.scgpt.hooked import HookedScGPT
from workbench.models.scgpt.planted import plant_values, put
from workbench.models.vocabulary import Vocabulary
from workbench.seeds import generator, key

LAYERS, HEADS, WIDTH, GENES, SET, CELLS = 3, 4, 48, 60, 6, 64
REDUNDANT, MANY, THROUGH_MLP, SERIES = (
    "two redundant heads",
    "six heads, a sixth each",
    "through an MLP",
    "two layers in series",
)
CIRCUITS = (REDUNDANT, MANY, THROUGH_MLP, SERIES)
# Directions of the stream that are set aside: marks of three sets of genes and of <cls>, the value, a constant, two in between, the output.
A, B, C, ASK, VALUE, CONSTANT, ONE, TWO, OUT = range(9)


@dataclass(frozen=True)
class Wire:
    """A head that carries something.

    Attributes
    ----------
    layer, head
        Its place, both counted from 0.
    query, key, value, output
        Numbers of the directions that its query, key and value read, and that it writes.
    gain
        Norm of what it writes, where that of other heads is 1.
    """

    layer: int
    head: int
    query: int
    key: int
    value: int
    output: int
    gain: float = 1.0

    @property
    def name(self) -> str:
        """Such as L0H1."""
        return f"L{self.layer}H{self.head}"


def wires_of(kind: str, rng: np.random.Generator) -> list[Wire]:
    """The heads that carry the signal of a circuit.

    Parameters
    ----------
    kind
        Name of the circuit, one of `CIRCUITS`.
    rng
        Draws the heads' places in their layers.
    """
    heads = rng.permutation(HEADS).tolist()
    if kind == REDUNDANT:
        return [Wire(layer, heads[layer], ASK, A, VALUE, OUT) for layer in (0, 1)]
    if kind == MANY:
        return [Wire(layer, heads[i], ASK, A, VALUE, OUT, 0.25) for layer in range(LAYERS) for i in range(2)]
    if kind == THROUGH_MLP:
        return [Wire(0, heads[0], ASK, A, VALUE, ONE), Wire(0, heads[1], ASK, B, VALUE, TWO)]
    return [Wire(0, heads[0], C, A, VALUE, ONE, 3.0), Wire(1, heads[1], ASK, C, ONE, OUT)]


def circuit(kind: str, seed: int) -> tuple[HookedScGPT, AnnData, list[Wire]]:
    """A checkpoint with a circuit, cells of two classes that it tells apart, and its heads.

    All other heads and MLPs are random and neither read nor write the directions of the circuit; their matrices have the same norms.

    Parameters
    ----------
    kind
        One of `CIRCUITS`. Through an MLP the class is whether two sets of genes go together, which nothing linear reads.
    seed
        Seed of the weights, of the places of the heads, and of the cells.
    """
    rng = generator(seed, "harder circuit", kind)
    names = [f"GENE{i:03d}" for i in range(GENES)]
    vocabulary = Vocabulary.of_genes(names)
    config = ModelConfig(len(vocabulary), WIDTH, LAYERS, HEADS, WIDTH, max_tokens=GENES + 1)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(key(seed, "decoders") % 2**63)
        model = HookedScGPT(config, vocabulary).requires_grad_(False).eval()
    basis = np.linalg.qr(np.column_stack([np.ones(WIDTH), rng.standard_normal((WIDTH, 9))]))[0][:, 1:]
    free, d_head = np.eye(WIDTH) - basis @ basis.T, WIDTH // HEADS
    sets = rng.permutation(GENES)[: 5 * SET].reshape(5, SET)  # A, B and C, and those that go the other way than A and B
    embedding = rng.standard_normal((len(vocabulary), WIDTH)) @ free
    embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
    ids = np.array(vocabulary.encode(names))
    for mark, own in zip((A, B, C), sets, strict=False):
        embedding[ids[own]] += basis[:, mark]
    embedding[vocabulary.decode(range(len(vocabulary))).index("<cls>")] += basis[:, ASK]
    embedding[vocabulary.pad_id] = 0
    wires, strength = wires_of(kind, rng), float(np.sqrt(0.75 * np.sqrt(d_head)))
    with torch.no_grad():
        put(model.embed.gene.embedding.weight, embedding)
        plant_values(model, basis[:, VALUE], basis[:, CONSTANT])
        for i in range(LAYERS):
            block = model.block(i)
            q, k, v, o = (free @ rng.standard_normal((HEADS, WIDTH, d_head)) for _ in range(4))
            q, k, v, o = (w / np.linalg.norm(w, axis=(1, 2), keepdims=True) for w in (q, k, v, o))
            for wire in (one for one in wires if one.layer == i):
                first, second = np.eye(d_head)[:2]
                q[wire.head], k[wire.head] = np.outer(basis[:, wire.query], first), np.outer(basis[:, wire.key], first)
                v[wire.head] = np.outer(basis[:, wire.value], second)
                o[wire.head] = wire.gain * np.outer(basis[:, wire.output], second)
            parts = (strength * q, strength * k, v)
            put(block.attn.qkv.weight, np.concatenate([w.transpose(0, 2, 1).reshape(WIDTH, WIDTH) for w in parts]))
            put(block.attn.qkv.bias, np.zeros(3 * WIDTH))
            put(block.attn.out.weight, o.transpose(1, 0, 2).reshape(WIDTH, WIDTH))
            put(block.attn.out.bias, np.zeros(WIDTH))
            into, back = rng.standard_normal((2, WIDTH, WIDTH)) * WIDTH**-0.5
            into, back = into @ free, 0.3 * free @ back
            if kind == THROUGH_MLP and i == 1:
                # |one + two| - |one - two| is as large as the smaller of both, and positive where they go together.
                into[:4] = np.array([[1, 1], [-1, -1], [1, -1], [-1, 1]]) @ basis[:, [ONE, TWO]].T
                back[:, :4] = np.outer(basis[:, OUT], [1, 1, -1, -1])
            for linear, weight in ((block.mlp.linear1, into), (block.mlp.linear2, back)):
                put(linear.weight, weight)
                put(linear.bias, np.zeros(WIDTH))
    return model, _cells(kind, names, sets, rng), wires


def _cells(kind: str, names: list[str], sets: np.ndarray, rng: np.random.Generator) -> AnnData:
    up = rng.permuted(np.tile(np.arange(CELLS) % 2, (2, 1)), axis=1) * 2 - 1
    rate = np.tile(np.exp(rng.normal(2.5, 0.7, GENES)), (CELLS, 1))
    there = rng.random(rate.shape) < 0.7
    for own, which, sign in ((sets[0], 0, 1), (sets[1], 1, 1), (sets[3], 0, -1), (sets[4], 1, -1)):
        rate[:, own] = np.exp(2.5 + 1.8 * sign * up[which][:, None] + rng.normal(0, 0.4, (CELLS, SET)))
        there[:, own] = True
    there[:, sets[2]] = True
    label = up.prod(0) if kind == THROUGH_MLP else up[0]
    obs = pd.DataFrame({"cell_type": np.where(label > 0, "up", "down")}, index=[f"c{i:03d}" for i in range(CELLS)])
    counts = sp.csr_matrix(np.where(there, rng.poisson(rate) + 1, 0).astype(np.float32))
    cells = AnnData(counts, obs=obs, var=pd.DataFrame(index=names))
    cells.uns["workbench"] = {
        "name": kind,
        "source": "planted",
        "columns": ["cell_type"],
        "mapping": {},
        "values": "counts",
    }
    return cells
