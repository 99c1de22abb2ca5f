"""The report of a run: what was done with the cells, the layers and the gates; the parts that judge have modules of their own."""

from __future__ import annotations

from typing import Any

from workbench.engine.section import Report, Section, without_place
from workbench.engine.stages import Result, Results
from workbench.evidence.expected import expected_table
from workbench.evidence.gate_spec import SPEC
from workbench.evidence.gate_table import NOT_APPLICABLE, passed_by
from workbench.figures.requests import Request
from workbench.operators.convention import PAPER
from workbench.operators.readout import MOST_FITTED
from workbench.recipes.run import cells, compaction, drift, export, factors, gates, heads, readouts, writing
from workbench.recipes.run.context import RunContext
from workbench.recipes.run.explorer import FRAGMENT
from workbench.recipes.run.extract_sections import extract_section
from workbench.recipes.run.factor_sections import compaction_section, factors_section
from workbench.recipes.run.opening import extract_controls, extract_opening, factors_opening
from workbench.recipes.run.writing_section import writing_section

# Tables of each stage; a stage that is not named here leaves none, or says in its result which.
TABLES = {
    "cells": cells.TABLES,
    "heads": heads.TABLES,
    "readouts": readouts.TABLES,
    "writing": writing.TABLES,
    "gates": gates.TABLES,
    "sensitivity": (heads.SENSITIVITY,),
    "algorithm": export.TABLES,
    "compaction": compaction.TABLES,
    "factors": factors.TABLES,
}


def report(context: RunContext, results: Results) -> Report:
    """What a run reports.

    Parameters
    ----------
    context
        Run whose tables are read.
    results
        Results of its stages by name; of stages that are not among them nothing is said.
    """
    config, panel, placed = context.config, results["panel"], results["cells"]
    sections = [_cells_section(context, placed)]
    # Tables of one configuration only: what was interrupted under another may have left some of these.
    extracted = {"heads", "readouts", "algorithm"} <= set(results)
    if extracted:
        sections.append(extract_section(context, results))
    if "writing" in results:
        sections.append(writing_section(context, results["writing"]))
    if "drift" in results:
        sections.append(drift_section(context, results["drift"]))
    sections.append(_gates_section(context, "gates" in results))
    if "compaction" in results:
        sections.append(compaction_section(context, results["compaction"]))
    if "factors" in results:
        sections.append(factors_section(context, results["factors"]))
    if config.expected is not None:
        made = {one for name in results for one in (*TABLES.get(name, ()), *results[name].get("tables", ()))}
        table, said = expected_table(config.expected, context.out, made, context.labelled)
        sections.append(Section(tables={"expected": table}, answers=[said]))
    fragment, tables = context.folder("explorer") / FRAGMENT, Section.joined(sections).tables
    if extracted:
        question = (
            f"Do {config.operator} operators of the model's heads follow the {context.ruler.name} ruler, and better than plain "
            "expression does?"
        )
        donors = context.adata.obs["donor"].nunique() if "donor" in context.adata.obs else 0
        opening = extract_opening(config.adaptor.name, question, placed["n_placed"], donors, tables)
        controls = extract_controls(config.adaptor.name, tables)
    else:
        question = (
            f"What of one head's {config.operator} operator do the readouts of the {context.ruler.name} ruler need?"
        )
        opening = factors_opening(question, tables, results.get("compaction", {}), results.get("factors", {}))
        controls = []
    return Report(
        title=f"{config.name}: a small algorithm out of scGPT",
        opening=opening,
        data=f"{context.adata.uns['workbench']['source']}. Vocabulary: {panel['matched']}. Panel of "
        f"{panel['n_panel']} genes; {placed['n_placed']} cells placed on the ruler; "
        f"{tokens_read(results['operators'])}.",
        sections=sections,
        controls=controls,
        shows="holdouts" if extracted else "factor_drops" if "factors" in results else "compaction",
        algorithm=_algorithm(context, panel["n_panel"], results["algorithm"]) if "algorithm" in results else "",
        explorer=fragment.read_text(encoding="utf-8") if "explorer" in results else "",
        left_out=("latent",),
    )


def tokens_read(operators: Result) -> str:
    """How many tokens were read for the operators, for the line on the data.

    Parameters
    ----------
    operators
        Result of their stage, without a number of tokens where nothing was passed through the model.
    """
    return (
        f"{operators['n_tokens']:,} tokens read"
        if "n_tokens" in operators
        else "operators of the weights, no token read"
    )


def _algorithm(context: RunContext, n_genes: int, found: Result) -> str:
    return (
        f"algorithm/ ({found['bytes'] / 1024:.0f} KiB): one {n_genes} x {context.config.adaptor.k} matrix, an offset and "
        f"{len(found['readouts'])} readouts ({found['n_parameters']} parameters); the feature map alone is "
        f"{found['bytes_feature_map'] / 2**20:.1f} MiB, folded with the adaptor {found['bytes_folded'] / 1024:.0f} KiB."
    )


def _cells_section(context: RunContext, result: Result) -> Section:
    """What was left out of the cells, and what holds for whatever is made of them."""
    obs, skipped = context.adata.obs, []
    if "donor" not in obs:
        why = "the data name no donors; folds are groups of cells, with every label in each, which is an easier test"
        skipped.append(("Donor holdout", why))
    if "tissue" not in obs:
        skipped.append(("Tissue as a grouping of anchors", "the data name no tissue"))
    if context.config.capture.convention == PAPER:
        why = "the convention 'paper' is for operators only: without <cls> and bins there is no embedding as scGPT was trained to make it"
        skipped.append(("Readouts of scGPT's own embedding", why))
    elif not context.embeds:
        skipped.append(("Readouts of scGPT's own embedding", "embedding is false"))
    return Section(skipped=skipped + without_place(result["unplaced_labels"]), cautions=_cautions(context))


def _cautions(context: RunContext) -> list[str]:
    parts = context.config.anchors.parts
    cautions = [
        "The p of the holdouts asks whether the latent follows this ruler rather than a relabelled one: recognising cell "
        "types, donors or parts of one group counts for nothing in it.",
        "Whole donors are held out, but all donors come from one study."
        if "donor" in context.adata.obs
        else "The folds share donors, tissue and technology: nothing here speaks of other donors.",
        "The adaptor depends on an operator A through A A^T alone: what a head writes can be turned at will without a change "
        "in any holdout or readout. They judge which genes are read together; write genes are judged by the table `writing` alone, and "
        "write programs are untested.",
        "The labels come with the dataset; where they were made from the same expression values, any method that sees "
        "these values is favoured alike.",
        "The operator was averaged over training folds only, but the checkpoint may have seen these cells in its own "
        "training (see its model card).",
        "Spreads are over folds or splits that overlap in their training cells, so they understate the uncertainty.",
    ]
    if len(obs := context.adata.obs) > MOST_FITTED:
        cautions.append(
            f"No readout is fitted on more than {MOST_FITTED:,} of the {len(obs):,} cells: they are drawn in the shares of their classes. All cells of a "
            "fold are judged."
        )
    if parts > 1:
        cautions.append(
            f"Each group of cells was split at random into up to {parts} anchors: parts of a group are no replicates, and a "
            "random holdout of anchors leaves parts of the same group in training."
        )
    return cautions


def drift_section(context: RunContext, result: Result) -> Section:
    """How operators change along the layers, which is of no ruler.

    Parameters
    ----------
    context
        Run whose tables are read.
    result
        What the stage returned, as metrics.json holds it.
    """
    if "skipped" in result:
        return Section(skipped=[("Change of the operators along the layers", result["skipped"])])
    config = context.config
    blocks = "the configured blocks of layers" if config.adaptor.blocks else "thirds of the model"
    caption = (
        f"Mean {config.operator} operators of the layers, what all query genes share taken off; blocks: {blocks}. No null was drawn: "
        "the figure describes, it does not test."
    )
    return Section([Request("drift", caption)], {name: context.read(name) for name in drift.TABLES})


def _gates_section(context: RunContext, judged: bool) -> Section:
    if not judged:
        absent = context.config.gates is None
        why = "the configuration has no section 'gates'" if absent else "this part does not judge them"
        return Section(facts={"Gates": f"not judged: {why}"})
    tables: dict[str, Any] = {name: context.read(name) for name in gates.TABLES}
    own, controls = tables.values()
    said = ", ".join(f"{row.gate} ({row.value:.3g})" for row in own.itertuples() if row.status == "fail")
    passed = int((own["status"] == "pass").sum())
    counted = f"{passed} of {len(own)} pass{f'; failing: {said}' if said else ''} (spec {SPEC.hash})"
    skipped = [(f"Gate '{row.gate}'", str(row.note)) for row in own.query(NOT_APPLICABLE).itertuples()]
    caption = (
        f"The seven gates, fixed before any run (spec {SPEC.hash}), on the anchors of this run as one internal cohort; a gate that "
        "cannot be computed is no pass."
    )
    answer = f"Gates on these anchors: {counted}; passed by the controls: {passed_by(controls)}."
    return Section([Request("gates", caption)], tables, [answer], skipped, facts={"Gates": counted})
