"""What ``workbench manifold`` is told."""

from __future__ import annotations

from typing import Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from workbench.settings import AdaptorConfig, DataConfig, NameOrPath, OperatorConfig, Strict, named


class FitsConfig(Strict):
    """How representations are fitted to the ruler and judged."""

    folds: int = Field(
        default=5, ge=2, description="Folds that whole families, or the ruler's own groups, are held out in."
    )
    components: PositiveInt = Field(
        default=20, description="Principal components of each representation that fits are given."
    )
    neighbours: tuple[PositiveInt, ...] = Field(
        default=(10, 15, 20), description="Neighbours of the graph under geodesic MDS and Isomap; [] leaves both out."
    )
    starts: tuple[NonNegativeInt, ...] = Field(
        default=(0, 1, 2), min_length=1, description="Seeds of the start of geodesic MDS; Isomap has none."
    )
    draws: PositiveInt = Field(
        default=999, description="Draws of the null that exchanges families with others of like expression."
    )
    rewirings: PositiveInt = Field(
        default=99,
        description="Rewired graphs at most; they end when ten of them are as good. The adaptor is fitted to each.",
    )
    cell_refits: PositiveInt = Field(
        default=40, description="Draws of the null of groups of cells: groups change places, and all is fitted again."
    )
    holdouts: PositiveInt = Field(default=8, description="Random holdouts of groups of cells, of 30 % each.")
    programs: NameOrPath | None = Field(
        default="communication",
        description="Gene sets that axis 1 is compared with: a collection that ships, or the path of a GMT file; null for none.",
    )


class GeneAdaptorConfig(AdaptorConfig):
    """The LET adaptor on genes: narrower, and ended earlier, since it is fitted to every rewired graph."""

    k: PositiveInt = Field(default=5, description="Width of the latent.")
    steps: PositiveInt = Field(default=1000, description="Most iterations of a fit (L-BFGS).")
    tol: float = Field(
        default=0.01, gt=0, lt=1, description="A fit ends at this share of the gradient's norm at its start."
    )


class ManifoldConfig(OperatorConfig):
    """``workbench manifold``: how a model's genes, and cells, follow a graph of genes, beside controls."""

    name: str = named("manifold")
    ruler: NameOrPath = Field(
        default="communication",
        description="A ruler over genes: communication (needs the package liana), or the path of an edge list or YAML file of one's own.",
    )
    adaptor: GeneAdaptorConfig = Field(
        default=GeneAdaptorConfig(), description="The adaptor and the feature map under it."
    )
    fits: FitsConfig = Field(default=FitsConfig(), description="How representations are fitted and judged.")
    external: DataConfig | None = Field(
        default=None,
        description="A second file of cells, on which the same ruler is measured with operators of its own; its figures stand beside the internal ones.",
    )

    @model_validator(mode="after")
    def _screens_nothing(self) -> Self:
        if self.adaptor.feature_map == "topk":
            raise ValueError("topk screens heads by a ruler over cells; set adaptor.feature_map to drift or single")
        return self
