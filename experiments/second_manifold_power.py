"""How strong a graph of genes has to be in a model for `workbench manifold` to find it: share of planted worlds, by strength.

    python experiments/second_manifold_power.py [--worlds 20] [--genes 80]

In each world linked genes are alike in expression level and degree, whatever the strength. One head reads places of genes; the strength is the
cosine of a gene's place with its true one on the graph, and the rest of it is random. At 0 the head knows nothing of the graph. The rows of
its `qk` operator are measured as the command does it. A world is found where p is at most .05 under exchanged families and under rewired
graphs. Some minutes on one core.
"""

from __future__ import annotations

import argparse
import sys
import warnings

import numpy as np
from scipy.stats import binomtest
from tqdm import tqdm

from workbench.evidence.gene_ruler import degrees
from workbench.geometry.gene_covariates import make_design
from workbench.geometry.ruler_embeddings import reduced
from workbench.geometry.ruler_fit import follow_rows, lay_out
from workbench.operators.adaptor import LETAdaptor
from workbench.operators.weight_operators import weight_operators
from workbench.planted.gene_graph import plant_gene_graph
from workbench.recipes.manifold.config import FitsConfig, GeneAdaptorConfig
from workbench.recipes.manifold.stages import rewired_distances

LEVEL = 0.05
STRENGTHS = (0.0, 0.2, 0.3, 0.4, 0.6, 0.8)


def judged(seed: int, strength: float, genes: int, rewirings: int = 39) -> tuple[float, float, float]:
    """Rank correlation in one world, and p under both nulls; graphs are rewired only where the cheaper null is passed.

    Parameters
    ----------
    seed
        Seed of the world and of the nulls.
    strength
        Cosine of a gene's place with its true one on the graph.
    genes
        Number of genes of the graph.
    rewirings
        Rewired graphs at most; 39 are the fewest that a p of .025 can come of.
    """
    world, fits = plant_gene_graph(seed, n_genes=genes, share=strength), FitsConfig()
    ruler, n = world.ruler, len(world.ruler.stages)
    matrix = weight_operators(world.model, ruler.stages, "qk").matrix(world.layer, world.head)
    known = np.column_stack([world.level, np.log(degrees(ruler))])
    layout = lay_out(ruler.distances, np.array(ruler.branches), known, folds=fits.folds, seed=seed)
    x = make_design(known).residuals(reduced(matrix, fits.components))
    adaptor = LETAdaptor(**GeneAdaptorConfig().parameters())

    def asked(most: int) -> dict:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            more = {"draws": fits.draws, "rewired": rewired_distances(ruler, np.arange(n), seed), "rewirings": most}
            return follow_rows(x, layout, adaptor, neighbours=(), seed=seed, **more)[0]

    first = asked(0)
    return first["spearman"], first["p"], asked(rewirings)["rewired_p"] if first["p"] <= LEVEL else np.nan


def main(argv: list[str] | None = None) -> None:
    """Print the table.

    Parameters
    ----------
    argv
        Arguments; those of the command line when None.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=20, help="worlds of each strength")
    parser.add_argument("--genes", type=int, default=80, help="genes of each graph")
    parser.add_argument("--strengths", type=float, nargs="+", default=list(STRENGTHS), help="strengths to try")
    given = parser.parse_args(argv)
    print("| strength | rank correlation, mean | matched families alone: found | both nulls: found | 95 % |")
    print("|---|---|---|---|---|")
    for strength in given.strengths:
        worlds = [
            judged(i, strength, given.genes) for i in tqdm(range(given.worlds), desc=f"{strength:g}", file=sys.stderr)
        ]
        score, matched, rewired = np.array(worlds).T
        found = int(((matched <= LEVEL) & (rewired <= LEVEL)).sum())
        low, high = binomtest(found, given.worlds).proportion_ci(method="exact")
        print(f"| {strength:g} | {score.mean():.2f} | {int((matched <= LEVEL).sum())} of {given.worlds} | "
              f"{found} of {given.worlds} | {low:.2f} to {high:.2f} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
