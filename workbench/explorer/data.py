"""What the explorer shows, of a run's folder or of a model alone, as one JSON-ready object."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from anndata import AnnData
from tqdm import tqdm

from workbench.cells.genes import MIN_SHARE, match_cells
from workbench.cells.panel import choose_panel
from workbench.engine.folder import RESOLVED, check_layout
from workbench.engine.record import stands_on
from workbench.engine.tables import read_table, table_path
from workbench.errors import ArtifactError, EvaluationError, WorkbenchError
from workbench.evidence.ruler import Ruler, load_ruler
from workbench.explorer.heads import ALPHA, MIN_CELLS, described, head_factors, programs_of, short, strongest_pairs
from workbench.explorer.layers import layer_maps, layer_measures
from workbench.explorer.live import Session, open_session
from workbench.explorer.maps import latent_map
from workbench.explorer.measures import effect_measures, norm_measure, ruler_measure
from workbench.files import plain, read_json
from workbench.models import CellModel
from workbench.operators.operator import Head, head_name
from workbench.operators.store import INDEX, StoredOperators
from workbench.operators.weight_operators import weight_operators

VERSION = 1
SHIPPED = "hematopoiesis"  # the gene sets and the ruler
_STALE = "is of other operators than the run holds now; workbench extract makes it anew."
MAX_PANEL = 1200


@dataclass(frozen=True)
class ExplorerData:
    """Everything that the explorer shows; each part is JSON-ready.

    Attributes
    ----------
    title
        Heading of the page: the run's name, or the model's shape.
    facts
        Pairs of what and value: model, cells, operator.
    kind
        Kind of operator: ``attention``, ``qk`` or ``ov``.
    genes
        The panel; elsewhere genes are numbers of it.
    shape
        Number of layers, and of heads per layer.
    measures
        What the head map can be coloured by, see `measures`.
    heads
        Per head, by layer: pairs, factors and programs, see `heads`.
    programs
        Gene programs of all heads' factors, tested together: `Programs.summary`.
    maps
        Maps of cells, see `cell_map`; empty where there are no cells.
    layers
        Geometry of every layer, see `layer_measures`; None where none was given.
    missing
        Pairs of what is not there, and why.
    live
        What can be computed while one looks; None on a page without Python.
    """

    title: str
    facts: tuple[tuple[str, str], ...]
    kind: str
    genes: tuple[str, ...]
    shape: Head
    measures: tuple[dict[str, Any], ...]
    heads: tuple[dict[str, Any], ...]
    programs: dict[str, Any]
    maps: tuple[dict[str, Any], ...] = ()
    layers: dict[str, Any] | None = None
    missing: tuple[tuple[str, str], ...] = ()
    live: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready copy."""
        parts = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return plain({"version": VERSION, "alpha": ALPHA, "min_cells": MIN_CELLS, **parts})


def from_run(
    run: str | Path, *, ablation: str | Path | None = None, geometry: str | Path | None = None, seed: int = 0
) -> ExplorerData:
    """What a run of ``workbench run`` left.

    Parameters
    ----------
    run
        Folder of the run. Without the screen of heads or the latent, the explorer says so.
    ablation
        Folder of ``workbench ablate`` on the same checkpoint, for effects on the map of heads; None for none.
    geometry
        Folder of ``workbench geometry`` on the same checkpoint, for its measures by layer and its maps of cells; None for none.
    seed
        Seed of the shufflings of gene names, and of the drawing where there are too many cells.

    Raises
    ------
    ArtifactError
        If the folder holds no operators, or the ablation or the geometry is of another model.
    OutputError
        If the folder is of an older layout.
    """
    folder = Path(run)
    check_layout(folder)
    if not (folder / "stages" / "operators" / INDEX).is_file():
        raise ArtifactError(
            f"'{folder}' holds no operators (stages/operators/{INDEX}), so there is no head to look at. Give the folder "
            "of a `workbench run` or `workbench extract` that came past its stage of operators."
        )
    source = StoredOperators(folder / "stages" / "operators")
    counts = source.counts if source.kind == "attention" else None
    config = _config(folder)
    collection = str((config.get("factors") or {}).get("gene_sets") or SHIPPED)
    data = _of_heads(source.head, source.shape, source.genes, source.kind, counts, seed, collection)
    missing = list(data.missing)

    def tables(what: str, stage: str, name: str, makes: str) -> list[pd.DataFrame]:
        path, stands = table_path(folder, name), stands_on(folder, stage, "operators")
        if stands and path.is_file():
            return [read_table(path)]
        none = f"the run has no tables/{name}.csv; workbench extract {makes}"
        missing.append((what, none if stands else f"tables/{name}.csv {_STALE}"))
        return []

    scores = [
        _of(ruler_measure(rows, source.shape), name)
        for table in tables("score", "heads", "heads", "screens the heads.")
        for name, rows in _by_ruler(table)
    ]
    if ablation is None:
        missing.append(
            ("ablation", "none was given with the run; workbench ablate makes one, for all heads and beside its nulls.")
        )
    else:
        scores += effect_measures(_table_of(folder, Path(ablation), "ablate", "effects"), source.shape)
    latent = tables("cells", "algorithm", "latent", "makes the latent.")
    of_latents = [
        _of(latent_map(rows, seed, _ruler_of(config, name)), name)
        for table in latent
        for name, rows in _by_ruler(table)
    ]
    layers, of_layers = None, list[dict[str, Any]]()
    if geometry is not None:
        layers = layer_measures(_table_of(folder, Path(geometry), "geometry"))
        if table_path(Path(geometry), "maps").is_file():
            of_layers = layer_maps(_table_of(folder, Path(geometry), "geometry", "maps"), _ruler_of(config, ""), seed)
    return replace(
        data,
        title=config.get("name") or folder.resolve().name,
        facts=(*_facts_of(folder, config), *data.facts),
        measures=(*scores, *data.measures),
        maps=(*of_latents, *of_layers),
        layers=layers,
        missing=tuple(missing),
    )


def from_model(
    model: CellModel,
    cells: AnnData | None = None,
    *,
    genes: Sequence[str] | None = None,
    kind: str = "qk",
    session: Session | None = None,
    seed: int = 0,
    min_gene_share: float = MIN_SHARE,
) -> ExplorerData:
    """What a checkpoint alone says: operators of the weights, without scores, and cells where they are given.

    Parameters
    ----------
    model
        Model whose weights are looked at; also embeds `cells`.
    cells
        Cells that the model embeds, for the map; some are drawn as in `open_session`.
    genes
        The panel; the genes that most cells have, 1,200 at most, when None.
    kind
        Kind of operator: ``qk`` or ``ov``; attention needs the operators of a run.
    session
        Cells that are embedded already; `cells` are then not embedded again.
    seed
        Seed of drawn cells and of the shufflings of gene names.
    min_gene_share
        Smallest share of the cells' genes that must be in the vocabulary.

    Raises
    ------
    EvaluationError
        If there are neither genes nor cells and the vocabulary is too large to show whole.
    """
    if genes is None:
        genes = _panel(model, cells, min_gene_share)
    operators = weight_operators(model, genes, kind)
    shape = model.config.n_layers, model.config.n_heads
    data = _of_heads(operators.matrix, shape, operators.genes, kind, None, seed)
    if session is None and cells is not None:
        session = open_session(model, cells, seed=seed, min_gene_share=min_gene_share)
    missing = [*data.missing, ("score", "operators of a checkpoint alone are not scored; workbench run scores heads.")]
    missing.append(("ablation", "none was run; workbench ablate does it for all heads, beside their nulls."))
    if session is None:
        missing.append(("cells", "no cells were given."))
    data = replace(data, title=f"{model.architecture}, {shape[0]} layers x {shape[1]} heads", missing=tuple(missing))
    if session is None:
        return data
    source = cells.uns.get("workbench", {}).get("source") if cells is not None else None
    facts = (("cells", str(source)), *data.facts) if source else data.facts
    return with_cells(replace(data, facts=facts), session)


def with_cells(data: ExplorerData, session: Session) -> ExplorerData:
    """The same with the cells of a session as a further map.

    Parameters
    ----------
    data
        What the explorer shows of the same model; not changed.
    session
        Embedded cells to add, from `open_session`.

    Raises
    ------
    ArtifactError
        If the model has other layers and heads.
    """
    shape = session.model.config.n_layers, session.model.config.n_heads
    if shape != tuple(data.shape):
        raise ArtifactError(
            f"The model has {shape[0]} layers of {shape[1]} heads, and the operators {data.shape[0]} of {data.shape[1]}: "
            "they are of different models. Give the checkpoint of the run."
        )
    return replace(data, maps=(*data.maps, session.to_map()))


def _of_heads(
    operator: Callable[[int, int], np.ndarray],
    shape: Head,
    genes: tuple[str, ...],
    kind: str,
    counts: np.ndarray | None,
    seed: int,
    collection: str = SHIPPED,
) -> ExplorerData:
    heads, factors, norms = [], [], {}
    for at in tqdm(list(np.ndindex(*shape)), unit="head", desc="explorer"):
        matrix = operator(*at)
        norms[at] = float(np.linalg.norm(matrix))
        factors.append(found := head_factors(matrix, genes))
        one = {"layer": at[0], "head": at[1], "name": head_name(*at), "norm": short(norms[at])}
        one |= {"pairs": strongest_pairs(matrix, counts), "factors": described(matrix, found)}
        heads.append({**one, "no_factors": found if isinstance(found, str) else ""})
    programs = programs_of(factors, genes, collection, seed)
    for i, head in enumerate(heads):
        head["hits"] = programs.hits.get(i)
        for f, row in enumerate(head["factors"]):
            row["programs"] = {side: programs.shown.get((i, f, side)) for side in ("read", "write")}
    facts = (
        ("operator", f"{kind}, {'mean over cells' if counts is not None else 'from the weights alone'}"),
        ("panel", f"{len(genes):,} genes"),
        ("heads", f"{shape[0]} layers of {shape[1]}"),
    )
    missing = (("programs", programs.why),) if programs.why else ()
    measures = (norm_measure(norms, shape),)
    return ExplorerData("", facts, kind, tuple(genes), shape, measures, tuple(heads), programs.summary, missing=missing)


def _panel(model: CellModel, cells: AnnData | None, min_gene_share: float) -> tuple[str, ...]:
    if cells is not None:
        match = match_cells(cells, model.vocabulary.genes, min_gene_share)
        return choose_panel(cells, match, MAX_PANEL)
    known = model.vocabulary.genes
    if len(known) > MAX_PANEL:
        raise EvaluationError(
            f"The vocabulary has {len(known):,} genes, too many to show all of ({MAX_PANEL:,}). Name some as `genes`, or "
            "give cells, whose most frequent genes are taken."
        )
    return tuple(known)


def _table_of(run: Path, folder: Path, command: str, name: str = "") -> pd.DataFrame:
    """A table of another command's folder, which must be of the weights that the run is of."""
    name = name or command
    table = table_path(folder, name)
    if not table.is_file():
        raise ArtifactError(
            f"'{folder}' has no tables/{name}.csv; give the folder of a `workbench {command}` that ended."
        )
    ours, theirs = (weights_of(one) for one in (run, folder))
    if ours and theirs and ours != theirs:
        raise ArtifactError(
            f"'{folder}' is of other weights ({theirs[:8]}) than the run in '{run}' ({ours[:8]}); give a `workbench "
            f"{command}` of the run's checkpoint."
        )
    return read_table(table)


def weights_of(folder: Path) -> str:
    """Fingerprint of the model of a run or an ablation; empty where the folder does not say.

    Parameters
    ----------
    folder
        Folder of a run or an ablation, with or without its ``manifest.json``.
    """
    path = folder / "manifest.json"
    return str((read_json(path).get("checkpoint") or {}).get("weights") or "") if path.is_file() else ""


def _config(folder: Path) -> Mapping[str, Any]:
    path = folder / RESOLVED
    found = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None
    return found if isinstance(found, dict) else {}


def _by_ruler(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Rows of each ruler of a run of several; those of a run of one under no name."""
    if "ruler" not in table:
        return [("", table)]
    return [(str(name), rows.reset_index(drop=True)) for name, rows in table.groupby("ruler", sort=False)]


def _of(shown: dict[str, Any], ruler: str) -> dict[str, Any]:
    """A measure or map that says of which ruler it is, where there are several."""
    return {**shown, "key": f"{shown['key']}-{ruler}", "name": f"{ruler}: {shown['name']}"} if ruler else shown


def _ruler_of(config: Mapping[str, Any], name: str) -> Ruler | None:
    """The ruler of a run, or that of a name, for its colours; None where it has been moved since."""
    for entry in config.get("rulers") or [config.get("ruler") or SHIPPED]:
        try:
            ruler = load_ruler(entry)
        except WorkbenchError:
            continue
        if name in ("", ruler.slug):
            return ruler
    return None


def _facts_of(folder: Path, config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Model and cells, from what the run left."""
    card = folder / "algorithm" / "config.json"
    known = read_json(card).get("card", {}) if card.is_file() else {}
    model = Path(str(config.get("checkpoint", ""))).name or (known.get("checkpoint") or {}).get("name")
    cells = known.get("data") or (config.get("data") or {}).get("name")
    return [(what, str(value)) for what, value in (("model", model), ("cells", cells)) if value]
