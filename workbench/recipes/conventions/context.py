"""What the stages of ``workbench conventions`` share."""

from __future__ import annotations

from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from anndata import AnnData

from workbench.cells.panel import choose_panel
from workbench.cells.placed import place_cells
from workbench.models import CellTokenizer
from workbench.operators.convention import PAPER, SCGPT, Convention
from workbench.recipes.conventions.config import ConventionsConfig
from workbench.recipes.run.context import RunContext

# Passes over the cells: scGPT's own input, the same on cells without genes outside the panel, the paper's, and another panel.
RESTRICTED, VARIABLE = "restricted", "variable"
PASSES = (SCGPT, RESTRICTED, PAPER, VARIABLE)
# Conventions by the name that tables give them: the pass that they are read from, and how.
CONVENTIONS: dict[str, tuple[str, Convention]] = {
    "scgpt": (SCGPT, Convention()),
    "cells restricted to the panel": (RESTRICTED, Convention()),
    "paper's input (unbinned, no <cls>)": (PAPER, Convention(PAPER)),
    "sum over cells": (SCGPT, Convention(over_cells="sum")),
    "key x query": (SCGPT, Convention(orientation="key x query")),
    "highly variable genes": (VARIABLE, Convention()),
    "paper's input, sum over cells": (PAPER, Convention(PAPER, "sum")),
    "paper's input, sum, key x query": (PAPER, Convention(PAPER, "sum", "key x query")),
}
OURS = "scgpt"


class ConventionsContext(RunContext):
    """Configuration, cells and panels of the command."""

    settings = ConventionsConfig  # type: ignore[assignment]
    shared: ClassVar[tuple[str, ...]] = PASSES

    @property
    def most_groups(self) -> int:
        """One: nothing is left out of the sums."""
        return 1

    @cached_property
    def places(self) -> tuple[pd.DataFrame, dict[str, str]]:
        """Standard columns of the cells with stage, and the labels that the ruler does not know."""
        return place_cells(self.adata, self.ruler, self.config.stages)

    def genes_of(self, name: str) -> tuple[str, ...]:
        """Genes of the operators of a pass.

        Parameters
        ----------
        name
            Name of the pass, one of `PASSES`.
        """
        if name != VARIABLE:
            return self.panel
        return choose_panel(
            self.adata, self.tokenizer.match, **{**self.config.panel.chosen(), "by": "variable", "file": None}
        )

    @cached_property
    def left_out(self) -> dict[str, str]:
        """Passes that would be the same as scGPT's own, and why."""
        chosen, matched = self.config.panel, len(self.tokenizer.match.genes)
        found = {}
        if len(self.panel) == matched:
            found[RESTRICTED] = "the panel holds every matched gene, so that no cell has another"
        if chosen.file is not None or chosen.by == "variable" or chosen.size is None or len(self.panel) == matched:
            found[VARIABLE] = (
                "no genes are chosen by the number of cells that they are seen in: set panel.size below the matched genes"
            )
        return found

    def fed_by(self, name: str) -> CellTokenizer:
        """Tokens of the cells in a pass.

        Parameters
        ----------
        name
            Name of the pass, one of `PASSES`.
        """
        cells = self.adata
        if name == RESTRICTED:
            inside = self.tokenizer.match.onto(self.panel) >= 0
            # Of the panel's columns nothing but the order of a cell's values is read.
            cells = AnnData(
                cells.X[:, np.flatnonzero(inside)], obs=cells.obs, var=cells.var[inside], uns=dict(cells.uns)
            )
        return self.tokens_of(cells, self.config.data, self.panel if name == PAPER else None)

    def pass_of(self, name: str) -> dict[str, Any]:
        """What a pass depends on, JSON-ready.

        Parameters
        ----------
        name
            Name of the pass, one of `PASSES`.
        """
        read = self.pass_inputs(self.values, self.read_obs, grouped=True)
        return {**self.model_inputs(self.genes_of(name)), **read, "pass": name, "weights": self.model.fingerprint()}
