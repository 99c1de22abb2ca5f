"""Known lineages along a latent: does the angle from the earliest stage grow with depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int, Shaped
from scipy.stats import rankdata

from workbench.errors import EvaluationError, unknown_name
from workbench.evidence.contrasts import read_lineages
from workbench.evidence.null_rulers import permute_in_blocks
from workbench.evidence.ruler import Ruler
from workbench.operators.adaptor import LETAdaptor, fit_to_ruler
from workbench.stats import benjamini_hochberg, permutation_p, spearman
from workbench.threads import one_thread

_FEWEST, _DEPTHS = 5, 3


@dataclass(frozen=True)
class Progression:
    """How well progress along a latent follows depth.

    Attributes
    ----------
    spearman
        Rank correlation of the angle from the root with depth, over points that are no root.
    p, null_mean, null_high
        One-sided p by depths permuted inside blocks; mean and 97.5 % quantile of the null. NaN where nothing can move.
    n, n_root, n_depths, n_movable
        Points judged, root points, different depths, and points that can change their depth.
    note
        Why there is no p; empty where there is one.
    """

    spearman: float
    p: float
    null_mean: float
    null_high: float
    n: int
    n_root: int
    n_depths: int
    n_movable: int
    note: str = ""


def lineage(ruler: Ruler, branch: str) -> Int[np.ndarray, " stage"]:
    """Stages of a branch and all that they come from.

    Parameters
    ----------
    ruler
        A ruler; one from a matrix has no ancestors.
    branch
        Name of one of the ruler's branches.

    Raises
    ------
    EvaluationError
        If there is no such branch.

    Examples
    --------
    >>> from workbench.evidence.ruler import load_ruler
    >>> from workbench.geometry.trajectories import lineage
    >>> ruler = load_ruler("hematopoiesis")
    >>> [ruler.stages[i] for i in lineage(ruler, "monocyte")][:5]
    ['HSC', 'MPP', 'CMP', 'GMP', 'monocyte']
    """
    if branch not in ruler.branches:
        raise EvaluationError(unknown_name("branch", branch, sorted(set(ruler.branches))))
    found = {i for i, name in enumerate(ruler.branches) if name == branch}
    waiting = list(found)
    while waiting:
        child = waiting.pop()
        new = {parent for parent, to, _ in ruler.edges if to == child} - found
        found |= new
        waiting += new
    return np.array(sorted(found))


def progression(
    z: Float[np.ndarray, "point k"],
    depth: Float[np.ndarray, " point"],
    root: Bool[np.ndarray, " point"],
    *,
    blocks: np.ndarray | None = None,
    draws: int = 2000,
    seed: int,
) -> Progression:
    """Spearman correlation of progress with depth.

    Progress is the angle between a point and the mean direction of the root points, so that turning, reflecting or
    scaling the latent changes nothing.

    Parameters
    ----------
    z
        Latent, one row per point; only directions matter.
    depth
        Depth of each point along the lineage, in any unit: its ranks count.
    root
        Points that the angle is measured from; they are not judged.
    blocks
        Block of each point, or one column per factor; depths are permuted inside blocks, see `permute_in_blocks`. One
        block when None.
    draws
        Permutations behind p and the null's quantile; the smallest p is 1 / (1 + draws).
    seed
        Seed of the permutations; the correlation itself has no random number.

    Raises
    ------
    EvaluationError
        If there is no root, or fewer than three points besides.

    Examples
    --------
    >>> import numpy as np
    >>> from workbench.geometry.trajectories import progression
    >>> depth = np.arange(6.0)
    >>> arc = np.column_stack([np.cos(depth / 5), np.sin(depth / 5)])
    >>> found = progression(arc, depth, depth == 0, draws=99, seed=0)
    >>> round(found.spearman, 6), found.n
    (1.0, 5)
    """
    judged = ~root
    if not root.any() or judged.sum() < 3:
        raise EvaluationError(
            f"A progression needs a root and three points besides; found {root.sum()} root points and {judged.sum()} others."
        )
    unit = z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12)
    start = unit[root].mean(0)
    start = start / max(float(np.linalg.norm(start)), 1e-12)
    progress = np.arccos(np.clip(unit[judged] @ start, -1, 1))
    along = depth[judged]
    found = spearman(progress, along)
    sizes: Any = {"n": int(judged.sum()), "n_root": int(root.sum()), "n_depths": len(set(along.tolist()))}
    one_block = np.zeros(len(depth), dtype=int)
    try:
        permuted, movable = permute_in_blocks(along, (one_block if blocks is None else blocks)[judged], seed, draws)
    except EvaluationError as error:
        return Progression(found, np.nan, np.nan, np.nan, **sizes, n_movable=0, note=str(error))
    rank_of = dict(zip(along.tolist(), rankdata(along).tolist(), strict=True))
    ranks = np.vectorize(rank_of.__getitem__, otypes=[float])(permuted)
    of_progress = rankdata(progress)
    of_progress, ranks = of_progress - of_progress.mean(), ranks - ranks.mean(1, keepdims=True)
    scale = np.linalg.norm(of_progress) * np.linalg.norm(ranks, axis=1)
    null = (ranks @ of_progress) / np.where(scale > 0, scale, np.nan)
    high = float(np.quantile(null, 0.975)) if np.isfinite(null).all() else float("nan")
    return Progression(
        found, permutation_p(found, null), float(null.mean()), high, **sizes, n_movable=int(movable.sum())
    )


@one_thread()
def trajectory_table(
    features: Float[np.ndarray, "anchor feature"],
    stage: Int[np.ndarray, " anchor"],
    ruler: Ruler,
    adaptor: LETAdaptor,
    *,
    branches: Sequence[str] = (),
    blocks: Shaped[np.ndarray, "anchor ..."] | None = None,
    weights: Float[np.ndarray, " anchor"] | None = None,
    draws: int = 2000,
    seed: int,
) -> pd.DataFrame:
    """Every lineage along a latent whose adaptor never saw the lineage's own branch.

    For each branch the adaptor is fitted on all anchors but those of the branch; its ancestors stay, so the root is known
    and the order inside the branch is not.

    Parameters
    ----------
    features
        Features of the anchors under one feature map, f(x) of each centroid.
    stage
        Number of each anchor's stage on the ruler.
    ruler
        Ruler with branches and depths; its distances are what the adaptor is fitted to.
    adaptor
        Settings of the adaptor; a fresh copy is fitted per branch.
    branches
        Names of the lineages, one row each; the ruler's own by default. One that the anchors lack gets a row that says so.
    blocks, draws, seed
        As in `progression`.
    weights
        Weight of each anchor in the fits, see `LETAdaptor.fit`; all the same when None.

    Returns
    -------
    DataFrame
        As `trajectories_of`.

    Raises
    ------
    EvaluationError
        If a lineage is no branch of the ruler, or none is named and the ruler has none of its own.
    """
    branch_of = np.array(ruler.branches)[stage]

    def held_out(branch: str) -> np.ndarray:
        train = np.flatnonzero(branch_of != branch)
        if len(train) < 3 or len(set(stage[train].tolist())) < 2:
            raise EvaluationError(f"{len(train)} anchors are left without the branch; three of two stages are needed")
        return fit_to_ruler(adaptor, features, stage, ruler.distances, weights, train).transform(features)

    return _table(held_out, stage, ruler, branches, blocks, draws=draws, seed=seed)


def trajectories_of(
    z: Float[np.ndarray, "anchor k"],
    stage: Int[np.ndarray, " anchor"],
    ruler: Ruler,
    *,
    branches: Sequence[str] = (),
    blocks: Shaped[np.ndarray, "anchor ..."] | None = None,
    draws: int = 2000,
    seed: int,
) -> pd.DataFrame:
    """Every lineage along a latent that came from elsewhere, such as an adaptor fitted on other cells.

    Parameters
    ----------
    z
        Latent of the anchors, one row each; it is the same for all lineages.
    stage, ruler, branches, blocks, draws, seed
        As in `trajectory_table`.

    Returns
    -------
    DataFrame
        One row per lineage: ``lineage``, ``spearman``, ``p``, ``q`` (Benjamini-Hochberg over lineages), ``null_mean``,
        ``null_high``, ``n_anchors``, ``n_depths``, ``n_root``, ``root``, ``stages`` (by depth) and ``status``: ``ok``, or
        why it is not applicable. The root is the shallowest stage that is there outside the branch, else the branch's own.
    """
    return _table(lambda branch: z, stage, ruler, branches, blocks, draws=draws, seed=seed)


def _table(
    latent: Any, stage: np.ndarray, ruler: Ruler, branches: Sequence[str], blocks: np.ndarray | None, **null: int
) -> pd.DataFrame:
    followed = read_lineages(branches, ruler.branches) or ruler.lineages
    if not followed:
        raise EvaluationError(
            f"The ruler '{ruler.name}' names no lineages to follow; list branches under `lineages` in its file, or name some."
        )
    rows = []
    for branch in followed:
        try:
            rows.append(_row(branch, latent, stage, ruler, blocks, **null))
        except EvaluationError as error:
            rows.append({"lineage": branch, "status": f"not applicable: {error}"})
    columns = ["lineage", "spearman", "p", "q", "null_mean", "null_high", "n_anchors", "n_depths", "n_root", "root"]
    table = pd.DataFrame(rows).reindex(columns=[*columns, "stages", "status"])
    table["q"] = benjamini_hochberg(table["p"].to_numpy(dtype=float))
    return table


def _row(
    branch: str, latent: Any, stage: np.ndarray, ruler: Ruler, blocks: np.ndarray | None, **null: int
) -> dict[str, Any]:
    own = np.array(ruler.branches)[stage] == branch
    before = np.isin(stage, lineage(ruler, branch)) & ~own
    if not own.any():
        raise EvaluationError("no anchor is of this branch")
    start = before if before.any() else own

    def by_depth(of: np.ndarray) -> list[int]:
        return sorted(set(stage[of].tolist()), key=lambda s: (ruler.depths[s], s))

    first = by_depth(start)[0]
    root = (stage == first) & start
    points = own | root
    judged = own & ~root
    depths = set(ruler.depths[stage[judged]].tolist())
    if judged.sum() < _FEWEST or len(depths) < _DEPTHS:
        raise EvaluationError(
            f"{judged.sum()} anchors at {len(depths)} depths of the branch; {_FEWEST} anchors at {_DEPTHS} depths are needed"
        )
    here = None if blocks is None else blocks[points]
    found = progression(latent(branch)[points], ruler.depths[stage[points]], root[points], blocks=here, **null)
    return {
        **asdict(found),
        **{"lineage": branch, "n_anchors": found.n, "root": ruler.stages[first]},
        "stages": " > ".join(ruler.stages[s] for s in by_depth(points)),
        "status": "ok" if np.isfinite(found.p) else f"no p: {found.note}",
    }
