"""Cells on the maps of the explorer: where they lie, which label they have, and its colour on a light and a dark page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from workbench.ablation.build import choose_rows
from workbench.errors import EvaluationError
from workbench.evidence.contrasts import OFF_RULER
from workbench.evidence.ruler import Ruler
from workbench.explorer.heads import short
from workbench.figures.style import DARK, UNASSIGNED, assign_colors

# A browser draws so many marks without delay; more are drawn by seed, and the explorer says so.
MAX_CELLS = 4000
NO_LABEL = "no label"


def label_groups(branches: Mapping[str, str], ruler: Ruler | None = None) -> list[dict[str, str]]:
    """Labels with branch, colours and mark, ordered by branch, as in the figures, and name.

    Parameters
    ----------
    branches
        Branch of each label, as `branches_of` gives it.
    ruler
        Ruler whose order and colours the branches have; without one they come by name, in colours of the palette.

    Returns
    -------
    list of dict
        ``label``, ``branch``, ``light``, ``dark`` and ``mark``: ``circle``, or ``square`` where the colours come again.
    """
    there = set(branches.values())
    known = () if ruler is None else tuple(name for name in ruler.branches if name in there)
    hues = assign_colors((*known, *sorted(there)), None if ruler is None else ruler.colors)
    used, order, groups = list(hues.values()), {branch: i for i, branch in enumerate(hues)}, []
    for label, branch in sorted(branches.items(), key=lambda pair: (order.get(pair[1], len(order)), pair[0])):
        color = hues.get(branch, UNASSIGNED)
        again = used[: order.get(branch, 0)].count(color) % 2
        shown = {"light": color, "dark": DARK.get(color, color), "mark": "square" if again else "circle"}
        groups.append({"label": label, "branch": branch, **shown})
    return groups


def branches_of(labels: Sequence[str], ruler: Ruler, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Branch of each label that a ruler places.

    Parameters
    ----------
    labels
        Cell type labels, each once or more often.
    ruler
        Ruler that places them; labels that it does not know are `OFF_RULER`.
    extra
        More labels and their stages, as in `Ruler.place`.

    Examples
    --------
    >>> from workbench.evidence.ruler import load_ruler
    >>> from workbench.explorer.maps import branches_of
    >>> branches_of(["macrophage", "CD4 memory T"], load_ruler("hematopoiesis"))["macrophage"]
    'monocyte'
    """
    names = sorted(set(labels))
    placed, _ = ruler.place(names, extra)
    return {name: ruler.branches[at] if at >= 0 else OFF_RULER for name, at in zip(names, placed.tolist(), strict=True)}


def cell_map(
    key: str,
    name: str,
    note: str,
    axes: tuple[str, str],
    xy: Float[np.ndarray, "cell 2"],
    ids: Sequence[str],
    labels: Sequence[str],
    groups: Sequence[Mapping[str, str]],
    *,
    n_total: int | None = None,
    seed: int = 0,
    limit: int = MAX_CELLS,
) -> dict[str, Any]:
    """Cells of one map; of more than `limit` cells, as many drawn by seed and name.

    Parameters
    ----------
    key
        Name by which the page's script finds the map.
    name, note
        Heading of the map, and a sentence under it (may be empty).
    axes
        Titles of the horizontal and the vertical axis.
    xy, ids, labels
        Position, name and label of each cell; cells whose position is not finite are left out and counted.
    groups
        Labels with their colours, from `label_groups`; every label must be among them.
    n_total
        Cells that these were drawn from; all of them when None.
    seed
        Seed of the drawing; without effect where all cells are shown.
    limit
        Cells that are shown at most; of more, some are drawn.
    """
    there = np.flatnonzero(np.isfinite(xy).all(1)).tolist()
    kept = [there[i] for i in choose_rows([ids[i] for i in there], limit, seed)]
    number = {group["label"]: i for i, group in enumerate(groups)}
    x, y = ([short(v, 5) for v in column] for column in xy[kept].T)
    said = {"key": key, "name": name, "note": note, "axes": list(axes), "groups": [dict(group) for group in groups]}
    shown = {"x": x, "y": y, "group": [number[labels[i]] for i in kept], "ids": [str(ids[i]) for i in kept]}
    n = {"n_total": len(ids) if n_total is None else n_total, "n_without_place": len(ids) - len(there)}
    return {**said, **shown, **n, "seed": seed}


def latent_map(table: pd.DataFrame, seed: int = 0, ruler: Ruler | None = None) -> dict[str, Any]:
    """Map of a run's latent.

    Parameters
    ----------
    table
        Table ``tables/latent.csv`` of a run, names read as text.
    seed
        Seed of the drawing where there are too many cells.
    ruler
        Ruler of the run, for the colours, as in `label_groups`.

    Raises
    ------
    EvaluationError
        If the table has no coordinates or no cell type.
    """
    columns = next((pair for pair in (("umap_1", "umap_2"), ("z_1", "z_2")) if set(pair) <= set(table)), None)
    lacking = [name for name in ("cell_id", "cell_type", "branch") if name not in table]
    if columns is None or lacking:
        raise EvaluationError(
            f"The latent cannot be drawn: its table lacks {', '.join(lacking) or 'umap_1 and umap_2, or z_1 and z_2'}."
        )
    labels = table["cell_type"].astype(str).replace("", NO_LABEL).tolist()
    groups = label_groups(dict(zip(labels, table["branch"].astype(str), strict=True)), ruler)
    umap = columns[0] == "umap_1"
    k = sum(str(column).startswith("z_") for column in table.columns)
    return cell_map(
        "latent",
        f"the run's {k}-dimensional latent, {'UMAP' if umap else 'first two coordinates'}",
        "Only neighbourhoods can be read from a UMAP, not distances." if umap else "",
        ("UMAP 1", "UMAP 2") if umap else ("z 1", "z 2"),
        table[list(columns)].to_numpy(dtype=np.float64),
        table["cell_id"].astype(str).tolist(),
        labels,
        groups,
        seed=seed,
    )
