"""Edge lists between genes: rewired within strata with every gene's number of edges kept, and laid on the axes of gene vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from jaxtyping import Float, Int
from numba import njit

from workbench.errors import EvaluationError
from workbench.geometry.gene_claims import COLUMNS, NullCounts, Placed
from workbench.seeds import generator

# Swaps tried per edge before the first draw, and between two draws.
_FIRST, _BETWEEN = 10, 2
FEWEST = 10
STUCK = "the rewiring does not move"


def clean_edges(
    edges: Int[np.ndarray, "edge 2"], family: Sequence[str] | np.ndarray | None = None
) -> tuple[Int[np.ndarray, "kept 2"], dict[str, int]]:
    """Edges that say something: each pair once, nobody with itself, and not within a family.

    Parameters
    ----------
    edges
        Rows of both genes; -1 where a gene is not measured.
    family
        Family of each gene, empty where it has none; None where families are not known.

    Returns
    -------
    tuple
        The edges that are kept, and how many were left out for which reason.
    """
    measured = (edges >= 0).all(1)
    kept = edges[measured]
    own = kept[:, 0] == kept[:, 1]
    kept = kept[~own]
    _, first = np.unique(_keys(kept, int(edges.max(initial=0)) + 1), return_index=True)
    n = len(kept)
    kept = kept[np.sort(first)]
    within = np.zeros(len(kept), dtype=bool)
    if family is not None:
        names = np.asarray(family, dtype=str)
        within = (names[kept[:, 0]] == names[kept[:, 1]]) & (names[kept[:, 0]] != "")
    counts = {"unmeasured": int((~measured).sum()), "own": int(own.sum()), "repeated": n - len(first)}
    return kept[~within], {**counts, "same_family": int(within.sum())}


def rewired(
    edges: Int[np.ndarray, "edge 2"],
    strata: Int[np.ndarray, " gene"],
    tries: int,
    rng: np.random.Generator,
    *,
    directed: bool = False,
) -> Int[np.ndarray, "edge 2"]:
    """Random edges in which every gene has as many edges as before, and as many lead between two strata: two edges exchange an end.

    Ends change places where both genes are of one stratum, and no loop and no pair twice comes of it (Maslov & Sneppen, Science 296:910, 2002,
    with strata). So where genes are linked because they are expressed alike, those of the rewired edges are expressed alike as well.

    Parameters
    ----------
    edges
        Rows of both genes of each edge, each pair once, no loops.
    strata
        Stratum of each gene, numbered from 0; all 0 for a rewiring that keeps degrees alone.
    tries
        Swaps that are tried in all.
    rng
        Generator of the random numbers.
    directed
        Keep the numbers of edges from and to each gene apart, so that a regulator stays one. Otherwise an edge has no direction.
    """
    out = edges.copy()
    # Ends that may change places, by stratum: a swap leaves the stratum at each place as it is. Second ends alone give all directed swaps.
    places = np.arange(1, 2 * len(edges), 2) if directed else np.arange(2 * len(edges))
    of = strata[edges.ravel()[places]]
    order = np.argsort(of, kind="stable")
    size = np.bincount(of, minlength=int(strata.max()) + 1)
    first = rng.integers(len(places), size=tries)
    start = (np.cumsum(size) - size)[of[first]]
    second = order[start + (rng.random(tries) * size[of[first]]).astype(np.int64)]
    _swap(out, len(strata), places[first], places[second])
    return out


def share_changed(edges: Int[np.ndarray, "edge 2"], other: Int[np.ndarray, "edge 2"], n_genes: int) -> float:
    """Share of edges that are not among other edges, whatever their direction.

    Parameters
    ----------
    edges, other
        Rows of both genes of each edge.
    n_genes
        Number of genes, above every row.
    """
    return float(1 - np.isin(_keys(edges, n_genes), _keys(other, n_genes)).mean())


def edge_tests(
    placed: Placed,
    name: str,
    edges: Int[np.ndarray, "edge 2"],
    strata: Int[np.ndarray, " gene"],
    *,
    directed: bool,
    draws: int,
    min_changed: float,
    seed: int,
) -> tuple[pd.DataFrame, float]:
    """Whether linked genes lie on the same side of an axis, and near each other, beside rewired edges.

    - Position: mean over edges of the product of both genes' coordinates, covariates regressed out: 1 where both always have the same
      coordinate, 0 by chance. One-sided.
    - Nearness (axis 0): mean cosine of two linked genes in the space of all axes, covariates regressed out. One-sided.

    Draws are taken along one chain of swaps: ten tries an edge before the first, two between two draws. It stops before `draws` where all
    tests have 20 draws at least as large.

    Parameters
    ----------
    placed
        Genes on all axes, from `place`.
    name
        What the list is called in the table.
    edges
        Rows of both genes, from `clean_edges`.
    strata
        Stratum of each gene, from `make_strata`.
    directed
        As in `rewired`.
    draws
        Rewired lists that are drawn, at most.
    min_changed
        Share of the edges that a rewired list must have lost, on average; with less there is no p.
    seed
        Seed of the swaps, with the name of the list.

    Returns
    -------
    tuple
        One row per block and axis, as of `set_tests` (``n`` counts edges, ``p_shuffled`` is NaN); and the mean share of edges
        that rewiring changed.

    Raises
    ------
    EvaluationError
        If there are fewer than ten edges.
    """
    if len(edges) < FEWEST:
        raise EvaluationError(
            f"The edge list '{name}' has {len(edges)} edges between two genes that were measured and are of different families; "
            f"{FEWEST} are needed. Check that its genes are named as the model's vocabulary names them, or take more cells or genes."
        )
    n_genes = len(placed.raw)
    observed = _of_edges(placed, edges, placed.position, placed.direction)
    raw = _of_edges(placed, edges, placed.raw, placed.raw_direction)
    null = NullCounts(observed, 0, np.zeros(0))
    now, changed = edges, []
    for draw in range(draws):
        tries = (_BETWEEN if draw else _FIRST) * len(edges)
        now = rewired(now, strata, tries, generator(seed, "rewired", name, str(draw)), directed=directed)
        changed.append(share_changed(edges, now, n_genes))
        null.add(_of_edges(placed, now, placed.position, placed.direction)[None])
        if null.enough:
            break
    moved = float(np.mean(changed))
    p = null.p() if moved >= min_changed else np.full(len(observed), np.nan)
    found: dict[str, Any] = {
        "statistic": observed,
        "raw_statistic": raw,
        "null_mean": null.mean,
        "null_sd": null.sd,
        "p": p,
    }
    more: dict[str, Any] = {"p_shuffled": np.nan, "set": name, "kind": "edges", "n": len(edges), "draws": null.n}
    return pd.DataFrame(list(placed.rows())).assign(**found, **more)[list(COLUMNS)], moved


def _of_edges(
    placed: Placed,
    edges: np.ndarray,
    position: Float[np.ndarray, "gene column"],
    direction: Float[np.ndarray, "gene column"],
) -> np.ndarray:
    n = len(position)
    linked = sp.csr_matrix((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(n, n))
    along = (position * (linked @ position)).sum(0) / len(edges)
    near = placed.by_block((direction * (linked @ direction)).sum(0)[None])[0] / len(edges)
    return np.concatenate([along, near])


def _keys(edges: np.ndarray, n: int) -> np.ndarray:
    """One number per pair, whatever its direction."""
    return edges.min(1).astype(np.int64) * n + edges.max(1)


@njit(cache=True, nogil=True)
def _pairs(edges: np.ndarray, n: int) -> set:
    there = set()
    for e in range(len(edges)):
        there.add(min(edges[e, 0], edges[e, 1]) * n + max(edges[e, 0], edges[e, 1]))
    return there


@njit(cache=True, nogil=True)
def _swap(edges: np.ndarray, n: int, first: np.ndarray, second: np.ndarray) -> None:
    there, since = _pairs(edges, n), 0
    for t in range(len(first)):
        # Numba's sets keep a mark in the place of what was removed, and search for ever once marks fill a small one.
        if since > len(edges) // 8:
            there, since = _pairs(edges, n), 0
        i, j = first[t] // 2, second[t] // 2
        side, other_side = first[t] % 2, second[t] % 2
        b, d = edges[i, side], edges[j, other_side]
        a, c = edges[i, 1 - side], edges[j, 1 - other_side]
        # a - b and c - d become a - d and c - b.
        one, other = min(a, d) * n + max(a, d), min(c, b) * n + max(c, b)
        if i == j or a == d or c == b or one == other or one in there or other in there:
            continue
        there.remove(min(a, b) * n + max(a, b))
        there.remove(min(c, d) * n + max(c, d))
        there.add(one)
        there.add(other)
        edges[i, side], edges[j, other_side] = d, b
        since += 1
