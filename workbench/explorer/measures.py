"""What the head map of the explorer can be coloured by: ruler correlation, ablation effects, the operator's size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from workbench.errors import ArtifactError
from workbench.explorer.heads import short
from workbench.figures.checks import checked
from workbench.figures.heatmap import SCALE, Colors, colors_of
from workbench.figures.style import metric_title
from workbench.operators.operator import Head
from workbench.stats import WITHOUT

_SCORE = ("spearman", "sd", "n_splits", "n_anchors", "null_high", "n_null", "p", "q")
_EFFECT = ("effect", "low", "high", "sd", "n_cells", "null_low", "null_high", "n_null", "p", "q")


def ruler_measure(table: pd.DataFrame, shape: Head) -> dict[str, Any]:
    """Held-out rank correlation of every head with the ruler, from a run's screen of heads.

    Parameters
    ----------
    table
        Table ``tables/heads.csv`` of a run; heads without a row stay blank.
    shape
        Number of layers, and of heads per layer.
    """
    columns = [*_SCORE, *({WITHOUT} & set(table))]  # where that is there, null and p are of it
    heads = checked(table, "head map", numeric=["layer", "head", *columns])
    rows = _by_head(heads, shape, columns, "spearman", "The run's tables/heads.csv")
    colors = Colors(SCALE, (-1.0, 1.0), "Spearman")
    return _measure("ruler", "score", "ruler correlation, held out", "", rows, colors)


def effect_measures(table: pd.DataFrame, shape: Head) -> list[dict[str, Any]]:
    """Effect of ablating each head, one measure per metric and way of ablating.

    Parameters
    ----------
    table
        Table ``tables/effects.csv`` of an ablation; rows of other kinds than ``head`` are left out.
    shape
        Number of layers, and of heads per layer.
    """
    found = []
    effects = checked(table, "map of effects", ["metric", "how", "kind", "unit"], ["layer", "head", "worse", *_EFFECT])
    heads = effects[effects["kind"] == "head"]
    for number, ((metric, how), own) in enumerate(heads.groupby(["metric", "how"], sort=False)):
        rows = _by_head(own, shape, _EFFECT, "effect", "The ablation's tables/effects.csv")
        worse = int(own["worse"].iloc[0])
        about = {"metric": str(metric), "how": str(how), "worse": worse}
        unit, known = str(own["unit"].iloc[0]), own["effect"][np.isfinite(own["effect"])]
        colors = colors_of(known if len(known) else pd.Series([0.0]), metric_title(str(metric)), unit, worse=worse)
        one = _measure(f"effect-{number}", "effect", f"{metric_title(str(metric))}, {how} ablation", unit, rows, colors)
        found.append({**one, **about})
    return found


def norm_measure(norms: Mapping[Head, float], shape: Head) -> dict[str, Any]:
    """Length (Frobenius) of every head's operator.

    Parameters
    ----------
    norms
        Frobenius norm of each operator by (layer, head).
    shape
        Number of layers, and of heads per layer.
    """
    rows = [{"value": short(norms[at])} if at in norms else None for at in np.ndindex(*shape)]
    colors = colors_of(pd.Series(list(norms.values()), dtype=float), "size of the operator")
    return _measure("norm", "norm", "size of the operator (Frobenius norm)", "", rows, colors)


def _measure(
    key: str, kind: str, name: str, unit: str, rows: Sequence[dict[str, Any] | None], colors: Colors
) -> dict[str, Any]:
    shown = {**asdict(colors), "scale": list(colors.scale), "limits": [short(limit) for limit in colors.limits]}
    return {"key": key, "kind": kind, "name": name, "unit": unit, "rows": list(rows), **shown}


def _by_head(
    table: pd.DataFrame, shape: Head, columns: Sequence[str], value: str, source: str
) -> list[dict[str, Any] | None]:
    found: dict[Head, dict[str, Any]] = {}
    for row in table.to_dict("records"):
        at = int(row["layer"]), int(row["head"])
        if not (0 <= at[0] < shape[0] and 0 <= at[1] < shape[1]):
            raise ArtifactError(
                f"{source} has a head {at[1]} of layer {at[0]}, and the operators have {shape[0]} layers of {shape[1]} "
                "heads: they are of different models. Give the tables of the same checkpoint."
            )
        if at in found:
            raise ArtifactError(f"{source} has layer {at[0]} head {at[1]} twice; make it again.")
        found[at] = {"value": short(row[value])} | {c: short(row[c]) for c in columns if c != value}
    return [found.get(at) for at in np.ndindex(*shape)]
