"""``workbench manifold`` as a recipe, and its report."""

from __future__ import annotations

from functools import partial
from typing import Any

import pandas as pd

from workbench.engine.plan import Expected
from workbench.engine.recipe import Recipe
from workbench.engine.section import Control, Opening, Report, Section
from workbench.engine.stages import Results, Stage
from workbench.factors.gene_sets import load_gene_sets
from workbench.figures.requests import Request
from workbench.figures.style import number
from workbench.files import digest
from workbench.geometry.ruler_fit import LET
from workbench.operators.operator import check_spec
from workbench.recipes.loads import passes_load
from workbench.recipes.manifold.context import ManifoldContext
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

LEVEL = 0.01


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
    config, model = context.config, context.model
    check_spec(config.adaptor.feature_map_spec(), (model.config.n_layers, model.config.n_heads))
    made = measured(context)
    read = {
        **context.model_inputs(context.panel),
        **context.pass_inputs(context.values, context.read_obs, grouped=True),
        "vectors": context.gene_layers,
    }
    weights, shape = {"weights": model.fingerprint()}, {"shape": str(model.config), "seed": config.seed}
    return [
        Stage("operators", partial(operators_stage, context, True), {**read, **weights}),
        Stage("untrained", partial(operators_stage, context, False), {**read, **shape}),
        *made,
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
        ``genes``, and where the ruler has signals ``signals``.

    Raises
    ------
    EvaluationError
        If the ruler does not lie over genes, or too few of its genes are on the panel.
    """
    config, after = context.config, ("operators", "untrained")
    # Refused before any pass.
    _ = context.on_ruler
    fits = gene_inputs(context)
    made = [Stage("genes", partial(genes_stage, context), fits, after, GENE_TABLES)]
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
        Configuration, cells and ruler.
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
    """What the command reports.

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
    found = own[found_of(own) & (own["q"] <= 0.05)]
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
        else f"No: in none of {len(own)} representations do held-out genes stand out from both nulls (p <= {LEVEL:g} each)."
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
        [Request("manifold_genes", "Rank correlation of distances in a representation with distances on the ruler, families held out.")],
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
    return (rows["p"] <= LEVEL) & (rows["rewired_p"] <= LEVEL)


def _told(row: dict[str, Any]) -> str:
    return (
        f"{row['representation']} ({row['kind']}): {number(row['spearman'], 2)} on {row['n_pairs']} pairs of held-out families; matched families {number(row['null_mean'], 2)} "
        f"(97.5 % {number(row['null_high'], 2)}), p {number(row['p'], 3)}, {row['n_null']} draws; rewired graphs {number(row['rewired_mean'], 2)}, "
        f"p {number(row['rewired_p'], 3)}, {row['n_rewired']} draws."
    )


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
    """What the command has to do: a pass of the model, and one of the untrained model.

    Parameters
    ----------
    context
        Command whose cells, panel and model are read for this.
    """
    load = passes_load(context, context.fed_cells, len(context.panel))
    return Expected({"operators": load, "untrained": load})


RECIPE = Recipe("manifold", ManifoldContext, stages, report, expects=expects)
