"""What the stages of a run share, and its first stages: cells, and the operators of every head."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Hashable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from workbench.capture.pairs import PATTERNS, GenePairSink
from workbench.capture.ragged import MemorySink
from workbench.capture.record import capture
from workbench.capture.sinks import Only, Sink
from workbench.cells.anchors import Anchors, make_anchors
from workbench.cells.datasets import STANDARD, content_hash
from workbench.cells.genes import choose_panel, with_matched_names
from workbench.cells.splits import make_folds
from workbench.engine.config import load_cells
from workbench.errors import EvaluationError
from workbench.evidence.holdout import head_scores, random_splits
from workbench.evidence.ruler import Ruler, load_ruler
from workbench.files import digest, write_arrays
from workbench.models.scgpt.checkpoint import load_checkpoint
from workbench.models.scgpt.hooked import HookedScGPT
from workbench.models.scgpt.tokenizer import Tokenizer
from workbench.models.scgpt.untrained import untrained
from workbench.operators.adaptor import LETAdaptor
from workbench.operators.algorithm import panel_expression
from workbench.operators.controls import CONTROLS, control
from workbench.operators.operator import FeatureMapSpec, Head, check_spec, feature_map, screen_weights
from workbench.operators.readout import Endpoint, endpoints
from workbench.operators.store import StoredOperators, write_pairs, write_weights
from workbench.operators.weight_operators import weight_operators
from workbench.settings import RunConfig

UNTRAINED = "the same model before training"
CONTROL_NAMES = (*CONTROLS, UNTRAINED)
_NOBODY: frozenset[int] = frozenset()
# Anchors and feature maps that are held: enough for all folds, not for all pairs of many.
_REMEMBERED = 32


class Chain:
    """The data that stages share, each loaded when it is first needed.

    Parameters
    ----------
    config, out
        As in `run`.
    """

    def __init__(self, config: RunConfig, out: Path) -> None:
        self.config, self.out, self.tables = config, out, out / "tables"
        self._known: dict[Any, Any] = {}

    def inputs(self, *sections: str) -> dict[str, Any]:
        """Parts of the configuration, with the content of the cells where ``data`` is among them.

        Parameters
        ----------
        *sections
            Keys of the configuration.
        """
        chosen = self.config.model_dump(mode="json", include=set(sections))
        if "data" in sections:
            chosen["content"] = content_hash(self.adata)
            chosen["vocabulary"] = digest(dict(self.model.vocabulary.ids))
            chosen["graph"] = self.ruler.fingerprint()
        return chosen

    @cached_property
    def adata(self) -> AnnData:
        """The cells."""
        return load_cells(self.config.data)

    @cached_property
    def model(self) -> HookedScGPT:
        """The checkpoint."""
        return load_checkpoint(self.config.checkpoint)

    @cached_property
    def ruler(self) -> Ruler:
        """The ruler."""
        return load_ruler(self.config.ruler)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Tokens of the cells."""
        return Tokenizer(
            self.adata,
            self.model.config,
            self.model.vocabulary,
            seed=self.config.seed,
            max_tokens=self.config.capture.max_tokens,
            batch_column="batch" if "batch" in self.adata.obs else None,
            min_share=self.config.data.min_gene_share,
        )

    @cached_property
    def obs(self) -> pd.DataFrame:
        """Standard columns, stage number and fold of each cell, as the first stage wrote them."""
        names = dict.fromkeys(("cell_id", *STANDARD), str)
        # A label such as "NA" is a label, and donor "01" is not donor 1.
        return pd.read_csv(self.tables / "cells.csv", index_col="cell_id", dtype=names, keep_default_na=False)

    @cached_property
    def panel(self) -> tuple[str, ...]:
        """The gene panel."""
        return tuple((self.out / "stages" / "cells" / "panel.txt").read_text().splitlines())

    @cached_property
    def expression(self) -> sp.csr_matrix:
        """Log-normalised expression on the panel."""
        return panel_expression(with_matched_names(self.adata, self.tokenizer.match), self.panel)

    @property
    def fold(self) -> np.ndarray:
        """Fold of each cell."""
        return self.obs["fold"].to_numpy()

    @property
    def donors(self) -> np.ndarray | None:
        """Donor of each cell, where the data name donors."""
        return self.obs["donor"].to_numpy() if "donor" in self.obs else None

    @cached_property
    def endpoints(self) -> list[Endpoint]:
        """What can be read from a latent of these cells."""
        ruler = self.ruler
        return endpoints(self.obs["stage"].to_numpy(), ruler.stages, ruler.branches, ruler.depths)

    def anchors(self, folds: Collection[int] = _NOBODY) -> Anchors:
        """Anchors of the cells outside some folds.

        Parameters
        ----------
        folds
            To leave out.
        """
        rows, settings = np.flatnonzero(self.outside(folds)), self.config.anchors

        def make() -> Anchors:
            return make_anchors(
                self.expression[rows],
                self.obs.iloc[rows],
                min_cells=settings.min_cells,
                parts=settings.parts,
                weights=settings.weights,
                seed=self.config.seed,
            )

        return self._remembered(("anchors", frozenset(folds)), make)

    def outside(self, folds: Collection[int]) -> np.ndarray:
        """Whether each cell is outside some folds.

        Parameters
        ----------
        folds
            Their numbers.
        """
        return ~np.isin(self.fold, list(folds))

    def between(self, anchors: Anchors) -> np.ndarray:
        """Ruler distances between anchors.

        Parameters
        ----------
        anchors
            Some.
        """
        return self.ruler.distances[np.ix_(anchors.stage, anchors.stage)]

    def adaptor(self, **changes: Any) -> LETAdaptor:
        """Untrained adaptor with the configured settings.

        Parameters
        ----------
        **changes
            Other settings.
        """
        return LETAdaptor(**{**self.config.adaptor.parameters(), **changes})

    def fitted(self, matrix: np.ndarray, folds: Collection[int] = _NOBODY) -> LETAdaptor:
        """Adaptor on a feature map, fitted to the anchors outside some folds.

        Parameters
        ----------
        matrix
            Feature map, gene by feature.
        folds
            To leave out.
        """
        anchors = self.anchors(folds)
        return self.adaptor().fit(anchors.centroids @ matrix, self.between(anchors), anchors.weights)

    @cached_property
    def operators(self) -> StoredOperators:
        """Operators of every head, by fold of the cells."""
        return StoredOperators(self.out / "stages" / "operators")

    @cached_property
    def untrained_operators(self) -> StoredOperators:
        """The same of a model of the same shape that was never trained."""
        return StoredOperators(self.out / "stages" / "untrained")

    def feature_map(self, folds: Collection[int] = _NOBODY, *, trained: bool = True) -> np.ndarray:
        """Configured feature map, from the cells outside some folds.

        Parameters
        ----------
        folds
            To leave out.
        trained
            False: of the untrained model.
        """
        source = (self.operators if trained else self.untrained_operators).leaving(folds)

        def make() -> np.ndarray:
            weights = self._weights(source, folds) if self.config.adaptor.feature_map == "topk" else None
            return feature_map(source, self.config.adaptor.feature_map_spec(weights)).astype(np.float32)

        return self._remembered(("map", frozenset(folds), trained), make)

    def _remembered(self, name: Hashable, make: Callable[[], Any]) -> Any:
        """What was made under this name, made now where it is not there; the oldest is forgotten first."""
        if name not in self._known:
            while len(self._known) >= _REMEMBERED:
                self._known.pop(next(iter(self._known)))
            self._known[name] = make()
        return self._known[name]

    def control(self, name: str, folds: Collection[int] = _NOBODY) -> np.ndarray:
        """Feature map of a control, from the cells outside some folds.

        Parameters
        ----------
        name
            One of `CONTROL_NAMES`.
        folds
            To leave out.
        """
        if name == UNTRAINED:
            return self.feature_map(folds, trained=False)
        return control(name, self.feature_map(folds), self.expression[self.outside(folds)], self.config.seed)

    def scores(self, source: StoredOperators, folds: Collection[int]) -> dict[Head, float]:
        """Screen of all heads by random holdouts of the anchors outside some folds; no other cell is looked at.

        Parameters
        ----------
        source
            Operators.
        folds
            To leave out.
        """
        anchors = self.anchors(folds)
        splits = list(random_splits(len(anchors), self.config.evaluation.holdouts, self.config.seed))
        return head_scores(
            source.leaving(folds),
            anchors.centroids,
            anchors.stage,
            self.ruler.distances,
            splits,
            self.adaptor(),
            anchors.weights,
        )

    def _weights(self, source: StoredOperators, folds: Collection[int]) -> dict[Head, float]:
        return screen_weights(self.scores(source, folds), self.config.adaptor.top)

    # Stages

    def cells_stage(self, folder: Path) -> dict[str, Any]:
        """Match genes, choose the panel, place labels on the ruler, deal out folds.

        Parameters
        ----------
        folder
            Of the stage.
        """
        match, obs = self.tokenizer.match, self.adata.obs.copy()
        if "cell_type" not in obs:
            raise EvaluationError(
                "The cells have no cell type column, which the ruler needs; set data.cell_type to the column of obs."
            )
        stage, unknown = self.ruler.place(obs["cell_type"], self.config.stages)
        obs["stage"] = stage
        obs["fold"], kind = make_folds(obs, self.config.evaluation.folds, self.config.seed)
        self.tables.mkdir(exist_ok=True)
        obs.to_csv(self.tables / "cells.csv", index_label="cell_id")
        (folder / "panel.txt").write_text(
            "\n".join(choose_panel(self.adata, match, self.config.panel.size, self.config.panel.exclude)) + "\n"
        )
        return {
            "genes": match.to_dict(),
            "values": str(self.tokenizer.values),
            "n_cells": len(obs),
            "n_panel": len(self.panel),
            "n_placed": int((stage >= 0).sum()),
            "folds": kind,
            "unplaced_labels": {label: self.ruler.hint(label) for label in unknown},
        }

    def operators_stage(self, folder: Path) -> dict[str, Any]:
        """Operators of every head, by fold where they are averaged over cells, and cell embeddings, in one pass.

        Parameters
        ----------
        folder
            Of the stage; an interrupted capture in it goes on.
        """
        adaptor, shape = self.config.adaptor, (self.model.config.n_layers, self.model.config.n_heads)
        check_spec(adaptor.feature_map_spec(), shape)
        if adaptor.blocks:
            check_spec(FeatureMapSpec("drift", blocks=adaptor.blocks), shape)
        memory = MemorySink()
        found = self._operators(folder, self.model, [Only("hook_cell", memory)])
        write_arrays(folder / "cells.safetensors", {"cell": memory.result().values["hook_cell"]})
        return found

    def untrained_stage(self, folder: Path) -> dict[str, Any]:
        """The same operators of a model of the same shape that was never trained: a control.

        Parameters
        ----------
        folder
            Of the stage.
        """
        return self._operators(folder, untrained(self.model, self.config.seed), [])

    def _operators(self, folder: Path, model: HookedScGPT, more: list[Only]) -> dict[str, Any]:
        kind, hooks, pairs = self.config.operator, [only.pattern for only in more], None
        sinks: list[Sink] = list(more)
        if kind == "attention":
            groups = dict(zip(self.obs.index.astype(str), self.fold.tolist(), strict=True))
            pairs = GenePairSink(self.panel, model.vocabulary, groups)
            hooks, sinks = [PATTERNS, *hooks], [Only(PATTERNS, pairs), *sinks]
        else:
            write_weights(folder, weight_operators(model, self.panel, kind))
        found: dict[str, Any] = {"kind": kind}
        if sinks:
            done = capture(
                model,
                self.tokenizer,
                hooks,
                sinks,
                batch_size=self.config.capture.batch_size,
                state=folder / "capture",
                save_every=256,
            )
            found["n_tokens"] = done.n_tokens
        if pairs is not None:
            write_pairs(folder, pairs)
            counts = StoredOperators(folder).counts
            found |= {
                "share_of_pairs_seen": float((counts > 0).mean()),
                "median_cells_per_pair": float(np.median(counts)),
            }
        shutil.rmtree(folder / "capture", ignore_errors=True)
        return found
