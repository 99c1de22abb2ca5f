"""How little of an operator is enough: smaller variants of it by their size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.figures.checks import checked, records, refusal, undrawn
from workbench.figures.facets import LINE, heading_of, list_undrawn, note_beside
from workbench.figures.marks import ALPHA, Look, interval, legend_keys, marks, mean_sd, p_and_q
from workbench.figures.style import ACCENT, INK, QUIET, dressed, label, number, span, wrapped

_ACROSS = 3
_EACH, _BETWEEN = 190, 104
_ABOVE = 76
# Of the mean over endpoints, which is not tested.
_PALE = "#cfe3ee"
_OTHER = "#B35806"


def compaction_pareto(table: pd.DataFrame) -> go.Figure:
    """Size on disk of smaller variants of an operator against what they lose: on average, and endpoint by endpoint.

    Parameters
    ----------
    table
        One row per variant, endpoint and metric: `variant`, `order` (the reference first), `endpoint`, `metric`, `value`
        (more is better), `sd`, `n_splits`, `reference` (value of the reference variant), `difference` (value minus
        reference; 0 for the reference itself), `p`, `q`, `bytes`, `parameters`, `relative_error`.

    Returns
    -------
    plotly.graph_objects.Figure
        Numbered marks with a key. The large facet has the mean over the endpoint metrics that every variant has, bars
        from the worst to the best of them, and the front: the best mean that a size can buy. In the small ones marks
        are filled where a variant is worse with q <= 0.05. Rows without a value or size are listed.

    Raises
    ------
    EvaluationError
        If a column is missing, a variant is in a facet twice, nothing can be drawn, or no endpoint metric has a value
        of every variant.
    """
    what = "figure of compaction"
    numeric = ["order", "value", "sd", "n_splits", "reference", "difference", "p", "q"]
    numeric += ["bytes", "parameters", "relative_error"]
    place = ["endpoint", "metric"]
    rows = checked(table, what, ["variant", *place], numeric, once=[*place, "variant"])
    drawn = rows[np.isfinite(rows["difference"]) & (rows["bytes"] > 0)].copy()
    if drawn.empty:
        raise refusal(what, "no row has a finite 'difference' and 'bytes' above 0.")
    names = list(dict.fromkeys(drawn.sort_values("order", kind="stable")["variant"]))
    drawn["facet"] = drawn["endpoint"] + ", " + drawn["metric"]
    drawn["mark"] = [str(names.index(name) + 1) for name in drawn["variant"]]
    sure = drawn["q"] <= ALPHA
    drawn = drawn.assign(worse=sure & (drawn["difference"] < 0), better=sure & (drawn["difference"] > 0))
    drawn["hover"] = [
        f"{label(r.variant)}: {label(r.facet)}<br>{mean_sd(r.value, r.sd, r.n_splits, 'splits')}, reference "
        f"{number(r.reference)}<br>difference {number(r.difference)}, {p_and_q(r)}<br>{_size(r.bytes)}, {number(r.parameters)} "
        f"weights<br>relative error of the operator {number(r.relative_error)}"
        for r in records(drawn)
    ]
    means, shared = _means(drawn, names, what)
    parts = list(drawn.groupby("facet", sort=False))
    key = [line for r in records(means) for line in _key(r)]
    top = max(260, LINE * len(key) + 8)
    down = math.ceil(len(parts) / _ACROSS)
    total = top + (_EACH + _BETWEEN) * down
    said = f"n = {len(shared)} of {len(parts)}, those that every variant has; bars: worst to best"
    titles = [heading_of("Mean over endpoint metrics", said, width=60)]
    for _, part in parts:
        lost = f"{part['metric'].iloc[0]}: {int(part['worse'].sum())} of {len(part)} worse"
        titles.append(heading_of(part["endpoint"].iloc[0], lost, width=32))
    small: list[list[Any]] = [
        [{} if r * _ACROSS + c < len(parts) else None for c in range(_ACROSS)] for r in range(down)
    ]
    figure = make_subplots(
        rows=1 + down,
        cols=_ACROSS,
        row_heights=[top, *[_EACH] * down],
        specs=[[{"colspan": 2}, None, None], *small],
        horizontal_spacing=0.06,
        vertical_spacing=_BETWEEN / total,
        subplot_titles=titles,
    )
    figure.update_annotations(font={"size": 13})
    _front(figure, means)
    figure.add_trace(_marks(means, "mean", [_PALE] * len(means), ["circle"] * len(means), INK), row=1, col=1)
    for i, (_, part) in enumerate(parts):
        fills = [ACCENT if worse else "white" for worse in part["worse"]]
        symbols = ["square" if better else "circle" for better in part["better"]]
        inks = ["white" if worse else INK for worse in part["worse"]]
        figure.add_trace(_marks(part, "difference", fills, symbols, inks), row=2 + i // _ACROSS, col=1 + i % _ACROSS)
    _axes(figure, drawn, means)
    note_beside(figure, "<br>".join(key), x=2 / 3 + 0.02, font={"size": 12})
    look = {"size": 11, "line": {"color": ACCENT, "width": 1.6}}
    keys = [
        ("mean, not tested", {"symbol": "circle", "color": _PALE}),
        (f"worse, q ≤ {ALPHA}", {"symbol": "circle", "color": ACCENT}),
        (f"q > {ALPHA} or no q", {"symbol": "circle", "color": "white"}),
    ]
    if drawn["better"].any():
        keys.append((f"better, q ≤ {ALPHA}", {"symbol": "square", "color": "white"}))
    legend_keys(figure, [(name, {**marker, **look}) for name, marker in keys])
    same = means.loc[(means["low"] == 0) & (means["high"] == 0), "variant"]
    reference = same.iloc[0] if len(same) else "the reference"
    lost = "; ".join(f"{r.variant} {r.lost} of {r.of}" for r in records(means))
    subtitle = (
        f"Below 0: worse than {reference}. n = {span(drawn['n_splits'])} splits; sd of a value over them: "
        f"{span(drawn['sd'].round(3))}. Null: no difference (t-test corrected for shared cells, Benjamini-Hochberg). Endpoint metrics "
        f"lost (worse, q ≤ {ALPHA}): {lost}. Line: the best mean up to a size."
    )
    dressed(figure, "What a smaller operator costs", subtitle, total, above=_ABOVE, below=66, legend=True)
    return list_undrawn(figure, undrawn(rows, drawn, place, "variant", "no value, or no size"))


def _means(drawn: pd.DataFrame, names: Sequence[str], what: str) -> tuple[pd.DataFrame, list[str]]:
    """One row per variant, over the parts in which every variant has a value."""
    counts = drawn.groupby("facet", sort=False)["variant"].nunique()
    shared = list(counts.index[counts == len(names)])
    if not shared:
        raise refusal(
            what,
            f"no endpoint metric has a value of every variant ({', '.join(names)}), so their means would be of different "
            "things. Leave out the variant that lacks them.",
        )
    rows = []
    for i, name in enumerate(names):
        own = drawn[drawn["variant"] == name]
        values = own.loc[own["facet"].isin(shared), "difference"]
        mean, low, high = float(values.mean()), float(values.min()), float(values.max())
        size, parameters, error = (float(own[c].mean()) for c in ("bytes", "parameters", "relative_error"))
        lost = int(own["worse"].sum())
        hover = (
            f"{label(name)}<br>mean difference {number(mean)} (worst {number(low)}, best {number(high)}; n = {len(values)} "
            f"endpoint metrics)<br>{_size(size)}, {number(parameters)} weights<br>relative error of the operator "
            f"{number(error)}<br>worse with q ≤ {ALPHA} in {lost} of {len(own)}"
        )
        rows.append((name, str(i + 1), size, parameters, error, mean, low, high, lost, len(own), hover))
    columns = ["variant", "mark", "bytes", "parameters", "error", "mean", "low", "high", "lost", "of", "hover"]
    return pd.DataFrame(rows, columns=columns), shared


def _key(r: Any) -> list[str]:
    name, *more = wrapped(r.variant, 40)
    said = f"{_size(r.bytes)}, {number(r.parameters)} weights, relative error {number(r.error, 2)}"
    small = [f"<span style='color:{QUIET}'>    {line}</span>" for line in wrapped(said, 46)]
    return [f"<b>{r.mark}</b>  {name}", *[f"    {line}" for line in more], *small]


def _front(figure: go.Figure, means: pd.DataFrame) -> None:
    """Steps through the variants that nothing of the same or a smaller size beats in the mean."""
    by_size = means.sort_values(["bytes", "mean"], ascending=[True, False])
    best = by_size[by_size["mean"] > by_size["mean"].cummax().shift(fill_value=-np.inf)]
    line = {"color": _OTHER, "width": 2, "shape": "hv"}
    figure.add_trace(marks(best["bytes"], best["mean"], mode="lines", name="front", line=line), row=1, col=1)


def _marks(rows: pd.DataFrame, value: str, fills: Sequence[str], symbols: Sequence[str], ink: Any) -> go.Scatter:
    around: Look = {"error_y": interval(rows, "mean", thickness=1.2, width=3)} if value == "mean" else {}
    marker = {"size": 17, "symbol": symbols, "color": fills, "opacity": 1, "line": {"color": ACCENT, "width": 1.6}}
    text: Look = {"text": rows["mark"], "textposition": "middle center", "textfont": {"size": 10, "color": ink}}
    look: Look = {"mode": "markers+text", "cliponaxis": False, "marker": marker, "name": value}
    return marks(rows["bytes"], rows[value], rows["hover"], **text, **look, **around)


def _axes(figure: go.Figure, drawn: pd.DataFrame, means: pd.DataFrame) -> None:
    """Sizes on a log axis and differences, the same in every facet."""
    low, high = math.log10(drawn["bytes"].min()), math.log10(drawn["bytes"].max())
    steps = (1, 2, 5) if high - low < 1 else (1, 3)
    powers = range(math.floor(low) - 1, math.ceil(high) + 1)
    places: tuple[dict[str, int], ...] = ({}, {"row": 1})
    for at, factors in zip(places, (steps if high - low < 1 else (1,), steps), strict=True):
        ticks = [step * 10.0**power for power in powers for step in factors]
        shown = {"tickvals": ticks, "ticktext": [_size(t) for t in ticks], "range": [low - 0.16, high + 0.16]}
        figure.update_xaxes(type="log", **shown, **at)
    figure.update_xaxes(title="size on disk")
    ends = [*drawn["difference"], *means["low"], *means["high"], 0.0]
    pad = 0.12 * (max(ends) - min(ends)) or 0.1
    figure.update_yaxes(range=[min(ends) - pad, max(ends) + pad], nticks=6, zeroline=True, zerolinecolor=QUIET)
    figure.update_yaxes(title="difference to the reference", col=1)


def _size(n: float) -> str:
    """Bytes in words, a thousand to a kB."""
    for unit, power in (("GB", 9), ("MB", 6), ("kB", 3)):
        if n >= 10**power:
            return f"{number(n / 10**power)} {unit}"
    return f"{number(n)} B"
