"""Smaller and smaller feature maps, each with its adaptor and readouts fitted again, against the one they stand for.

The paper's chain is drift, one head, its truncated SVD, and a hard sparse form (arXiv:2603.10261). Beside it stand two
alternatives of the sparse form's rank, and the exact folding, which is smaller than all of them and loses nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from workbench.errors import EvaluationError
from workbench.factors import factorise
from workbench.operators.readout import METRICS, Endpoint, probe, said, score, sides
from workbench.stats import benjamini_hochberg, corrected_difference, paired_wilcoxon

REFERENCE, FOLDED, SINGLE = "reference", "folded", "single head"


@dataclass(frozen=True)
class Variant:
    """A feature map of a certain size.

    Attributes
    ----------
    name, order
        Its name, and its place in the chain.
    matrix
        The feature map; None where it cannot be made.
    n_bytes, n_weights
        Size on disk (float32 weights, and the places of sparse ones), and numbers other than zero.
    error
        Relative Frobenius distance from the single head that it stands for; NaN where it stands for none.
    note
        Sentence that says why it cannot be made; empty where it can.
    """

    name: str
    order: int
    matrix: Float[np.ndarray, "gene feature"] | None
    n_bytes: int = 0
    n_weights: int = 0
    error: float = float("nan")
    note: str = ""


def variants(
    reference: Float[np.ndarray, "gene feature"],
    head: Float[np.ndarray, "gene gene"],
    genes: tuple[str, ...],
    *,
    ranks: tuple[int, ...],
    n_factors: int,
    n_read: int,
    n_write: int,
    alternatives: bool,
    width: int,
    seed: int,
) -> Iterator[Variant]:
    """The chain, from large to small.

    Parameters
    ----------
    reference, head
        The configured feature map, and the operator of the single head that is compacted.
    genes
        Panel of gene symbols, in the order of both axes of `head` and of the rows of `reference`.
    ranks
        Ranks of the truncated decompositions of `head`, one variant each. A rank above that of `head` gives a variant
        without a matrix.
    n_factors
        Factors of the hard sparse form and of its alternatives; 1 or more.
    n_read, n_write
        Genes that a factor of the hard sparse form reads and writes; 1 to all of the panel.
    alternatives
        Whether NMF and sparse PCA of `n_factors` factors come last. NMF has no matrix where `head` has negative
        entries.
    width
        k of the adaptor, for the size of the folded form.
    seed
        Seed of NMF and sparse PCA; no other variant uses a random number.

    Yields
    ------
    Variant
        One after the other, so that no two are held at once.

    Examples
    --------
    >>> import numpy as np
    >>> from workbench.factors.compaction import variants
    >>> head, sizes = np.diag([3.0, 2.0, 1.0]), {"n_factors": 2, "n_read": 1, "n_write": 1}
    >>> chain = variants(head, head, ("A", "B", "C"), ranks=(2,), **sizes, alternatives=False, width=2, seed=0)
    >>> [(variant.name, variant.n_weights) for variant in chain]
    [('reference', 9), ('folded', 8), ('single head', 9), ('rank 2', 6), ('hard sparse, 2 x (1 + 1)', 6)]
    """
    yield Variant(REFERENCE, 0, reference, 4 * reference.size, reference.size)
    # The folded form is the reference itself, multiplied out with its adaptor: same latent, another size.
    yield Variant(FOLDED, 1, reference, 4 * width * (len(genes) + 1), width * (len(genes) + 1))
    yield Variant(SINGLE, 2, head, 4 * head.size, head.size, 0.0)
    wanted: dict[str, Callable[[], factorise.Factors]] = {}
    for rank in ranks:
        wanted[f"rank {rank}"] = partial(factorise.svd_factors, head, genes, rank)
    sparse = f"hard sparse, {n_factors} x ({n_read} + {n_write})"
    wanted[sparse] = lambda: factorise.hard_sparse(factorise.svd_factors(head, genes, n_factors), n_read, n_write)
    if alternatives:
        wanted[f"NMF, {n_factors}"] = partial(factorise.nmf_factors, head, genes, n_factors, seed)
        wanted[f"sparse PCA, {n_factors}"] = partial(factorise.sparse_pca_factors, head, genes, n_factors, seed)
    for order, (name, make) in enumerate(wanted.items(), start=3):
        try:
            factors = make()
        except EvaluationError as error:
            yield Variant(name, order, None, note=str(error))
            continue
        left = factorise.relative_error(head, factors)
        yield Variant(name, order, factors.matrix(), factors.n_bytes, factors.n_weights, left)


def judge(
    z: Float[np.ndarray, "cell k"], wanted: list[Endpoint], test: np.ndarray, hidden: int, seed: int
) -> list[dict[str, Any]]:
    """Readouts fitted on the training cells of a split and scored on its held-out cells.

    Parameters
    ----------
    z
        Latent of all cells; rows in the order of the endpoints' targets.
    wanted
        Endpoints to read. One of which a side holds a single class gets NaN.
    test
        Whether each cell is held out; the readouts are fitted on all others.
    hidden, seed
        As in `probe`.

    Returns
    -------
    list of dict
        ``endpoint``, ``metric``, ``value``; NaN where either side lacks a class.
    """
    rows = []
    for endpoint in wanted:
        if (split := sides(endpoint, test)) is None:
            rows += undefined([endpoint])
            continue
        train, judged = split
        model = probe(endpoint.kind, hidden, seed).fit(z[train], endpoint.target[train])
        found = score(endpoint.kind, endpoint.target[judged], said(model, endpoint.kind, z[judged]))
        rows += [{"endpoint": endpoint.name, "metric": metric, "value": value} for metric, value in found.items()]
    return rows


def undefined(wanted: list[Endpoint]) -> list[dict[str, Any]]:
    """Rows of endpoints that cannot be judged: NaN, never a number that looks like one.

    Parameters
    ----------
    wanted
        Endpoints that get one row per metric of their kind.
    """
    return [
        {"endpoint": endpoint.name, "metric": metric, "value": float("nan")}
        for endpoint in wanted
        for metric in METRICS[endpoint.kind]
    ]


def summarise(rows: pd.DataFrame, test_share: float) -> pd.DataFrame:
    """What each variant loses against the reference, per endpoint metric.

    Parameters
    ----------
    rows
        One per ``split``, ``variant``, ``endpoint`` and ``metric``: ``value``, and what is known of the variant (``order``,
        ``bytes``, ``parameters``, ``relative_error``, ``note``).
    test_share
        Share of the cells that a split holds out.

    Returns
    -------
    DataFrame
        One row per variant, endpoint and metric: ``value`` and ``sd`` over splits, ``n_splits``, ``reference``, ``difference``
        with ``low`` and ``high`` (95 %), two-sided ``p`` and ``detectable`` (see `stats.corrected_difference`, which allows for shared
        training cells), ``q`` (Benjamini-Hochberg over all rows), ``lost`` (below the reference with q at most 0.05),
        ``p_wilcoxon`` (the paper's, as if splits were independent, and too small), and the variant's size. Values are those of the splits in which both are defined.
    """
    # Not a pivot table: that would drop what is undefined everywhere, or make up pairs of endpoint and metric.
    wide = rows.set_index(["endpoint", "metric", "split", "variant"])["value"].unstack("variant")
    wide = wide.reindex(pd.MultiIndex.from_frame(rows[["endpoint", "metric", "split"]].drop_duplicates()))
    sizes = dict.fromkeys(("bytes", "parameters", "relative_error"), "mean")
    known = rows.groupby("variant", sort=False).agg({"order": "first", **sizes, "note": "first"})
    found: list[dict[str, Any]] = []
    for (endpoint, metric), part in wide.groupby(level=["endpoint", "metric"], sort=False):
        for name in known.sort_values("order").index:
            # The reference stands beside itself, too: its differences are 0, and its p is none.
            both = pd.concat([part[name], part[REFERENCE]], axis=1).dropna().to_numpy()
            row = {"variant": name, "endpoint": endpoint, "metric": metric, "n_splits": len(both), **known.loc[name]}
            if not len(both):
                found.append(row)
                continue
            ours, theirs = both.T
            corrected = corrected_difference(ours - theirs, test_share)
            row |= {"value": ours.mean(), "sd": ours.std(ddof=1) if len(both) > 1 else np.nan}
            row |= {"reference": theirs.mean(), **corrected, "p_wilcoxon": paired_wilcoxon(ours - theirs)}
            if name == REFERENCE:
                row |= {"p": np.nan, "p_wilcoxon": np.nan}
            found.append(row)
    table = pd.DataFrame(found).reindex(columns=COLUMNS)
    table["q"] = benjamini_hochberg(table["p"].to_numpy(dtype=float))
    table["lost"] = (table["q"] <= 0.05) & (table["difference"] < 0)
    return table


COLUMNS = (
    "variant", "order", "endpoint", "metric", "value", "sd", "n_splits", "reference", "difference", "low", "high",
    "detectable", "p", "q", "lost", "p_wilcoxon", "bytes", "parameters", "relative_error", "note",
)  # fmt: skip
