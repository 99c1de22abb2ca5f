"""The gates at a glance, the screen of heads, and whether the instruments pass their own tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots
from scipy.stats import kstest, kstwo

from workbench.figures.checks import checked, records, refusal, with_value
from workbench.figures.facets import legend_on_top, quiet
from workbench.figures.forest import Facet, forest
from workbench.figures.heatmap import cell_trace, head_codes
from workbench.figures.marks import ALPHA, NULL_KEY, SERIES, Look, marks, p_and_q, sure_keys
from workbench.figures.style import INK, ON_FILL, QUIET, dressed, label, number, span, wrapped

GATES = (
    "trustworthiness",
    "random holdout",
    "donor holdout",
    "branch holdout",
    "blocked permutation",
    "null ruler",
    "expected to fail",
)
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
        raise refusal(
            "gate table", f"'{unknown[0]}' is no gate or status." if unknown else "a cohort has a gate twice."
        )
    cells = rows.rename(columns={"cohort": "row", "gate": "column"})
    cells["value"] = [_STATUS[status][0] for status in rows["status"]]
    cells["text"], cells["hover"] = zip(*(_judged(row) for row in records(rows)), strict=True)
    roles = dict(zip(rows["cohort"], rows["role"], strict=True))
    cohorts = list(dict.fromkeys(rows["cohort"]))
    names = [f"<b>{label(cohort)}</b><br>{quiet(label(roles[cohort]), 11)}" for cohort in cohorts]
    look = {
        "x": [gate.replace(" ", "<br>") for gate in GATES],
        "y": names,
        "textfont": {"color": ON_FILL, "size": 13},
        "colorscale": [[i / 2, fill] for i, fill in enumerate(_FILLS)],
    }
    figure = go.Figure(cell_trace(cells, cohorts, GATES, zmin=0, zmax=2, showscale=False, xgap=3, ygap=3, **look))
    counts = rows["status"].value_counts()
    doomed = " A cohort that is expected to fail does well to fail." if "expected to fail" in set(rows["role"]) else ""
    subtitle = (
        f"n = {len(cohorts)} cohorts; {counts.get('pass', 0)} gates pass (✓), {counts.get('fail', 0)} fail (✗), "
        f"not applicable: {counts.get('not applicable', 0)} (–, never a pass). Numbers: trustworthiness, mean Spearman over "
        f"splits, p, p, passing cohorts. Spec {', '.join(dict.fromkeys(rows['spec']))}.{doomed}"
    )
    dressed(figure, "The seven gates", subtitle, 54 * len(cohorts) + 10, above=56, below=20)
    plain = {"showline": False, "ticks": "", "showgrid": False}
    return figure.update_xaxes(side="top", **plain).update_yaxes(autorange="reversed", **plain)


def _judged(row: Any) -> tuple[str, str]:
    """Text of a cell, and what is said on hover."""
    sign, known = f"<b>{_STATUS[row.status][1]}</b>", np.isfinite(row.value)
    rule = f"{number(row.value)} {'≥' if row.rule == '>=' else '≤'} {number(row.threshold)}? " if known else ""
    hover = (
        f"{label(row.cohort)} ({label(row.role)}): {label(row.gate)}<br>{rule}<b>{row.status}</b><br>sd {number(row.sd)}, n = "
        f"{number(row.n)} {label(row.unit)}<br>null, upper bound {number(row.null_high)}; p = {number(row.p)}<br>"
        f"{'<br>'.join(wrapped(row.note, 70))}"
    )
    return f"{sign} {number(row.value)}" if known else sign, hover


def head_screen(
    table: pd.DataFrame,
    *,
    controls: Mapping[str, float] | None = None,
    drawn: Mapping[str, tuple[float, float]] | None = None,
    planted: str | None = None,
    top: int = 20,
) -> go.Figure:
    """The first heads of a screen, with intervals, null and controls.

    Parameters
    ----------
    table
        `rank`, `layer`, `head`, `gates`, `residualised`, `low`, `high`, `spearman`, `trustworthiness`, `null_mean`,
        `null_high`, `p`, `q`, `n_anchors`, `n_donors`; columns that end in `_auroc` are shown on hovering.
    controls
        The same score of feature maps that hold nothing of the model; of those that are drawn, the mean.
    drawn
        Smallest and largest draw of each control that is drawn, drawn as a band.
    planted
        A head that is known to be planted, such as `L2H3`.
    top
        How many heads are drawn, from rank 1 on.

    Returns
    -------
    plotly.graph_objects.Figure
        Points with 95 % intervals, filled where q <= 0.05, the null in grey; a line per control.

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
    rows["row"] = [f"{name} (planted)" if name == planted else name for name in head_codes(rows)]
    rows = rows.assign(value=rows["residualised"], text="", filled=rows["q"] <= ALPHA)
    rows["null_from"] = rows["null_mean"].clip(upper=0)
    rows["hover"] = [
        f"{row.row}, rank {number(row.rank)} of {len(every)}<br>residualised {number(row.residualised)} ({number(row.low)} to "
        f"{number(row.high)}), plain {number(row.spearman)}<br>trustworthiness {number(row.trustworthiness)}; gates "
        f"{label(row.gates)}<br>{p_and_q(row)}; null, upper bound {number(row.null_high)}<br>n = "
        f"{number(row.n_anchors)} anchors, {number(row.n_donors)} donors"
        + "".join(
            f"<br>{label(str(c).removesuffix('_auroc').replace('_', ' '))}: AUROC {number(v)}" for c, v in more.items()
        )
        for row, more in zip(records(rows), rows[aurocs].to_dict("records"), strict=True)
    ]
    with_null, given = bool(np.isfinite(rows["null_high"]).any()), (controls or {}).items()
    keys = [*sure_keys(), *([("null, up to its upper bound", NULL_KEY)] if with_null else [])]
    lines = []
    for i, (name, value) in enumerate(given):
        color = SERIES[1 + i % (len(SERIES) - 1)][0]
        lines.append((value, {"color": color, "width": 1.5, "dash": ("dash", "dot", "dashdot")[i % 3]}))
        stroke = {"symbol": "line-ns-open", "size": 14, "color": color, "line": {"width": 2}}
        keys.append((f"{label(name)}: {number(value)}", stroke))
    beside = "; ".join(f"{name} {number(value)}" for name, value in given) or "none given"
    beside += " (bands: smallest to largest draw)" if drawn else ""
    donors = f"{span(rows['n_donors'])} donors" if rows["n_donors"].max() > 0 else "unnamed donors"
    subtitle = (
        f"The first {len(rows)} of n = {len(every)} heads on {span(rows['n_anchors'])} anchors of {donors}. "
        f"Bars: 95 % bootstrap. Filled: q ≤ {ALPHA} (Benjamini-Hochberg over heads), {int((every['q'] <= ALPHA).sum())} of "
        f"{len(every)}. Controls that hold nothing of the model: {beside}."
    )
    axis = {"title": "Spearman of latent angles with ruler distances, donor, tissue and sequencing regressed out"}
    part = Facet("", rows if with_null else rows.drop(columns="null_high"), axis)
    pixels: Look = {"row": 24, "head": 0, "above": 58, "below": 60, "bounds": False}
    title = "Head screen: residualised correlation with the ruler"
    figure = forest([part], rows["row"].tolist(), title, subtitle, keys, **pixels)
    for (name, _), (value, line) in zip(given, lines, strict=True):
        figure.add_vline(x=value, line=line)
        if drawn and name in drawn:
            low, high = drawn[name]
            figure.add_vrect(x0=low, x1=high, fillcolor=line["color"], opacity=0.12, line_width=0, layer="below")
    return figure


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
    line = {"color": QUIET, "width": 1}
    for bound in (band, -band):
        figure.add_trace(marks(x, x + bound, mode="lines", line={**line, "dash": "dot"}))
    figure.add_trace(marks(x, x, mode="lines", line=line, name="uniform", legend=True))
    for i, (kind, own) in enumerate(rows.groupby("kind", sort=False)):
        p = np.sort(own["p"].to_numpy())
        said.append(f"{kind}: n = {len(p)}, KS p = {number(kstest(p, 'uniform').pvalue)}")
        steps = np.arange(1, len(p) + 1) / len(p)
        dash = ("solid", "dash", "dot", "dashdot")[i % 4]
        line = {"color": SERIES[i % len(SERIES)][0], "width": 2, "shape": "hv", "dash": dash}
        hover = f"{label(kind)}<br>p ≤ %{{x:.3f}} in %{{y:.0%}} of draws"
        figure.add_trace(
            marks([0, *p, 1], [0, *steps, 1], hover, mode="lines", name=label(kind), line=line, legend=True)
        )
    subtitle = f"{'; '.join(said)}. Dotted: 95 % band for n = {n}."
    dressed(figure, "p values where there is nothing to find", subtitle, 380, above=_ABOVE + 20)
    figure.update_xaxes(title="p", range=[0, 1])
    figure.update_yaxes(title="share of draws with a smaller p", range=[0, 1.02])
    return legend_on_top(figure)


def recovery(table: pd.DataFrame) -> go.Figure:
    """What is found in planted worlds: rank of the planted head, dimension, subspace and gates, a dot per world.

    Parameters
    ----------
    table
        `operator`, `seed`, `planted_rank`, `n_heads`, `dimension`, `truth`, `overlap`, `gates_passed`, `gates_total`.

    Returns
    -------
    plotly.graph_objects.Figure
        Four facets over operators; dots of one operator lie side by side in the order of the seeds.

    Raises
    ------
    EvaluationError
        If a column is missing.
    """
    numeric = ["seed", "planted_rank", "n_heads", "dimension", "truth", "overlap", "gates_passed", "gates_total"]
    rows = with_value(checked(table, "recovery figure", ["operator"], numeric), "dimension", "recovery figure")
    rows["error"] = rows["dimension"] - rows["truth"]
    kinds = list(dict.fromkeys(rows["operator"]))
    parts = (
        ("planted_rank", "rank of the planted head", 1.0),
        ("error", "dimension minus truth", 0.0),
        ("overlap", "subspace overlap", 1.0),
        ("gates_passed", "gates passed", float(rows["gates_total"].max())),
    )
    titles = [f"<b>{name}</b>" for _, name, _ in parts]
    figure = make_subplots(rows=2, cols=2, subplot_titles=titles, vertical_spacing=0.18)
    for at, (column, name, ideal) in enumerate(parts):
        place = {"row": at // 2 + 1, "col": at % 2 + 1}
        for i, kind in enumerate(kinds):
            own = rows[rows["operator"] == kind].sort_values("seed")
            color, symbol = SERIES[i % len(SERIES)]
            x = i + np.linspace(-0.3, 0.3, len(own)) if len(own) > 1 else [float(i)]
            look: Look = {
                "name": label(kind),
                "text": [f"{label(kind)}, seed {number(seed)}" for seed in own["seed"]],
                "marker": {"color": color, "symbol": symbol, "size": 7, "opacity": 0.8},
            }
            hover = f"%{{text}}<br>{name} %{{y:.3g}}"
            figure.add_trace(marks(x, own[column], hover, showlegend=at == 0, **look), **place)
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
    return legend_on_top(figure, 1.06)
