"""How often the screen of heads calls one where no head knows the ruler, by relabellings that heads share and by those of their own.

    python experiments/calibration_heads.py RUN --config experiments/hematopoiesis.yaml

RUN is the folder of a finished run of that configuration; nothing in it is changed. In each world the stages of its anchors
change places, so that nothing is left to be found, and the heads' p come from nulls that are drawn again and again from many
relabellings. Ten minutes on two cores for 24 heads, 700 cells and 200 relabellings.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from tqdm import tqdm

from workbench.engine.config import read_config
from workbench.evidence.holdout import holdout_correlation, random_splits
from workbench.operators.operator import head_name
from workbench.recipes.run.config import RunConfig
from workbench.recipes.run.context import RunContext
from workbench.seeds import generator, key
from workbench.stats import benjamini_hochberg, permutation_p


def relabelled_scores(context: RunContext, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Score of every head under relabellings that all heads share, and under relabellings of each head's own: heads by draws.

    Parameters
    ----------
    context
        Run whose operators were read and whose cells were placed.
    n
        Number of relabellings of each kind.
    """
    anchors, config = context.anchors(), context.config
    splits = list(random_splits(len(anchors), config.evaluation.holdouts, config.seed))
    shared, own = [], []
    for place in tqdm(list(np.ndindex(*context.operators.shape)), unit="head"):
        features = anchors.centroids @ context.operators.head(*place)
        given = (features, anchors.stage, context.ruler.distances, lambda stage: splits, context.adaptor())
        for kept, seed in ((shared, config.seed), (own, key(config.seed, "null of a head", head_name(*place)))):
            kept.append(holdout_correlation(*given, refits=n, seed=seed, weights=anchors.weights)[1])
    return np.array(shared), np.array(own)


def rates(shared: np.ndarray, own: np.ndarray, draws: int, worlds: int, seed: int) -> dict[str, float]:
    """Share of heads with p <= 0.05, and of worlds with a head at q <= 0.05, by either null.

    Parameters
    ----------
    shared, own
        Scores as `relabelled_scores` gives them.
    draws
        Relabellings of a head that go into the pooled null.
    worlds
        Number of worlds; each takes one shared relabelling for the truth.
    seed
        Seed of what is drawn for a world.
    """
    rng, found = generator(seed, "calibration of heads"), {"shared": [], "own": []}
    n = shared.shape[1]
    for _ in range(worlds):
        order = rng.permutation(n)
        truth = shared[:, order[0]]
        some = np.array([rng.permutation(n)[:draws] for _ in own])
        nulls = {"shared": shared[:, order[1 : 1 + draws]].ravel(), "own": np.take_along_axis(own, some, 1).ravel()}
        for name, null in nulls.items():
            p = np.array([permutation_p(value, null) for value in truth])
            found[name].append(((p <= 0.05).mean(), (benjamini_hochberg(p) <= 0.05).any()))
    return {
        f"{name}, {what}": float(np.mean([row[i] for row in rows]))
        for name, rows in found.items()
        for i, what in enumerate(("p <= 0.05", "a head at q <= 0.05"))
    }


def main() -> None:
    """Simulate and print a line for each number of draws."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--relabellings", type=int, default=200)
    parser.add_argument("--worlds", type=int, default=2000)
    given = parser.parse_args()
    context = RunContext(read_config(given.config, RunConfig), given.run)
    shared, own = relabelled_scores(context, given.relabellings)
    between = np.corrcoef(shared)[np.triu_indices(len(shared), 1)].mean()
    print(
        f"{len(shared)} heads, {given.relabellings} relabellings; mean correlation of heads over shared ones {between:.2f}"
    )
    for draws in (4, 8, 20, 40):
        said = rates(shared, own, draws, given.worlds, context.config.seed)
        print(f"{draws} draws a head: " + "; ".join(f"{name} {value:.1%}" for name, value in said.items()))


if __name__ == "__main__":
    main()
