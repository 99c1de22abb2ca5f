"""What ``workbench run``, ``extract`` and ``factors`` are told."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from workbench.recipes.manifold.config import FitsConfig, GeneAdaptorConfig
from workbench.settings import (
    CellHeadsConfig,
    DataConfig,
    EvaluationConfig,
    NameOrPath,
    OperatorConfig,
    ReadoutConfig,
    RulerConfig,
    Strict,
    named,
)


class SensitivityConfig(Strict):
    """How much the holdouts depend on the adaptor's own settings."""

    ks: tuple[PositiveInt, ...] = Field(default=tuple(range(1, 16)), description="Values of adaptor.k that are tried.")
    alphas: tuple[Annotated[float, Field(ge=0)], ...] = Field(
        default=(0.01, 0.03, 0.1, 0.3, 1.0), description="Values of adaptor.alpha, each with every one of betas."
    )
    betas: tuple[PositiveFloat, ...] = Field(
        default=(0.1592, 0.3183, 0.6366), description="Values of adaptor.beta, each with every one of alphas."
    )


class RunGatesConfig(Strict):
    """The gates on the anchors of a run."""

    refits: PositiveInt = Field(
        default=20,
        description="Draws of the null beside the holdouts: stages relabelled, and the adaptor fitted again.",
    )


class CompactionConfig(Strict):
    """Smaller and smaller feature maps, each judged against the configured one on cells of left-out folds."""

    splits: PositiveInt = Field(
        default=20,
        description="Most pairs of folds that are left out, one pair after the other; fewer where there are fewer.",
    )
    head: str | None = Field(
        default=None,
        description="The head that is made smaller, such as L2H5; by default the best of each training side.",
    )
    ranks: tuple[PositiveInt, ...] = Field(default=(64, 32, 16, 8), description="Ranks of the truncated SVD.")
    n_factors: PositiveInt = Field(default=16, description="Factors of the hard sparse form and of its alternatives.")
    n_read: PositiveInt = Field(default=60, description="Genes that a sparse factor reads.")
    n_write: PositiveInt = Field(default=60, description="Genes that a sparse factor writes.")
    alternatives: bool = Field(
        default=True, description="Judge non-negative and sparse-PCA factors of the same rank, too."
    )


class FactorsConfig(Strict):
    """Factors of one head's operator: what they read and write, whether they last, what breaks without them."""

    head: str | None = Field(
        default=None, description="The head that is taken apart, such as L2H5; by default the best on all anchors."
    )
    n: PositiveInt = Field(default=16, description="Number of factors.")
    top: PositiveInt = Field(default=4, description="Number of leading factors whose subsets are tried.")
    n_genes: PositiveInt = Field(
        default=60, description="Genes that stand for a factor on each side, reading and writing."
    )
    splits: PositiveInt = Field(
        default=20,
        description="Most pairs of folds that are left out, one pair after the other; fewer where there are fewer.",
    )
    null_draws: PositiveInt = Field(
        default=400,
        description="Relabellings of the held-out cells, inside their groups, that what is lost without a factor is "
        "compared with. 1 / (1 + draws) is the smallest p; 20 a factor let a single needed one reach q = 0.05.",
    )
    bootstraps: PositiveInt = Field(
        default=50,
        description="Draws for the stability of factors, of the groups of capture.groups: whole donors where there are "
        "donors. Few groups make a coarse bootstrap. Only operators averaged over cells need it.",
    )
    gene_sets: NameOrPath = Field(
        default="hematopoiesis", description="A collection of gene sets that ships, or the path of a GMT file."
    )
    program_draws: PositiveInt = Field(
        default=30000,
        description="Random directions of the cells' expression that p of the gene programs comes from. Few draws cannot "
        "give a small q among many programs.",
    )


class StudyConfig(Strict):
    """Labelled cells of another study, on which the exported algorithm is tried; nothing is fitted on them."""

    data: DataConfig = Field(description="The cells, as under data of the run itself.")
    stages: dict[str, str] = Field(
        default={}, description="Stage of each label that the ruler does not know by itself; none by default."
    )


class GenesConfig(Strict):
    """How a ruler over genes is measured that is one of several; alpha, beta and the feature map are those of ``adaptor``."""

    k: PositiveInt = Field(default=GeneAdaptorConfig().k, description="Width of its latent.")
    steps: PositiveInt = Field(default=GeneAdaptorConfig().steps, description="Most iterations of a fit (L-BFGS).")
    tol: float = Field(
        default=GeneAdaptorConfig().tol,
        gt=0,
        lt=1,
        description="A fit ends at this share of the gradient's norm at its start.",
    )
    fits: FitsConfig = Field(default=FitsConfig(), description="How representations are fitted and judged.")


class RunConfig(OperatorConfig):
    """``workbench run``: from cells to an exported algorithm, its factors and a report; absent sections are skipped."""

    name: str = named("run")
    rulers: tuple[NameOrPath, ...] = Field(
        default=(),
        description="Two rulers or more in the place of `ruler`, by name or path, over cells or over genes: the forward passes are made once, "
        "each ruler is judged, and their latents are compared. Labels under `stages` count for each ruler that has the stage.",
    )
    genes: GenesConfig = Field(
        default=GenesConfig(), description="How rulers over genes are measured that `rulers` names."
    )
    embedding: bool = Field(
        default=True,
        description="Keep scGPT's own embedding of the cells, a baseline of the readouts. Without it operators of the weights (qk, ov) need no pass "
        "over the cells.",
    )
    readout: ReadoutConfig = Field(default=ReadoutConfig(), description="The readouts of cells from the latent.")
    evaluation: EvaluationConfig = Field(
        default=EvaluationConfig(), description="Folds, holdouts, and draws of the null distributions."
    )
    gates: RunGatesConfig | None = Field(
        default=None, description="Put the anchors of this run through the gates, as one internal cohort."
    )
    cell_heads: CellHeadsConfig | None = Field(
        default=None, description="Train heads of the adaptor on cells, and judge them beside the anchor head."
    )
    sensitivity: SensitivityConfig | None = Field(
        default=None, description="Repeat the holdouts over the adaptor's own settings."
    )
    compaction: CompactionConfig | None = Field(
        default=None, description="Judge smaller and smaller feature maps; done by run and factors, not by extract."
    )
    factors: FactorsConfig | None = Field(
        default=None, description="Take one head's operator apart; done by run and factors, not by extract."
    )
    transfer: dict[str, StudyConfig] = Field(
        default={},
        description="Other studies by name, on whose labelled cells the exported algorithm is tried beside logistic regression and "
        "principal components; the card lists what came out.",
    )
    expected: Path | None = Field(
        default=None,
        description="File of published figures that the report prints beside what was found; none by default.",
    )

    @model_validator(mode="after")
    def _one_or_several(self) -> Self:
        if len(self.rulers) == 1:
            raise ValueError("rulers names one ruler, and there is nothing to compare it with; write it as ruler")
        if len(set(self.rulers)) < len(self.rulers):
            twice = next(one for one in self.rulers if self.rulers.count(one) > 1)
            raise ValueError(f"rulers names '{twice}' twice; name each ruler once")
        if self.rulers and self.ruler != RulerConfig.model_fields["ruler"].default:
            raise ValueError(f"ruler is '{self.ruler}' and rulers names {len(self.rulers)}; give one of the two keys")
        return self
