"""A run of several rulers: each of them as a part of the run, which shares cells, model and operators with the others."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from anndata import AnnData
from jaxtyping import Float

from workbench.cells.groups import Groups
from workbench.engine.config import absolute
from workbench.engine.context import Handle
from workbench.errors import EvaluationError
from workbench.evidence.gene_ruler import degrees
from workbench.evidence.holdout import relabelled
from workbench.evidence.ruler import GENES, Ruler, load_ruler
from workbench.geometry.gene_covariates import make_design
from workbench.models import CellModel, CellTokenizer
from workbench.operators.algorithm import fold
from workbench.operators.store import StoredOperators
from workbench.recipes.manifold.config import GeneAdaptorConfig, ManifoldConfig
from workbench.recipes.manifold.context import ManifoldContext, gene_layers
from workbench.recipes.manifold.stages import rewired_distances
from workbench.recipes.run.config import RunConfig
from workbench.recipes.run.context import RunContext
from workbench.settings import OperatorConfig
from workbench.tools.gene_inputs import measured_level

# Stages that no ruler has a part in.
SHARED = ("panel", "operators", "untrained", "drift")
FOLDER, RULER = "rulers", "ruler"


class Part(RunContext):
    """What a part of a run has from the whole: cells, model, panel and operators; its tables lie in ``rulers/NAME``.

    Parameters
    ----------
    whole
        Run of several rulers that this is a part of.
    entry
        Name or path of this ruler, as the configuration has it.
    ruler
        The ruler itself, as `load_ruler` gives it.
    """

    def __init__(self, whole: RunContext, entry: str, ruler: Ruler) -> None:
        self.name, self.whole, self.entry = ruler.slug, whole, entry
        super().__init__(self._settings(whole.config, entry, ruler), whole.out / FOLDER / self.name, whole.backend)
        self.ruler = ruler

    def _settings(self, config: RunConfig, entry: str, ruler: Ruler) -> Any:
        """Configuration as if this ruler were the only one; labels count that it has the stage of."""

        def own(stages: Mapping[str, str]) -> dict[str, str]:
            return {label: stage for label, stage in stages.items() if stage in ruler.stages}

        studies = {name: one.model_copy(update={"stages": own(one.stages)}) for name, one in config.transfer.items()}
        return config.model_copy(
            update={"ruler": entry, "rulers": (), "stages": own(config.stages), "transfer": studies}
        )

    @property
    def handle(self) -> Handle:
        """What a task takes to a worker in place of this context."""
        config = RunConfig.model_validate(absolute(self.whole.config))
        entry = config.rulers[self.whole.config.rulers.index(self.entry)]
        shared = tuple(self.staged(name) for name in self.shared)
        return Handle(type(self), config.model_dump_json(), str(self.whole.out.resolve()), shared, entry)

    @classmethod
    def opened(cls, config: str, out: Path, part: str) -> Part:
        """The part in a worker.

        Parameters
        ----------
        config, out
            Configuration of the whole run as JSON, and its folder.
        part
            Name or path of the ruler, as this configuration has it.
        """
        return cls(RunContext(RunConfig.model_validate_json(config), out), part, load_ruler(part))

    def staged(self, name: str) -> str:
        """Name of a stage in the whole run: that of a part ends in the name of its ruler.

        Parameters
        ----------
        name
            Name of the stage as a run of one ruler has it.
        """
        return name if name in SHARED else f"{name}-{self.name}"

    def folder(self, stage: str) -> Path:
        """Folder of a stage of this part, or of one that all share.

        Parameters
        ----------
        stage
            Its name as a run of one ruler has it.
        """
        return self.whole.folder(self.staged(stage))

    @property
    def model(self) -> CellModel:  # type: ignore[override]
        """The checkpoint."""
        return self.whole.model

    @property
    def adata(self) -> AnnData:  # type: ignore[override]
        """The cells as they were loaded."""
        return self.whole.adata

    @property
    def values(self) -> str:  # type: ignore[override]
        """Hash of the cells' values and names, without any label."""
        return self.whole.values

    @property
    def expression(self) -> str:  # type: ignore[override]
        """Hash of the cells' log-normalised expression and names."""
        return self.whole.expression

    @property
    def tokenizer(self) -> CellTokenizer:  # type: ignore[override]
        """Tokens of the cells, and which of their genes the vocabulary knows."""
        return self.whole.tokenizer

    @property
    def panel(self) -> tuple[str, ...]:  # type: ignore[override]
        """Genes of the operators."""
        return self.whole.panel

    @property
    def groups(self) -> Groups:  # type: ignore[override]
        """Groups of the cells that sums are kept by."""
        return self.whole.groups

    @property
    def operators(self) -> StoredOperators:  # type: ignore[override]
        """Operators of every head, by group of the cells."""
        return self.whole.operators

    @property
    def untrained_operators(self) -> StoredOperators:  # type: ignore[override]
        """The same of a model of the same shape that was never trained."""
        return self.whole.untrained_operators

    def readings(self, draws: int) -> list[Float[np.ndarray, "gene k"]]:
        """What is multiplied with expression on the panel to give the latent of this ruler, and the same of its null draws.

        Parameters
        ----------
        draws
            Number of draws: the ruler says something else each time, and the adaptor is fitted to that.

        Returns
        -------
        list of ndarray
            That of the ruler first.
        """
        raise NotImplementedError


class CellRuler(Part):
    """A ruler over cells as a part of a run."""

    def readings(self, draws: int) -> list[Float[np.ndarray, "gene k"]]:
        """Feature map and adaptor folded, fitted to all anchors; under the null stages have changed places.

        Parameters
        ----------
        draws
            Number of draws of the null, 0 or more.
        """
        matrix, anchors, seed = self.feature_map(), self.anchors(), self.config.seed
        features, stages = anchors.centroids @ matrix, [anchors.stage]
        stages += [relabelled(anchors.stage, seed, draw) for draw in range(draws)]
        found = []
        for stage in stages:
            between = self.ruler.distances[np.ix_(stage, stage)]
            fitted = self.adaptor().fit(features, between, anchors.weights)
            found.append(fold(matrix, fitted.encoder_, fitted.bias_)[0])
        return found


class GeneRuler(ManifoldContext, Part):  # type: ignore[misc]
    """A ruler over genes as a part of a run."""

    def _settings(self, config: RunConfig, entry: str, ruler: Ruler) -> ManifoldConfig:
        if config.adaptor.feature_map == "topk":
            raise EvaluationError(
                f"topk screens heads by a ruler over cells, and '{ruler.name}' lies over genes; set adaptor.feature_map to drift or single."
            )
        shared = {name: getattr(config, name) for name in OperatorConfig.model_fields}
        genes = {name: getattr(config.genes, name) for name in ("k", "steps", "tol")}
        adaptor = GeneAdaptorConfig.model_validate({**config.adaptor.model_dump(), **genes})
        own = {"ruler": entry, "stages": {}, "adaptor": adaptor, "fits": config.genes.fits}
        return ManifoldConfig.model_validate({**shared, **own})

    def readings(self, draws: int) -> list[Float[np.ndarray, "gene k"]]:
        """Feature map and adaptor folded, fitted to the rows of all its genes; under the null the graph is rewired.

        Level, detection and degree of the genes are regressed out before the fit, as in the table ``manifold_genes``.

        Parameters
        ----------
        draws
            Number of draws of the null, 0 or more.
        """
        (nodes, places), matrix, seed = self.on_ruler, self.feature_map(), self.config.seed
        level = measured_level(self.adata, self.tokenizer.match, [self.panel[i] for i in places])
        design = make_design(np.column_stack([level, np.log(degrees(self.ruler)[nodes])]))
        rows = matrix[places].astype(np.float64)
        axes = np.linalg.svd(rows - rows.mean(0), full_matrices=False)[2][: self.config.fits.components]
        x, rewired = design.residuals((rows - rows.mean(0)) @ axes.T), rewired_distances(self.ruler, nodes, seed)
        found = []
        for draw in range(-1, draws):
            between = self.ruler.distances[np.ix_(nodes, nodes)] if draw < 0 else rewired(draw)
            fitted = self.adaptor().fit(x, between)
            found.append(np.asarray(matrix @ axes.T) @ fitted.encoder_.T)
        return found


class SeveralContext(RunContext):
    """A run of several rulers."""

    @cached_property
    def parts(self) -> dict[str, Part]:
        """The run as it is for each ruler, by the name of the ruler."""
        found: dict[str, Part] = {}
        for entry in self.config.rulers:
            ruler = load_ruler(entry)
            part = (GeneRuler if ruler.over == GENES else CellRuler)(self, entry, ruler)
            if (twin := found.setdefault(part.name, part)) is not part:
                raise EvaluationError(
                    f"Two rulers are called '{ruler.name}': '{twin.entry}' and '{entry}'. Tables and figures tell them apart by name; "
                    "give one of them another name."
                )
        known = {stage for part in found.values() for stage in part.ruler.stages}
        for label, stage in self.config.stages.items():
            if stage not in known:
                raise EvaluationError(
                    f"Label '{label}' is mapped to the stage '{stage}', which none of the rulers has ({', '.join(found)}); check stages."
                )
        return found

    @cached_property
    def gene_layers(self) -> tuple[int, ...]:
        """Layers whose mean vectors of genes are kept in the passes; none where no ruler lies over genes."""
        return gene_layers(self) if any(isinstance(part, GeneRuler) for part in self.parts.values()) else ()

    @property
    def cells_of(self) -> CellRuler | None:
        """The first part whose ruler lies over cells."""
        return next((part for part in self.parts.values() if isinstance(part, CellRuler)), None)
