"""Worlds of experiments/calibration_others.py in which cells go through small models: patching and steering."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from calibration_others_worlds import Rows, row

from workbench.ablation.effects import bootstrap_weights, interval
from workbench.ablation.patching import activation_patching
from workbench.cells.datasets import load
from workbench.models.scgpt.planted import LABEL, plant_head, planted_cells
from workbench.seeds import generator
from workbench.tools.steer import _Judge, _Run, steer

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
    given = _apart(world, rng, model, n)
    along = None
    if world == NOTHING:
        hook = "blocks.1.hook_resid_post"
        tokens = model.to_tokens(given[given.obs["cell_type"].to_numpy() == "down"])
        stream = model.run_with_cache(tokens, names_filter=hook)[1][hook].numpy()
        mean = np.array([x[keep].mean(0) for x, keep in zip(stream, tokens.genes.numpy(), strict=True)])
        along = rng.normal(size=len(mean)) @ (mean - mean.mean(0)) / np.sqrt(len(mean))
    return _steer(given, model, seed, 1, along)


def _apart(world: str, rng: np.random.Generator, model: Any, n: int) -> AnnData:
    """Cells of two groups in turn, which differ in 15 genes or not, and along three directions by themselves."""
    genes, label = list(model.vocabulary.genes), np.arange(n) % 2
    rate = np.exp(rng.normal(1, 0.7, len(genes)) + 0.4 * rng.normal(size=(n, 3)) @ rng.normal(size=(3, len(genes))))
    rate[:, rng.permutation(len(genes))[:15]] *= np.where(label == 1, 1.0 if world == ALIKE else 4.0, 1.0)[:, None]
    kinds = pd.DataFrame({"kind": np.array(["down", "up"])[label]}, index=[f"cell {i}" for i in range(n)])
    cells = AnnData(rng.poisson(rate).astype(np.float32), kinds)
    cells.var_names = genes
    return load(cells, values="counts", cell_type="kind")


# Cells that an interval is over: as many as are steered of 24 of a label, and of the 50 that a command takes.
_STEERED, _MANY = (8, 16), 160


def steered_intervals(world: str, rng: np.random.Generator, number: int) -> Rows:
    """Intervals over a few steered cells of one label, whose truth is the mean over many, with direction, axis and probe as they are."""
    model, seed = _untrained(number), int(rng.integers(2**31))
    given = _apart(RAISED, rng, model, 2 * _MANY + 80)
    up, down = (np.flatnonzero(given.obs["cell_type"].to_numpy() == name) for name in ("up", "down"))
    run = _Run(model, "blocks.1.hook_resid_post", 16)
    made = [run.intact(model.to_tokens(given[rows[:20]]))["stream"].mean(0) for rows in (up, down)]
    real = [run.intact(model.to_tokens(given[rows[20:40]]))["cell"] for rows in (up, down)]
    judge = _Judge(np.concatenate(real), np.repeat(["source", "target"], 20))
    found = judge.measures(run.steered(model.to_tokens(given[down[40:]]), made[0] - made[1]))
    rows = []
    for n in _STEERED:
        weights = bootstrap_weights(n, 1000, seed)
        for measure, values in found.items():
            low, high = interval(values[:n], weights)
            rows.append(row(f"{measure}, {n} cells", low=low, high=high, truth=values[n:].mean()))
    return rows


def _steer(cells: AnnData, model: Any, seed: int, layer: int, along: np.ndarray | None) -> Rows:
    given = {"source": "up", "target": "down", "layer": layer, "doses": (1.0,), "seed": seed, "direction": along}
    table = steer(cells, model, **given)
    return [row(one["measure"], p=one["p"]) for one in table.to_dict("records") if np.isfinite(one["p"])]
