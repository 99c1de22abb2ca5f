"""What the stages of ``workbench manifold`` share."""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property
from typing import ClassVar

import numpy as np
import pandas as pd
from jaxtyping import Float

from workbench.cells.expression import expression_on
from workbench.errors import EvaluationError
from workbench.evidence.gene_ruler import on_genes
from workbench.evidence.ruler import GENES, Ruler
from workbench.evidence.signalling import signal_strength, signalling_ruler
from workbench.geometry.gene_vectors import ENTRY
from workbench.geometry.ruler_fit import lay_out
from workbench.operators.convention import PAPER
from workbench.operators.operator import feature_map
from workbench.recipes.manifold.config import ManifoldConfig
from workbench.recipes.run.context import NOBODY, RunContext

# Ten for each of level, detection and degree, which are regressed out, and for the mean.
FEWEST_GENES = 40
_NODE = ("donor", "tissue", "cell_type")


def gene_layers(context: RunContext) -> tuple[int, ...]:
    """Layers whose mean vectors of genes are measured on a ruler over genes.

    Parameters
    ----------
    context
        Command whose model and convention are looked at.
    """
    if context.config.capture.convention == PAPER:
        return ()
    n = context.model.config.n_layers
    return ENTRY, *sorted({(n - 1) // 2, n - 1})


class ManifoldContext(RunContext):
    """Configuration, cells, panel and ruler of the command."""

    settings = ManifoldConfig  # type: ignore[assignment]
    shared: ClassVar[tuple[str, ...]] = ("operators", "untrained")
    unlabelled: ClassVar[tuple[str, ...]] = ()  # type: ignore[assignment]

    @property
    def most_groups(self) -> int:
        """One: nothing is left out of the sums."""
        return 1

    @property
    def gene_layers(self) -> tuple[int, ...]:
        """In front of the first layer, behind the middle one and the last; none where cells are not fed as scGPT was trained."""
        return gene_layers(self)

    @cached_property
    def on_ruler(self) -> tuple[np.ndarray, np.ndarray]:
        """Genes of the ruler that are on the panel: their numbers on the ruler, and their places on the panel."""
        if self.ruler.over != GENES:
            raise EvaluationError(
                f"The ruler '{self.ruler.name}' lies over cells; workbench manifold takes one over genes: communication, an edge list, or YAML with "
                "`over: genes`. Of one over cells workbench run and workbench gates are the commands."
            )
        nodes, places = on_genes(self.ruler, self.panel, FEWEST_GENES, "genes of the panel")
        # Too few families are refused before any pass; what they are matched for is not known yet.
        between, groups = self.ruler.distances[np.ix_(nodes, nodes)], np.array(self.ruler.branches)[nodes]
        lay_out(between, groups, np.zeros((len(nodes), 1)), folds=self.config.fits.folds, seed=self.config.seed)
        return nodes, places

    def feature_map(
        self, folds: Collection[int] = NOBODY, *, trained: bool = True
    ) -> Float[np.ndarray, "gene feature"]:
        """Configured feature map of all cells, in float32.

        Parameters
        ----------
        folds
            Of no meaning here: nothing is left out.
        trained
            False: that of the untrained model.
        """
        source, spec = self.operators if trained else self.untrained_operators, self.config.adaptor.feature_map_spec()
        return self._remembered(("map", trained), lambda: feature_map(source, spec).astype(np.float32))

    @cached_property
    def nodes(self) -> pd.Series:
        """Group of each cell, by donor, tissue and type as far as they are named; empty where it has no type."""
        obs = self.adata.obs
        if "cell_type" not in obs:
            return pd.Series("", index=obs.index)
        columns = [name for name in _NODE if name in obs]
        text = obs[columns].astype(object).where(obs[columns].notna(), "").astype(str)
        return text.agg(" | ".join, axis=1).where(text["cell_type"] != "", "")

    @cached_property
    def cell_ruler(self) -> tuple[Ruler, pd.DataFrame, int]:
        """Ruler over groups of cells by who can signal to whom, the cells with their group as stage, and the pairs that are measured."""
        genes = self.tokenizer.match.genes
        expression = expression_on(self.adata, self.tokenizer.match, genes)[0]
        size = self.nodes[self.nodes != ""].value_counts()
        names = sorted(size.index[size >= self.config.anchors.min_cells])
        means = np.vstack([np.asarray(expression[(self.nodes == name).to_numpy()].mean(0)).ravel() for name in names])
        strength, n = signal_strength(means, genes, self.ruler.signals)
        about = f"{self.ruler.about} {n} pairs are measured; expression is that of these cells."
        ruler = signalling_ruler(f"{self.ruler.name} between cells", names, strength, about)
        number = {name: i for i, name in enumerate(names)}
        obs = self.adata.obs.drop(columns="depth", errors="ignore").assign(
            stage=[number.get(node, -1) for node in self.nodes]
        )
        return ruler, obs, n
