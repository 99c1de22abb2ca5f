"""How often the remaining tests of reports call nothing, what their intervals hold, and what they find: simulated worlds, one page.

    python experiments/calibration_others.py artifacts/calibration_others --docs docs/calibration_others.md
    python experiments/calibration_others.py FOLDER --docs docs/calibration_others.md --only features names

Stability of factors, what heads write, agreement of rulers, patching, steering, probes, readouts of a run, and features of a
dictionary. Arrays are drawn and handed to the functions that a command calls; patching and steering pass cells through small
models with one planted head. Killed, it goes on where it was. A little over a quarter of an hour on one core.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from calibration_factors import N_TERMS, SIZE, programs_world
from scipy.stats import binomtest

from workbench.ablation.patching import activation_patching
from workbench.cells.datasets import load
from workbench.cells.groups import make_folds, make_groups
from workbench.dictionaries.alike import compare_features
from workbench.dictionaries.directions import cell_directions
from workbench.dictionaries.judging import explained_interval
from workbench.dictionaries.lists import name_lists, name_rankings
from workbench.dictionaries.regulation import name_regulators
from workbench.engine.sweep import Task, run_sweep
from workbench.evidence.holdout import relabelled
from workbench.evidence.probing import describe_probe, label_target, probe_scores
from workbench.evidence.writing import compared_cells, covariates, deal_genes, follow, judge_written
from workbench.factors.factorise import svd_factors, top_genes
from workbench.factors.stability import stability
from workbench.files import write_text
from workbench.geometry.agreement import agreement_rows
from workbench.models.scgpt.planted import LABEL, plant_head, planted_cells
from workbench.operators.adaptor import LETAdaptor
from workbench.operators.controls import coexpression
from workbench.operators.readout import Endpoint, cross_validate
from workbench.seeds import generator
from workbench.stats import benjamini_hochberg, permutation_p
from workbench.tools.steer import steer

ALPHA, BLOCK, HEADS, TIED = 0.05, 20, 24, 6
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


# Patching and steering: models with one planted head, 20 samples of cells of each.
ALIKE, APART, DONORS = (
    "groups differ by chance alone",
    "groups differ in what one head carries",
    "groups of other donors, who differ in what one head carries",
)


@lru_cache(maxsize=2)
def _planted(number: int) -> Any:
    return plant_head(number, n_layers=3, n_heads=4)


def _cells(number: int, seed: int, n: int, spread: float = 0.0) -> Any:
    """Cells of a planted model; of six donors whose signal genes differ by as much."""
    made = _planted(number)
    cells = planted_cells(made, n, seed)
    donor = np.arange(n) // 2 % 6
    cells.obs["who"] = [f"D{i}" for i in donor]
    level = np.exp(spread * generator(seed, "donors").normal(size=6))[donor][:, None]
    at = np.isin(cells.var_names, made.genes)
    x = cells.X.toarray() if sp.issparse(cells.X) else np.asarray(cells.X).copy()
    x[:, at] = np.round(x[:, at] * level)
    cells.X = x
    return cells


def patched(world: str, rng: np.random.Generator, number: int) -> Rows:
    """P and q of every head of a planted model for patching from one group to the other."""
    made, seed = _planted(number), int(rng.integers(2**31))
    cells = _cells(number, seed, 48, 0.7 if world == DONORS else 0.0)
    tokens, label = made.model.tokenizer(cells).tokens(), cells.obs[LABEL].to_numpy()
    up, down = (np.flatnonzero(label == name) for name in ("up", "down"))
    group = {ALIKE: (up[:12], up[12:]), APART: (down[:12], up[:12])}
    donors = np.isin(cells.obs["who"].to_numpy()[up], ["D0", "D1", "D2"])
    group[DONORS] = (up[donors], up[~donors])
    table = activation_patching(
        made.model, *(tokens.take(rows.tolist()) for rows in group[world]), draws=400, seed=seed
    )
    rows = []
    for one in table.to_dict("records"):
        carries = (one["layer"], one["head"]) == (made.layer, made.head) and world != ALIKE
        truth = {"low": one["low"], "high": one["high"], "truth": _share(number)} if carries and world == APART else {}
        rows.append(row("the planted head" if carries else "heads", p=one["p"], q=one["q"], **truth))
    return rows


@lru_cache(maxsize=2)
def _share(number: int) -> float:
    """Share that the planted head carries between 200 cells of each class."""
    made, cells = _planted(number), _cells(number, 0, 400)
    tokens, label = made.model.tokenizer(cells).tokens(), cells.obs[LABEL].to_numpy()
    sides = [tokens.take(np.flatnonzero(label == name).tolist()) for name in ("down", "up")]
    return float(activation_patching(made.model, *sides, sites=[f"L{made.layer}H{made.head}"], draws=1)["moved"].item())


NOTHING, RAISED, OUTPUT = (
    "groups differ in 15 of 60 genes; a direction that has nothing to do with them",
    "the same; the difference of their means",
    "groups differ in what one head carries; the direction that it writes",
)


@lru_cache(maxsize=2)
def _untrained(number: int) -> Any:
    return _planted(number).model.untrained(number)


def steered(world: str, rng: np.random.Generator, number: int) -> Rows:
    """P of steering an untrained model along a difference of means, or along what cells of one group differ by.

    In the last world the model is planted, and the direction the one that its head writes to the embedding of the cell.
    """
    seed = int(rng.integers(2**31))
    if world == OUTPUT:
        made = _planted(number)
        cells = load(_cells(number, seed, 40), values="counts", cell_type=LABEL)
        return _steer(cells, made.model, seed, made.layer, made.direction)
    model, n = _untrained(number), 40
    genes, label = list(model.vocabulary.genes), np.arange(n) % 2
    rate = np.exp(rng.normal(1, 0.7, len(genes)) + 0.4 * rng.normal(size=(n, 3)) @ rng.normal(size=(3, len(genes))))
    rate[:, rng.permutation(len(genes))[:15]] *= np.where(label == 1, 1.0 if world == ALIKE else 4.0, 1.0)[:, None]
    kinds = pd.DataFrame({"kind": np.array(["down", "up"])[label]}, index=[f"cell {i}" for i in range(n)])
    cells = AnnData(rng.poisson(rate).astype(np.float32), kinds)
    cells.var_names = genes
    given = load(cells, values="counts", cell_type="kind")
    along = None
    if world == NOTHING:
        hook = "blocks.1.hook_resid_post"
        tokens = model.to_tokens(given[label == 0])
        stream = model.run_with_cache(tokens, names_filter=hook)[1][hook].numpy()
        mean = np.array([x[keep].mean(0) for x, keep in zip(stream, tokens.genes.numpy(), strict=True)])
        along = rng.normal(size=len(mean)) @ (mean - mean.mean(0)) / np.sqrt(len(mean))
    return _steer(given, model, seed, 1, along)


def _steer(cells: AnnData, model: Any, seed: int, layer: int, along: np.ndarray | None) -> Rows:
    given = {"source": "up", "target": "down", "layer": layer, "doses": (1.0,), "seed": seed, "direction": along}
    table = steer(cells, model, **given)
    return [row(one["measure"], p=one["p"]) for one in table.to_dict("records") if np.isfinite(one["p"])]


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


@dataclass(frozen=True)
class Part:
    """Worlds of one kind, how many of each, and whether the number of the block is needed (of the model that they share)."""

    made: Callable[..., Rows]
    worlds: tuple[str, ...]
    n: int
    numbered: bool = False


PARTS = {
    "stability": Part(stable, (FEW, NOISY, MORE), 300),
    "writing": Part(written, (GAUSSIAN, ROWS, TURNED, TIES), 300),
    "agreement": Part(agreeing, (NEITHER, FIRST, BOTH, SAME), 120),
    "patching": Part(patched, (ALIKE, APART, DONORS), 200, numbered=True),
    "steering": Part(steered, (ALIKE, NOTHING, RAISED, OUTPUT), 300, numbered=True),
    "probe": Part(probed, (CELLS, IN_DONORS, BY_DONOR, NUMBERS, READ), 300),
    "readouts": Part(read_out, (CELLS, IN_DONORS, BY_DONOR, READ), 300),
    "features": Part(changed, (DO_ALIKE, EIGHT_DONORS, SCATTER, BESIDE_MORE, DO_MORE), 300),
    "names": Part(named, (ALONE, TOGETHER, STRONG, MODULES), 100),
    "explained": Part(explained, tuple(UNITS), 1000),
}


def block(part: str, world: str, number: int) -> pd.DataFrame:
    """Some worlds, a row for each test or interval.

    Parameters
    ----------
    part
        A key of `PARTS`.
    world
        One of its worlds.
    number
        Number of the block.
    """
    one, rows = PARTS[part], []
    for i in range(number * BLOCK, (number + 1) * BLOCK):
        rng = generator(0, "calibration of others", part, world, str(i))
        made = one.made(world, rng, *([number] if one.numbered else []))
        rows += [{"part": part, "world": world, "draw": i, **found} for found in made]
    columns = ["part", "world", "draw", "what", "p", "q", "low", "high", "value", "truth"]
    return pd.DataFrame(rows).reindex(columns=columns).astype(dict.fromkeys(columns[4:], float))


def share(hit: pd.Series) -> str:
    """A share with its 95 % interval (Wilson), as if its parts were independent; empty where there is none.

    Parameters
    ----------
    hit
        What is counted.
    """
    if not len(hit):
        return ""
    low, high = binomtest(int(hit.sum()), len(hit)).proportion_ci(method="wilson")
    return f"{hit.mean():.1%} ({100 * low:.1f} to {100 * high:.1f})"


def table(rows: pd.DataFrame) -> str:
    """The table of a part, a line for each world and what was tested.

    Parameters
    ----------
    rows
        Rows of `block` of this part.
    """
    found = []
    for (world, what), own in rows.groupby(["world", "what"], sort=False):
        p, q, ends = (own.loc[own[name].notna()] for name in ("p", "q", "low"))
        # Without a known truth it is the mean over worlds.
        truth = ends["truth"].fillna(ends["value"].mean())
        some = (q["q"] <= ALPHA).groupby(q["draw"]).any()
        cells = [share(p["p"] <= ALPHA), share(q["q"] <= ALPHA), share(some)]
        found.append(
            {
                "world": world,
                "of": what.replace("|", ""),
                "n": f"{len(own):,}",
                **dict(zip((f"p <= {ALPHA}", f"q <= {ALPHA}", "worlds with one at q"), cells, strict=True)),
                "interval holds the truth": share((ends["low"] <= truth) & (truth <= ends["high"])),
            }
        )
    shown = pd.DataFrame(found)
    shown = shown.loc[:, (shown != "").any()]
    lines = [shown.columns, ["---"] * shown.shape[1], *shown.to_numpy().tolist()]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def page(rows: pd.DataFrame, old: str = "") -> str:
    """The page, from the rows of all worlds, or of some parts and the page as it was.

    Parameters
    ----------
    rows
        As `block` gives them.
    old
        Page whose sections stay where there are no rows of a part; empty for none.
    """
    kept = {part.split("\n", 1)[0]: f"\n## {part}" for part in old.split("\n## ")[1:]}
    text = HEAD
    for name in PARTS:
        own = rows[rows["part"] == name]
        before, after = SAID[name]
        if not len(own):
            text += kept.get(before.split("\n", 1)[0], "")
            continue
        n = own["draw"].nunique()
        error = 1.96 * np.sqrt(ALPHA * (1 - ALPHA) / n)
        text += f"\n## {before.format(n=f'{n:,}', error=f'{error:.1%}')}\n\n{table(own)}\n\n{after}\n"
    return text


HEAD = """# Calibration: what else is reported

Made by `experiments/calibration_others.py`, with the functions that a command calls. A row of a table is a kind of world and what was tested in it; n counts tests or
intervals. In brackets the 95 % interval of a share, as if tests of a world were independent. A test that keeps its level has p at most 0.05 in 5 % where there is nothing;
an interval that is as good as it says holds the truth in 95 %.
"""
# Title and design of each part, and what its table says.
SAID = {
    "stability": (
        """Stability of factors

{n} worlds of each kind, so within {error} for chance where a row has one number per world. Two planted factors of 60 genes, whose strength differs by a fifth between groups of cells, and noise in every
pair of genes; 100 draws of the groups. The truth of a strength is that of all groups there could be. "Overlap" is the Jaccard index of the ten top genes, which the report gives as a
mean over draws, with the range of draws.""",
        """So the interval of a strength holds what it says, also where noise adds a third to the strength: draws add nearly as much again, which is taken off, and the rest is stretched to Student's t for few groups. Where
noise is large it is too wide. The range of the overlap is no interval of a mean: it holds the overlap with all cells there could be, and with another sample, a little more often than 95 %.""",
    ),
    "writing": (
        """What heads write

{n} worlds of each kind (within {error}): 24 heads, 120 genes in six programs, 240 cells of which half are judged, 999 exchanges of gene names. q is over the 24 heads.""",
        """So p keeps its level for operators that tie no gene to another, also where their rows are as strong as genes are expressed, and weak ties are found.""",
    ),
    "agreement": (
        """Agreement of rulers

{n} worlds of each kind (within {error}): two rulers over the same eight stages of five anchors, an adaptor fitted to each, and to 20 relabellings of each. With 20 draws no p is below 0.048. A report counts two rulers as
agreeing where both measures stand out from both nulls.""",
        """So p beside draws of a ruler that is not in the features keeps its level. Beside draws of one that is, it calls up to one of eight pairs that have nothing to do with each other: a latent fitted to what the
features hold lies along their strong directions, which every other latent is nearer to than to those of relabelled stages. That is why a report asks for both nulls. It is cautious
then, and misses pairs that single measures find. A single p of the table is not to be read alone.""",
    ),
    "patching": (
        """Patching, and transfer of an ablation

{n} worlds of each kind (within {error}): cells go through models of 12 heads, one of which is planted and carries what tells two groups apart; 12 cells of each group, or three donors. Twenty worlds share a model. `workbench.patch`
and the transfer of `workbench ablate` are the same function. The truth of the interval is the share between 200 cells of each group.""",
        """So p is a little cautious, and the head that carries the difference is always found. Its interval holds the truth. p takes cells as independent: where the groups are cells of other donors, and donors
differ, it finds the donors (third kind).""",
    ),
    "steering": (
        """Steering

{n} worlds of each kind (within {error}): dose 1, 40 cells, 20 random directions. In the first three kinds an untrained model, in the last one with a planted head. Random directions are mixtures of what
cells of one label differ by, of the same length; axis and probe are of other cells than the direction.""",
        """So p keeps its level where groups differ by chance alone, and where a direction that cells differ along has nothing to do with them. A direction that the model writes for the difference is found. The
difference of means of an untrained model is not: cells of one label differ along directions that move them as far. So a large p says that a direction is no more than those, and not that
it does nothing. The intervals beside p are of the steered cells, with direction and axis as they are.""",
    ),
    "probe": (
        """Probe and lens

{n} worlds of each kind (within {error}): 200 cells of eight donors with offsets of their own, 12 features, five folds (four where the label goes by donor). The second row is the difference from another probe, whose features are drawn in the same
way, and where the label is read carry half of it; its truth is the mean over worlds.""",
        """So p keeps its level or is cautious, and so is the test of the difference (Nadeau and Bengio), which finds one of half the effect in one world of nine; its interval holds the truth at least as often as it says. Rows of `lens` that read expression have no p; their intervals are of
the same difference.""",
    ),
    "readouts": (
        """Readouts of a run

{n} worlds of each kind (within {error}): the same cells, five folds, of whole donors where there are any; 199 relabellings. Features are fixed, where a run's were made without the labels of the fold that is judged.""",
        """So p keeps its level or is cautious. It does because the null's mean over folds is taken the square root of two wider than draws of one fold after the other are, as a probe's is, since folds learn from each
other's labels; and because labels change places inside donors, or with them where no donor has two. Of the readouts on one label the AUROC finds most, and a number that is half noise is hardly found.""",
    ),
    "features": (
        """Effects of features

{n} worlds of each kind (within {error}): 24 features, each beside 20 of 150 that are alike (100 in the fourth kind, as many as a command draws), 160 cells, tails of Student's t with five degrees of freedom. The truth is the
mean effect of that very feature. "As if they scattered alike" is the rank of its size among those of the others.""",
        """So p keeps its level, intervals over cells and over eight donors hold what they say, and features that do four times as much are found by p; whether by q hangs on the number of draws, of which 20 let no p
fall below 0.048. A feature whose effect scatters more over cells than those of its like has a larger mean by chance of the cells, and its rank alone is small too often. Each of theirs is therefore moved by
chance of that size (`ablation.nulls.p_among`). Beside 20 of them p is then hardly ever small, as one that chance may bring near takes p above 0.05; beside 100 it is at its level. Estimates by gradients have
intervals of the same kind.""",
    ),
    "names": (
        """Names of features

{n} worlds of each kind (within {error}): 12 features, 400 genes in twenty modules of twenty, which are the gene sets, and the targets of twenty regulators; 600 cells whose genes go together alike, and 199 random directions
of these. q is over the features. In the third kind modules differ in how strongly their genes are expressed, and a feature leans to that as much as to its direction.""",
        """So p keeps its level, also where genes of a set go together and where features lean to genes that are expressed strongly; overlaps are few numbers, so p of top genes and regulators is a little cautious. Each
module is found by top genes and regulators, and three of four by rankings, whose draws lean to the level at which the genes of the module are expressed. Beside exchanged genes and rewired targets, which stood in the place of this null before, most directions of the second kind had a small p. The null
is that of factors ([factors](calibration_factors.md)). A small p says that a feature's genes are nearer to a set than those of random directions of the same cells. It is not evidence that the model uses
a program: genes may be alike in the model's vectors and not in the cells, whatever it does with them.""",
    ),
    "explained": (
        """What a dictionary explains beyond gene names

{n} worlds of each kind (within {error}): donors, or cells, of 40 rows each, which differ in how much there is to explain and in how much is left; 200 draws.""",
        """So the interval holds the truth nearly as often as it says, stretched to Student's t (`workbench.stats.over_few`).""",
    ),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Simulate, and write the page.

    Parameters
    ----------
    argv
        Arguments; those of the process when None.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--docs", type=Path)
    parser.add_argument("--share", type=float, default=1.0, help="share of the worlds, for a first look")
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, help="parts of the page to make; the others stay as they are"
    )
    given = parser.parse_args(argv)
    old = given.docs.read_text() if given.only and given.docs else ""
    tasks = [
        Task(f"{name} {world} {number}", (name, world, number))
        for name, part in PARTS.items()
        if name in (given.only or PARTS)
        for world in part.worlds
        for number in range(max(1, round(given.share * part.n / BLOCK)))
    ]
    text = page(run_sweep(given.folder, {"block": BLOCK}, tasks, block), old)
    write_text(given.docs, text) if given.docs else print(text)


if __name__ == "__main__":
    main()
