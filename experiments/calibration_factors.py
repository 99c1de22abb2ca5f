"""How often tests of factors and of their programs call one where there is nothing, and how often they find what was planted.

    python experiments/calibration_factors.py --worlds 30 --docs docs/calibration_factors.md

Two simulations with the functions that a run calls. Necessity: 420 cells in 14 groups, an adaptor and probes on pairs of seven
folds, eight factors. Programs: 600 cells of 400 genes of which twenty modules of twenty go together, the modules as gene
sets, six factors of two sides. Thirty worlds of each kind take about ten minutes on one core.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import binomtest
from tqdm import tqdm

from workbench.factors.factorise import Factors
from workbench.factors.gene_sets import GeneSets
from workbench.factors.necessity import MEAN, ablate_factors
from workbench.factors.necessity_tables import impacts, summarise
from workbench.factors.programs import enrich, gene_lists, indicators, over_representation
from workbench.files import write_text
from workbench.operators.adaptor import LETAdaptor
from workbench.operators.readout import Endpoint
from workbench.seeds import generator
from workbench.stats import benjamini_hochberg

ALPHA = 0.05
CELLS, GENES, FACTORS, CLASSES, GROUPS, FOLDS, SPLITS, DRAWS = 420, 40, 8, 6, 14, 7, 6, 159
ALIKE, UNLIKE, SHARED, DONORS, CARRIERS = "alike", "unlike", "shared noise", "donors", "six carriers"
WORLDS = {
    ALIKE: "no label information; factors alike",
    UNLIKE: "no label information; factors differ in strength, spread and mean",
    SHARED: "no label information; factors share noise",
    DONORS: "no label information; groups differ, and hold labels in other shares",
    CARRIERS: "each of six factors is the only carrier of one class",
}
N_TERMS, SIZE, PROGRAM_CELLS, PROGRAM_FACTORS, PROGRAM_DRAWS, N_TOP = 20, 20, 600, 6, 10000, 60
CORRELATIONS = (0.0, 0.1, 0.3)
NAIVE = "ORA, genes taken as independent"


def necessity_world(kind: str, rng: np.random.Generator) -> tuple[np.ndarray, Factors, np.ndarray, np.ndarray]:
    """Expression, factors, label and group of each cell.

    Parameters
    ----------
    kind
        A key of `WORLDS`.
    rng
        Draws everything.
    """
    read, write = (np.linalg.qr(rng.standard_normal((GENES, GENES)))[0][:, :FACTORS] for _ in range(2))
    group, label = (rng.permutation(np.arange(CELLS) % n) for n in (GROUPS, CLASSES))
    x, strength = rng.standard_normal((CELLS, GENES)), np.ones(FACTORS)
    if kind in (UNLIKE, DONORS):
        strength = 4 * 2.0 ** (-np.arange(FACTORS) / 2)
        spread, mean = np.array([3, 2, 1, 1, 0.5, 0.5, 2, 0.3]), np.array([8, 3, 0, 1, 2, 0, 1, 1])
        x = x + (spread * rng.standard_normal((CELLS, FACTORS)) + mean) @ read.T
    if kind == SHARED:
        x = x + 1 + 1.5 * rng.standard_normal((CELLS, 2)) @ rng.standard_normal((2, FACTORS)) @ read.T
    if kind == DONORS:
        x = x + 2 * rng.standard_normal((GROUPS, GENES))[group]
        shares = rng.dirichlet(np.full(CLASSES, 2.0), GROUPS)
        label = np.array([rng.choice(CLASSES, p=shares[g]) for g in group])
    if kind == CARRIERS:
        x = x + 3 * read.T[label]
    genes = tuple(f"G{i:02d}" for i in range(GENES))
    return x, Factors(genes, read, strength, write.T, "planted"), label, group


def necessity(kind: str, rng: np.random.Generator, draws: int = DRAWS) -> pd.DataFrame:
    """P and q of every factor of one world, for its impact and for each metric, factors set to their mean.

    Parameters
    ----------
    kind
        A key of `WORLDS`.
    rng
        Draws the world, its anchors and its splits.
    draws
        Relabellings of the null.
    """
    x, factors, label, group = necessity_world(kind, rng)
    every, fold = np.arange(CELLS), group % FOLDS
    wanted = [
        Endpoint("classes", "classes", label, every),
        Endpoint("half", "binary", label < CLASSES // 2, every),
        Endpoint("number", "depth", label * 1.0, every),
    ]
    pairs, seed = list(combinations(range(FOLDS), 2)), int(rng.integers(2**31))
    tables = []
    for pair in (pairs[i] for i in rng.permutation(len(pairs))[:SPLITS]):
        test = np.isin(fold, pair)
        parts = [
            part for c in range(CLASSES) for part in np.array_split(rng.permutation(every[~test & (label == c)]), 4)
        ]
        stage = np.array([label[part[0]] for part in parts])
        centroids, weights = (
            np.array([x[part].mean(0) for part in parts]),
            np.array([len(part) * 1.0 for part in parts]),
        )
        between = (stage[:, None] != stage).astype(float)
        let = LETAdaptor(k=CLASSES).fit(centroids @ factors.matrix(), between, weights)
        given = (x, factors, let.encoder_, let.bias_, wanted, every[~test], every[test])
        tables.append(ablate_factors(*given, split=str(pair), groups=group, null_draws=draws, seed=seed).effects)
    effects = pd.concat(tables, ignore_index=True)
    own, single = impacts(effects).assign(metric="mean drop"), summarise(effects)
    both = pd.concat([own, single], ignore_index=True)
    return both.loc[both["how"] == MEAN, ["factor", "metric", "p", "q"]]


def programs_world(
    correlation: float, planted: bool, rng: np.random.Generator
) -> tuple[dict[str, np.ndarray], list[str], GeneSets, np.ndarray]:
    """Loadings of both sides, genes, the modules as gene sets, and expression.

    Parameters
    ----------
    correlation
        Of two genes of a module.
    planted
        Whether each factor is a module; else it is a random direction of genes that go together like that.
    rng
        Draws everything.
    """
    n = N_TERMS * SIZE
    genes, module = [f"G{i:03d}" for i in range(n)], np.arange(n) // SIZE

    def together(rows: int) -> np.ndarray:
        """Numbers that go together like the genes."""
        shared = np.sqrt(correlation) * rng.standard_normal((rows, N_TERMS))[:, module]
        return shared + np.sqrt(1 - correlation) * rng.standard_normal((rows, n))

    sets = {f"module {m:02d}": tuple(genes[i] for i in np.flatnonzero(module == m)) for m in range(N_TERMS)}
    loadings = {side: together(PROGRAM_FACTORS).T for side in ("read", "write")}
    if planted:
        for offset, side in enumerate(loadings):
            own = offset * PROGRAM_FACTORS + np.arange(PROGRAM_FACTORS)
            loadings[side] = (module[:, None] == own) + 0.3 * loadings[side]
    return loadings, genes, GeneSets("modules", sets, dict.fromkeys(sets, "")), together(PROGRAM_CELLS)


def programs(
    correlation: float, planted: bool, rng: np.random.Generator, draws: int = PROGRAM_DRAWS
) -> dict[str, float]:
    """Hits of one world by method, and of over-representation as if genes were independent.

    Parameters
    ----------
    correlation, planted
        As in `programs_world`.
    rng
        Draws the world.
    draws
        Random directions of the null.
    """
    loadings, genes, sets, cells = programs_world(correlation, planted, rng)
    table = enrich(loadings, genes, sets, cells, n_top=N_TOP, draws=draws, seed=int(rng.integers(2**31))).table
    members = np.array([np.isin(genes, own) for own in sets.sets.values()])
    naive = over_representation(indicators(gene_lists(loadings, N_TOP), len(genes)), members)[0]
    found: dict[str, float] = {
        NAIVE: (benjamini_hochberg(naive.ravel()) <= ALPHA).sum(),
        f"{NAIVE} p": (naive <= ALPHA).mean(),
    }
    for method, part in table.groupby("method", sort=False):
        hits = part[part["q"] <= ALPHA]
        number = hits["factor"].str[1:].astype(int) + PROGRAM_FACTORS * (hits["side"] == "write")
        right = (hits["term"].str[-2:].astype(int) == number) & (hits["direction"] == "+")
        found |= {str(method): len(hits), f"{method} p": (part["p"] <= ALPHA).mean(), f"{method} right": right.sum()}
    return found


def _share(hit: pd.Series | np.ndarray) -> str:
    """A share with its 95 % interval (Wilson), as if its parts were independent."""
    found, n = int(np.sum(hit)), len(hit)
    low, high = binomtest(found, n).proportion_ci(method="wilson")
    return f"{found / n:.1%} ({low:.1%} to {high:.1%})"


def page(needed: dict[str, list[pd.DataFrame]], hits: dict[tuple[float, bool], list[dict[str, float]]]) -> str:
    """The page of both simulations.

    Parameters
    ----------
    needed
        By kind of world, what `necessity` gives of each.
    hits
        By correlation and whether factors were planted, what `programs` gives of each world.
    """
    n = len(next(iter(needed.values())))
    lines = [HEAD.format(n=n, cells=CELLS, groups=GROUPS, splits=SPLITS, draws=DRAWS, floor=1 / (1 + DRAWS))]
    for kind, worlds in needed.items():
        rows = pd.concat(worlds)
        carrier = (
            rows["factor"].isin([f"f{i:02d}" for i in range(CLASSES)]) if kind == CARRIERS else rows["factor"] == ""
        )
        for name, own in (("carriers", rows[carrier]), ("others" if kind == CARRIERS else "all", rows[~carrier])):
            mean, single = own[own["metric"] == "mean drop"], own[own["metric"] != "mean drop"]
            if len(own):
                shares = [_share(mean["p"] <= ALPHA), _share(mean["q"] <= ALPHA), _share(single["p"] <= ALPHA)]
                lines.append(f"| {WORLDS[kind]} | {name} | {len(mean)} | {' | '.join(shares)} |")
    tests = 2 * PROGRAM_FACTORS * N_TERMS
    lines.append(
        PROGRAMS.format(n=n, tests=tests, twice=2 * tests, draws=PROGRAM_DRAWS, cells=PROGRAM_CELLS, top=N_TOP)
    )
    for (correlation, planted), worlds in hits.items():
        table = pd.DataFrame(worlds)
        for method in ("ORA", "GSEA", NAIVE):
            if not planted:
                some, single = _share(table[method] > 0), f"{table[f'{method} p'].mean():.1%}"
                hit = f"{some} | {table[method].mean():.2f}"
                lines.append(f"| {correlation:g} | random directions | {method} | {single} | {hit} | |")
            elif f"{method} right" in table:
                right, wrong = table[f"{method} right"], table[method] - table[f"{method} right"]
                share = f"{right.sum() / (len(table) * 2 * PROGRAM_FACTORS):.1%}"
                lines.append(
                    f"| {correlation:g} | each a module | {method} | | | {wrong.mean():.2f} (others) | {share} |"
                )
    return "\n".join(lines) + "\n"


HEAD = """# Calibration: factors and programs

Made by `experiments/calibration_factors.py --worlds {n}`: {n} worlds of each kind, with the functions that a run calls. In brackets the 95 %
interval of a share, as if factors of a world were independent.

## Is a factor needed?

{cells} cells in {groups} groups, eight factors, six classes; readouts of the classes, of half of them and of their number, on {splits} pairs of seven folds; the
adaptor is fitted to labels of the training side alone. A factor is set to its mean. p compares the drop with {draws} relabellings of the held-out
cells inside their groups; none is below {floor:.4f}. q is Benjamini-Hochberg over the eight factors. p and q are of
the mean drop over metrics, by which a run ranks factors; the last column is of the drops of four single metrics.

| world | factors | n | p <= 0.05 | q <= 0.05 | p <= 0.05, single metrics |
|---|---|---|---|---|---|"""
PROGRAMS = """
## Is a program enriched?

{cells} cells of 400 genes; twenty modules of twenty genes are the gene sets. Six factors of two sides: {tests} tests of pre-ranked enrichment and {twice} of
over-representation (top {top} genes) a world, p from {draws:,} random directions of the cells' expression. "Genes taken as independent" is the
hypergeometric test with the same correction, which gives no p in a run. A test that keeps its level has a hit in 5 % of worlds of random directions;
overlaps are few numbers, so over-representation stays below. "Others" are hits that are not the planted one, of which q allows one in twenty.

| correlation in a module | factors | test | p <= 0.05 | worlds with a hit, q <= 0.05 | hits per world | planted modules found |
|---|---|---|---|---|---|---|"""


def main(argv: Sequence[str] | None = None) -> None:
    """Simulate, and print or write the page.

    Parameters
    ----------
    argv
        Arguments; those of the process when None.
    """
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--worlds", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--docs", type=Path)
    given = parser.parse_args(argv)
    needed: dict[str, list[pd.DataFrame]] = {kind: [] for kind in WORLDS}
    hits: dict[tuple[float, bool], list[dict[str, float]]] = {(c, p): [] for p in (False, True) for c in CORRELATIONS}
    for i in tqdm(range(given.worlds), unit="world of each kind"):
        for kind, found in needed.items():
            found.append(necessity(kind, generator(given.seed, "necessity", kind, str(i))))
        for (correlation, planted), rows in hits.items():
            rows.append(
                programs(correlation, planted, generator(given.seed, "programs", f"{correlation} {planted}", str(i)))
            )
    text = page(needed, hits)
    write_text(given.docs, text) if given.docs else print(text)


if __name__ == "__main__":
    main()
