"""The first sentences of an ablation's report and its controls, from its tables alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from workbench.ablation.effects import top_heads
from workbench.ablation.nulls import ALPHA
from workbench.engine.section import Control, Opening
from workbench.figures.style import metric_title

_QUESTION = (
    "Which attention heads does the model need for these cells, more than a random change of the same size shows?"
)
Tables = Mapping[str, pd.DataFrame]


def opening(tables: Tables, donors: int) -> Opening:
    """What an ablation found by its first metric, in five sentences.

    Parameters
    ----------
    tables
        ``effects`` of one way of ablating, and ``draws`` where the cells were split.
    donors
        Number of donors of the cells; 0 where they name none.
    """
    effects = tables["effects"]
    name = str(effects["metric"].iloc[0])
    title, rows = metric_title(name), effects[effects["metric"] == name]
    heads = rows[rows["kind"] == "head"]
    beyond = int(heads["beyond"].sum()) if len(heads) else 0
    # A head with the largest effect need not be beyond its null; then it is not the one that is named.
    most: Any = _most(rows, heads[heads["beyond"].astype(bool)] if beyond else heads, name)
    if most is None:
        return Opening(
            _QUESTION,
            f"No effect on {title} could be measured in these cells.",
            change="Other cells or another metric could.",
            step="Choose other metrics with --set study.metrics, or give more cells with --set study.cells.",
        )
    effect = f"{most['ablation']} ({most['effect']:+.2g}, n = {most['n_cells']:.0f} cells)"
    tested = len(heads) > 0 and heads["p"].notna().any()
    if not len(heads):
        answer = f"Of {len(rows)} places {effect} changes {title} most; no null was drawn, so this is no test."
    elif not tested:
        answer = f"Of {len(heads)} heads {effect} changes {title} most; no null was drawn, so this is no test."
    elif _blind(heads, beyond):
        answer = f"Of {len(heads)} heads {effect} changes {title} most; with so few null draws none could be shown to matter."
    elif beyond:
        answer = f"{beyond} of {len(heads)} heads matter{'' if beyond > 1 else 's'} for {title} beyond a random change; most of all {effect}."
    else:
        answer = f"No head of {len(heads)} matters for {title} beyond a random change; the largest effect is that of {effect}."
    return Opening(
        _QUESTION,
        answer,
        _sure(most, heads, tables.get("draws"), name, beyond),
        _change(donors, beyond),
        _step(donors, len(heads) > 0 and not (tested and not _blind(heads, beyond)), beyond),
    )


def _most(rows: pd.DataFrame, heads: pd.DataFrame, name: str) -> Any:
    """The place with the largest effect; a head where there are heads."""
    if not len(rows) or not rows["effect"].notna().any():
        return None
    if len(heads) and heads["effect"].notna().any():
        return heads.set_index("ablation", drop=False).loc[top_heads(heads, name, 1)[0]]
    return rows.iloc[int(rows["effect"].abs().fillna(-1).to_numpy().argmax())]


def _sure(most: Any, heads: pd.DataFrame, draws: pd.DataFrame | None, name: str, beyond: int) -> str:
    """Interval and null of the head that is named, how often it is found again, and what would have been missed."""
    said = ["There is no interval"]
    if np.isfinite(most["low"]):
        said = [f"{most['ablation']}: 95 % {most['low']:.2g} to {most['high']:.2g}"]
    if len(heads) and np.isfinite(most["p"]):
        said.append(f"its null draws {most['null_low']:.2g} to {most['null_high']:.2g} (q {most['q']:.2g})")
    if beyond and draws is not None and (own := draws[draws["metric"] == name])["n_found"].notna().any():
        every = int((own["n_found"] == own["n_draws"]).sum())
        said.append(f"{every} of {len(own)} heads are found in each of {own['n_draws'].iloc[0]:.0f} disjoint draws")
    if len(heads) and not beyond and len(sizes := heads["detectable"].dropna()):
        missed = f"an effect under about {sizes.median():.2g} would be missed"
        said.append("no size of effect could be found" if _blind(heads, beyond) else missed)
    return f"{'; '.join(said)}."


def _change(donors: int, beyond: int) -> str:
    if donors < 2:
        return "Other donors could: " + ("these cells name none." if not donors else "these cells are of one.")
    if beyond:
        return "Other cells could: a head is needed here, in this model, for these cell types."
    return "Pairs of heads could: two heads that stand in for each other look harmless one by one."


def _blind(heads: pd.DataFrame, beyond: int) -> bool:
    """Whether the null draws are too few for any head to be found."""
    sizes = heads["detectable"].dropna()
    return not beyond and len(sizes) > 0 and bool(np.isinf(sizes).all())


def _step(donors: int, untested: bool, beyond: int) -> str:
    if untested:
        return "Draw more of the null: --set sweep.null_draws=20, or more where the model has many heads."
    if not donors:
        return "Name the column of donors with --set data.donor=COLUMN and run again."
    if beyond:
        return (
            "Ask what these heads carry over between two cell types, with the section 'contrasts' of the configuration."
        )
    return "Give more cells with --set study.cells, or more draws with --set sweep.null_draws."


def controls(tables: Tables) -> list[Control]:
    """The null, disjoint draws, attribution and contrasts: how often a result stands out from each.

    Parameters
    ----------
    tables
        ``effects`` and ``draws`` of one way of ablating, ``agreement`` and ``transfer``, as far as they were made.
    """
    effects, found = tables["effects"], []
    heads = effects[(effects["kind"] == "head") & effects["p"].notna()]
    by = heads.groupby("metric", sort=False)["beyond"].sum()
    held = int((by > 0).sum())
    text = f"heads beyond it on {held} of {len(by)} metrics" if len(by) else "not drawn"
    found.append(Control("random-direction null", text, held, len(by)))
    if "draws" in tables:
        known = tables["draws"].dropna(subset="n_found")
        named = heads.loc[heads["beyond"].astype(bool), ["metric", "ablation"]]
        again = known.merge(named, on=["metric", "ablation"])
        every = int((again["n_found"] == again["n_draws"]).sum())
        text = f"{every} of {len(again)} effects found in each draw" if len(again) else "no effect to find again"
        found.append(Control("disjoint draws of cells", text, every, len(again)))
    if "agreement" in tables:
        agrees = tables["agreement"].groupby("metric", sort=False)["agrees"].any()
        text = f"agrees on {agrees.sum()} of {len(agrees)} metrics"
        found.append(Control("attribution by gradients", text, int(agrees.sum()), len(agrees)))
    if "transfer" in tables:
        q = tables["transfer"].groupby(["target", "source"], sort=False)["q"].min().dropna()
        carried = int((q <= ALPHA).sum())
        text = f"some head carries more on {carried} of {len(q)} contrasts" if len(q) else "not drawn"
        found.append(Control("patches within a cell type", text, carried, len(q)))
    return found
