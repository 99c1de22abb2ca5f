"""The map of the latent: where the cells of each branch and stage lie."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.errors import EvaluationError
from workbench.evidence.contrasts import OFF_RULER
from workbench.figures.style import (
    INK,
    OUTLINE,
    PALETTE,
    QUIET,
    RULE,
    UNASSIGNED,
    assign_colors,
    checked,
    dressed,
    label,
)

SYMBOLS_3D = ("circle", "square", "diamond", "cross", "x", "circle-open", "square-open", "diamond-open")
SYMBOLS = (
    "circle",
    "square",
    "diamond",
    "triangle-up",
    "cross",
    "x",
    "triangle-down",
    "pentagon",
    "star",
    "hexagon2",
    "triangle-left",
    "triangle-right",
    "star-diamond",
    "hourglass",
)
# Above this many cells a browser is slow with vector marks, and they are drawn as pixels.
VECTOR_LIMIT = 6000


def latent_map(table: pd.DataFrame, colors: Mapping[str, str] | None = None) -> go.Figure:
    """UMAP of the latent, coloured by branch, with one symbol per stage of a branch.

    Stages with few cells are drawn last and larger, so that they stay visible.

    Parameters
    ----------
    table
        One row per cell: `cell_id`, `cell_type`, `stage`, `branch`, `umap_1`, `umap_2`, `z_1` to `z_k`.
    colors
        Branch -> hex colour, in the order of the legend, as `assign_colors` gives it; other branches get what is left.

    Returns
    -------
    plotly.graph_objects.Figure
        One trace per branch and stage; the number of cells is in the title, in the legend and in the hover text.

    Raises
    ------
    EvaluationError
        If a column is missing, or no cell has coordinates.
    """
    cells = checked(table, "latent map", ["cell_id", "cell_type", "stage", "branch"], ["umap_1", "umap_2", "z_1"])
    k = sum(str(column).startswith("z_") for column in table.columns)
    drawn = cells[np.isfinite(cells["umap_1"]) & np.isfinite(cells["umap_2"])]
    if drawn.empty:
        raise EvaluationError("The latent map cannot be drawn: 'umap_1' and 'umap_2' hold no finite number.")
    drawn = drawn.assign(branch=drawn["branch"].replace("", OFF_RULER), stage=drawn["stage"].replace("", OFF_RULER))
    groups = {key: group for key, group in drawn.groupby(["branch", "stage"], sort=True)}
    hues = _hues(drawn["branch"], colors)
    branches = list(hues)
    of_branch = drawn["branch"].value_counts()
    ordered = sorted(groups, key=lambda key: (branches.index(key[0]), -len(groups[key]), key[1]))
    symbols = _symbols(ordered, hues)

    figure = go.Figure()
    scatter = go.Scatter if len(drawn) <= VECTOR_LIMIT else go.Scattergl
    size = 8 if len(drawn) <= 2000 else 6 if len(drawn) <= 10_000 else 4
    rare = max(10.0, len(drawn) / len(groups) / 4)
    titled: set[str] = set()
    for rank, (branch, stage) in enumerate(ordered):
        group = groups[branch, stage]
        few = len(group) < rare
        figure.add_trace(
            scatter(
                x=group["umap_1"],
                y=group["umap_2"],
                mode="markers",
                name=f"{label(stage)} (n = {len(group):,})",
                legendgroup=label(branch),
                legendgrouptitle_text=None
                if branch in titled
                else f"<b>{label(branch)}</b> (n = {of_branch[branch]:,})",
                legendrank=rank + 1,
                customdata=np.array([[label(v) for v in group["cell_id"]], [label(v) for v in group["cell_type"]]]).T,
                hovertemplate=(
                    "cell %{customdata[0]}<br>cell type %{customdata[1]}<br>"
                    f"stage {label(stage)} (n = {len(group):,})<br>"
                    f"branch {label(branch)} (n = {of_branch[branch]:,})<extra></extra>"
                ),
                marker={
                    "color": hues[branch],
                    "symbol": symbols[branch, stage],
                    "size": size + 4 if few else size,
                    "opacity": 1.0 if few else 0.8,
                    "line": {"color": OUTLINE, "width": 1.2 if few else 0.5},
                },
            )
        )
        titled.add(branch)
    figure.data = sorted(figure.data, key=lambda trace: -len(trace.x))

    lost, off = len(cells) - len(drawn), int((drawn["stage"] == OFF_RULER).sum())
    placed = [key for key in groups if key[1] != OFF_RULER]
    subtitle = (
        f"n = {len(drawn):,} cells (branches: {len({branch for branch, _ in placed})}, stages: {len(placed)}"
        + (f", {OFF_RULER}: {off:,} cells" if off else "")
        + "); "
        "colour: branch, symbol: stage, larger marks: stages with few cells"
        + (f"; {lost:,} cells without coordinates are not drawn" if lost else "")
        + ". Only neighbourhoods can be read from a UMAP, not distances."
    )
    dressed(
        figure,
        f"UMAP of the {k}-dimensional latent",
        subtitle,
        max(460, 19 * len(groups) + 27 * len(branches)),
        below=40,
    )
    axis = {"showticklabels": False, "ticks": "", "showgrid": False}
    figure.update_xaxes(title="UMAP 1", **axis)
    figure.update_yaxes(title="UMAP 2", **axis)
    figure.update_layout(
        showlegend=True, legend={"groupclick": "toggleitem", "tracegroupgap": 4, "y": 1, "yanchor": "top"}
    )
    return figure


def _hues(branches: pd.Series, colors: Mapping[str, str] | None) -> dict[str, str]:
    """Colour of every branch that is drawn, in the order of the legend; cells off the ruler come last."""
    hues, names = assign_colors(sorted(set(branches)), colors), set(branches)
    return hues | {name: UNASSIGNED for name in sorted(names) if name not in hues}


def _symbols(keys: list[tuple[str, str]], hues: Mapping[str, str]) -> dict[tuple[str, str], str]:
    # Counted per colour: two branches that have to share one still differ in symbol.
    seen: Counter[str] = Counter()
    out = {}
    for branch, stage in keys:
        out[branch, stage] = SYMBOLS[seen[hues[branch]] % len(SYMBOLS)]
        seen[hues[branch]] += 1
    return out


def latent_space(
    table: pd.DataFrame, by: Sequence[str] = ("branch", "stage", "donor"), colors: Mapping[str, str] | None = None
) -> go.Figure:
    """Three principal axes of the latent, with a menu of what colours the cells.

    Parameters
    ----------
    table
        One row per cell: `cell_id`, `stage`, `branch`, `z_1` to `z_k` (three or more), and any other column of `by`.
    by
        Columns that the cells can be coloured by; those that are not there, or hold one value, are left out.
    colors
        As in `latent_map`.

    Returns
    -------
    plotly.graph_objects.Figure
        A trace per value and column; the first column is shown, a button per further column shows that one.

    Raises
    ------
    EvaluationError
        If a column is missing, or the latent has fewer than three dimensions.
    """
    names = [str(column) for column in table.columns if str(column).startswith("z_")]
    if len(names) < 3:
        raise EvaluationError(f"The latent in three dimensions cannot be drawn: it has {len(names)}.")
    ways = [name for name in by if name in table.columns and (name == by[0] or table[name].nunique() > 1)]
    cells = checked(table, "latent in three dimensions", ["cell_id", *ways], names)
    z = cells[names].to_numpy()
    u, s, _ = np.linalg.svd(z - z.mean(0), full_matrices=False)
    axes, share = u[:, :3] * s[:3], s[:3] ** 2 / (s**2).sum()
    for way in {"branch", "stage"} & set(ways):
        cells[way] = cells[way].replace("", OFF_RULER)
    hues = _hues(cells["branch"], colors) if "branch" in ways else {}
    figure, owner = go.Figure(), []
    for way in ways:
        seen: Counter[str] = Counter()
        values = list(hues) if way == "branch" else sorted(set(cells[way]))
        for i, value in enumerate(values):
            rows = np.flatnonzero((cells[way] == value).to_numpy())
            if way == "branch":
                color = hues[value]
            elif way == "stage" and "branch" in ways:
                color = hues[cells["branch"].iloc[rows[0]]]
            else:
                color = PALETTE[i % len(PALETTE)]
            figure.add_trace(
                go.Scatter3d(
                    x=axes[rows, 0],
                    y=axes[rows, 1],
                    z=axes[rows, 2],
                    mode="markers",
                    name=f"{label(value or 'unassigned')} (n = {len(rows):,})",
                    text=[label(name) for name in cells["cell_id"].iloc[rows]],
                    hovertemplate=f"cell %{{text}}<br>{way} {label(value)} (n = {len(rows):,})<extra></extra>",
                    marker={
                        "size": 3,
                        "color": color,
                        # Counted per colour: stages of one branch differ in symbol.
                        "symbol": SYMBOLS_3D[seen[color] % len(SYMBOLS_3D)],
                        "line": {"color": OUTLINE, "width": 1},
                    },
                    visible=way == ways[0],
                )
            )
            owner.append(way)
            seen[color] += 1
    subtitle = (
        f"n = {len(cells):,} cells; principal axes of the {len(names)}-dimensional latent, {share[0]:.0%}, {share[1]:.0%} and {share[2]:.0%} of "
        "its variance. Drag to turn."
    )
    dressed(figure, "The latent in three dimensions", subtitle, 560, above=36 if len(ways) > 1 else 0, below=10)
    axis = {"showticklabels": False, "gridcolor": RULE, "zerolinecolor": RULE}
    scene = {f"{name}axis": {"title": {"text": f"axis {i + 1}"}, **axis} for i, name in enumerate("xyz")}
    figure.update_layout(scene=scene, legend={"y": 1, "yanchor": "top"})
    if len(ways) > 1:
        buttons = [
            {"label": f"by {way}", "method": "restyle", "args": [{"visible": [one == way for one in owner]}]}
            for way in ways
        ]
        figure.update_layout(
            updatemenus=[
                {
                    "type": "buttons",
                    "direction": "right",
                    "buttons": buttons,
                    "showactive": False,
                    "bgcolor": "white",
                    "bordercolor": QUIET,
                    "font": {"color": INK},
                    "x": 0,
                    "xanchor": "left",
                    "y": 1.07,
                    "yanchor": "top",
                }
            ]
        )
    return figure
