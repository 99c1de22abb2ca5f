"""Panels: cells with a role, placed on the ruler, and never shared between two panels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from workbench.cells.anchors import Anchors, make_anchors
from workbench.cells.genes import match_genes, with_matched_names
from workbench.engine.config import load_cells
from workbench.errors import CellsError, EvaluationError, unknown_name
from workbench.evidence.ruler import Ruler
from workbench.models.scgpt.vocabulary import Vocabulary
from workbench.operators.algorithm import panel_expression
from workbench.seeds import key
from workbench.settings import AnchorConfig, CellPanelConfig, DataConfig

INTERNAL, EXTERNAL, ZERO_SHOT, TO_FAIL = "internal", "external", "zero shot", "expected to fail"


@dataclass(frozen=True)
class Panel:
    """Cells with a role.

    Attributes
    ----------
    name, role
        As configured.
    cells
        Values, and ``obs`` with the standard columns and ``stage`` (negative where the ruler does not know the label).
    unplaced
        Labels that the ruler does not know, with near matches.
    """

    name: str
    role: str
    cells: AnnData
    unplaced: dict[str, str]


@dataclass(frozen=True)
class Measured:
    """A panel on the genes of an operator.

    Attributes
    ----------
    panel
        The panel.
    expression
        Log-normalised, cell x gene.
    anchors
        Of its placed cells.
    coverage
        Share of the genes that the panel's data measure.
    """

    panel: Panel
    expression: sp.csr_matrix
    anchors: Anchors
    coverage: float

    @property
    def stage(self) -> np.ndarray:
        """Stage number of each cell."""
        return self.panel.cells.obs["stage"].to_numpy()


def load_panel(
    name: str, settings: CellPanelConfig, data: DataConfig, ruler: Ruler, extra: dict[str, str], seed: int
) -> Panel:
    """Cells of a panel.

    Parameters
    ----------
    name, settings
        Of the panel.
    data
        Its cells, where the panel names none of its own.
    ruler, extra
        The ruler, and labels beyond those it knows.
    seed
        For parts.

    Raises
    ------
    CellsError
        If a column or value is selected that does not exist, or no cell is left.
    EvaluationError
        If there are no cell types.
    """
    cells = load_cells(settings.data or data)
    kept = np.ones(cells.shape[0], dtype=bool)
    for column, values in settings.select.items():
        if column not in cells.obs:
            raise CellsError(
                f"Panel '{name}' selects by '{column}': {unknown_name('standard column', column, cells.obs.columns)} Map it "
                "under data, if the file has it by another name."
            )
        there = set(cells.obs[column])
        for value in values:
            if value not in there:
                raise CellsError(f"Panel '{name}' selects {unknown_name(column, value, there)}")
        kept &= cells.obs[column].isin(values).to_numpy()
    if settings.part is not None:
        i, n = settings.part
        if not 0 <= i < n:
            raise CellsError(f"Panel '{name}' asks for part {i} of {n}; parts are numbered from 0 to {n - 1}.")
        kept &= np.array([key(seed, "panel part", cell) % n == i for cell in cells.obs_names])
    if not kept.any():
        raise CellsError(f"Panel '{name}' selects none of {cells.shape[0]} cells; widen its selection.")
    if "cell_type" not in cells.obs:
        raise EvaluationError(
            f"The cells of panel '{name}' have no cell type column, which the ruler needs; set data.cell_type to the column "
            "of obs."
        )
    chosen = cells if kept.all() else cells[kept].copy()
    chosen.obs["stage"], unknown = ruler.place(chosen.obs["cell_type"], {**extra, **settings.stages})
    return Panel(name, settings.role, chosen, {label: ruler.hint(label) for label in unknown})


def check_panels(panels: Sequence[Panel]) -> None:
    """One internal panel, and no cell in two panels.

    Parameters
    ----------
    panels
        All of them.

    Raises
    ------
    EvaluationError
        If two panels share a cell by its name, or there is not exactly one internal panel.
    """
    internal = [panel.name for panel in panels if panel.role == INTERNAL]
    if len(internal) != 1:
        raise EvaluationError(
            f"{len(internal)} panels are internal ({', '.join(internal) or 'none'}); exactly one has to be: the one that "
            "adaptors are fitted on."
        )
    for one, other in combinations(panels, 2):
        shared = sorted(set(one.cells.obs_names) & set(other.cells.obs_names))
        if shared:
            raise EvaluationError(
                f"Panels '{one.name}' and '{other.name}' share {len(shared)} cells (such as {', '.join(shared[:3])}); panels "
                "must not overlap. Part them by `select` or `part`; if only the names are the same, make them unique."
            )


def measure(
    panel: Panel,
    genes: tuple[str, ...],
    vocabulary: Vocabulary,
    settings: AnchorConfig,
    *,
    min_gene_share: float,
    seed: int,
) -> Measured:
    """Expression and anchors of a panel on an operator's genes.

    Parameters
    ----------
    panel
        The panel.
    genes
        Of the operator, in order; one that the panel does not measure counts as not expressed.
    vocabulary
        Gives genes their spelling.
    settings
        Of the anchors.
    min_gene_share
        Smallest share of the panel's genes that must be in the vocabulary.
    seed
        For parts of anchors.
    """
    match = match_genes(panel.cells.var_names.to_numpy(dtype=str), vocabulary, min_gene_share)
    named = with_matched_names(panel.cells, match)
    expression = panel_expression(named, genes)
    anchors = make_anchors(
        expression,
        panel.cells.obs,
        min_cells=settings.min_cells,
        parts=settings.parts,
        weights=settings.weights,
        seed=seed,
    )
    return Measured(panel, expression, anchors, float(np.isin(genes, named.var_names).mean()))


def panel_table(measured: Sequence[Measured], ruler: Ruler) -> pd.DataFrame:
    """One row per panel: what it holds.

    Parameters
    ----------
    measured
        The panels.
    ruler
        The ruler.
    """
    rows = []
    for one in measured:
        obs, stage = one.panel.cells.obs, one.anchors.stage
        rows.append(
            {
                "panel": one.panel.name,
                "role": one.panel.role,
                "data": one.panel.cells.uns["workbench"]["name"],
                "cells": len(obs),
                "placed": int((obs["stage"] >= 0).sum()),
                "anchors": len(one.anchors),
                "stages": len(set(stage.tolist())),
                "branches": len({ruler.branches[s] for s in stage.tolist()}),
                "donors": len(set(obs["donor"])) if "donor" in obs else 0,
                "tissues": len(set(obs["tissue"])) if "tissue" in obs else 0,
                "gene_coverage": one.coverage,
                "unplaced_labels": "; ".join(f"{label} ({hint})" for label, hint in one.panel.unplaced.items()),
            }
        )
    return pd.DataFrame(rows)
