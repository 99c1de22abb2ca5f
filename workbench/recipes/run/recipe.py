"""``workbench run``, ``extract`` and ``factors`` as data: the stages, and what each of them depends on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from workbench.cells.anchors import make_anchors
from workbench.engine.plan import Expected, Load
from workbench.engine.recipe import Recipe, execute
from workbench.engine.section import Report
from workbench.engine.stages import Result, Results, Stage
from workbench.engine.sweep import Backend
from workbench.errors import EvaluationError
from workbench.evidence.expected import read_expected
from workbench.evidence.holdout import FEWEST_ANCHORS
from workbench.explorer.data import SHIPPED
from workbench.factors.gene_sets import GeneSets, load_gene_sets, usable_terms
from workbench.files import digest
from workbench.models.outputs import need_cell
from workbench.operators.cell_adaptor import configured
from workbench.operators.cell_sampling import check_enough
from workbench.operators.operator import FeatureMapSpec, check_spec
from workbench.recipes.loads import passes_load
from workbench.recipes.manifold.recipe import gene_inputs, measured
from workbench.recipes.parts import joining, own_stage
from workbench.recipes.run import inputs
from workbench.recipes.run.agreement import AGREEMENT, agreement_stage
from workbench.recipes.run.cells import cells_stage
from workbench.recipes.run.compaction import compaction_stage
from workbench.recipes.run.config import CompactionConfig, FactorsConfig, RunConfig
from workbench.recipes.run.context import RunContext
from workbench.recipes.run.drift import drift_stage
from workbench.recipes.run.explorer import explorer_stage
from workbench.recipes.run.export import FILES, algorithm_stage, card_inputs
from workbench.recipes.run.factors import factors_stage
from workbench.recipes.run.gates import gates_stage
from workbench.recipes.run.heads import heads_stage, sensitivity_stage
from workbench.recipes.run.operators import operators_stage, panel_stage, untrained_stage
from workbench.recipes.run.readouts import readouts_stage
from workbench.recipes.run.rulers import RULER, GeneRuler, Part, SeveralContext
from workbench.recipes.run.sections import TABLES, report
from workbench.recipes.run.several import report_several
from workbench.recipes.run.splits import fold_pairs, named_head, split_name
from workbench.recipes.run.writing import writing_stage

EXTRACT, FACTORS = "extract", "factors"


def stages(context: RunContext) -> list[Stage]:
    """The stages of a run; what can be refused is refused here.

    Parameters
    ----------
    context
        Run that nothing has been done of.

    Raises
    ------
    CheckpointError
        If the model has no cell embedding.
    EvaluationError
        If the cells have no labels, fewer groups than folds or too few anchors, a head that is named does not exist, or the
        factors cannot be made on this panel.
    GeneMatchError
        If too few genes are in the vocabulary, or none is left for the panel.
    ConfigError
        If the gene sets or the published figures cannot be read.
    ShapeError
        If the model has no such head or layer.
    """
    sets = load_gene_sets(context.config.factors.gene_sets if context.config.factors else SHIPPED)
    collection = digest(sets.name, sets.sets, sets.sources)
    if isinstance(context, SeveralContext):
        return _of_several(context, sets, collection)
    _check(context, sets)
    first, *passes = _shared(context)
    cells, *judged = _of_ruler(context, collection)
    own = [cells, *passes, *judged, _explorer(context, [context], collection)]
    return [first, *sorted(own, key=lambda one: one.part == FACTORS)]


def _stage(name: str, work: Callable[..., Result], given: Any, *after: str, part: str = EXTRACT) -> Stage:
    return Stage(name, work, given, after, TABLES.get(name, ()), FILES if name == "algorithm" else (), part)


def _shared(context: RunContext) -> list[Stage]:
    """Stages that no ruler has a part in, the forward passes among them."""
    return [
        _stage("panel", partial(panel_stage, context), inputs.panel_inputs(context), part=""),
        _stage("operators", partial(operators_stage, context), inputs.operators_inputs(context), part=""),
        _stage("untrained", partial(untrained_stage, context), inputs.untrained_inputs(context)),
        _stage("drift", partial(drift_stage, context), context.config.adaptor.blocks, "operators"),
    ]


def _of_ruler(context: RunContext, collection: str) -> list[Stage]:
    """Stages that judge a ruler over cells, and export its algorithm; the placed cells first."""
    config, found = context.config, list[Stage]()
    evaluation, hidden, name = config.evaluation, config.readout.hidden, context.adata.uns["workbench"]["name"]
    fold, placed = inputs.fold_inputs(context), inputs.anchor_inputs(context)
    mapped = {**placed, "map": inputs.map_inputs(context)}
    judged = {one: getattr(evaluation, one) for one in ("holdouts", "refits", "head_refits", "control_draws")}
    drawn = {"control_draws": evaluation.control_draws}
    read = {"fold": fold, "hidden": hidden, "permutations": evaluation.permutations, **context.chosen("cell_heads")}

    def add(stage: str, work: Callable[..., Result], given: Any, *after: str, part: str = EXTRACT) -> None:
        found.append(_stage(stage, work, given, *after, part=part))

    add("cells", partial(cells_stage, context), inputs.cells_inputs(context), part="")
    add("heads", partial(heads_stage, context), {**mapped, **judged}, "operators", "untrained")
    add("readouts", partial(readouts_stage, context), {**mapped, **read, **drawn}, "operators", "untrained")
    written = {**inputs.writing_inputs(context), **drawn}
    add("writing", partial(writing_stage, context), written, "operators", "untrained")
    if (gates := config.gates) is not None:
        given = {**mapped, **drawn, "refits": gates.refits, "cohort": name, "sizes": inputs.sizes_named(context)}
        add("gates", partial(gates_stage, context, gates), given, "operators", "untrained")
    if (swept := config.sensitivity) is not None:
        given = {**mapped, "holdouts": evaluation.holdouts, **swept.model_dump(mode="json")}
        add("sensitivity", partial(sensitivity_stage, context, swept), given, "operators")
    given = {**mapped, "fold": fold, "hidden": hidden, "card": card_inputs(context)}
    if config.transfer:
        given["transfer"] = inputs.study_inputs(context)
    below = ("operators", "heads", "readouts", *(["gates"] if gates else []))
    add("algorithm", partial(algorithm_stage, context), given, *below)
    if (compaction := config.compaction) is not None:
        given = {**mapped, "fold": fold, "hidden": hidden, **_taken_apart(context, compaction)}
        add("compaction", partial(compaction_stage, context, compaction), given, "operators", part=FACTORS)
    if (factors := config.factors) is not None:
        given = {**placed, "fold": fold, **_taken_apart(context, factors), "gene_sets": collection}
        add("factors", partial(factors_stage, context, factors), given, "operators", part=FACTORS)
    return found


def _explorer(context: RunContext, parts: Sequence[RunContext], collection: str) -> Stage:
    given = {**inputs.explorer_inputs(context, [part.ruler for part in parts]), "gene_sets": collection}
    return _stage("explorer", partial(explorer_stage, context), given, "operators", "heads", "algorithm")


def _of_several(context: SeveralContext, sets: GeneSets, collection: str) -> list[Stage]:
    """Stages of a run of several rulers: the passes once, the stages of each ruler, and what looks at all of them."""
    found, own, compared = _shared(context), dict[str, list[Stage]](), dict[str, Any]()
    for name, part in context.parts.items():
        if isinstance(part, GeneRuler):
            check_spec(
                part.config.adaptor.feature_map_spec(), (context.model.config.n_layers, context.model.config.n_heads)
            )
            own[name], fits = [replace(one, part=EXTRACT) for one in measured(part)], gene_inputs(part)
            compared[name] = {**fits, "fits": part.config.fits.components}
        else:
            _check(part, sets)
            own[name] = _of_ruler(part, collection)
            compared[name] = {**inputs.anchor_inputs(part), "map": inputs.map_inputs(part)}
        found += [own_stage(stage, part) for stage in own[name]]
    found += joining(context, own, RULER)
    placed = [one.name for one in found if one.name.startswith("cells-")]
    draws = context.config.evaluation.refits
    work = partial(agreement_stage, context, draws)
    given = {"draws": draws, "rulers": compared}
    found.append(Stage(AGREEMENT, work, given, ("operators", *placed), (AGREEMENT,), part=EXTRACT))
    over_cells = _parts_of(context)
    return [*found, _explorer(context, over_cells, collection)] if over_cells else found


def _taken_apart(context: RunContext, settings: CompactionConfig | FactorsConfig) -> dict[str, Any]:
    """Settings of a stage that takes a head apart; where none is named it is screened by random holdouts."""
    screened = {"holdouts": context.config.evaluation.holdouts} if settings.head is None else {}
    return {**settings.model_dump(mode="json", exclude={"gene_sets"}), **screened}


def _check(context: RunContext, sets: GeneSets) -> None:
    """Refuse what cannot be, before any work."""
    config, shape = context.config, (context.model.config.n_layers, context.model.config.n_heads)
    if context.embeds:
        need_cell(context.model.outputs)
    check_spec(config.adaptor.feature_map_spec(), shape)
    if config.adaptor.blocks:
        check_spec(FeatureMapSpec("drift", blocks=config.adaptor.blocks), shape)
    for section in (config.compaction, config.factors):
        if section is not None and section.head is not None:
            named_head(section.head, shape)
    if config.factors is not None:
        usable_terms(sets, context.panel)
        most, of = len(context.panel), f"a panel of {len(context.panel)} genes"
        if config.operator != "attention" and context.model.config.d_head < most:
            most, of = context.model.config.d_head, f"{config.operator} operators, whose rank is the width of a head"
        if config.factors.n > most:
            raise EvaluationError(
                f"{config.factors.n} factors cannot be made on {of}; set factors.n to {most} or fewer."
            )
    if config.cell_heads is not None and config.adaptor.k > len(context.panel):
        raise EvaluationError(
            f"A latent of width {config.adaptor.k} cannot be made of {len(context.panel)} genes by heads that are trained on "
            "cells; lower adaptor.k."
        )
    if config.expected is not None:
        read_expected(config.expected)
    _check_anchors(context)
    if config.cell_heads is not None:
        _check_cell_heads(context)


def _check_cell_heads(context: RunContext) -> None:
    """Refuse training sides with too few cells for heads that are trained on cells: labels say how many there are."""
    obs, head = context.places[0], configured(context.config, {})
    folds, names = obs["fold"].to_numpy(), obs.index.to_numpy(dtype=str)
    donor = obs["donor"].to_numpy(dtype=str) if "donor" in obs else None
    given = {name: getattr(head, name) for name in ("k", "per_stage", "patience", "seed")}
    for fold in sorted(set(folds.tolist())):
        rows = np.flatnonzero(folds != fold)
        own = None if donor is None else donor[rows]
        try:
            check_enough(obs["stage"].to_numpy()[rows], context.ruler.distances, own, names[rows], **given)
        except EvaluationError as error:
            raise EvaluationError(f"Without fold {fold}, heads that are trained on cells: {error}") from error


def _check_anchors(context: RunContext) -> None:
    """Refuse too few anchors, over all cells and on every training side: how many there will be is known from the labels."""
    config, obs = context.config, context.places[0]
    folds, screened = obs["fold"].to_numpy(), config.adaptor.feature_map == "topk"
    _check_side(context, obs, True)
    for fold in sorted(set(folds.tolist())):
        _check_side(context, obs[folds != fold], screened, f"Without fold {fold}: ")
    for section in (config.compaction, config.factors):
        for pair in fold_pairs(context, section.splits) if section is not None else ():
            kept, screens = obs[~np.isin(folds, pair)], screened or section.head is None
            _check_side(context, kept, screens, f"Without folds {split_name(pair)}: ")


def _check_side(context: RunContext, obs: pd.DataFrame, held_out: bool, where: str = "") -> None:
    """Refuse cells of which too few anchors are made to fit an adaptor, or to judge one on anchors that are held out."""
    settings, seed = context.config.anchors, context.config.seed
    try:
        n = len(make_anchors(sp.csr_matrix((len(obs), 1)), obs, **settings.model_dump(), seed=seed))
    except EvaluationError as error:
        raise EvaluationError(f"{where}{error}") from error
    if held_out and n < FEWEST_ANCHORS:
        raise EvaluationError(
            f"{where}{n} anchors are too few for a holdout, which needs {FEWEST_ANCHORS}: three to fit on and three to compare. "
            "Raise anchors.parts, lower anchors.min_cells, or map more labels to stages."
        )


def expects(context: RunContext) -> Expected:
    """What stages of a run have to do: passes over the cells, splits that are tasks.

    Parameters
    ----------
    context
        Run whose cells, panel and model are read for this.
    """
    config, n = context.config, len(context.adata)
    read = passes_load(context, context.fed_cells, len(context.panel), always=context.embeds)
    # Of the untrained model nothing but the operators is wanted.
    again = read if config.operator == "attention" else Load(n, 0, disk=read.disk)
    loads = {"panel": Load(n), "operators": read, "untrained": again}
    for part in _parts_of(context):
        staged = part.staged if isinstance(part, Part) else str
        loads[staged("cells")] = Load(n)
        if config.compaction is not None:
            loads[staged("compaction")] = Load(n, tasks=len(fold_pairs(part, config.compaction.splits)))
        if config.factors is not None:
            # Each split once with all factors, once with those that count, once with sparse ones.
            loads[staged("factors")] = Load(n, tasks=3 * len(fold_pairs(part, config.factors.splits)))
    return Expected(loads)


def _parts_of(context: RunContext) -> list[RunContext]:
    """The run itself, or its parts whose rulers lie over cells."""
    if not isinstance(context, SeveralContext):
        return [context]
    return [part for part in context.parts.values() if not isinstance(part, GeneRuler)]


def open_context(config: RunConfig, out: Path, backend: Backend | None = None) -> RunContext:
    """Context of a run, of one ruler or of several.

    Parameters
    ----------
    config
        Settings of the run, whose key ``rulers`` says which.
    out
        Output folder of the run.
    backend
        Who does the tasks of its sweeps; one after the other by default.
    """
    return (SeveralContext if config.rulers else RunContext)(config, out, backend)


def _report(context: RunContext, results: Results) -> Report:
    return (report_several if isinstance(context, SeveralContext) else report)(context, results)  # type: ignore[arg-type]


RECIPE = Recipe("run", open_context, stages, _report, expects=expects)


def run(
    config: RunConfig, out: Path, *, parts: Sequence[str] = (EXTRACT, FACTORS), backend: Backend | None = None
) -> Path:
    """Run all stages, or those of a part, and report.

    Parameters
    ----------
    config
        Model, cells, ruler and settings; sections that are absent are skipped.
    out
        Folder of the run; finished stages in it whose inputs are unchanged are kept, and are in the report whatever part
        is run.
    parts
        ``extract``: heads, controls, readouts, the algorithm. ``factors``: compaction and factors. Both stand on the cells
        and operators of the run.
    backend
        Who does the splits of the second part; one after the other by default.

    Returns
    -------
    Path
        The folder, with ``report.html``, ``metrics.json``, ``manifest.json``, ``tables/``, ``figures/`` and, with the first
        part, ``algorithm/``.
    """
    return execute(RECIPE, config, out, backend, parts).out
