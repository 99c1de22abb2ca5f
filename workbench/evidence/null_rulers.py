"""Null rulers: what a ruler without the biology would give, so that a result on the real one can be judged.

All keep the stages, labels and branch names of the ruler, so that the same cells land on the same stages; only where the
stages lie changes. `permute_in_blocks` moves the labels of anchors instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int, Shaped
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from workbench.errors import EvaluationError, unknown_name
from workbench.evidence.gene_ruler import gene_paths
from workbench.evidence.ruler import GENES, Edge, Ruler, path_lengths
from workbench.geometry.gene_edges import rewired as rewired_edges
from workbench.geometry.gene_edges import share_changed
from workbench.seeds import generator, key

_SWAPS_PER_EDGE = 10
# Share of the edges of genes that a rewired graph must not have any more.
LEAST_MOVED = 0.5
_TRIES_PER_SWAP = 100


def shuffled(ruler: Ruler, seed: int, among: Sequence[str] | None = None) -> Ruler:
    """Ruler whose stages stand at each other's places, all permutations alike.

    Parameters
    ----------
    ruler
        The real one; graph or matrix.
    seed
        Seed of the permutation of stages.
    among
        Stages that change places, the others stay; all by default. Give the stages that the cells have, and the
        distances between these are the real ones, dealt out anew.

    Returns
    -------
    Ruler
        Distances, depths, branches and edges move together: a stage takes over everything of the place it gets.

    Raises
    ------
    EvaluationError
        If `among` has an unknown stage or fewer than two.
    """
    chosen = ruler.stages if among is None else tuple(dict.fromkeys(among))
    for stage in chosen:
        if stage not in ruler.stages:
            raise EvaluationError(f"The stages to shuffle: {unknown_name('stage', stage, ruler.stages)}")
    if len(chosen) < 2:
        raise EvaluationError(f"{len(chosen)} stage(s) cannot change places; name at least two.")
    at = np.sort([ruler.stages.index(stage) for stage in chosen])
    place = np.arange(len(ruler.stages))  # place[i]: whose place stage i takes
    place[at] = generator(seed, "shuffled ruler").permutation(at)
    who = np.argsort(place)
    return _null(
        ruler,
        f"stages shuffled, seed {seed}",
        ruler.distances[np.ix_(place, place)],
        ruler.depths[place],
        [(int(who[parent]), int(who[child]), length) for parent, child, length in ruler.edges],
        branches=tuple(ruler.branches[i] for i in place),
    )


def rewired(ruler: Ruler, seed: int) -> Ruler:
    """Ruler of a random graph with the same degrees: ends of two steps are swapped, again and again.

    Two steps a to b and c to d become a to d and c to b, if that makes no loop, no second step between two stages, and
    leaves the graph connected and without circles. So every stage keeps its numbers of parents and children, and roots
    and leaves stay what they are. Ten swaps per step (Maslov & Sneppen, Science 296:910, 2002). Of genes see `rewired_links`.

    Parameters
    ----------
    ruler
        The real one, a graph.
    seed
        Seed of the swaps of steps.

    Returns
    -------
    Ruler
        Distances and depths along the new graph. A step keeps its length with the stage it leads to; branches stay.

    Raises
    ------
    EvaluationError
        If the ruler has no edges (a matrix), or no swap leads to other distances (a star, a chain).
    """
    if ruler.over == GENES:
        links = rewired_links(ruler, seed, 0)
        paths = bounded(gene_paths(links, len(ruler.stages)))
        return _null(ruler, f"rewired, seed {seed}", paths / paths.max(), ruler.depths, links, signals=())
    if not ruler.edges:
        raise EvaluationError(
            f"The ruler '{ruler.name}' has no edges to rewire (it comes from a matrix); use `shuffled` or `meaningless`."
        )
    rng = generator(seed, "rewired ruler")
    edges, n, swaps = list(ruler.edges), len(ruler.stages), 0
    what = f"rewired, seed {seed}"
    wanted = _SWAPS_PER_EDGE * len(edges)
    for _ in range(_TRIES_PER_SWAP * wanted):
        swapped = _swap(edges, rng.integers(len(edges), size=2).tolist(), n)
        if swapped is None:
            continue
        edges, swaps = swapped, swaps + 1
        if swaps < wanted:
            continue
        paths, depths = path_lengths(what, ruler.stages, edges)
        if not np.allclose(paths / paths.max(), ruler.distances):
            return _null(ruler, what, paths / paths.max(), depths, edges)
    raise EvaluationError(
        f"The graph of the ruler '{ruler.name}' cannot be rewired into another one with the same degrees "
        f"({len(edges)} steps, {swaps} swaps possible). Use `shuffled` or `meaningless`."
    )


def rewired_links(ruler: Ruler, seed: int, draw: int) -> tuple[Edge, ...]:
    """Edges of a random graph of genes with the same degrees, seen to have moved.

    Ten tries of a swap per edge, without regard to direction. An edge keeps its length, and the graph may fall into parts.

    Parameters
    ----------
    ruler
        Ruler over genes, with its edges.
    seed, draw
        Seed, and number of the draw from 0.

    Raises
    ------
    EvaluationError
        If more than half of the edges are what they were: then the graph has hardly another form with these degrees.
    """
    ends, n = np.array([edge[:2] for edge in ruler.edges], dtype=np.int64), len(ruler.stages)
    rng = generator(seed, "rewired genes", str(draw))
    found = rewired_edges(ends, np.zeros(n, dtype=np.int64), _SWAPS_PER_EDGE * len(ends), rng)
    if (moved := share_changed(found, ends, n)) < LEAST_MOVED:
        raise EvaluationError(
            f"Rewiring changed {moved:.0%} of the {len(ends)} edges of the ruler '{ruler.name}'; a null needs {LEAST_MOVED:.0%}. Its degrees "
            "leave it hardly another form (a star, a clique): give a graph with more edges, or one that is less complete."
        )
    return tuple((int(a), int(b), edge[2]) for (a, b), edge in zip(found, ruler.edges, strict=True))


def bounded(paths: Float[np.ndarray, "row gene"]) -> Float[np.ndarray, "row gene"]:
    """Shortest paths, pairs without any at the longest of the others: a rewired graph may fall into parts.

    Parameters
    ----------
    paths
        Lengths of paths, infinite where there is none.
    """
    return np.where(np.isfinite(paths), paths, paths[np.isfinite(paths)].max())


def meaningless(ruler: Ruler) -> Ruler:
    """Ruler with a metric's structure and no biology: the stages on a line, in the order of a hash of their names.

    The alphabet would not do: it puts stages of one lineage, which have like names, side by side.

    Parameters
    ----------
    ruler
        The real one; only its names are used.

    Returns
    -------
    Ruler
        Distances are differences of position on the line, depths the position; branches stay. Always the same.
    """
    order = sorted(range(len(ruler.stages)), key=lambda i: key(0, "meaningless ruler", ruler.stages[i]))
    position = np.argsort(order).astype(float)
    distances = np.abs(position[:, None] - position) / position.max()
    edges = [(a, b, 1.0) for a, b in zip(order, order[1:], strict=False)]
    return _null(ruler, "meaningless line", distances, position, edges)


def dealt(
    stage: Int[np.ndarray, " anchor"], groups: Shaped[np.ndarray, " anchor"], seed: int, draw: int
) -> Int[np.ndarray, " anchor"]:
    """Stages of a negative panel: those of the groups are dealt out anew, one to all anchors of a group.

    With a group per cell type, features that recognise a type still know which anchors have one stage; with a group per
    anchor nothing is left to know. Where a stage has one type, a group per type is the same as `holdout.relabelled`.

    Parameters
    ----------
    stage
        Stage number of each anchor.
    groups
        Group of each anchor, such as its cell type; anchors of a group that differ in stage count as two groups.
    seed, draw
        Seed, and number of the draw from 0.
    """
    number = pd.DataFrame({"group": groups, "stage": stage}).groupby(["group", "stage"]).ngroup().to_numpy()
    first = np.unique(number, return_index=True)[1]
    return generator(seed, "negative panel", str(draw)).permutation(stage[first])[number]


def permute_in_blocks(
    labels: Shaped[np.ndarray, " n"], blocks: np.ndarray, rng_or_seed: np.random.Generator | int, draws: int
) -> tuple[Shaped[np.ndarray, "draw n"], Bool[np.ndarray, " n"]]:
    """Permute labels inside blocks, such as donor x tissue, all permutations of a block alike.

    Parameters
    ----------
    labels
        For example the stage of each anchor.
    blocks
        Block of each, or one column per factor: the blocks are then the combinations that occur.
    rng_or_seed
        Generator to draw from, or a seed for one.
    draws
        Number of permutations, one row each.

    Returns
    -------
    permuted, movable
        Labels of each draw, and which of them can change at all: those in a block with two different labels or more.
        A block of size one cannot move.

    Raises
    ------
    EvaluationError
        If no label can move, or labels and blocks differ in number.
    """
    columns = blocks[:, None] if blocks.ndim == 1 else blocks
    if len(columns) != len(labels) or draws < 1:
        raise EvaluationError(
            f"{len(labels)} labels, {len(columns)} blocks and {draws} draws; give one block per label, and a draw or more."
        )
    block = pd.DataFrame(columns.astype(str)).groupby(list(range(columns.shape[1]))).ngroup().to_numpy()
    size = np.bincount(block)
    movable = (pd.Series(labels).groupby(block).transform("nunique") > 1).to_numpy()
    if not movable.any():
        raise EvaluationError(
            f"No label can be permuted inside its block: of {len(size)} blocks {(size == 1).sum()} have one member and the "
            "others one label each. Use coarser blocks."
        )
    rng = rng_or_seed if isinstance(rng_or_seed, np.random.Generator) else generator(rng_or_seed, "blocks")
    slots = np.argsort(block, kind="stable")
    permuted = np.empty((draws, len(labels)), dtype=labels.dtype)
    at_once = max(1, 2**21 // len(labels))  # bounds the random numbers held at once; the draws do not depend on it
    for start in range(0, draws, at_once):
        random = rng.random((min(at_once, draws - start), len(labels)))
        order = np.lexsort((random, np.broadcast_to(block, random.shape)), axis=-1)
        permuted[start : start + len(random), slots] = labels[order]
    return permuted, movable


def _null(
    ruler: Ruler, what: str, distances: np.ndarray, depths: np.ndarray, edges: Sequence[Edge], **more: Any
) -> Ruler:
    name, literature = f"null: {ruler.name}, {what}", dict.fromkeys(ruler.stages, "none: a null ruler")
    fixed: Any = {"name": name, "literature": literature, "distances": distances, "depths": depths}
    return replace(ruler, **fixed, edges=tuple(edges), **more)


def _swap(edges: list[Edge], chosen: list[int], n: int) -> list[Edge] | None:
    """Edges after a swap of the ends of two, or None where that is no graph of the same kind."""
    (a, b, to_b), (c, d, to_d) = (edges[i] for i in chosen)
    if a == c or b == d or a == d or c == b:
        return None
    others = [edge for i, edge in enumerate(edges) if i not in chosen]
    if {(a, d), (d, a), (c, b), (b, c)} & {(parent, child) for parent, child, _ in others}:
        return None
    swapped = list(edges)
    swapped[chosen[0]], swapped[chosen[1]] = (c, b, to_b), (a, d, to_d)
    parents, children = np.array([edge[:2] for edge in swapped]).T
    graph = coo_array((np.ones(len(swapped)), (parents, children)), shape=(n, n))
    if connected_components(graph, directed=True, connection="weak")[0] > 1:
        return None
    # No circle: every stage is a strong component of its own.
    return swapped if connected_components(graph, directed=True, connection="strong")[0] == n else None
