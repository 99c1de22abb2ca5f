"""Worlds in which the truth is known, for experiments/calibration_others.py: each gives the tests and intervals of one draw of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
from calibration_factors import N_TERMS, SIZE, programs_world

from workbench.cells.groups import make_folds, make_groups
from workbench.dictionaries.alike import compare_features
from workbench.dictionaries.directions import cell_directions
from workbench.dictionaries.judging import explained_interval
from workbench.dictionaries.lists import name_lists, name_rankings
from workbench.dictionaries.regulation import name_regulators
from workbench.evidence.holdout import relabelled
from workbench.evidence.probing import describe_probe, label_target, probe_scores
from workbench.evidence.writing import compared_cells, covariates, deal_genes, follow, judge_written
from workbench.factors.factorise import svd_factors, top_genes
from workbench.factors.stability import stability
from workbench.geometry.agreement import agreement_rows
from workbench.operators.adaptor import LETAdaptor
from workbench.operators.controls import coexpression
from workbench.operators.cross_validation import cross_validate
from workbench.operators.readout import Endpoint
from workbench.stats import benjamini_hochberg, permutation_p

HEADS, TIED = 24, 6
Rows = list[dict[str, Any]]


def row(what: str, **numbers: float) -> dict[str, Any]:
    """A test or interval of a world: ``p``, ``q``, ``low``, ``high``, ``value`` and ``truth``, those that there are."""
    return {"what": what, **{name: float(number) for name, number in numbers.items()}}


# Stability of factors: two planted ones, whose strength differs between groups of cells, and noise in every pair of genes.
FEW, NOISY, MORE = (
    "5 groups, little noise",
    "5 groups, noise that adds a tenth and a third",
    "10 groups, the same noise",
)
_GENES, _TOP, _STRENGTHS = 60, 10, np.array([3.0, 1.5])


def stable(world: str, rng: np.random.Generator) -> Rows:
    """Strength of two factors, and overlap of their top genes with those of all cells there could be and of another sample."""
    n, noise = 10 if world == MORE else 5, 0.02 if world == FEW else 0.3
    genes = [f"G{i:02d}" for i in range(_GENES)]
    sides = [
        np.linalg.qr(rng.exponential(size=(_GENES, 2)) ** 1.5 * rng.choice([-1, 1], (_GENES, 2)))[0] for _ in range(2)
    ]

    def sample() -> np.ndarray:
        strength = _STRENGTHS * (1 + 0.2 * rng.normal(size=(n, 2)))
        return np.einsum("gf,if,jf->gij", strength, *sides) + noise * rng.normal(size=(n, _GENES, _GENES))

    def tops(matrix: np.ndarray) -> list[set[str]]:
        table = top_genes(svd_factors(matrix, genes, 2), _TOP).query("side == 'read'")
        return [set(part["gene"]) for _, part in table.groupby("factor")]

    sums = sample()
    reference = svd_factors(sums.mean(0), genes, 2)
    found = stability(
        sums, np.ones_like(sums), genes, reference, n_top=_TOP, draws=100, seed=int(rng.integers(2**31))
    ).factors.query("side == 'read'")
    others = {"all cells there could be": (sides[0] * _STRENGTHS) @ sides[1].T, "another sample": sample().mean(0)}
    own, rows = tops(sums.mean(0)), []
    for i, one in enumerate(found.to_dict("records")):
        rows.append(
            row(
                "interval of a factor's strength",
                low=one["strength_low"],
                high=one["strength_high"],
                truth=_STRENGTHS[i],
            )
        )
        for name, matrix in others.items():
            theirs = tops(matrix)[i]
            overlap = len(own[i] & theirs) / len(own[i] | theirs)
            rows.append(
                row(f"range of the overlap of top genes, with {name}", low=one["low"], high=one["high"], truth=overlap)
            )
    return rows


# What heads write: genes go in programs at levels of expression that do not.
GAUSSIAN, ROWS, TURNED, TIES = (
    "random operators",
    "random, rows as strong as genes are expressed",
    "co-expression whose written side was turned at random",
    "6 of 24 heads tie genes of a program, weakly",
)


def written(world: str, rng: np.random.Generator) -> Rows:
    """P and q of 24 heads on cells that no operator was made of."""
    n, cells, tie = 120, 240, 0.15
    program, mean = rng.integers(0, 6, n), rng.lognormal(0, 1, n)
    x = np.log1p(rng.poisson(mean * (0.3 + rng.gamma(1, 1, (cells, 6))[:, program]))).astype(float)
    half = cells // 2
    deal = deal_genes([f"G{i}" for i in range(n)], x[:half].mean(0), 999, int(rng.integers(2**31)))
    judged = [x[half::2], x[half + 1 :: 2]]
    parts = [compared_cells(one, deal, covariates(one.sum(1))) for one in judged]
    plain, p = coexpression(sp.csr_matrix(x[:half])), []
    for head in range(HEADS):
        operator = rng.normal(size=(n, n))
        if world == ROWS:
            operator *= x[:half].mean(0)[:, None]
        elif world == TURNED:
            q, r = np.linalg.qr(operator)
            operator = plain @ (q * np.sign(np.diag(r)))  # without the signs not every rotation is as likely
        elif world == TIES and head < TIED:
            operator += tie * (program[:, None] == program)
        p.append(judge_written([follow(one, operator, deal) for one in parts], deal).p)
    q, tied = benjamini_hochberg(np.array(p)), TIED if world == TIES else 0
    return [row("heads that tie genes" if i < tied else "heads that do not", p=p[i], q=q[i]) for i in range(HEADS)]


# Agreement of rulers: 8 stages of 5 anchors, two rulers whose stages lie in three dimensions.
NEITHER, FIRST, BOTH, SAME = (
    "neither ruler is in the features",
    "one is, the other is not",
    "both are, and say different things",
    "both are, and the other is nearly the first",
)


def agreeing(world: str, rng: np.random.Generator) -> Rows:
    """P of each measure and null, and the largest of the four, by which a report counts."""
    stages, anchors, width, draws = 8, 40, 12, 20
    stage, seed = np.arange(anchors) % stages, int(rng.integers(2**31))
    at = [rng.normal(size=(stages, 3)) for _ in range(2)]
    if world == SAME:
        at[1] = at[0] + 0.2 * at[1]
    heard = (world != NEITHER, world in (BOTH, SAME))
    x = rng.normal(size=(stages, width))[stage] + 0.7 * rng.normal(size=(anchors, width))
    for own, there in zip(at, heard, strict=True):
        x += there * (own @ rng.normal(size=(3, width)))[stage]
    latents = []
    for number, own in enumerate(at):
        distances = np.linalg.norm(own[:, None] - own, axis=2)
        labels = [stage, *(relabelled(stage, seed + number, draw) for draw in range(draws))]
        fits = (LETAdaptor(k=3).fit(x, distances[np.ix_(one, one)], np.ones(anchors)) for one in labels)
        latents.append([x @ one.encoder_.T for one in fits])
    found = agreement_rows(*latents)
    rows = [
        row(f"{one['measure']}, draws of {'one' if one['null_of'] == 'ruler' else 'the other'}", p=one["p"])
        for one in found
    ]
    return [*rows, row("largest of the four, by which a report counts", p=max(one["p"] for one in found))]


# Probes and readouts: 200 cells of 8 donors with offsets of their own.
CELLS, IN_DONORS, BY_DONOR, NUMBERS, READ = (
    "label of each cell drawn alone, no donors",
    "shares of a label differ between donors",
    "label goes by donor",
    "a number, its mean by donor",
    "the label is read, no donors",
)


def _labelled(world: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    donor = np.repeat(np.arange(8), 25)
    label = {
        IN_DONORS: rng.random(200) < rng.uniform(0.2, 0.8, 8)[donor],
        BY_DONOR: rng.permutation(np.arange(8) % 2 == 0)[donor],
        NUMBERS: rng.normal(size=200) + rng.normal(size=8)[donor],
    }.get(world, rng.random(200) < 0.5)
    return donor, label


def _features(world: str, donor: np.ndarray, label: np.ndarray, effect: float, rng: np.random.Generator) -> np.ndarray:
    apart = 0.0 if world in (CELLS, READ) else 2.0
    x = rng.normal(size=(200, 12)) + apart * rng.normal(size=(8, 12))[donor]
    x[:, 0] += effect * label
    return x


def probed(world: str, rng: np.random.Generator) -> Rows:
    """P of a probe, and the interval of its difference from another."""
    donor, label = _labelled(world, rng)
    effect = 0.8 if world == READ else 0.0
    names = np.array([f"cell {i}" for i in range(200)])
    values = label if world == NUMBERS else np.where(label, "yes", "no").astype(object)
    donors = None if world in (CELLS, READ) else donor.astype(str)
    target = label_target(values, "label", names, donors, 4 if world == BY_DONOR else 5, int(rng.integers(2**31)))
    folds = len(np.unique(target.fold))
    one, base = (probe_scores(_features(world, donor, label, e, rng), target, None, 0) for e in (effect, effect / 2))
    found = describe_probe(one, base, target, folds)
    apart = {"low": found["low"], "high": found["high"], "value": found["difference"]}
    return [row("probe", p=found["p"]), row("difference of two probes", p=found["p_difference"], **apart)]


def read_out(world: str, rng: np.random.Generator) -> Rows:
    """P of readouts of a run, whose groups of cells are donors."""
    donor, label = _labelled(world, rng)
    x, every = _features(world, donor, label, 0.8 if world == READ else 0.0, rng), np.arange(200)
    names = np.array([f"cell {i}" for i in range(200)])
    donors = None if world in (CELLS, READ) else donor.astype(str)
    groups = make_groups(names, donors, 10, int(rng.integers(2**31)))
    fold = make_folds(groups, label, 5, 0)
    three = np.where(label, "a", np.where(rng.random(200) < 0.5, "b", "c")).astype(object)
    wanted = [
        Endpoint("classes", "classes", three, every),
        Endpoint("binary", "binary", label, every),
        Endpoint("depth", "depth", label + rng.normal(size=200), every),
    ]
    given = {"permutations": 199, "seed": int(rng.integers(2**31)), "names": names, "donors": donors}
    found = cross_validate({"x": lambda _: x}, wanted, fold, **given)
    return [row(f"{one['endpoint']}, {one['metric']}", p=one["p"]) for one in found if np.isfinite(one["p"])]


# Features of a dictionary: effects beside features that are alike, names, and what is explained beyond a gene's name.
DO_ALIKE, EIGHT_DONORS, SCATTER, BESIDE_MORE, DO_MORE = (
    "features do what alike ones do",
    "the same, cells of 8 donors that differ",
    "the same, and features scatter four times as much",
    "the same, beside 100 that are alike",
    "6 of 24 do four times as much",
)


def changed(world: str, rng: np.random.Generator) -> Rows:
    """P, q and interval of 24 features, each beside 20 (or 100) of 150 that are alike."""
    n, cells = 24 + 150, 160
    own, matters = rng.normal(1, 0.5, n), np.arange(n) < (TIED if world == DO_MORE else 0)
    own[matters] += 3 * np.sign(own[matters])
    scatter = np.where((np.arange(n) < 24) & (world in (SCATTER, BESIDE_MORE)), 12.0, 3.0)[:, None]
    values = own[:, None] + scatter * rng.standard_t(5, (n, cells)) / np.sqrt(5 / 3)
    donor = np.arange(cells) % 8 if world == EIGHT_DONORS else None
    if donor is not None:
        values += rng.normal(size=(n, 8))[:, donor]
    drawn = {i: 24 + rng.permutation(150)[: 100 if world == BESIDE_MORE else 20] for i in range(24)}
    table = compare_features(
        {"metric": values}, range(n), drawn, draws=1000, seed=int(rng.integers(2**31)), groups=donor
    )
    rows = [
        row(
            "features that do more" if matters[i] else "features",
            **{name: one[name] for name in ("p", "q", "low", "high")},
            truth=own[i],
        )
        for i, one in enumerate(table.to_dict("records"))
    ]
    if world in (SCATTER, BESIDE_MORE):
        sizes = np.abs(values.mean(1))
        ranks = (permutation_p(sizes[i], sizes[others]) for i, others in drawn.items())
        rows += [row("features, as if they scattered alike", p=p) for p in ranks]
    return rows


ALONE, TOGETHER, STRONG, MODULES = (
    "random directions, genes independent",
    "random directions, correlation .3 in a module",
    "the same, leaning to genes expressed strongly, which modules differ in",
    "each feature is a module",
)


def named(world: str, rng: np.random.Generator) -> Rows:
    """P and q of names of 12 features, by top genes, ranking and regulators; modules of genes are sets and targets."""
    loadings, genes, sets, cells = programs_world(0.0 if world == ALONE else 0.3, world == MODULES, rng)
    level = np.repeat(rng.normal(size=N_TERMS), SIZE) + rng.normal(size=len(genes))
    scores = np.concatenate([loadings["read"].T, loadings["write"].T]) + (level if world == STRONG else 0)
    scores, seed = np.maximum(scores, 0), int(rng.integers(2**31))
    lists = [np.argsort(-one)[:20] for one in scores]
    peers = cell_directions(sp.csr_matrix(cells), np.column_stack([level, rng.normal(size=len(genes))]))
    members = np.array([np.isin(genes, own) for own in sets.sets.values()])
    edges = np.array([(m * SIZE, m * SIZE + j) for m in range(N_TERMS) for j in range(1, SIZE)])
    given = {"draws": 199, "seed": seed}
    top = name_lists(lists, members, list(sets.sets), peers, **given)[0]
    ranked = name_rankings(scores, members, list(sets.sets), peers, **given)[0]
    regulated = name_regulators(lists, edges, genes, peers, **given)[0]
    kinds = (("top genes", top, ""), ("ranking", ranked, "ranked_"), ("regulators", regulated, "regulator_"))
    return [
        row(name, p=one[f"{before}p"], q=one[f"{before}q"])
        for name, table, before in kinds
        for one in table.to_dict("records")
    ]


UNITS = {"5 donors": 5, "10 donors": 10, "200 cells": 200}


def explained(world: str, rng: np.random.Generator) -> Rows:
    """Interval of what a dictionary explains beyond a gene's name, over donors or cells who differ in it."""
    n, each = UNITS[world], 40
    unit = np.repeat(np.arange(n), each)
    x = np.exp(0.3 * rng.normal(size=n))[unit, None] * rng.normal(size=(n * each, 4))
    error = np.sqrt(0.4 * np.exp(0.4 * rng.normal(size=n)))[unit, None]
    found = x + error * rng.normal(size=x.shape)
    low, high = explained_interval(x, found, np.zeros(4), unit, draws=200, seed=int(rng.integers(2**31)))
    return [row("share explained", low=low, high=high, truth=1 - 0.4 * np.exp(0.08) / np.exp(0.18))]
