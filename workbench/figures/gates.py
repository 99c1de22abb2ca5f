"""The gates at a glance, the screen of heads, and whether the instruments pass their own tests."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots
from scipy.stats import kstest, kstwo

from workbench.errors import EvaluationError
from workbench.figures.manifold import SERIES
from workbench.figures.panels import POINT, legend_keys, null_bars, points
from workbench.figures.style import (
    INK,
    NULL,
    ON_FILL,
    QUIET,
    checked,
    dressed,
    label,
    number,
    records,
    span,
    with_value,
    wrapped,
)

GATES = (
    "trustworthiness",
    "random holdout",
    "donor holdout",
    "branch holdout",
    "blocked permutation",
    "null ruler",
    "expected to fail",
)
ALPHA = 0.05
# A status is told by its sign and its word; the fill only helps.
_STATUS = {"pass": (2, "✓"), "fail": (1, "✗"), "not applicable": (0, "–")}
_FILLS = ("#efeff2", "#f6d7c3", "#cfe3ee")
_ABOVE = 34


def gate_table(table: pd.DataFrame) -> go.Figure:
    """Cohorts by gates: the value of each and whether it passes.

    Parameters
    ----------
    table
        `cohort`, `role`, `gate`, `rule`, `status`, `unit`, `note`, `spec`, `value`, `threshold`, `sd`, `n`, `null_high`, `p`;
        one row per cohort and gate.

    Returns
    -------
    plotly.graph_objects.Figure
        A matrix; each cell has a sign (passes, fails, not applicable), the value, and the rest in its hover text.

    Raises
    ------
    EvaluationError
        If a column is missing, a gate or status is unknown, or a cohort has a gate twice.
    """
    text = ["cohort", "role", "gate", "rule", "status", "unit", "note", "spec"]
    rows = checked(table, "gate table", text, ["value", "threshold", "sd", "n", "null_high", "p"])
    unknown = sorted((set(rows["gate"]) - set(GATES)) | (set(rows["status"]) - set(_STATUS)))
    if unknown or rows.duplicated(["cohort", "gate"]).any():
        what = f"'{unknown[0]}' is no gate or status" if unknown else "a cohort has a gate twice"
        raise EvaluationError(f"The gate table cannot be drawn: {what}.")
    cohorts = list(dict.fromkeys(rows["cohort"]))
    at = {(row.cohort, row.gate): row for row in records(rows)}
    code = np.full((len(cohorts), len(GATES)), np.nan)
    shown, hover = (np.full(code.shape, "", dtype=object) for _ in range(2))
    for i, cohort in enumerate(cohorts):
        for j, gate in enumerate(GATES):
            if (row := at.get((cohort, gate))) is None:
                continue
            code[i, j], sign = _STATUS[row.status]
            shown[i, j] = f"<b>{sign}</b> {number(row.value)}" if np.isfinite(row.value) else f"<b>{sign}</b>"
            rule = f"{number(row.value)} {'≥' if row.rule == '>=' else '≤'} {number(row.threshold)}? "
            hover[i, j] = (
                f"{label(cohort)} ({label(row.role)}): {label(gate)}<br>{rule if np.isfinite(row.value) else ''}<b>{row.status}</b>"
                f"<br>sd {number(row.sd)}, n = {number(row.n)} {label(row.unit)}<br>null, upper bound {number(row.null_high)}; "
                f"p = {number(row.p)}<br>{'<br>'.join(wrapped(row.note, 70))}"
            )
    roles = {row.cohort: row.role for row in records(rows)}
    names = [
        f"<b>{label(c)}</b><br><span style='font-size:11px;color:{QUIET}'>{label(roles[c])}</span>" for c in cohorts
    ]
    figure = go.Figure(
        go.Heatmap(
            z=code,
            x=[gate.replace(" ", "<br>") for gate in GATES],
            y=names,
            text=shown,
            texttemplate="%{text}",
            textfont={"color": ON_FILL, "size": 13},
            customdata=hover,
            hovertemplate="%{customdata}<extra></extra>",
            colorscale=[[0, _FILLS[0]], [0.5, _FILLS[1]], [1, _FILLS[2]]],
            zmin=0,
            zmax=2,
            showscale=False,
            xgap=3,
            ygap=3,
            hoverongaps=False,
        )
    )
    counts = rows["status"].value_counts()
    doomed = " A cohort that is expected to fail does well to fail." if "expected to fail" in set(rows["role"]) else ""
    subtitle = (
        f"n = {len(cohorts)} cohorts; {counts.get('pass', 0)} gates pass (✓), {counts.get('fail', 0)} fail (✗), "
        f"{counts.get('not applicable', 0)} are not applicable (–, never a pass). Numbers: trustworthiness, mean Spearman over "
        f"splits, p, p, passing cohorts. Spec {', '.join(dict.fromkeys(rows['spec']))}.{doomed}"
    )
    dressed(figure, "The seven gates", subtitle, 54 * len(cohorts) + 10, above=56, below=20)
    figure.update_xaxes(side="top", showline=False, ticks="", showgrid=False)
    figure.update_yaxes(autorange="reversed", showline=False, ticks="", showgrid=False)
    return figure


def head_screen(
    table: pd.DataFrame, *, controls: Mapping[str, float] | None = None, planted: str | None = None, top: int = 20
) -> go.Figure:
    """The first heads of a screen, with intervals, null and controls.

    Parameters
    ----------
    table
        `rank`, `layer`, `head`, `gates`, `residualised`, `low`, `high`, `spearman`, `trustworthiness`, `null_mean`,
        `null_high`, `p`, `q`, `n_anchors`, `n_donors`; columns that end in `_auroc` are shown on hovering.
    controls
        The same score of feature maps that hold nothing of the model.
    planted
        A head that is known to be planted, such as `L2H3`.
    top
        How many heads are drawn, from rank 1 on.

    Returns
    -------
    plotly.graph_objects.Figure

    Raises
    ------
    EvaluationError
        If a column is missing or no head has a value.
    """
    aurocs = [column for column in table.columns if str(column).endswith("_auroc")]
    numeric = ["rank", "layer", "head", "residualised", "low", "high", "spearman", "trustworthiness"]
    numeric += ["null_mean", "null_high", "p", "q", "n_anchors", "n_donors", *aurocs]
    every = checked(table, "head screen", ["gates"], numeric)
    rows = with_value(every, "residualised", "head screen").sort_values("rank").head(max(1, top))
    names = [f"L{int(row.layer)}H{int(row.head)}" for row in records(rows)]
    shown = [f"{name} (planted)" if name == planted else name for name in names]
    hover = [
        f"{name}, rank {number(row.rank)} of {len(every)}<br>residualised {number(row.residualised)} ({number(row.low)} to "
        f"{number(row.high)}), plain {number(row.spearman)}<br>trustworthiness {number(row.trustworthiness)}; gates "
        f"{label(row.gates)}<br>p = {number(row.p)}, q = {number(row.q)}; null, upper bound {number(row.null_high)}<br>n = "
        f"{number(row.n_anchors)} anchors, {number(row.n_donors)} donors"
        + "".join(
            f"<br>{label(str(c).removesuffix('_auroc').replace('_', ' '))}: AUROC {number(v)}" for c, v in more.items()
        )
        for name, row, more in zip(shown, records(rows), rows[aurocs].to_dict("records"), strict=True)
    ]
    figure = go.Figure()
    low, high = rows["null_mean"].clip(upper=0), rows["null_high"]
    if np.isfinite(high).any():
        figure.add_traces(null_bars(shown, low, high))
    filled = rows["q"] <= ALPHA
    spread = {"array": rows["high"] - rows["residualised"], "arrayminus": rows["residualised"] - rows["low"]}
    texts, symbols = [""] * len(rows), ["circle" if f else "circle-open" for f in filled]
    figure.add_trace(points(shown, rows["residualised"], spread, texts, symbols, pd.Series(hover)))
    keys = [
        (f"q ≤ {ALPHA}", {**POINT, "symbol": "circle"}),
        (f"q > {ALPHA} or no q", {**POINT, "symbol": "circle-open"}),
    ]
    if np.isfinite(high).any():
        keys.append(("null, up to its upper bound", {"symbol": "square", "size": 12, "color": NULL}))
    for i, (name, value) in enumerate((controls or {}).items()):
        color = SERIES[1 + i % (len(SERIES) - 1)][0]
        figure.add_vline(x=value, line={"color": color, "width": 1.5, "dash": ("dash", "dot", "dashdot")[i % 3]})
        keys.append(
            (f"{name}: {number(value)}", {"symbol": "line-ns-open", "size": 14, "color": color, "line": {"width": 2}})
        )
    legend_keys(figure, [(label(name), marker) for name, marker in keys])
    beside = "; ".join(f"{name} {number(value)}" for name, value in (controls or {}).items()) or "none given"
    donors = f"{span(rows['n_donors'])} donors" if rows["n_donors"].max() > 0 else "unnamed donors"
    subtitle = (
        f"The first {len(rows)} of n = {len(every)} heads on {span(rows['n_anchors'])} anchors of {donors}. "
        f"Bars: 95 % bootstrap. Filled: q ≤ {ALPHA} (Benjamini-Hochberg over heads), {int((every['q'] <= ALPHA).sum())} of "
        f"{len(every)}. Controls that hold nothing of the model: {beside}."
    )
    height = 24 * len(rows) + 22
    above = 58
    dressed(figure, "Head screen: residualised correlation with the ruler", subtitle, height, above=above)
    figure.update_xaxes(title="Spearman of latent angles with ruler distances, donor and tissue regressed out")
    figure.update_yaxes(
        type="category", categoryorder="array", categoryarray=shown[::-1], range=[-0.6, len(shown) - 0.4], showgrid=False, ticks=""
    )  # fmt: skip
    legend = {"orientation": "h", "traceorder": "normal", "x": 0, "y": 1 + above / height, "yanchor": "top"}
    return figure.update_layout(legend=legend, bargap=0.35)


def p_uniform(table: pd.DataFrame) -> go.Figure:
    """Whether p values under a null are uniform: their distribution functions beside the diagonal.

    Parameters
    ----------
    table
        `kind` of null and `p`, one row per draw.

    Returns
    -------
    plotly.graph_objects.Figure
        A step per kind, and the band in which the whole of a uniform sample's step lies with 95 % (Kolmogorov).

    Raises
    ------
    EvaluationError
        If a column is missing, or no p is finite.
    """
    rows = with_value(checked(table, "figure of p values", ["kind"], ["p"]), "p", "figure of p values")
    figure, said = go.Figure(), []
    n = int(rows.groupby("kind").size().min())
    band = float(kstwo.ppf(0.95, n))
    x = np.array([0, 1])
    for bound in (band, -band):
        figure.add_trace(
            go.Scatter(x=x, y=x + bound, mode="lines", line={"color": QUIET, "width": 1, "dash": "dot"}, showlegend=False, hoverinfo="skip")
        )  # fmt: skip
    figure.add_trace(
        go.Scatter(x=x, y=x, mode="lines", line={"color": QUIET, "width": 1}, name="uniform", hoverinfo="skip")
    )
    for i, (kind, own) in enumerate(rows.groupby("kind", sort=False)):
        p = np.sort(own["p"].to_numpy())
        said.append(f"{kind}: n = {len(p)}, KS p = {number(kstest(p, 'uniform').pvalue)}")
        steps = np.arange(1, len(p) + 1) / len(p)
        line = {
            "color": SERIES[i % len(SERIES)][0],
            "width": 2,
            "shape": "hv",
            "dash": ("solid", "dash", "dot", "dashdot")[i % 4],
        }
        figure.add_trace(
            go.Scatter(
                x=[0, *p, 1],
                y=[0, *steps, 1],
                mode="lines",
                name=label(kind),
                line=line,
                hovertemplate=f"{label(kind)}<br>p ≤ %{{x:.3f}} in %{{y:.0%}} of draws<extra></extra>",
            )
        )
    subtitle = f"{'; '.join(said)}. Dotted: 95 % band for n = {n}."
    dressed(figure, "p values where there is nothing to find", subtitle, 380, above=_ABOVE + 20)
    figure.update_xaxes(title="p", range=[0, 1])
    figure.update_yaxes(title="share of draws with a smaller p", range=[0, 1.02])
    legend = {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom", "traceorder": "normal"}
    return figure.update_layout(legend=legend)


def recovery(table: pd.DataFrame) -> go.Figure:
    """What is found in planted worlds: rank of the planted head, dimension, subspace and gates, a dot per world.

    Parameters
    ----------
    table
        `operator`, `seed`, `planted_rank`, `n_heads`, `dimension`, `truth`, `overlap`, `gates_passed`, `gates_total`.

    Returns
    -------
    plotly.graph_objects.Figure
        Four panels over operators; dots of one operator lie side by side in the order of the seeds.

    Raises
    ------
    EvaluationError
        If a column is missing.
    """
    numeric = ["seed", "planted_rank", "n_heads", "dimension", "truth", "overlap", "gates_passed", "gates_total"]
    rows = with_value(checked(table, "recovery figure", ["operator"], numeric), "dimension", "recovery figure")
    rows["error"] = rows["dimension"] - rows["truth"]
    kinds = list(dict.fromkeys(rows["operator"]))
    panels = (
        ("planted_rank", "rank of the planted head", 1.0),
        ("error", "dimension minus truth", 0.0),
        ("overlap", "subspace overlap", 1.0),
        ("gates_passed", "gates passed", float(rows["gates_total"].max())),
    )
    figure = make_subplots(
        rows=2, cols=2, subplot_titles=[f"<b>{name}</b>" for _, name, _ in panels], vertical_spacing=0.18
    )
    for at, (column, name, ideal) in enumerate(panels):
        place = {"row": at // 2 + 1, "col": at % 2 + 1}
        for i, kind in enumerate(kinds):
            own = rows[rows["operator"] == kind].sort_values("seed")
            color, symbol = SERIES[i % len(SERIES)]
            figure.add_trace(
                go.Scatter(
                    x=i + np.linspace(-0.3, 0.3, len(own)) if len(own) > 1 else [float(i)],
                    y=own[column],
                    mode="markers",
                    name=label(kind),
                    showlegend=at == 0,
                    marker={"color": color, "symbol": symbol, "size": 7, "opacity": 0.8},
                    text=[f"{label(kind)}, seed {number(seed)}" for seed in own["seed"]],
                    hovertemplate="%{text}<br>" + name + " %{y:.3g}<extra></extra>",
                ),
                **place,
            )
        figure.add_hline(y=ideal, line={"color": INK, "width": 1, "dash": "dot"}, **place)
        values = [*rows[column].dropna(), ideal]
        margin = 0.08 * max(max(values) - min(values), 0.1 if column == "overlap" else 1.0)
        figure.update_xaxes(tickvals=list(range(len(kinds))), ticktext=[label(kind) for kind in kinds], **place)
        figure.update_yaxes(range=[min(values) - margin, max(values) + margin], **place)
    first = int((rows["planted_rank"] == 1).sum())
    within = int((rows["error"].abs() <= 1).sum())
    whole = int((rows["gates_passed"] == rows["gates_total"]).sum())
    subtitle = (
        f"n = {rows['seed'].nunique()} planted worlds x {len(kinds)} operators, {span(rows['n_heads'])} heads each: planted head first in "
        f"{first} of {len(rows)}, dimension within 1 in {within}, all gates in {whole}. Dotted: what was planted. Nothing here is real."
    )
    dressed(figure, "Planted worlds: is what was put there found", subtitle, 480, above=_ABOVE + 20)
    legend = {"orientation": "h", "x": 0, "y": 1.06, "yanchor": "bottom", "traceorder": "normal"}
    return figure.update_layout(legend=legend)
