"""The adaptor's heads beside each other: what their latents are like on held-out cells."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from workbench.evidence.latent_measures import HeldOut, latent_measures
from workbench.recipes.run.context import RunContext
from workbench.seeds import key

ADAPTOR_HEADS = "adaptor_heads"
# Neighbours and silhouettes of a fold need no more cells.
MOST_CELLS = 2000
ANCHOR, CELL, HYBRID = "anchor", "cell", "hybrid"


def head_kind(context: RunContext, representation: str) -> str:
    """``anchor``, ``cell`` or ``hybrid``; empty for what is no head of the adaptor.

    Parameters
    ----------
    context
        Run whose configured feature map carries the anchor head.
    representation
        Name in the table ``readouts``.
    """
    if representation == context.ours:
        return ANCHOR
    return {"cell head": CELL}.get(representation, HYBRID if representation.startswith("hybrid, ") else "")


class MeasuredHeads:
    """Measures of latents, taken while the readouts make them, so that no head is fitted again.

    Parameters
    ----------
    context
        Run whose cells were placed.
    """

    def __init__(self, context: RunContext) -> None:
        self.context = context
        self.rows: list[dict[str, object]] = []

    def watch(self, name: str, features: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
        """The same features, measured each time that a fold is asked for.

        Parameters
        ----------
        name
            Name of the representation; what is no head of the adaptor is handed through.
        features
            From the number of the held-out fold to the latent of all cells.
        """
        kind = head_kind(self.context, name)

        def measured(fold: int) -> np.ndarray:
            z = features(fold)
            self.rows += [
                {"head": "anchor head" if kind == ANCHOR else name, "kind": kind, "measure": measure, "value": value}
                for measure, value in self._of(z, fold).items()
            ]
            return z

        return measured if kind else features

    def table(self) -> pd.DataFrame:
        """Mean and sd over folds of each measure: ``head``, ``kind``, ``measure``, ``value``, ``sd``, ``n_folds``."""
        grouped = pd.DataFrame(self.rows).groupby(["head", "kind", "measure"], sort=False)["value"]
        return grouped.agg(value="mean", sd="std", n_folds="count").reset_index()

    def _of(self, z: np.ndarray, fold: int) -> dict[str, float]:
        context, cells = self.context, self.context.cells
        test, seed = ~cells.outside((fold,)), context.config.seed
        rows = np.flatnonzero(test)
        # By name: the order of the cells decides nothing.
        drawn = np.argsort([key(seed, "measures of heads", name) for name in cells.names[rows]], kind="stable")
        rows = rows[drawn[:MOST_CELLS]]
        at = np.asarray(cells.expression[rows] @ context.feature_map((fold,)), dtype=np.float64)
        held = HeldOut(cells.obs, test, context.ruler, context.endpoints)
        return latent_measures(z, at, rows, held, min_cells=context.config.anchors.min_cells, seed=seed)
