"""``workbench benchmark`` as data: its stages, and what each of them depends on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from workbench.cells.expression import expression_hash
from workbench.engine.plan import Expected, Load
from workbench.engine.recipe import Recipe, execute
from workbench.engine.stages import Results, Stage
from workbench.engine.sweep import Backend
from workbench.evidence.expected import read_expected
from workbench.evidence.methods import PEER, Listed
from workbench.evidence.peers import peer_versions
from workbench.files import digest
from workbench.models.outputs import need_cell
from workbench.operators.operator import check_spec
from workbench.recipes.benchmark.cells import GENES, cells_stage
from workbench.recipes.benchmark.config import BenchmarkConfig
from workbench.recipes.benchmark.context import BenchmarkContext
from workbench.recipes.benchmark.operators import operators_stage, transfer_stage, untrained_stage
from workbench.recipes.benchmark.sections import report
from workbench.recipes.benchmark.splits import INTERNAL, split_of
from workbench.recipes.benchmark.statistics import TABLES, statistics_stage
from workbench.recipes.benchmark.tasks import audit_stage, campaign_stage
from workbench.recipes.loads import passes_load
from workbench.requirements import installed


def run_benchmark(
    config: BenchmarkConfig, out: Path, backend: Backend | None = None, own: Mapping[str, Listed] | None = None
) -> Path:
    """Judge methods on repeated splits, endpoint by endpoint, and report.

    Parameters
    ----------
    config
        Cells, splits, methods, and the one that every other is compared with.
    out
        Folder of the run; finished stages and tasks in it whose inputs are unchanged are kept.
    backend
        Who does the tasks; one after the other in this process by default.
    own
        The user's own methods by name, as `own_method` makes them; none by default.

    Returns
    -------
    Path
        The folder, with ``report.html``, ``metrics.json``, ``manifest.json``, ``tables/`` and ``figures/``.
    """
    recipe = replace(RECIPE, context=partial(BenchmarkContext, own=own))
    return execute(recipe, config, out, backend).out


def stages(context: BenchmarkContext) -> list[Stage]:
    """The stages of a campaign; what can be refused is refused here.

    Parameters
    ----------
    context
        Campaign that nothing has been done of.

    Raises
    ------
    CheckpointError
        If the model has no cell embedding.
    EvaluationError
        If a method does not exist, a cohort shares a cell or no gene with the internal data, the ruler knows no label,
        there are too few donors or groups for the splits, or a split is left without a cell on either side.
    CellsError
        If two cells of a cohort have one name.
    GeneMatchError
        If too few genes match the vocabulary, or all are left out of the panel.
    ShapeError
        If the model has no such head or layer.
    ConfigError
        If the file of published figures cannot be read, or a peer is given an option that it does not have.
    """
    need_cell(context.model.outputs)
    config, placed, shape = context.config, context.placed, context.model.config
    check_spec(config.adaptor.feature_map_spec(), (shape.n_layers, shape.n_heads))
    for one in context.holdouts:
        split_of(one, placed[INTERNAL], placed[one.cohort], config.splits.per_stage, config.seed)
    if config.expected is not None:
        read_expected(config.expected)
    judged, given = method_inputs(context), ("cells", "operators", "untrained")
    compared, last = {"ours": config.ours}, ("cells", "operators", "campaign")
    transfer = Stage("transfer", partial(transfer_stage, context), transfer_inputs(context))
    audit = Stage("audit", partial(audit_stage, context), judged, given, ("audit",))

    def after_audit(results: Results) -> dict[str, Any]:
        # What was found counts, not whether it was looked for: without leaks the audit may be switched off or on.
        return {**judged, "leaks": results["audit"]["leaks"] if config.audit else []}

    known, left = (*given, *(["transfer"] if config.transfer else [])), ("scores", "costs", "methods", "splits")
    return [
        Stage("cells", partial(cells_stage, context), cell_inputs(context)),
        Stage("operators", partial(operators_stage, context), partial(operator_inputs, context)),
        *([transfer] if config.transfer else []),
        Stage("untrained", partial(untrained_stage, context), config.seed, ("operators",)),
        *([audit] if config.audit else []),
        Stage("campaign", partial(campaign_stage, context), after_audit, known, left),
        Stage("statistics", partial(statistics_stage, context), compared, last, TABLES),
    ]


def cell_inputs(context: BenchmarkContext) -> dict[str, Any]:
    """Everything that placed cells, their units and the splits depend on.

    Parameters
    ----------
    context
        Campaign whose cells are loaded for this.

    Returns
    -------
    dict
        JSON-ready. A mapping of labels counts by where the cells come to lie, so one that changes nothing does nothing.
    """
    cohorts = {
        name: {
            "data": cells.name,
            "values": expression_hash(context.cells[name], context.values[name]),
            "cells": digest(cells.names.tolist(), {column: cells.obs[column].tolist() for column in cells.obs}),
            "unplaced": cells.unplaced,
            "genes": digest(context.measured[name]),
            "embeddings": {own: digest(values) for own, values in context.embeddings[name].items()},
        }
        for name, cells in context.placed.items()
    }
    # A list: splits and tables keep the order of the cohorts.
    return {
        "cohorts": list(cohorts.items()),
        "holdouts": [asdict(one) | {"units": sorted(one.units)} for one in context.holdouts],
        "size": context.config.panel.size,
        "ruler": context.ruler.fingerprint(),
    }


def operator_inputs(context: BenchmarkContext, results: Results) -> dict[str, Any]:
    """Everything that operators and embeddings of the internal cells depend on: no label, ruler or split is among it.

    Parameters
    ----------
    context
        Campaign whose cells are loaded for this.
    results
        Results of the stage `cells`, of which the genes of the operators count.

    Returns
    -------
    dict
        JSON-ready; groups of cells are left out where the checkpoint alone makes the operators.
    """
    return {**_read(context, INTERNAL), **context.model_inputs(results["cells"]["genes"])}


def transfer_inputs(context: BenchmarkContext) -> list[dict[str, Any]]:
    """Everything that embeddings of the cohorts that are transferred to depend on.

    Parameters
    ----------
    context
        Campaign whose cells are loaded for this.
    """
    return [_read(context, name) for name in context.config.transfer]


def _read(context: BenchmarkContext, name: str) -> dict[str, Any]:
    """What a pass over the cells of a cohort depends on."""
    read = context.pass_inputs(context.values[name], context.placed[name].obs, grouped=name == INTERNAL)
    return {**read, "vocabulary": digest(dict(context.model.vocabulary.ids)), "weights": context.model.fingerprint()}


def method_inputs(context: BenchmarkContext) -> dict[str, Any]:
    """Everything that methods depend on, beside cells and operators.

    Parameters
    ----------
    context
        Campaign whose methods are listed for this.

    Returns
    -------
    dict
        JSON-ready. Versions of what peers and clusters need are among it: with others, what was not run may be.
    """
    config, methods = context.config, context.methods
    peers = any(one.group == PEER for one in methods.values())
    return {
        **context.chosen("anchors", "adaptor", "cell_heads", "seed"),
        "methods": list(methods),
        "own": {name: one.identity for name, one in methods.items() if one.identity},
        "per_stage": config.splits.per_stage,
        "igraph": installed("igraph"),
        "peers": [config.peers.model_dump(mode="json"), peer_versions(config.peers.python)] if peers else None,
    }


def expects(context: BenchmarkContext) -> Expected:
    """What stages of a campaign have to do: passes over the cohorts, methods on splits that are tasks.

    Parameters
    ----------
    context
        Campaign whose cells, methods and model are read for this.
    """
    drawn = {name: len(rows) for name, rows in context.drawn.items()}
    # Which genes the operators are between, is known once the stage `cells` has chosen a panel for each split.
    genes = len(context.genes) if (context.folder("cells") / GENES).is_file() else None
    read = passes_load(context, context.tokenizer(INTERNAL), genes, always=True)
    again = read if context.config.operator == "attention" else Load(read.cells, 0, disk=read.disk)
    others = sum(drawn.values()) - drawn[INTERNAL]
    # A cell of another cohort is taken to need as long as one of the internal cells.
    seconds = None if read.seconds is None else read.seconds / drawn[INTERNAL] * others
    tasks = len(context.methods) * len(context.holdouts)
    loads = {
        "cells": Load(sum(drawn.values())),
        "operators": read,
        "transfer": Load(others, others, seconds=seconds, basis=read.basis),
        "untrained": again,
        "audit": Load(drawn[INTERNAL], tasks=len(context.methods)),
        "campaign": Load(sum(drawn.values()), tasks=tasks),
    }
    return Expected(loads)


RECIPE = Recipe("benchmark", BenchmarkContext, stages, report, expects=expects)
