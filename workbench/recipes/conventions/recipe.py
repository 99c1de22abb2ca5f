"""``workbench conventions`` as a recipe, and its report."""

from __future__ import annotations

from functools import partial

from workbench.engine.plan import Expected
from workbench.engine.recipe import Recipe
from workbench.engine.section import Control, Opening, Report, Section, without_place
from workbench.engine.stages import Results, Stage
from workbench.figures.requests import Request
from workbench.figures.style import number
from workbench.operators.controls import CODETECTION
from workbench.recipes.conventions.context import OURS, PASSES, ConventionsContext
from workbench.recipes.conventions.scores import BEST, TABLES, pass_stage, scores_stage
from workbench.recipes.loads import passes_load
from workbench.recipes.run.inputs import anchor_inputs


def stages(context: ConventionsContext) -> list[Stage]:
    """Stages of the command; what can be refused is refused here.

    Parameters
    ----------
    context
        Configuration, cells and model, of which nothing was done.

    Returns
    -------
    list of Stage
        A pass for each input that differs from scGPT's own, and ``scores``.

    Raises
    ------
    GeneMatchError
        If too few genes are in the vocabulary, or the panel cannot be made.
    CheckpointError
        If the checkpoint takes no unbinned value.
    EvaluationError
        If the cells have no labels.
    """
    passes = [name for name in PASSES if name not in context.left_out]
    for name in passes:
        context.fed_by(name)
    made = [Stage(name, partial(pass_stage, context, name), context.pass_of(name)) for name in passes]
    given = {**anchor_inputs(context), "evaluation": context.config.evaluation.model_dump(mode="json")}
    return [*made, Stage("scores", partial(scores_stage, context), given, tuple(passes), TABLES)]


def report(context: ConventionsContext, results: Results) -> Report:
    """What the command reports.

    Parameters
    ----------
    context
        Command whose tables are read.
    results
        Results of its stages by name.
    """
    table, about = context.read("conventions"), results["scores"]
    rows, controls = (table[table["kind"] == kind] for kind in ("convention", "control"))
    others = rows[rows["name"] != OURS]
    most, own = others.sort_values("rank_correlation", kind="stable").iloc[0], rows.iloc[0]
    n = f"n = {number(about['n_heads'])} heads, {number(about['n_anchors'])} anchors of {number(about['n_cells'])} cells, {number(about['n_splits'])} splits"
    marks = []
    for row in controls.to_dict("records"):
        of = context.read("convention_heads").query("name == @OURS")
        held = int((of["spearman"] > row["score"]).sum())
        marks.append(Control(row["name"], f"{held} of {len(of)} heads score higher", held, len(of)))
    counts = float(controls.loc[controls["name"] == CODETECTION, "score"].iloc[0])
    opening = Opening(
        "Does it matter by which convention a head's operator is made?",
        f"Most for '{most['name']}': its ranking of heads correlates with scGPT's own by {number(most['rank_correlation'], 2)}, and {most['shared']:.0f} of the best {BEST} heads are shared.",
        f"{n}; 95 % {number(most['low'], 2)} to {number(most['high'], 2)} over draws of heads. Counts of co-detection alone score {number(counts, 2)}, the median head {number(own['median'], 2)}.",
        "Other cells could. Heads within the spread of the splits change places by chance, so best heads say less than the correlation.",
        "Name the convention beside any best head: capture.convention, over_cells and orientation of workbench run.",
    )
    answers = [
        f"{row['name']}: rank correlation {number(row['rank_correlation'], 2)} (95 % {number(row['low'], 2)} to {number(row['high'], 2)}, "
        f"n = {number(row['n_heads'])} heads), {number(row['shared'])} of {BEST} best heads shared ({row['best']})."
        for row in others.to_dict("records")
    ]
    skipped = [(f"Convention '{name}'", why) for name, why in context.left_out.items()]
    section = Section(
        [Request("conventions", "Rank correlation with the ruler on held-out anchors, each head alone.")],
        {name: context.read(name) for name in TABLES},
        [f"Best heads of scGPT's own input: {own['best']}.", *answers],
        skipped + without_place(about["unplaced"]),
        [
            "The paper's input is not what scGPT was trained on; it is for operators only.",
            "A score of a head means nothing without the controls.",
        ],
    )
    data = context.adata.uns["workbench"]["source"]
    return Report("Conventions of the operators", opening, data, [section], marks, shows="conventions", n=n)


def expects(context: ConventionsContext) -> Expected:
    """What the command has to do: the passes.

    Parameters
    ----------
    context
        Command whose cells, panels and model are read for this.
    """
    passes = [name for name in PASSES if name not in context.left_out]
    return Expected({name: passes_load(context, context.fed_by(name), len(context.genes_of(name))) for name in passes})


RECIPE = Recipe("conventions", ConventionsContext, stages, report, expects=expects)
