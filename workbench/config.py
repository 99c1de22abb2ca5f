"""Typed configurations: one YAML file per experiment, unknown keys refused with the near match."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError

from workbench.errors import ConfigError, unknown_name
from workbench.gates.spec import GATES

if TYPE_CHECKING:
    from anndata import AnnData

Config = TypeVar("Config", bound=BaseModel)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataConfig(_Strict):
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


class PretrainConfig(_Strict):
    """``workbench pretrain``: the cells, every setting of `PretrainSettings`, and a note for the model card."""

    out: Path
    note: str = ""
    data: DataConfig = DataConfig()
    settings: dict[str, Any] = {}


class PanelConfig(_Strict):
    """Gene panel: the `size` matched genes seen in most cells; all matched genes when absent.

    ``exclude`` names genes to leave out, such as those that the cells' labels were gated by.
    """

    size: PositiveInt | None = None
    exclude: tuple[str, ...] = ()


class AnchorConfig(_Strict):
    """Anchors: centroids over donor x tissue x cell type x stage.

    ``parts`` splits each group at random into up to that many anchors of at least ``min_cells`` cells. Parts are no
    biological replicates: they share donors, and are only for data that have too few groups to hold any out. ``weights``,
    when the adaptor is fitted: ``equal``, by number of ``cells``, or the same in total for each ``stage``.
    """

    min_cells: PositiveInt = 5
    parts: PositiveInt = 1
    weights: Literal["equal", "cells", "stage"] = "equal"


class AdaptorConfig(_Strict):
    """LET adaptor: latent width, weight of the reconstruction, scale of the angle, and the feature map it acts on."""

    k: PositiveInt = 10
    alpha: float = Field(default=0.1, ge=0)
    beta: float = Field(default=0.3183098861837907, gt=0)
    steps: PositiveInt = 200
    feature_map: Literal["drift", "single"] = "drift"
    layer: int = 0
    head: int = 0


class EvaluationConfig(_Strict):
    """Folds of the cross-validation, random anchor holdouts, and null draws.

    ``permutations`` are draws of the readouts' null (labels permuted against fixed predictions); ``refits`` of the
    holdouts' null (stages relabelled, the adaptor fitted again); ``head_refits`` the same per head, pooled over heads.
    """

    folds: int = Field(default=5, ge=2)
    holdouts: PositiveInt = 8
    permutations: PositiveInt = 200
    refits: PositiveInt = 40
    head_refits: PositiveInt = 8


class CaptureConfig(_Strict):
    """Forward passes: cells per pass and longest sequence; the checkpoint's own when absent."""

    batch_size: PositiveInt | None = None
    max_tokens: PositiveInt | None = None


class RunConfig(_Strict):
    """``workbench run``: the whole chain from cells to an exported algorithm and a report."""

    name: str = "run"
    checkpoint: Path
    seed: int = 0
    data: DataConfig = DataConfig()
    ruler: str = "hematopoiesis"
    stages: dict[str, str] = {}
    panel: PanelConfig = PanelConfig()
    capture: CaptureConfig = CaptureConfig()
    anchors: AnchorConfig = AnchorConfig()
    adaptor: AdaptorConfig = AdaptorConfig()
    evaluation: EvaluationConfig = EvaluationConfig()


class StudyConfig(_Strict):
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


class SweepConfig(_Strict):
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


class ContrastConfig(_Strict):
    """Two cell types between which heads are patched."""

    target: str
    source: str


class AblationConfig(_Strict):
    """``workbench ablate``: a sweep over heads, with nulls, attribution beside it, and contrasts between cell types."""

    name: str = "ablation"
    checkpoint: Path
    seed: int = 0
    data: DataConfig = DataConfig()
    study: StudyConfig = StudyConfig()
    sweep: SweepConfig = SweepConfig()
    attribution: bool = True
    contrasts: tuple[ContrastConfig, ...] = ()


class CellPanelConfig(_Strict):
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


class GatesConfig(_Strict):
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


# Keys whose values are paths: in a file they are relative to that file, on the command line to the working folder.
# A star stands for any key.
_PATHS = (
    ("checkpoint",),
    ("out",),
    ("data", "name"),
    ("ruler",),
    ("study", "ruler"),
    ("panels", "*", "data", "name"),
)


def read_config(path: str | Path, kind: type[Config], overrides: Sequence[str] = ()) -> Config:
    """Read a YAML configuration.

    Parameters
    ----------
    path
        The file.
    kind
        What it configures.
    overrides
        ``"key=value"`` or ``"section.key=value"``; values are read as YAML.

    Returns
    -------
    The typed, frozen configuration.

    Raises
    ------
    ConfigError
        If the file cannot be read, a key is unknown (the near match is listed), or a value has the wrong type.
    """
    file = Path(path)
    try:
        raw = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise ConfigError(f"The configuration '{path}' cannot be read ({error.strerror}); check the path.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"The configuration '{path}' is no valid YAML ({' '.join(str(error).split())}).") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"The configuration '{path}' holds a {type(raw).__name__}, not keys and values.")
    for keys in _PATHS:
        _anchor_path(raw, keys, file.parent)
    for override in overrides:
        _override(raw, override)
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(_sentence(error, kind, f"The configuration '{file}' does not fit")) from error


def make_config(kind: type[Config], **values: Any) -> Config:
    """Configuration, or a part of one, from values given in Python.

    Parameters
    ----------
    kind
        What it configures.
    **values
        By key.

    Raises
    ------
    ConfigError
        As in `read_config`.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_sentence(error, kind, "The settings do not fit")) from error


def absolute(config: BaseModel) -> dict[str, Any]:
    """The configuration as it was read, overrides included and paths absolute, so that it works from anywhere.

    Parameters
    ----------
    config
        A typed configuration.
    """
    raw = config.model_dump(mode="json")
    for keys in _PATHS:
        _anchor_path(raw, keys, Path.cwd())
    return raw


def _anchor_path(raw: dict[str, Any], keys: tuple[str, ...], base: Path) -> None:
    *parents, last = keys
    section: Any = raw
    for i, key in enumerate(parents):
        if key == "*" and isinstance(section, dict):
            for part in section.values():
                if isinstance(part, dict):
                    _anchor_path(part, keys[i + 1 :], base)
            return
        section = section.get(key) if isinstance(section, dict) else None
    if not isinstance(section, dict) or not isinstance(section.get(last), str):
        return
    # A bare word may name something that ships (a dataset, a ruler); it is a path if such a file exists.
    written = section[last]
    if keys in (("checkpoint",), ("out",)) or "/" in written or (base / written).exists():
        section[last] = os.path.normpath(base / written)


def _override(raw: dict[str, Any], override: str) -> None:
    name, sign, value = override.partition("=")
    if not sign or not name:
        raise ConfigError(f"'--set {override}' is not of the form key=value or section.key=value.")
    section = raw
    *parents, last = name.strip().split(".")
    for key in parents:
        section = section.setdefault(key, {})
        if not isinstance(section, dict):
            raise ConfigError(f"'--set {override}': '{key}' is a value, not a section with keys of its own.")
    try:
        section[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"'--set {override}': the value is no valid YAML; quote it.") from error


def _sentence(error: ValidationError, kind: type[BaseModel], what: str) -> str:
    parts = []
    for item in error.errors()[:4]:
        where = ".".join(str(p) for p in item["loc"])
        if item["type"] == "extra_forbidden":
            fields = _fields(kind, tuple(str(p) for p in item["loc"][:-1]))
            parts.append(unknown_name("key", where, fields))
        elif item["type"] == "missing":
            parts.append(f"Key '{where}' is missing.")
        else:
            parts.append(f"Key '{where}' is {item['input']!r}: {item['msg'].lower()}.")
    return f"{what}: {' '.join(parts)}"


def _fields(kind: type[BaseModel], path: tuple[str, ...]) -> list[str]:
    model: Any = kind
    for key in path:
        inside = not hasattr(model, "model_fields")  # a name in a mapping, or a place in a list
        model = model if inside else model.model_fields[key].annotation
        if inside or get_origin(model) is UnionType:
            model = next(part for part in get_args(model) if hasattr(part, "model_fields"))
    prefix = "".join(f"{key}." for key in path)
    return [prefix + name for name in model.model_fields]


def load_cells(data: DataConfig) -> AnnData:
    """Cells of a configuration.

    Parameters
    ----------
    data
        The ``data`` section.

    Returns
    -------
    AnnData
        As `datasets.load` makes it.
    """
    from workbench.cells.datasets import CellMapping, load

    given = {f.name: v for f in fields(CellMapping) if (v := getattr(data, f.name)) is not None}
    return load(data.name, CellMapping(**given) if given else None, backed=data.backed)
