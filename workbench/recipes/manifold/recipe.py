"""``workbench manifold`` as a recipe, and its report."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from workbench.engine.plan import Expected, Load
from workbench.engine.recipe import Recipe
from workbench.engine.section import Control, Opening, Report, Section
from workbench.engine.stages import Results, Stage
from workbench.engine.sweep import Backend
from workbench.factors.gene_sets import load_gene_sets
from workbench.figures.requests import Request
from workbench.figures.style import number
from workbench.files import digest
from workbench.geometry.dimension_tables import agreement
from workbench.geometry.ruler_fit import LET
from workbench.operators.operator import check_spec, head_name
from workbench.recipes.loads import passes_load
from workbench.recipes.manifold.cohorts import COHORT, EXTERNAL, INTERNAL, Cohort, TwoCohorts
from workbench.recipes.manifold.config import ManifoldConfig
from workbench.recipes.manifold.context import ManifoldContext
from workbench.recipes.manifold.measures import (
    DIMENSION,
    GATES,
    SCREEN,
    P,
    Q,
    dimension_stage,
    gates_stage,
    screen_stage,
)
from workbench.recipes.manifold.stages import (
    CONTROL,
    EXPRESSION,
    GENE_TABLES,
    MODEL,
    SIGNAL_TABLES,
    genes_stage,
    operators_stage,
    signals_stage,
)
from workbench.recipes.parts import joining, own_stage, results_of, told_of

# Stages that measure; a run of several rulers has them for each that lies over genes.
GENE_STAGES = ("genes", "criteria", "screen", "dimension", "signals")


def stages(context: ManifoldContext) -> list[Stage]:
    """Stages of the command; what can be refused is refused here.

    Parameters
    ----------
    context
        Configuration, cells and model, of which nothing was done.

    Returns
    -------
    list of Stage
        Operators of the model and of an untrained one, ``genes``, and where the ruler has signals ``signals``.

    Raises
    ------
    EvaluationError
        If the ruler does not lie over genes, or too few of its genes are on the panel.
    ConfigError
        If the ruler needs a package that is not installed.
    """
    config, shape = context.config, context.model.config
    check_spec(config.adaptor.feature_map_spec(), (shape.n_layers, shape.n_heads))
    if not isinstance(context, TwoCohorts):
        return [*_read(context), *measured(context)]
    own = {name: [*_read(part), *measured(part)] for name, part in context.parts.items()}
    found = [own_stage(stage, context.parts[name]) for name, stages_ in own.items() for stage in stages_]
    return [*found, *joining(context, own, COHORT)]


def _read(context: ManifoldContext) -> list[Stage]:
    """Stages that read the model, and one of its shape that was never trained."""
    model, seed = context.model, context.config.seed
    read = {
        **context.model_inputs(context.panel),
        **context.pass_inputs(context.values, context.read_obs, grouped=True),
        "vectors": context.gene_layers,
    }
    weights, shape = {"weights": model.fingerprint()}, {"shape": str(model.config), "seed": seed}
    return [
        Stage("operators", partial(operators_stage, context, True), {**read, **weights}),
        Stage("untrained", partial(operators_stage, context, False), {**read, **shape}),
    ]


def measured(context: ManifoldContext) -> list[Stage]:
    """Stages that measure, after those that read the model; what can be refused is refused here.

    Parameters
    ----------
    context
        Configuration and cells, of which nothing was measured.

    Returns
    -------
    list of Stage
        ``genes``, ``criteria``, ``screen``, ``dimension``, and where the ruler has signals ``signals``.

    Raises
    ------
    EvaluationError
        If the ruler does not lie over genes, or too few of its genes are on the panel.
    """
    config, after = context.config, ("operators", "untrained")
    # Refused before any pass.
    _ = context.on_ruler
    fits = gene_inputs(context)
    made = [
        Stage("genes", partial(genes_stage, context), fits, after, GENE_TABLES),
        Stage("criteria", partial(gates_stage, context), (), ("genes",), (GATES,)),
        Stage("screen", partial(screen_stage, context), fits, after, (SCREEN,)),
        Stage("dimension", partial(dimension_stage, context), fits, after, (DIMENSION,)),
    ]
    if not left_out(context):
        if config.fits.programs is not None:
            load_gene_sets(config.fits.programs)
        given = {**fits, **context.chosen("anchors"), "nodes": digest(context.nodes.tolist())}
        made.append(Stage("signals", partial(signals_stage, context), given, after, SIGNAL_TABLES))
    return made


def gene_inputs(context: ManifoldContext) -> dict[str, Any]:
    """What fits to a ruler over genes depend on, the model apart.

    Parameters
    ----------
    context
        Command whose ruler, cells and settings are looked at.
    """
    ruler = {"ruler": context.ruler.fingerprint(), "values": context.expression, "genes": context.panel}
    return {**ruler, **context.chosen("fits", "adaptor"), "seed": context.config.seed}


def left_out(context: ManifoldContext) -> str:
    """Why groups of cells are not measured; empty where they are.

    Parameters
    ----------
    context
        Command whose ruler and cells are looked at.
    """
    if not context.ruler.signals:
        return "the ruler has no senders and receivers"
    return "" if "cell_type" in context.adata.obs else "the cells have no cell type; set data.cell_type"


def report(context: ManifoldContext, results: Results) -> Report:
    """What the command reports, of one file of cells or of two.

    Parameters
    ----------
    context
        Command whose tables are read.
    results
        Results of its stages by name.
    """
    if not isinstance(context, TwoCohorts):
        return genes_report(context, results)
    told = {name: genes_report(part, results_of(results, part, GENE_STAGES)) for name, part in context.parts.items()}
    whole = {name: Section.joined(one.sections) for name, one in told.items()}
    openings = {name: one.opening for name, one in told.items()}
    own, other = openings[INTERNAL], openings[EXTERNAL]
    opening = Opening(own.question, f"Internal: {own.answer} External: {other.answer}", "", own.change, own.step)
    marks = [replace(one, name=f"{name}: {one.name}") for name, each in told.items() for one in each.controls]
    data, n = ("; ".join(f"{name}: {getattr(one, what)}" for name, one in told.items()) for what in ("data", "n"))
    return Report(
        "Genes on a ruler, twice",
        opening,
        data,
        told_of(whole, openings, COHORT),
        marks,
        shows=f"manifold_genes-{INTERNAL}",
        n=n,
    )


def genes_report(context: ManifoldContext, results: Results) -> Report:
    """What is reported of one ruler and one file of cells.

    Parameters
    ----------
    context
        Command whose tables are read.
    results
        Results of its stages by name.
    """
    table, about, ruler = context.read("manifold_genes"), results["genes"], context.ruler
    held = table[(table["method"] == LET) & (table["status"] == "ok")]
    own, controls = held[held["kind"] == MODEL], held[held["kind"] == CONTROL]
    found = own[found_of(own) & (own["q"] <= Q)]
    best = own.sort_values("spearman", ascending=False, kind="stable").iloc[0]
    n = f"n = {number(about['n_genes'])} genes of {number(about['n_groups'])} families on the ruler, {number(len(context.adata))} cells"
    marks = [
        Control(
            row["representation"],
            f"{int((own['spearman'] > row['spearman']).sum())} of {len(own)} representations of the model follow the ruler better than {number(row['spearman'], 2)}",
            int((own["spearman"] > row["spearman"]).sum()),
            len(own),
        )
        for row in controls.to_dict("records")
    ]
    expression = float(controls.loc[controls["representation"] == EXPRESSION, "spearman"].iloc[0])
    said = (
        f"In {len(found)} of {len(own)} representations, beyond genes of like expression and rewired graphs."
        if len(found)
        else f"No: in none of {len(own)} representations do held-out genes stand out from both nulls (p <= {P:g} each)."
    )
    opening = Opening(
        f"Do the model's genes follow the ruler '{ruler.name}'?",
        said,
        f"{n}. Best: {best['representation']}, {number(best['spearman'], 2)} (null {number(best['null_mean'], 2)}); expression over cells {number(expression, 2)}.",
        "A larger panel holds more genes of the ruler. Families by symbol are a rule, and so is the split of complexes.",
        "Take more genes (panel.size), or name a ruler of your own: --set ruler=my_edges.csv.",
    )
    facts = {"Ruler": ruler.about, "Largest family": f"{about['largest_group']} genes, held out together"}
    tables: dict[str, pd.DataFrame] = {"manifold_genes": table}
    answers = [_told({str(key): value for key, value in row.items()}) for row in held.to_dict("records")]
    margins = table[(table["kind"] == MODEL) & table["margin"].notna()]
    for method, rows in margins.groupby("method", sort=False):
        top = rows.sort_values("margin", ascending=False, kind="stable").iloc[0]
        answers.append(
            f"{method}: margin over two principal components {number(rows['margin'].min(), 2)} to {number(rows['margin'].max(), 2)} over {len(rows)} fits; "
            f"largest for {top['representation']} (p {number(top['margin_p'], 3)} when neither follows the ruler)."
        )
    skipped = [("Genes", note) for note in about["notes"]]
    answers += _measured(context, results, tables)
    skipped += [(f"Dimension of {name}", why) for name, why in results["dimension"]["undefined"].items()]
    if why := left_out(context):
        skipped.append(("Groups of cells by who can signal to whom", why))
    else:
        answers += _of_cells(context, results["signals"], tables)
    cautions = [
        "Pairs within a family are left out, and families are held out whole; a family that the rule does not know is not.",
        "The ruler of groups of cells is made of their expression, so expression follows it as well: only what is beyond it is the model's.",
        "Geodesic MDS and Isomap choose among fits; a best one of many is no test.",
    ]
    section = Section(
        [
            Request("manifold_genes", "Rank correlation of distances in a representation with distances on the ruler, families held out."),
            Request(
                "manifold_heads",
                "Rows of each head's operator alone: rank correlation with the ruler on held-out families; q of the larger p of both nulls. "
                "An anchor is a gene.",
            ),
            Request("manifold_dimension", f"Dimension of the latent of genes (width {context.config.adaptor.k}), fitted to all of them."),
        ],
        tables, answers, skipped, cautions, facts,
    )  # fmt: skip
    data = context.adata.uns["workbench"]["source"]
    return Report("Genes on a ruler", opening, data, [section], marks, shows="manifold_genes", n=n)


def found_of(rows: pd.DataFrame) -> pd.Series:
    """Which rows stand out from both nulls at the level of the command.

    Parameters
    ----------
    rows
        Rows of the table ``manifold_genes``.
    """
    return (rows["p"] <= P) & (rows["rewired_p"] <= P)


def _told(row: dict[str, Any]) -> str:
    return (
        f"{row['representation']} ({row['kind']}): {number(row['spearman'], 2)} on {row['n_pairs']} pairs of held-out families; matched families {number(row['null_mean'], 2)} "
        f"(97.5 % {number(row['null_high'], 2)}), p {number(row['p'], 3)}, {row['n_null']} draws; rewired graphs {number(row['rewired_mean'], 2)}, "
        f"p {number(row['rewired_p'], 3)}, {row['n_rewired']} draws."
    )


def _measured(context: ManifoldContext, results: Results, tables: dict[str, pd.DataFrame]) -> list[str]:
    """Answers of screen, criteria and dimension; their tables are put beside the others."""
    heads, gates, dimension = (context.read(name) for name in (SCREEN, GATES, DIMENSION))
    tables.update({SCREEN: heads, GATES: gates, DIMENSION: dimension})
    best = heads.sort_values("spearman", ascending=False, kind="stable").iloc[0]
    found = results["screen"]["found"]
    said = [
        f"Heads alone: {len(found)} of {len(heads)} stand out from both nulls{': ' + ', '.join(found) if found else ''}. Best: "
        f"{head_name(int(best['layer']), int(best['head']))} ({number(best['spearman'], 2)}, matched p {number(best['p'], 3)}, rewired p "
        f"{number(best['rewired_p'], 3)}, q {number(best['q'], 3)} over the heads); chosen by it, so biased upward."
    ]
    passed = results["criteria"]["passed"]
    of = results["criteria"]["of"]
    met = [f"{name} {passed.get(name, 0)}" for name in gates["representation"].unique()]
    said.append(f"Criteria met, of {of} that were fixed before: {'; '.join(met)}.")
    for space, rows in dimension.groupby("space", sort=False):
        own = agreement(rows)
        said.append(
            f"Dimension of the latent of genes, {space}: {number(own['median'], 2)} (median of {own['n_estimators']} estimators, "
            f"{number(own['low'], 2)} to {number(own['high'], 2)}; n = {rows['n'].iloc[0]}, width {context.config.adaptor.k})."
        )
    return said


def _of_cells(context: ManifoldContext, about: dict[str, Any], tables: dict[str, pd.DataFrame]) -> list[str]:
    """Answers of the groups of cells; their tables are put beside the others."""
    cells, axis = (context.read(name) for name in SIGNAL_TABLES)
    tables.update(manifold_cells=cells, manifold_axis=axis)
    n = f"n = {about['n_anchors']} anchors of {about['n_groups']} groups, {about['n_pairs']} pairs of senders and receivers measured"
    said = [
        f"Groups of cells, {row['representation']}, {row['holdout']} held out: {number(row['spearman'], 2)} (groups exchanged {number(row['null_mean'], 2)}, p {number(row['p'], 2)}, "
        f"{row['n_null']} draws; {n})."
        for row in cells.to_dict("records")
    ]
    return said + [
        f"Axis 1 of the latent of groups of cells, {row['representation']}: {row['measure']} of {row['of']} {number(row['value'], 2)} "
        f"(97.5 % of exchanged groups {number(row['null_high'], 2)}, p {number(row['p'], 3)}, {row['n_null']} draws, n = {row['n']} groups"
        + (f", {about['programs'][row['of']]} genes measured)." if row["of"] in about["programs"] else ").")
        for row in axis.to_dict("records")
    ]


def expects(context: ManifoldContext) -> Expected:
    """What the command has to do: a pass of the model, and one of the untrained model, over each file of cells.

    Parameters
    ----------
    context
        Command whose cells, panel and model are read for this.
    """
    loads: dict[str, Load] = {}
    for part in context.parts.values() if isinstance(context, TwoCohorts) else [context]:
        staged = part.staged if isinstance(part, Cohort) else str
        load = passes_load(part, part.fed_cells, len(part.panel), always=True)
        loads |= {staged("operators"): load, staged("untrained"): load}
    return Expected(loads)


def open_context(config: ManifoldConfig, out: Path, backend: Backend | None = None) -> ManifoldContext:
    """Context of the command, with one file of cells or two.

    Parameters
    ----------
    config
        Settings of the command, whose key ``external`` says which.
    out
        Output folder of the command.
    backend
        Who does the tasks of its sweeps; one after the other by default.
    """
    return (TwoCohorts if config.external is not None else ManifoldContext)(config, out, backend)  # type: ignore[arg-type]


RECIPE = Recipe("manifold", open_context, stages, report, expects=expects)
