"""The map of the latent: where the cells of each branch and stage lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.evidence.contrasts import OFF_RULER
from workbench.figures.checks import checked, refusal
from workbench.figures.style import INK, OUTLINE, PALETTE, QUIET, RULE, UNASSIGNED, assign_colors, dressed, label

SYMBOLS_3D = ("circle", "square", "diamond", "cross", "x", "circle-open", "square-open", "diamond-open")
SYMBOLS = (
    "circle", "square", "diamond", "triangle-up", "cross", "x", "triangle-down", "pentagon", "star", "hexagon2",
    "triangle-left", "triangle-right", "star-diamond", "hourglass",
)  # fmt: skip
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
        raise refusal("latent map", "'umap_1' and 'umap_2' hold no finite number.")
    drawn = drawn.assign(branch=drawn["branch"].replace("", OFF_RULER), stage=drawn["stage"].replace("", OFF_RULER))
    groups = {key: group for key, group in drawn.groupby(["branch", "stage"], sort=True)}
    hues = _hues(drawn["branch"], colors)
    branches = list(hues)
    of_branch = drawn["branch"].value_counts()
    ordered = sorted(groups, key=lambda key: (branches.index(key[0]), -len(groups[key]), key[1]))
    symbols = _by_color([hues[branch] for branch, _ in ordered], SYMBOLS)

    figure = go.Figure()
    scatter = go.Scatter if len(drawn) <= VECTOR_LIMIT else go.Scattergl
    size = 8 if len(drawn) <= 2000 else 6 if len(drawn) <= 10_000 else 4
    rare = max(10.0, len(drawn) / len(groups) / 4)
    titled: set[str] = set()
    for rank, ((branch, stage), symbol) in enumerate(zip(ordered, symbols, strict=True)):
        group = groups[branch, stage]
        few, n = len(group) < rare, f"(n = {len(group):,})"
        marker = {"color": hues[branch], "symbol": symbol, "size": size + 4 if few else size}
        marker |= {"opacity": 1.0 if few else 0.8, "line": {"color": OUTLINE, "width": 1.2 if few else 0.5}}
        of = f"(n = {of_branch[branch]:,})"
        entry = {"name": f"{label(stage)} {n}", "legendgroup": label(branch), "legendrank": rank + 1}
        if branch not in titled:
            entry["legendgrouptitle"] = {"text": f"<b>{label(branch)}</b> {of}"}
        titled.add(branch)
        said = f"stage {label(stage)} {n}<br>branch {label(branch)} {of}"
        hover = {
            "customdata": np.array([[label(v) for v in group[column]] for column in ("cell_id", "cell_type")]).T,
            "hovertemplate": f"cell %{{customdata[0]}}<br>cell type %{{customdata[1]}}<br>{said}<extra></extra>",
        }
        figure.add_trace(scatter(x=group["umap_1"], y=group["umap_2"], mode="markers", marker=marker, **entry, **hover))
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
    height = max(460, 19 * len(groups) + 27 * len(branches))
    dressed(figure, f"UMAP of the {k}-dimensional latent", subtitle, height, below=40)
    axis = {"showticklabels": False, "ticks": "", "showgrid": False}
    figure.update_xaxes(title="UMAP 1", **axis)
    figure.update_yaxes(title="UMAP 2", **axis)
    legend = {"groupclick": "toggleitem", "tracegroupgap": 4, "y": 1, "yanchor": "top"}
    return figure.update_layout(showlegend=True, legend=legend)


def _hues(branches: pd.Series, colors: Mapping[str, str] | None) -> dict[str, str]:
    """Colour of every branch that is drawn, in the order of the legend; cells off the ruler come last."""
    hues, names = assign_colors(sorted(set(branches)), colors), set(branches)
    return hues | {name: UNASSIGNED for name in sorted(names) if name not in hues}


def _by_color(colors: Sequence[str], symbols: Sequence[str]) -> list[str]:
    """Symbol of each group, counted per colour: two that have to share a colour still differ in symbol."""
    return [symbols[list(colors[:i]).count(color) % len(symbols)] for i, color in enumerate(colors)]


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
        raise refusal("latent in three dimensions", f"it has {len(names)}.")
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
        values = list(hues) if way == "branch" else sorted(set(cells[way]))
        members = [np.flatnonzero((cells[way] == value).to_numpy()) for value in values]
        colors_of = [PALETTE[i % len(PALETTE)] for i in range(len(values))]
        if way == "branch" or (way == "stage" and "branch" in ways):
            colors_of = [hues[cells["branch"].iloc[rows[0]]] for rows in members]
        symbols = _by_color(colors_of, SYMBOLS_3D)
        for value, rows, color, symbol in zip(values, members, colors_of, symbols, strict=True):
            n = f"(n = {len(rows):,})"
            look = {
                "name": f"{label(value or 'unassigned')} {n}",
                "text": [label(name) for name in cells["cell_id"].iloc[rows]],
                "hovertemplate": f"cell %{{text}}<br>{way} {label(value)} {n}<extra></extra>",
                "marker": {"size": 3, "color": color, "symbol": symbol, "line": {"color": OUTLINE, "width": 1}},
                "visible": way == ways[0],
            }
            x, y, z = axes[rows].T
            figure.add_trace(go.Scatter3d(x=x, y=y, z=z, mode="markers", **look))
            owner.append(way)
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
        place = {"x": 0, "xanchor": "left", "y": 1.07, "yanchor": "top"}
        look = {"showactive": False, "bgcolor": "white", "bordercolor": QUIET, "font": {"color": INK}}
        figure.update_layout(
            updatemenus=[{"type": "buttons", "direction": "right", "buttons": buttons, **look, **place}]
        )
    return figure
