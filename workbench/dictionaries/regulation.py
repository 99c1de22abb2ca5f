"""Whether top genes of features are targets of one regulator, beside networks that were rewired with all numbers of edges kept."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int

from workbench.dictionaries.lists import REGULATORS, SHARES, Q, Tails, ruled
from workbench.errors import EvaluationError
from workbench.factors.programs import indicators
from workbench.geometry.gene_edges import FEWEST, clean_edges, rewired, share_changed
from workbench.seeds import generator
from workbench.stats import benjamini_hochberg

# Targets on the panel that a regulator needs; swaps tried per edge before the first draw and between two; share of edges that a draw must have lost.
_TARGETS, _FIRST, _BETWEEN, _CHANGED = 3, 10, 2, 0.5


def name_regulators(
    lists: list[np.ndarray],
    edges: Int[np.ndarray, "edge 2"],
    genes: list[str],
    strata: Int[np.ndarray, " gene"],
    *,
    draws: int,
    seed: int,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The regulator whose targets are over-represented among each feature's top genes, and p against rewired networks.

    Two edges exchange their targets where these are alike in expression, so that every regulator keeps its number of targets and every gene its number
    of regulators (Maslov & Sneppen, Science 296:910, 2002). What is asked is whether a regulator's own targets are together, beyond targets that
    are as often regulated and as strongly expressed. Rewired targets do not go together as a regulator's own may: p is then too small, as in
    `name_lists`.

    Parameters
    ----------
    lists
        Numbers of the top genes of each feature; an empty list has no regulator.
    edges
        Rows of regulator and target, -1 where one is not on the panel, as `read_edges` gives them.
    genes
        Names of the panel's genes.
    strata
        Stratum of expression of each gene of the panel, numbered from 0.
    draws, seed
        Rewired networks along one chain of swaps, and their seed.

    Returns
    -------
    tuple
        A row per feature: ``feature``, ``regulator`` (with the smallest p; empty without a target in the list), ``regulator_overlap``, ``regulator_p`` (share
        of networks in which some regulator does as well), ``regulator_q`` and ``regulated`` (q at most 0.05); and the summary, see `Names`.

    Raises
    ------
    EvaluationError
        If there is no draw, no regulator has three targets on the panel, or rewiring changes fewer than half of the edges.
    """
    if draws < 1:
        raise EvaluationError(f"{draws} rewired networks were asked for; p needs one at least.")
    kept, _ = clean_edges(edges)
    regulators, counts = np.unique(kept[:, 0], return_counts=True)
    regulators = regulators[counts >= _TARGETS]
    kept = kept[np.isin(kept[:, 0], regulators)]
    if len(kept) < FEWEST:
        raise EvaluationError(
            f"{len(kept)} edges of the network are of a regulator with {_TARGETS} targets among the {len(genes)} genes of the panel; {FEWEST} are needed. "
            "Check that it names genes as the panel does, or take more cells or genes."
        )
    row = {int(gene): i for i, gene in enumerate(regulators)}

    def members(now: np.ndarray) -> Bool[np.ndarray, "regulator gene"]:
        found = np.zeros((len(regulators), len(genes)), dtype=bool)
        found[[row[int(gene)] for gene in now[:, 0]], now[:, 1]] = True
        return found

    full = [i for i, one in enumerate(lists) if len(one)]
    own, targets = indicators([(lists[i],) for i in full], len(genes)), members(kept)
    tails = Tails(np.array([len(lists[i]) for i in full], dtype=int), targets)
    p = tails.p(own)
    best, alike, rule_random, changed, now = p.min(1, initial=1), np.zeros(len(full)), np.zeros(len(full)), [], kept
    for draw in range(draws):
        tries = (_BETWEEN if draw else _FIRST) * len(kept)
        now = rewired(now, strata, tries, generator(seed, "rewired network", str(draw)), directed=True)
        changed.append(share_changed(kept, now, len(genes)))
        random = tails.p(own, members(now))
        alike += random.min(1, initial=1) <= best * (1 + 1e-9)
        rule_random += ruled(random)
    if np.mean(changed) < _CHANGED:
        raise EvaluationError(
            f"Rewiring changes {100 * np.mean(changed):.0f} % of the network's {len(kept)} edges on the panel, and {100 * _CHANGED:.0f} % are needed for a null; take a network with "
            "more regulators, or more genes."
        )
    calibrated, top = (1 + alike) / (1 + draws), p.argmin(1)
    overlap = (own & targets[top]).sum(1)
    table = pd.DataFrame({"feature": np.arange(len(lists)), "regulator": "", "regulator_overlap": 0})
    table[["regulator_p", "regulator_q"]] = np.nan
    table.loc[full, "regulator"] = np.where(
        overlap > 0, np.array([genes[g] for g in regulators], dtype=object)[top], ""
    )
    table.loc[full, "regulator_overlap"] = overlap
    table.loc[full, "regulator_p"], table.loc[full, "regulator_q"] = calibrated, benjamini_hochberg(calibrated)
    table["regulated"] = (table["regulator_q"] <= Q) & (table["regulator"] != "")
    found = (table.loc[full, "regulated"], ruled(p), rule_random / draws)
    shares = [float(np.mean(x)) if full else float("nan") for x in found]
    return table, {"method": REGULATORS, "features": len(full), **dict(zip(SHARES, shares, strict=True))}
