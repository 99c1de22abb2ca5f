"""Labels permuted inside blocks, against a latent that was fitted without them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Shaped
from scipy.stats import rankdata

from workbench.errors import EvaluationError
from workbench.evidence.null_rulers import permute_in_blocks
from workbench.stats import permutation_p

_BLOCK_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Permutation:
    """A correlation and its permutation null.

    Attributes
    ----------
    spearman
        Of latent angles with ruler distances, over all pairs.
    null
        The same of each draw.
    p
        One-sided, the observed value counted among the draws (Phipson & Smyth 2010).
    n, n_movable
        Anchors, and how many of them can change their label at all.
    """

    spearman: float
    null: Float[np.ndarray, " draw"]
    p: float
    n: int
    n_movable: int


def blocked_permutation(
    latent: Float[np.ndarray, "anchor anchor"],
    stage: Int[np.ndarray, " anchor"],
    ruler: Float[np.ndarray, "stage stage"],
    blocks: Shaped[np.ndarray, "anchor factor"],
    *,
    draws: int,
    seed: int,
) -> Permutation:
    """Permute the stages of anchors inside blocks and correlate again.

    Permuting labels moves ruler distances between pairs but changes none of them, so all ranks are computed once and a
    draw is a sum of products.

    Parameters
    ----------
    latent
        Angles between anchors, from an adaptor that saw none of their labels: only then do the labels change places
        freely under the null.
    stage, ruler
        Stages of the anchors, and distances between stages.
    blocks
        Factors, such as donor and tissue; a block is a combination that occurs.
    draws, seed
        Number of permutations, and the seed of them.

    Raises
    ------
    EvaluationError
        If no label can move, there are fewer than three anchors, or one side is constant.
    """
    n = len(stage)
    if n < 3:
        raise EvaluationError(f"{n} anchors have no three pairs to correlate; at least three are needed.")
    upper = np.triu_indices(n, 1)
    ranks = np.zeros((n, n))
    ranks[upper] = _centred(rankdata(latent[upper]))
    distances = (ruler + ruler.T) / 2  # both orders of a pair of stages must tie to the last digit
    found = distances[stage[upper[0]], stage[upper[1]]]
    known, at = np.unique(found, return_index=True)
    centred = _centred(rankdata(found))
    # Rank of the distance of any two stages that occur; others are never looked up.
    of_pair = centred[at][np.minimum(np.searchsorted(known, distances), len(known) - 1)]
    scale = float(np.linalg.norm(ranks) * np.linalg.norm(centred))
    if scale == 0:
        raise EvaluationError("All latent angles, or all ruler distances, are the same: there is nothing to correlate.")
    permuted, movable = permute_in_blocks(stage, blocks, seed, draws)
    ranks += ranks.T

    def correlate(labels: np.ndarray) -> np.ndarray:
        moved = of_pair[labels[:, :, None], labels[:, None, :]]
        return np.einsum("ij,dij->d", ranks, moved) / (2 * scale)

    step = max(1, _BLOCK_BYTES // (8 * n * n))
    null = np.concatenate([correlate(permuted[start : start + step]) for start in range(0, draws, step)])
    observed = float(correlate(stage[None])[0])
    return Permutation(observed, null, permutation_p(observed, null), n, int(movable.sum()))


def _centred(values: np.ndarray) -> np.ndarray:
    return values - values.mean()
