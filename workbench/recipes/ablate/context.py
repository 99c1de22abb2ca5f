"""What the stages of ``workbench ablate`` share: cells, grid and study."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from anndata import AnnData

from workbench.ablation.build import prepare
from workbench.ablation.grid import identity, make_grid
from workbench.ablation.metrics import Metric
from workbench.ablation.sites import HEAD, Ablation
from workbench.ablation.study import Study
from workbench.ablation.sweeping import Found
from workbench.cells.datasets import content_hash, values_hash
from workbench.cells.expression import expression_hash
from workbench.engine.config import load_cells
from workbench.engine.context import Context, Handle
from workbench.evidence.ruler import load_ruler
from workbench.files import digest
from workbench.recipes.ablate.config import AblationConfig

FOUND = "found.safetensors"


class AblationContext(Context[AblationConfig]):
    """Configuration, cells and study of an ablation."""

    settings = AblationConfig
    # Workers read no file of it, but its key is another one where checkpoint or cells were changed since.
    shared = ("sweep",)

    @cached_property
    def cells(self) -> AnnData:
        """All cells of the data, of which the study may be of some."""
        return load_cells(self.config.data)

    @cached_property
    def grid(self) -> list[Ablation]:
        """Every ablation of the sweep, null draws among them."""
        return make_grid(self.model, self.config.sweep, self.config.seed)

    @cached_property
    def study(self) -> Study:
        """Cells, metrics and references; made anew in each process, from up to three passes over the study's cells."""
        config, grid, share = self.config, self.grid, self.config.data.min_gene_share
        return prepare(self.model, self.cells, config.study, grid, seed=config.seed, min_gene_share=share)

    @property
    def source(self) -> Study | Handle:
        """What a task of a sweep takes along: the study itself, where it stays in this process."""
        return self.handle if self.backend.name in ("loky", "dask") else self.study

    @property
    def heads(self) -> dict[str, int]:
        """Heads that the sweep ablates in the first of its ways, by label, with their places in the grid."""
        how = self.config.sweep.how[0]
        single = [(i, one) for i, one in enumerate(self.grid) if one.how == how and one.rotation is None]
        return {str(one): i for i, one in single if len(one.sites) == 1 and one.sites[0].kind == HEAD}

    @property
    def no_draws(self) -> str:
        """Why there are no draws of cells though they are asked for; empty where there are."""
        cells, draws = len(self.study.tokens), self.config.draws
        if draws == 1 or cells >= 2 * draws:
            return ""
        return f"{draws} draws need two cells each, and the study has {cells} cells; lower draws or raise study.cells"

    @property
    def differentiable(self) -> list[Metric]:
        """Metrics of all cells that attribution may use."""
        return [metric for metric in self.study.metrics if metric.differentiable and metric.label is None]

    def inputs(self, ablations: list[Ablation]) -> dict[str, Any]:
        """What the effects of ablations on single cells depend on, for the key of a stage.

        Parameters
        ----------
        ablations
            Ablations that the sweep has in its grid.
        """
        asked = self.config.study
        more = {}
        if "ruler" in asked.metrics:
            more["ruler"] = digest(load_ruler(asked.ruler).distances)
        if "trustworthiness" in asked.metrics:
            more["expression"] = expression_hash(self.cells, values_hash(self.cells))
        return {**identity(self.study, ablations, self.config.sweep.block), **more}

    def found(self, stage: str) -> Found:
        """Effects per cell that a sweep has left.

        Parameters
        ----------
        stage
            Name of the stage: ``sweep`` or ``pairs``.
        """
        return Found.open(self.folder(stage) / FOUND, self.study.names)

    @property
    def spread(self) -> dict[str, Any]:
        """What intervals depend on beside the effects, for the keys of stages."""
        obs, draws = self.study.obs, self.config.study.bootstrap
        return {"bootstrap": draws, "donors": digest(obs["donor"].tolist() if "donor" in obs else None)}

    @property
    def content(self) -> str:
        """Content hash of all cells of the data."""
        return content_hash(self.cells)

    @property
    def data_name(self) -> str:
        """Name of the data, and the number of the study's cells."""
        return f"{self.cells.uns['workbench']['name']}, n = {len(self.study.tokens)} cells"
