"""Typed settings of every command: what a configuration may hold, and what each key means."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from workbench.evidence.gate_spec import GATES
from workbench.operators.operator import FeatureMapSpec, Head


class Strict(BaseModel):
    """Settings of which no key is unknown and none can be changed."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DataConfig(Strict):
    """Which cells, and what their columns mean.

    ``name`` is a shipped dataset or the path of an h5ad; the other keys are those of `CellMapping` and may be left out
    for a shipped dataset.
    """

    name: str = "pbmc68k"
    backed: bool = False
    values: str | None = None
    gene_column: str | None = None
    cell_type: str | None = None
    donor: str | None = None
    tissue: str | None = None
    batch: str | None = None
    min_gene_share: float = Field(default=0.3, ge=0, le=1)


class PretrainConfig(Strict):
    """``workbench pretrain``: the cells, every setting of `PretrainSettings`, and a note for the model card."""

    out: Path
    note: str = ""
    data: DataConfig = DataConfig()
    settings: dict[str, Any] = {}


class PanelConfig(Strict):
    """Gene panel: the `size` matched genes seen in most cells; all matched genes when absent.

    ``exclude`` names genes to leave out, such as those that the cells' labels were gated by.
    """

    size: PositiveInt | None = None
    exclude: tuple[str, ...] = ()


class AnchorConfig(Strict):
    """Anchors: centroids over donor x tissue x cell type x stage.

    ``parts`` splits each group at random into up to that many anchors of at least ``min_cells`` cells. Parts are no
    biological replicates: they share donors, and are only for data that have too few groups to hold any out. ``weights``,
    when the adaptor is fitted: ``equal``, by number of ``cells``, or the same in total for each ``stage``.
    """

    min_cells: PositiveInt = 5
    parts: PositiveInt = 1
    weights: Literal["equal", "cells", "stage"] = "equal"


class AdaptorConfig(Strict):
    """LET adaptor: latent width, weight of the reconstruction, scale of the angle, and the feature map it acts on.

    ``feature_map``: ``single`` (one head, by ``layer`` and ``head``), ``topk`` (the ``top`` heads of a screen on the cells
    that the adaptor is fitted on, weighted by their score), or ``drift`` between ``blocks`` of layers (lists of layers from 0;
    thirds of the model when absent).
    """

    k: PositiveInt = 10
    alpha: float = Field(default=0.1, ge=0)
    beta: float = Field(default=0.3183098861837907, gt=0)
    steps: PositiveInt = 200
    feature_map: Literal["drift", "single", "topk"] = "drift"
    layer: int = 0
    head: int = 0
    top: PositiveInt = 5
    blocks: tuple[tuple[int, ...], ...] = ()

    def feature_map_spec(self, weights: Mapping[Head, float] | None = None) -> FeatureMapSpec:
        """The feature map.

        Parameters
        ----------
        weights
            Of heads, for ``topk``.
        """
        return FeatureMapSpec(self.feature_map, (self.layer, self.head), weights, self.blocks)

    @property
    def name(self) -> str:
        """Of the feature map, for tables and captions."""
        return f"top {self.top} heads" if self.feature_map == "topk" else self.feature_map_spec().name

    def parameters(self) -> dict[str, Any]:
        """Parameters of `LETAdaptor`."""
        return {"k": self.k, "alpha": self.alpha, "beta": self.beta, "steps": self.steps}


class EvaluationConfig(Strict):
    """Folds of the cross-validation, random anchor holdouts, and null draws.

    ``permutations`` are draws of the readouts' null (labels permuted against fixed predictions); ``refits`` of the
    holdouts' null (stages relabelled, the adaptor fitted again); ``head_refits`` the same per head, pooled over heads.
    """

    folds: int = Field(default=5, ge=2)
    holdouts: PositiveInt = 8
    permutations: PositiveInt = 200
    refits: PositiveInt = 40
    head_refits: PositiveInt = 8


class CaptureConfig(Strict):
    """Forward passes: cells per pass and longest sequence; the checkpoint's own when absent."""

    batch_size: PositiveInt | None = None
    max_tokens: PositiveInt | None = None


class ReadoutConfig(Strict):
    """Readouts: linear, or with one hidden layer of that width (the method's MLP2 has 64)."""

    hidden: int = Field(default=0, ge=0)


class CellHeadsConfig(Strict):
    """Cell head and hybrid heads of the adaptor, judged beside the anchor head.

    Training on cells: at most ``per_stage`` cells of each stage, ``epochs`` at most, minibatches of ``batch_size``.
    ``hybrid``: also both sweeps over the weight of the topology term.
    """

    epochs: PositiveInt = 120
    batch_size: PositiveInt = 896
    per_stage: PositiveInt = 500
    hybrid: bool = True


class SensitivityConfig(Strict):
    """How much the holdouts depend on the adaptor's own settings: its width, and its two weights."""

    ks: tuple[PositiveInt, ...] = tuple(range(1, 16))
    alphas: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3, 1.0)
    betas: tuple[float, ...] = (0.1592, 0.3183, 0.6366)


class RunGatesConfig(Strict):
    """The gates on the anchors of a run; ``refits`` are draws of the null beside the holdouts."""

    refits: PositiveInt = 20


class CompactionConfig(Strict):
    """Smaller and smaller feature maps, each judged against the configured one on cells of left-out folds.

    ``splits``: so many pairs of folds are left out, one pair after the other. ``head``: the single head that is compacted
    (``L2H5``); chosen by the anchors of each split's training side when absent. ``ranks`` of the truncated SVD;
    ``n_factors`` with ``n_read`` and ``n_write`` genes each of the hard sparse form and its alternatives.
    """

    splits: PositiveInt = 20
    head: str | None = None
    ranks: tuple[PositiveInt, ...] = (64, 32, 16, 8)
    n_factors: PositiveInt = 16
    n_read: PositiveInt = 60
    n_write: PositiveInt = 60
    alternatives: bool = True


class FactorsConfig(Strict):
    """Factors of one head's operator: what they read and write, whether they last, what breaks without them.

    ``head`` as in `CompactionConfig`, chosen by all anchors when absent. ``groups`` of cells (of whole donors, where
    there are five or more) are drawn ``bootstraps`` times for the stability of factors, which only operators averaged over cells can lack.
    ``null_draws`` random factors of the same norm for each. ``gene_sets``: a shipped collection or the path of a GMT;
    ``permutations`` of the pre-ranked enrichment, ``program_draws`` of shuffled loadings.
    """

    head: str | None = None
    n: PositiveInt = 16
    rank: PositiveInt = 64
    top: PositiveInt = 4
    n_genes: PositiveInt = 60
    splits: PositiveInt = 20
    null_draws: PositiveInt = 20
    groups: PositiveInt = 20
    bootstraps: PositiveInt = 50
    gene_sets: str = "hematopoiesis"
    permutations: PositiveInt = 1000
    program_draws: PositiveInt = 10


class RunConfig(Strict):
    """``workbench run``: the whole chain from cells to an exported algorithm, its factors and a report.

    ``workbench extract`` goes as far as the algorithm, ``workbench factors`` adds ``compaction`` and ``factors``. Sections
    that are absent are skipped: ``gates``, ``cell_heads``, ``sensitivity``, ``compaction``, ``factors``. ``operator``: mean attention
    patterns over the cells, or ``qk`` and ``ov`` from the checkpoint alone. ``expected`` names a file of published
    figures that the report prints beside what was found.
    """

    name: str = "run"
    checkpoint: Path
    seed: int = 0
    data: DataConfig = DataConfig()
    ruler: str = "hematopoiesis"
    stages: dict[str, str] = {}
    panel: PanelConfig = PanelConfig()
    capture: CaptureConfig = CaptureConfig()
    anchors: AnchorConfig = AnchorConfig()
    operator: Literal["attention", "qk", "ov"] = "attention"
    adaptor: AdaptorConfig = AdaptorConfig()
    readout: ReadoutConfig = ReadoutConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    gates: RunGatesConfig | None = None
    cell_heads: CellHeadsConfig | None = None
    sensitivity: SensitivityConfig | None = None
    compaction: CompactionConfig | None = None
    factors: FactorsConfig | None = None
    expected: Path | None = None


class StudyConfig(Strict):
    """What an ablation is judged on and by.

    ``cells`` and ``reference`` are numbers of cells, drawn by seed and name (all when absent). ``metrics``: cell_shift,
    masked_error, mvc_error, label_loss, label_error, trustworthiness, ruler, gene:SYMBOL.
    """

    cells: PositiveInt | None = None
    reference: PositiveInt | None = None
    metrics: tuple[str, ...] = ("cell_shift", "masked_error", "label_loss", "label_error")
    per_label: bool = True
    ruler: str = "hematopoiesis"
    stages: dict[str, str] = {}
    neighbours: PositiveInt = 15
    folds: int = Field(default=5, ge=2)
    mask_share: float = Field(default=0.25, gt=0, lt=1)
    max_tokens: PositiveInt | None = None
    batch_size: PositiveInt = 16
    bootstrap: PositiveInt = 1000


class SweepConfig(Strict):
    """Which ablations: every head, whole layers, further places or sets of places, and pairs of the top heads.

    ``null_draws`` are random-direction draws per head; p is pooled over heads, and for one head alone to reach q = 1 / n
    after Benjamini-Hochberg takes n draws. ``pairs_of_top`` heads, by the first of the study's metrics or by
    ``pairs_by``, are also ablated two by two.
    """

    how: tuple[Literal["zero", "mean", "resample"], ...] = ("mean",)
    heads: bool = True
    layers: bool = False
    sites: tuple[str | tuple[str, ...], ...] = ()
    null_draws: int = Field(default=20, ge=0)
    pairs_of_top: int = Field(default=0, ge=0)
    pairs_by: str | None = None
    block: PositiveInt = 32


class ContrastConfig(Strict):
    """Two cell types between which heads are patched."""

    target: str
    source: str


class AblationConfig(Strict):
    """``workbench ablate``: a sweep over heads, with nulls, attribution beside it, and contrasts between cell types."""

    name: str = "ablation"
    checkpoint: Path
    seed: int = 0
    data: DataConfig = DataConfig()
    study: StudyConfig = StudyConfig()
    sweep: SweepConfig = SweepConfig()
    attribution: bool = True
    contrasts: tuple[ContrastConfig, ...] = ()


class CellPanelConfig(Strict):
    """A panel of cells: its role in the gates, where its cells come from, and which of them it takes.

    ``select`` keeps the cells whose standard column (cell_type, donor, tissue, batch) has one of the values. ``part``
    ``[i, n]`` keeps the i-th of n parts of what is left, by a hash of the cells' names: for data that have nothing else to
    part them by.
    """

    role: Literal["internal", "external", "zero shot", "expected to fail"]
    data: DataConfig | None = None
    select: dict[str, tuple[str, ...]] = {}
    part: tuple[int, PositiveInt] | None = None
    stages: dict[str, str] = {}
    anchors: AnchorConfig | None = None


class GatesConfig(Strict):
    """``workbench gates``: panels of cells, an operator of the model, and which gates have to pass.

    ``data`` and ``anchors`` hold for panels without their own. ``operator`` is the kind: mean attention patterns over the
    internal panel's cells, or ``qk`` and ``ov`` from the checkpoint alone. ``required`` gates have to pass on every
    internal, external and zero-shot panel; one that is not applicable has not passed. ``refits`` are draws of the null
    beside the holdouts; ``head_refits`` the same per head of the screen, pooled over heads.
    """

    name: str = "gates"
    checkpoint: Path
    seed: int = 0
    data: DataConfig = DataConfig()
    ruler: str = "hematopoiesis"
    stages: dict[str, str] = {}
    genes: PanelConfig = PanelConfig()
    capture: CaptureConfig = CaptureConfig()
    anchors: AnchorConfig = AnchorConfig()
    operator: Literal["attention", "qk", "ov"] = "attention"
    adaptor: AdaptorConfig = AdaptorConfig()
    panels: dict[str, CellPanelConfig]
    required: tuple[str, ...] = GATES
    screen: bool = True
    refits: PositiveInt = 20
    head_refits: PositiveInt = 8
    trajectories: tuple[str, ...] = ("erythroid", "monocyte", "B", "T")
