"""What the methods of the benchmark cost: seconds of a split against the numbers that they train."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float

from workbench.figures.benchmark import group_color
from workbench.figures.checks import checked, records, with_value
from workbench.figures.facets import list_undrawn, note_beside
from workbench.figures.marks import Look, legend_keys, marks
from workbench.figures.style import ON_FILL, QUIET, RULE, dressed, label, number, span, wrapped

_SIZE, _GAP = 19, 21
_LINE, _KEY = 16, 330
# Of the plotting area of a page: about. Marks are moved apart in pixels.
_WIDTH = 600
_PARTS = ("fit_seconds", "predict_seconds", "forward_seconds")


def benchmark_costs(costs: pd.DataFrame, methods: pd.DataFrame) -> go.Figure:
    """Seconds of a split against the numbers that were trained, one mark per method.

    Parameters
    ----------
    costs
        `method`, `split`, `fit_seconds`, `predict_seconds`, `forward_seconds`, `once_seconds`, `n_parameters`, `peak_bytes`, `status`.
    methods
        `method` and `group`, one row per method.

    Returns
    -------
    plotly.graph_objects.Figure
        Medians over splits on logarithmic axes, methods that train nothing at a place of their own; numbers with a key. Marks
        that would lie on others are moved aside, with a line to their place. Methods without a time are listed.

    Raises
    ------
    EvaluationError
        If a column is missing, a method has two groups, or no method has a time.
    """
    what = "figure of costs"
    numeric = [*_PARTS, "once_seconds", "n_parameters", "peak_bytes"]
    rows = checked(costs, what, ["method", "status"], numeric)
    about = checked(methods, what, ["method", "group"], once=["method"])
    group = dict(zip(about["method"], about["group"], strict=True))
    rows["seconds"] = rows[list(_PARTS)].sum(axis=1, skipna=False)
    drawn = with_value(rows, "seconds", what)
    middle = _medians(drawn, numeric)
    trained, seconds = middle["n_parameters"].to_numpy(), np.maximum(middle["seconds"].to_numpy(), 1e-3)
    none = ~(trained > 0)
    powers = np.log10(trained[~none]) if (~none).any() else np.array([1.0])
    nothing = math.floor(powers.min()) - 1
    true = np.column_stack([np.where(none, nothing, np.log10(np.maximum(trained, 1))), np.log10(seconds)])
    key = _key(middle)
    total = max(420, _LINE * len(key) + 20)
    first = nothing if none.any() else math.floor(powers.min())
    low = np.array([first - 0.35, true[:, 1].min() - 0.3])
    high = np.array([powers.max() + 0.35, true[:, 1].max() + 0.3])
    scale = np.array([_WIDTH, total]) / (high - low)
    place = apart((true - low) * scale, _GAP) / scale + low
    figure = go.Figure()
    if none.any():
        figure.add_vline(10 ** (nothing + 0.5), line={"color": RULE, "width": 2}, layer="below")
    moved = np.linalg.norm((place - true) * scale, axis=1) > 2
    figure.add_traces(_leaders(10.0 ** true[moved], 10.0 ** place[moved]))
    colors = [group_color(group.get(name, "")) for name in middle["method"]]
    hover = [
        f"{label(r.method)}<br>{number(r.seconds)} s a split: fit {number(r.fit_seconds)}, answer {number(r.predict_seconds)}, forward "
        f"passes {number(r.forward_seconds)}<br>shared by all splits, once: {number(r.once_seconds)} s<br>{number(r.n_parameters)} "
        f"trained numbers, {number(r.peak_bytes / 2**20)} MiB above the start<br>medians of n = {number(r.n)} splits"
        for r in records(middle)
    ]
    marker = {"size": _SIZE, "color": "#fdfdfd", "opacity": 1, "line": {"width": 2.5, "color": colors}}
    look: Look = {
        "mode": "markers+text",
        "name": "methods",
        "text": middle["mark"],
        "textfont": {"size": 10, "color": ON_FILL},
    }
    figure.add_trace(marks(10.0 ** place[:, 0], 10.0 ** place[:, 1], hover, marker=marker, **look))
    whole = range(first, math.floor(high[0]) + 1)
    said = ["0" if none.any() and power == nothing else number(10.0**power) for power in whole]
    ticks = {"tickvals": [10.0**power for power in whole], "ticktext": said}
    figure.update_xaxes(type="log", title="trained numbers", range=[low[0], high[0]], **ticks)
    steps = (1, 2, 5) if high[1] - low[1] < 2.5 else (1,)
    at = [step * 10.0**power for power in range(math.floor(low[1]), math.ceil(high[1]) + 1) for step in steps]
    ticks = {"tickvals": at, "ticktext": [number(one) for one in at]}
    figure.update_yaxes(type="log", title="seconds a split", range=[low[1], high[1]], **ticks)
    note_beside(figure, "<br>".join(key), x=1, xshift=16, font={"size": 11.5})
    shown = [name for name in dict.fromkeys(about["group"]) if name in {group.get(one) for one in middle["method"]}]
    line = {"size": 10, "color": "white"}
    legend_keys(figure, [(label(name), {**line, "line": {"width": 2.5, "color": group_color(name)}}) for name in shown])
    subtitle = (
        f"Fit, answer and forward passes of scGPT over the cells of a split (none for methods that need none); medians over n = "
        f"{span(middle['n'])} splits on one machine, without work that is shared by all splits. Frozen weights are not counted as trained."
    )
    above = 40 + 20 * (len(shown) > 4)
    dressed(figure, "What a split costs", subtitle, total, above=above, below=60, legend=True)
    figure.update_layout(margin={"r": _KEY})
    return list_undrawn(figure, _without_time(rows, set(middle["method"])))


def _medians(drawn: pd.DataFrame, numeric: list[str]) -> pd.DataFrame:
    """One row per method, the fastest first and numbered."""
    grouped = drawn.groupby("method", sort=False)
    middle = grouped[["seconds", *numeric]].median().assign(n=grouped.size()).reset_index()
    middle = middle.sort_values("seconds", kind="stable", ignore_index=True)
    return middle.assign(mark=[str(i + 1) for i in range(len(middle))])


def _key(middle: pd.DataFrame) -> list[str]:
    lines = []
    for r in records(middle):
        first, *more = wrapped(f"{r.method}: {number(float(f'{r.seconds:.2g}'))} s", 46)
        lines.append(f"<b>{r.mark}</b> <span style='color:{QUIET}'>{first}</span>")
        lines += [f"<span style='color:{QUIET}'>    {line}</span>" for line in more]
    return lines


def _leaders(true: Float[np.ndarray, "mark 2"], place: Float[np.ndarray, "mark 2"]) -> list[go.Scatter]:
    """Lines from the marks that were moved to where they belong, and a dot there."""
    if not len(true):
        return []
    both = np.stack([true, place, np.full_like(true, np.nan)], axis=1).reshape(-1, 2)
    line = marks(both[:, 0], both[:, 1], mode="lines", name="moved", line={"color": QUIET, "width": 1})
    return [line, marks(true[:, 0], true[:, 1], name="place", marker={"size": 5, "color": QUIET})]


def apart(places: Float[np.ndarray, "mark 2"], gap: float, rounds: int = 400) -> Float[np.ndarray, "mark 2"]:
    """Places of marks, moved until no two are closer than a gap, or as far as that many rounds go.

    Parameters
    ----------
    places
        Middle of each mark in pixels, horizontal and vertical.
    gap
        Least distance of two marks in pixels, from middle to middle.
    rounds
        Rounds of moving at most; marks may still overlap after the last.

    Returns
    -------
    array
        Marks with room around them stay where they are.
    """
    # Marks on the same place have no direction away from each other: each gets one of its own, by the golden angle.
    angle = 2.4 * np.arange(len(places))
    found = places + 0.01 * np.column_stack([np.cos(angle), np.sin(angle)])
    crowded = np.zeros(len(places), dtype=bool)
    for _ in range(rounds):
        between = found[:, None] - found[None]
        distance = np.linalg.norm(between, axis=-1) + gap * np.eye(len(found))
        lack = np.maximum(gap - distance, 0)
        if not (lack > 0.01).any():
            break
        crowded |= (lack > 0.01).any(axis=1)
        found = found + ((0.55 * lack / distance)[..., None] * between).sum(axis=1)
    return np.where(crowded[:, None], found, places)


def _without_time(rows: pd.DataFrame, there: set[str]) -> list[str]:
    """Methods that never ran, by why."""
    lost = rows[~rows["method"].isin(there)].drop_duplicates("method")
    who = (
        lost.assign(method=[f"'{name}'" for name in lost["method"]])
        .groupby("status", sort=False)["method"]
        .agg(", ".join)
    )
    return [f"{names}: {status or 'no time'}" for status, names in who.items()]
