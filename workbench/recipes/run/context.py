"""What the stages and the workers of a run share."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from anndata import AnnData
from jaxtyping import Float, Int, Shaped

from workbench.cells.anchors import Anchors
from workbench.cells.datasets import content_hash, values_hash
from workbench.cells.expression import expression_hash
from workbench.cells.groups import make_folds
from workbench.cells.panel import choose_panel
from workbench.cells.placed import PlacedCells, place_cells
from workbench.engine.config import load_cells
from workbench.engine.sweep import Backend
from workbench.errors import EvaluationError
from workbench.evidence.holdout import head_scores, random_splits
from workbench.operators.adaptor import LETAdaptor
from workbench.operators.controls import CODE, CONTROLS, RANDOM, control, label_code
from workbench.operators.convention import PAPER
from workbench.operators.operator import Head, feature_map, screen_weights
from workbench.operators.readout import Endpoint, endpoints
from workbench.operators.store import StoredOperators
from workbench.recipes.run.config import RunConfig
from workbench.recipes.shared import OperatorContext

if TYPE_CHECKING:
    from workbench.models.protocol import CellTokenizer

UNTRAINED = "the same model before training"
CONTROL_NAMES = (*CONTROLS, UNTRAINED)
# What is judged on anchors has a control more, which knows their labels and so none of the cells.
ANCHOR_CONTROLS, DRAWN = (*CONTROL_NAMES, CODE), (*RANDOM, CODE)
BIASED = "the heads of topk were chosen by these anchors"
NOBODY: frozenset[int] = frozenset()
# Groups of cells that sums are kept by where the configuration says nothing: enough for five folds and for pairs of them.
_GROUPS = 10
# Anchors and feature maps that are held: enough for all folds, not for all pairs of many.
_REMEMBERED = 32


class RunContext(OperatorContext):
    """Configuration, folder, cells and operators of a run; what is not needed is not loaded."""

    settings = RunConfig
    shared: ClassVar[tuple[str, ...]] = ("cells", "operators")
    unlabelled = ("cells",)

    def __init__(self, config: RunConfig, out: Path, backend: Backend | None = None) -> None:
        super().__init__(config, out, backend)
        self._known: dict[Hashable, Any] = {}

    # What the stages make; no worker asks for it.

    @cached_property
    def adata(self) -> AnnData:
        """The cells as they were loaded."""
        return load_cells(self.config.data)

    @cached_property
    def values(self) -> str:
        """Hash of the cells' values and names, without any label."""
        return values_hash(self.adata)

    @cached_property
    def expression(self) -> str:
        """Hash of the cells' log-normalised expression and names."""
        return expression_hash(self.adata, self.values)

    @cached_property
    def tokenizer(self) -> CellTokenizer:
        """Tokens of the cells, and which of their genes the vocabulary knows."""
        return self.tokens_of(self.adata, self.config.data)

    @cached_property
    def panel(self) -> tuple[str, ...]:
        """Genes of the operators, as the configuration chooses them; no label is looked at."""
        return choose_panel(self.adata, self.tokenizer.match, **self.config.panel.chosen())

    @cached_property
    def fed_cells(self) -> CellTokenizer:
        """Tokens of the cells that operators are averaged over, under the configured convention."""
        return self.fed(self.adata, self.config.data, self.panel)

    @property
    def read_obs(self) -> pd.DataFrame:
        """Standard columns of all cells."""
        return self.adata.obs

    @property
    def most_groups(self) -> int:
        """Number of groups of cells that sums are kept by."""
        return self.config.capture.groups or _GROUPS

    @cached_property
    def places(self) -> tuple[pd.DataFrame, dict[str, str]]:
        """Standard columns of the cells with stage, group and fold, and the labels that the ruler does not know."""
        obs, unplaced = place_cells(self.adata, self.ruler, self.config.stages)
        labels, folds = obs["cell_type"].to_numpy(dtype=str), self.config.evaluation.folds
        if (most := self.most_groups) < folds:
            raise EvaluationError(
                f"{folds} folds cannot be made of {most} groups of cells; set capture.groups to {folds} or more, or "
                "evaluation.folds lower."
            )
        obs["group"] = self.groups.of_cell
        obs["fold"] = make_folds(self.groups, labels, folds, self.config.seed)
        return obs, unplaced

    @property
    def embeds(self) -> bool:
        """Whether the cells' embeddings are kept: the paper's input has no <cls> that they could be made by."""
        return self.config.embedding and self.config.capture.convention != PAPER

    @property
    def gene_layers(self) -> tuple[int, ...]:
        """Layers whose mean vectors of genes are kept in the passes, -1 in front of the first; none without a ruler over genes."""
        return ()

    @property
    def content(self) -> str:
        """Hash of values, names and labels of the cells, for the manifest."""
        return content_hash(self.adata, self.values)

    @property
    def data_name(self) -> str:
        """Name of the data and number of its cells, for captions."""
        return f"{self.adata.uns['workbench']['name']}, {self.adata.n_obs} cells"

    @property
    def ours(self) -> str:
        """Name of the representation that the run is about: the adaptor on the configured feature map."""
        return f"latent (LET on {self.config.adaptor.name})"

    @cached_property
    def studies(self) -> dict[str, tuple[AnnData, Int[np.ndarray, " cell"]]]:
        """Cells of each other study that the algorithm is tried on, and the stage of each; -1 without one."""
        found = {}
        for name, one in self.config.transfer.items():
            cells = load_cells(one.data)
            stage = place_cells(cells, self.ruler, one.stages)[0]["stage"].to_numpy(dtype=int)
            if (stage < 0).all():
                raise EvaluationError(
                    f"No cell of '{name}' has a label that the ruler knows; map its labels under transfer.{name}.stages."
                )
            found[name] = (cells, stage)
        return found

    # What the stages have left.

    @cached_property
    def cells(self) -> PlacedCells:
        """Cells on the panel and on the ruler, as the stage `cells` kept them."""
        return PlacedCells.open(self.folder("cells"), self.ruler)

    @cached_property
    def operators(self) -> StoredOperators:
        """Operators of every head, by group of the cells."""
        found = StoredOperators(self.folder("operators"))
        found.check(self.config.capture.of_operators)
        return found

    @cached_property
    def untrained_operators(self) -> StoredOperators:
        """The same of a model of the same shape that was never trained."""
        found = StoredOperators(self.folder("untrained"))
        found.check(self.config.capture.of_operators)
        return found

    @cached_property
    def endpoints(self) -> list[Endpoint]:
        """What can be read from a latent of these cells."""
        return endpoints(self.cells.stage, self.ruler)

    # What is fitted and made of that, for some folds left out.

    def anchors(self, folds: Collection[int] = NOBODY) -> Anchors:
        """Anchors of the cells outside some folds.

        Parameters
        ----------
        folds
            Numbers of the folds whose cells have no part in them; none by default.
        """

        def make() -> Anchors:
            rows = np.flatnonzero(self.cells.outside(folds))
            return self.cells.make_anchors(rows, **self.config.anchors.model_dump(), seed=self.config.seed)

        return self._remembered(("anchors", frozenset(folds)), make)

    def fitted(self, matrix: Float[np.ndarray, "gene feature"], folds: Collection[int] = NOBODY) -> LETAdaptor:
        """Adaptor on a feature map, fitted to the anchors outside some folds.

        Parameters
        ----------
        matrix
            Feature map on the genes of the panel.
        folds
            Numbers of the folds whose cells have no part in the fit; none by default.
        """
        anchors = self.anchors(folds)
        return self.adaptor().fit(anchors.centroids @ matrix, self.cells.distances(anchors), anchors.weights)

    def feature_map(
        self, folds: Collection[int] = NOBODY, *, trained: bool = True
    ) -> Float[np.ndarray, "gene feature"]:
        """Configured feature map, from the cells outside some folds, in float32.

        Parameters
        ----------
        folds
            Numbers of the folds whose cells have no part in it; none by default.
        trained
            False: that of the untrained model.
        """
        every, adaptor = self.operators if trained else self.untrained_operators, self.config.adaptor
        source = every.leaving(self.cells.groups_in(folds))

        def make() -> Float[np.ndarray, "gene feature"]:
            chosen = adaptor.feature_map == "topk"
            weights = screen_weights(self.scores(source, folds), adaptor.top) if chosen else None
            return feature_map(source, adaptor.feature_map_spec(weights)).astype(np.float32)

        return self._remembered(("map", frozenset(folds), trained), make)

    def control(self, name: str, folds: Collection[int] = NOBODY, draw: int = 0) -> Float[np.ndarray, "gene feature"]:
        """Feature map of a control, from the cells outside some folds.

        Parameters
        ----------
        name
            Name of the control, one of `CONTROL_NAMES`.
        folds
            Numbers of the folds whose cells have no part in it; none by default.
        draw
            Number of the draw of a random control.
        """
        if name == UNTRAINED:
            return self.feature_map(folds, trained=False)
        inside = self.cells.expression[self.cells.outside(folds)]
        return control(name, self.feature_map(folds), inside, self.config.seed, draw)

    def draws(self, name: str) -> range:
        """Numbers of the draws of a control: one where it has no random number.

        Parameters
        ----------
        name
            Name of the control, one of `ANCHOR_CONTROLS`.
        """
        return range(self.config.evaluation.control_draws if name in DRAWN else 1)

    @property
    def kinds(self) -> Shaped[np.ndarray, " anchor"]:
        """Cell type of each anchor of all cells; its stage where the cells name no type."""
        anchors = self.anchors()
        named = anchors.column("cell_type")
        return anchors.stage if named is None else named

    def anchor_features(self, name: str, draw: int = 0) -> Float[np.ndarray, "anchor feature"]:
        """Features of the anchors of all cells under the configured feature map or a control.

        Parameters
        ----------
        name
            Name of the configured feature map, or one of `ANCHOR_CONTROLS`.
        draw
            Number of the draw of a random control.
        """
        anchors = self.anchors()
        if name == CODE:
            return label_code(self.kinds, anchors.table["n_cells"].to_numpy(dtype=int), self.config.seed, draw)
        own = name == self.config.adaptor.name
        return anchors.centroids @ (self.feature_map() if own else self.control(name, draw=draw))

    def scores(self, source: StoredOperators, folds: Collection[int] = NOBODY) -> dict[Head, float]:
        """Screen of all heads by random holdouts of the anchors outside some folds; no other cell is looked at.

        Parameters
        ----------
        source
            Operators without the groups of these folds.
        folds
            Numbers of the folds that are left out; none by default.
        """
        anchors = self.anchors(folds)
        splits = list(random_splits(len(anchors), self.config.evaluation.holdouts, self.config.seed))
        return head_scores(
            source, anchors.centroids, anchors.stage, self.ruler.distances, splits, self.adaptor(), anchors.weights
        )

    def _remembered(self, name: Hashable, make: Callable[[], Any]) -> Any:
        """What was made under this name, made now where it is not there; the oldest is forgotten first."""
        if name not in self._known:
            while len(self._known) >= _REMEMBERED:
                self._known.pop(next(iter(self._known)))
            self._known[name] = make()
        return self._known[name]
