"""The stage that judges what heads write: the one part of a run that depends on the columns of an operator."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from workbench.ablation.build import choose_rows
from workbench.cells.anchors import LIBRARY_SIZE
from workbench.engine.stages import Result, Results
from workbench.evidence.writing import (
    Compared,
    Deal,
    Written,
    compared_cells,
    covariates,
    deal_genes,
    follow,
    judge_written,
)
from workbench.operators.controls import CODETECTION, COEXPRESSION, NORMS, PERMUTED, RANDOM, control
from workbench.operators.operator import head_name
from workbench.operators.store import StoredOperators
from workbench.recipes.run.context import UNTRAINED, RunContext
from workbench.recipes.run.heads import beside_draws
from workbench.stats import benjamini_hochberg, enough_draws

TABLES = ("writing",)
MODEL, CONTROL, MEAN = "model", "control", "mean of all heads"
ALL, INSIDE = "all cells", "inside cell types"
# `x itself` ties no gene to another. Random directions say no more than the exchanges do; these keep rows, or which genes are strong.
_CONTROLS = (NORMS, PERMUTED, COEXPRESSION, CODETECTION)
_CELLS, _DRAWS = 2000, 999
Out = tuple[int, ...]
Operator = Callable[[Out], np.ndarray]
Fold = tuple[Out, dict[str, Compared]]


def writing_stage(context: RunContext, _: Path, __: Results) -> Result:
    """Judge what every head of the model and of the untrained one writes, and their means beside controls.

    Parameters
    ----------
    context
        Run whose cells were placed and whose operators were read, the untrained ones too.
    _, __
        Folder of the stage and results of those before it, of which neither is needed.

    Returns
    -------
    dict
        ``n_read``, genes of the first half; ``n_draws``, exchanges.
    """
    cells, shape = context.cells, context.operators.shape
    n_draws = max(_DRAWS, enough_draws(math.prod(shape)))
    mean = np.asarray(cells.expression.mean(0), dtype=np.float64).ravel()
    deal = deal_genes(cells.genes, mean, n_draws, context.config.seed)
    folds = _folds(context, deal)
    sources = {MODEL: context.operators, UNTRAINED: context.untrained_operators}
    means = {name: cache(partial(_mean_head, context, source)) for name, source in sources.items()}
    drawn = sum(len(context.draws(name)) for name in _CONTROLS)
    rows: list[dict[str, Any]] = []
    with tqdm(
        total=2 * (math.prod(shape) + 1) + drawn, unit="operator", desc="writing", disable=not context.backend.progress
    ) as bar:
        judged = partial(_judged, folds, deal, bar)
        for source, every in sources.items():
            for layer, head in np.ndindex(*shape):
                about = {"operator": head_name(layer, head), "source": source, "layer": layer, "head": head}
                found = judged(partial(_head, context, every, layer, head))
                rows += [{**about, "scope": scope, **_row(one)} for scope, one in found.items()]
            about = {"operator": MEAN, "source": source}
            rows += [{**about, "scope": scope, **_row(one)} for scope, one in judged(means[source]).items()]
        ours = {row["scope"]: row["excess"] for row in rows if row["source"] == MODEL and row["operator"] == MEAN}
        for name in _CONTROLS:
            draws = [judged(partial(_control, context, name, draw, means[MODEL])) for draw in context.draws(name)]
            for scope in draws[0]:
                row = _row(draws[0][scope])
                if name in RANDOM:
                    each = [_row(one[scope]) for one in draws]
                    row |= {"null_low": np.nan, "null_high": np.nan, "n_null": 0, "p": np.nan}
                    row |= {
                        key: float(np.mean([one[key] for one in each]))
                        for key in ("correlation", "sd", "null_mean", "excess")
                    }
                    row |= beside_draws(ours[scope], np.array([one["excess"] for one in each]))
                rows.append({"operator": name, "source": CONTROL, "scope": scope, **row})
    table = pd.DataFrame(rows)
    table["q"] = np.nan
    for rows_of in table[table["layer"].notna()].groupby(["source", "scope"]).groups.values():
        table.loc[rows_of, "q"] = benjamini_hochberg(table.loc[rows_of, "p"].to_numpy())
    table["n_cells"], table["n_folds"] = sum(scopes[ALL].n_cells for _, scopes in folds), len(folds)
    context.write({"writing": table})
    return {"n_read": int(deal.read.sum()), "n_draws": n_draws}


def _folds(context: RunContext, deal: Deal) -> list[Fold]:
    """Cells of each fold in each scope, with the folds that their operators leave out: theirs and every other one, so that two are enough."""
    cells, found = context.cells, []
    of_fold, library, kinds = cells.obs["fold"].to_numpy(), cells.column(LIBRARY_SIZE), cells.column("cell_type")
    names = sorted(set(of_fold.tolist()))
    for number, fold in enumerate(names):
        own = np.flatnonzero(of_fold == fold)
        rows = own[choose_rows(cells.names[own].tolist(), _CELLS, context.config.seed)]
        x = np.asarray(cells.expression[rows].todense(), dtype=np.float64)
        size = np.log1p(np.expm1(x).sum(1)) if library is None else library[rows].astype(float)
        apart = {ALL: covariates(size)}
        if kinds is not None:
            apart[INSIDE] = covariates(size, kinds[rows])
        found.append(
            (tuple(names[number % 2 :: 2]), {scope: compared_cells(x, deal, one) for scope, one in apart.items()})
        )
    return found


def _judged(folds: list[Fold], deal: Deal, bar: tqdm, operator: Operator) -> dict[str, Written]:
    followed: dict[str, list[Any]] = {}
    matrices = {out: np.asarray(operator(out), dtype=np.float64) for out in dict.fromkeys(out for out, _ in folds)}
    for out, scopes in folds:
        for scope, cells in scopes.items():
            followed.setdefault(scope, []).append(follow(cells, matrices[out], deal))
    bar.update()
    return {scope: judge_written(each, deal) for scope, each in followed.items()}


def _head(context: RunContext, source: StoredOperators, layer: int, head: int, out: Out) -> np.ndarray:
    return source.leaving(context.cells.groups_in(out)).head(layer, head)


def _mean_head(context: RunContext, source: StoredOperators, out: Out) -> np.ndarray:
    return source.leaving(context.cells.groups_in(out)).mean(range(source.shape[0]))


def _control(context: RunContext, name: str, draw: int, like: Operator, out: Out) -> np.ndarray:
    inside = context.cells.expression[context.cells.outside(out)]
    return control(name, like(out), inside, context.config.seed, draw)


def _row(one: Written) -> dict[str, Any]:
    low, high = np.nanquantile(one.null, (0.025, 0.975)) if one.n_genes else (np.nan, np.nan)
    return {
        "correlation": one.correlation,
        "sd": float(one.by_fold.std(ddof=1)) if len(one.by_fold) > 1 else float("nan"),
        "null_mean": float(one.null.mean()),
        "excess": one.correlation - float(one.null.mean()),
        "null_low": float(low),
        "null_high": float(high),
        "n_null": len(one.null),
        "p": one.p if one.n_genes else float("nan"),
        "n_genes": one.n_genes,
    }
