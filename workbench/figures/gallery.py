"""The figures that a run can have: what each shows, the tables it is drawn from, and its counterpart in the paper."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from workbench import figures
from workbench.yaml_once import read_yaml

Tables = Mapping[str, pd.DataFrame]
Options = dict[str, Any]


@dataclass(frozen=True)
class Entry:
    """A figure of the gallery.

    Attributes
    ----------
    shows
        What one sees in the figure, for lists.
    tables
        Names of the tables that it is drawn from.
    draw
        From these tables, and options, to the figure.
    paper
        Its counterpart in the paper; empty where there is none.
    optional
        Tables that it uses where they are there.
    """

    shows: str
    tables: tuple[str, ...]
    draw: Callable[..., go.Figure]
    paper: str = ""
    optional: tuple[str, ...] = ()


def _first(table: pd.DataFrame, column: str, given: str) -> str:
    return given or str(table[column].iloc[0])


def _beside_heads(tables: Tables, own: str = "") -> Options:
    """The same score of the controls, where the holdouts are there."""
    if "holdouts" not in tables:
        return {}
    own = _first(tables["holdouts"], "operator", own)
    rows = tables["holdouts"].query("holdout == 'random' and status == 'ok' and operator != @own")
    return {"controls": dict(zip(rows["operator"].astype(str), rows["spearman"].astype(float), strict=True))}


def _beside_screen(tables: Tables) -> Options:
    if "screen_controls" not in tables:
        return {}
    rows = tables["screen_controls"].dropna(subset=["residualised"])
    found: Options = {"controls": dict(zip(rows["operator"], rows["residualised"], strict=True))}
    if "n_draws" in rows:
        drawn = rows[rows["n_draws"] > 1]
        ends = zip(drawn["draws_low"], drawn["draws_high"], strict=True)
        found["drawn"] = dict(zip(drawn["operator"], ends, strict=True))
    return found


def _baselines(table: str, column: str, aside: str = "") -> Callable[..., Options]:
    """All but our own are baselines, and but those whose name holds some word."""

    def found(tables: Tables, own: str = "") -> Options:
        own = _first(tables[table], column, own)
        names = tables[table][column].unique()
        return {"baselines": [name for name in names if name != own and not (aside and aside in name)]}

    return found


def _ours(tables: Tables, **options: Any) -> Options:
    """The comparisons say which method is ours."""
    known = tables.get("comparisons", ())
    return {**options, "ours": _first(tables["comparisons"], "ours", "")} if len(known) else options


def _metric(tables: Tables, by: str = "") -> Options:
    return {"metric": _first(tables["interactions"], "metric", by)}


# What a figure is told beside its own tables, from all of them and the options of a run.
_TOLD: dict[str, Callable[..., Options]] = {
    "heads": _beside_heads,
    "screen": _beside_screen,
    "holdouts": _baselines("holdouts", "operator"),
    "readouts": _baselines("readouts", "representation", aside=" head"),
    "interactions": _metric,
    "benchmark_endpoints": _ours,
    "benchmark_ranks": _ours,
}


def _needed_first(factors: pd.DataFrame, genes: pd.DataFrame, programs: pd.DataFrame) -> go.Figure:
    """Genes and programs of the factors, the most needed factor first."""
    order = factors.query("how == 'mean'").set_index("factor")["place"]
    return figures.factor_genes(genes.iloc[genes["factor"].map(order).argsort(kind="stable")], programs)


def _entry(
    name: str,
    shows: str,
    tables: list[str],
    draw: str = "",
    where: Mapping[str, str] | None = None,
    one_of: tuple[str, ...] = (),
    first: tuple[str, ...] = (),
    optional: tuple[str, ...] = (),
    paper: str = "",
) -> Entry:
    """An entry as gallery.yaml has it."""
    make = _needed_first if name == "factor_genes" else getattr(figures, draw or name)

    def drawn(held: Tables, **options: Any) -> go.Figure:
        parts = [held[table].query(where[table]) if where else held[table] for table in tables]
        for column in one_of:
            given = options.pop(column, "")
            parts = [part[part[column] == _first(part, column, given)] if len(part) else part for part in parts]
        options |= {column: _first(parts[0], column, options.get(column, "")) for column in first}
        return make(*parts, **(_TOLD[name](held, **options) if name in _TOLD else options))

    return Entry(shows, tuple(tables), drawn, paper, tuple(optional))


_FILE = resources.files("workbench.figures") / "gallery.yaml"
GALLERY = {name: _entry(name, **one) for name, one in read_yaml(_FILE.read_text(encoding="utf-8")).items()}
