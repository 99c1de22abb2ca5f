"""What the report says of that which heads write."""

from __future__ import annotations

import pandas as pd

from workbench.engine.section import Section
from workbench.engine.stages import Result
from workbench.figures.requests import Request
from workbench.figures.style import number
from workbench.operators.controls import CODETECTION, COEXPRESSION, NORMS
from workbench.recipes.run.context import UNTRAINED, RunContext
from workbench.recipes.run.writing import ALL, INSIDE, MEAN, MODEL, TABLES

_ALPHA = 0.05


def writing_section(context: RunContext, result: Result) -> Section:
    """Map of what heads write, and how many follow the genes that they write to.

    Parameters
    ----------
    context
        Run whose tables are read.
    result
        Result of the stage ``writing``.
    """
    table = context.read(TABLES[0])
    scope = INSIDE if (table["scope"] == INSIDE).any() else ALL
    caption = (
        "Expression of one half of the genes times the operator is a score of each gene of the other half; shown is the mean correlation over "
        f"held-out cells of that score with the gene's own expression, {scope}, library size taken out, less the null's mean. Null: names of written genes "
        f"exchanged inside tenths of mean expression, {result['n_draws']} draws; two-sided."
    )
    return Section(
        [Request("writing", caption, options={"scope": scope})], {TABLES[0]: table}, [written_said(table, scope)]
    )


def written_said(table: pd.DataFrame, scope: str) -> str:
    """How many heads write what follows its gene, beside the untrained model and controls.

    Parameters
    ----------
    table
        Table ``writing`` of a run.
    scope
        Cells that are compared: all, or those of a type with each other.
    """
    own = table[table["scope"] == scope]
    heads = own[own["layer"].notna()]
    sure = heads[heads["q"] <= _ALPHA]
    counts = {
        source: [int((sure.loc[sure["source"] == source, "excess"] * sign > 0).sum()) for sign in (1, -1)]
        for source in (MODEL, UNTRAINED)
    }
    n = int((heads["source"] == MODEL).sum())
    means = own.set_index(["source", "operator"])["excess"]
    beside = ", ".join(
        f"{name} {number(means[key])}"
        for name, key in {
            "untrained": (UNTRAINED, MEAN),
            NORMS: ("control", NORMS),
            CODETECTION: ("control", CODETECTION),
            COEXPRESSION: ("control", COEXPRESSION),
        }.items()
    )
    return (
        f"What heads write, {scope}: scores follow the written gene more than others of its level in {counts[MODEL][0]} of {n} heads, and less "
        f"in {counts[MODEL][1]} (q at most {_ALPHA}; untrained {counts[UNTRAINED][0]} and {counts[UNTRAINED][1]}). Correlation beyond theirs, mean of "
        f"all heads: {number(means[MODEL, MEAN])}; {beside}."
    )
