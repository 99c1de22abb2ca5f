"""The report on dictionaries, from its tables."""

from __future__ import annotations

import html

import pandas as pd

from workbench.dictionaries.baselines import ONE_HOT
from workbench.dictionaries.judge import OWN
from workbench.dictionaries.lists import LISTS, RANKING, REGULATORS
from workbench.engine.section import Report, Section
from workbench.engine.stages import Results
from workbench.figures.checks import records
from workbench.figures.requests import Request
from workbench.figures.style import number
from workbench.recipes.dictionary.causes import cause_controls, causes
from workbench.recipes.dictionary.context import FOLDER, DictionaryContext
from workbench.recipes.dictionary.judge import JUDGED, MATCHED
from workbench.recipes.dictionary.name import NAMED
from workbench.recipes.dictionary.opening import controls, first, opening, over
from workbench.recipes.dictionary.pages import FEATURES, PAGE
from workbench.recipes.dictionary.sweep import ESTIMATES

_STAGES = {"judge": JUDGED, "stability": MATCHED, "name": NAMED, "pages": (FEATURES,)}
_SHOWN = (
    "dictionary_summary", FEATURES, "dictionary_codes", "dictionary_losses", "dictionary_stability", "dictionary_naming", "dictionary_terms",
)  # fmt: skip
# Ways of naming, and what stands beside each.
_BY = {
    LISTS: ("by top genes", "lists of random directions of the cells"),
    RANKING: ("by pre-ranked enrichment", "rankings by random directions of the cells"),
    REGULATORS: ("by known regulators", "lists of random directions of the cells"),
}
_CAUTIONS = (
    "Variance explained says nothing by itself: gene identity is most of it in early layers, so that a table of gene means is the code to beat.",
    "Features of another seed are others where the stability is low: tell no story of a single feature that a second training does not find.",
    "A name is an over-representation among a feature's top genes. It says what the genes have in common, not what the model uses the feature for.",
    "Few and specific gene sets name few features, and large collections name random directions, too: compare with these, never with 0.",
    "A name beyond the null says that a feature is nearer to a gene set than random directions of the same cells are. Where genes of a set go together in the cells, such directions are near it as well, and a feature of that set may have no name.",
)


def report(context: DictionaryContext, results: Results) -> Report:
    """What a run reports, from the tables that its stages have left.

    Parameters
    ----------
    context
        Run whose tables are read.
    results
        Results of its stages by name; those of parts that were not asked for may be absent.
    """
    there = [name for stage, names in _STAGES.items() if stage in results for name in names]
    tables = {name: context.read(name) for name in there}
    figures = []
    if "judge" in results:
        figures += [
            Request("dictionary_variance", "Baselines and controls on the same held-out cells."),
            Request("dictionary_losses", "Masked-expression error and cell shift, mean over held-out cells."),
            Request("dictionary_density", "On held-out cells."),
        ]
    if "stability" in results:
        figures.insert(2, Request("dictionary_stability", "Null: random directions with the same second moments."))
    if "name" in results:
        figures.append(
            Request(
                "dictionary_naming",
                "Null: lists and rankings by random directions of the cells, leaning as much to genes expressed strongly.",
            )
        )
    skipped = []
    if context.config.trainings < 2:
        skipped.append(("Stability", "it needs trainings: 2 or more"))
    if context.config.names is None:
        skipped.append(("Names", "names is null"))
    elif context.config.names.network is None:
        skipped.append(("Known regulators of features", "names.network is not given"))
    if "name" in results:
        skipped += [
            (f"Features by {label.replace('_', ' ')}", f"data.{label} is not given")
            for label in ("cell_type", "donor")
            if label not in results["name"]["labels"]
        ]
    skipped += [
        (f"Part '{stage}'", "it was not asked for")
        for stage in ("judge", "name", "pages")
        if _left_out(context, stage, results)
    ]
    asked = context.config.dictionary
    section = Section(
        figures=figures,
        tables={name: tables[name] for name in _SHOWN if name in tables and len(tables[name])},
        answers=_answers(tables),
        skipped=skipped,
        cautions=list(_CAUTIONS),
        facts={
            "Dictionaries": f"{asked.architecture}, {asked.width:,} features, k = {asked.k}, {number(asked.epochs)} passes over the cells, "
            f"{results['train']['steps']:,} steps of {asked.rows:,} rows; {len(context.trainings)} trainings of {len(context.hooks)} hooks",
            "Hooks": ", ".join(context.hooks),
            "Held out": f"{context.split.name}: {len(context.split.test)} cells",
        }
        if "train" in results
        else {},
    )
    caused = causes(context, results)
    return Report(
        title="Sparse dictionaries, beside a gene's name alone",
        opening=opening(tables, context.split.name),
        data=context.cells.uns["workbench"]["source"],
        sections=[section, caused],
        controls=[*controls(tables), *cause_controls(caused.tables)],
        shows="dictionary_variance" if "judge" in results else "",
        n=f"{len(context.split.train)} cells trained on, {len(context.split.test)} held out",
        explorer=_links(results["pages"]["hooks"]) if "pages" in results else "",
        left_out=(FEATURES, ESTIMATES, "feature_edges"),
    )


def _left_out(context: DictionaryContext, stage: str, results: Results) -> bool:
    return stage not in results and (stage != "name" or context.config.names is not None)


def _links(hooks: list[str]) -> str:
    """Links to the pages beside the report."""
    items = "\n".join(
        f'<li><a href="{html.escape(f"{FOLDER}/{hook}/{PAGE}", quote=True)}">{html.escape(hook)}</a></li>'
        for hook in hooks
    )
    return f"<p>A page for each dictionary, with its features by gene, cell type and program:</p>\n<ul>\n{items}\n</ul>"


def _answers(tables: dict[str, pd.DataFrame]) -> list[str]:
    if "dictionary_summary" not in tables:
        return []
    said = []
    own, codes = first(tables["dictionary_summary"]), tables["dictionary_codes"]
    simple = codes[~codes["code"].isin((OWN, ONE_HOT))]
    for row in records(own):
        beside = simple[simple["hook"] == row.hook]
        best = beside.iloc[int(beside["variance_explained"].argmax())]
        name = "" if row.gene_id != row.gene_id else f"gene id alone {number(row.gene_id)}, "
        beyond = (
            ""
            if row.within_genes != row.within_genes
            else f" Beyond each gene's mean: {number(row.within_genes, 2)} (95 % {number(row.within_low, 2)} to {number(row.within_high, 2)} {over(row)})."
        )
        said.append(
            f"{row.hook}: the dictionary explains {number(row.variance_explained)} of the variance, {name}{best['code']} "
            f"{number(best['variance_explained'])}; n = {number(row.n_rows)} rows.{beyond}"
        )
    if own["top_share"].notna().any():
        said.append(
            f"A living feature has {number(100 * own['top_share'].min(), 2)} to {number(100 * own['top_share'].max(), 2)} % of its activation on its top gene, "
            f"mean by hook; {number(100 * own['one_gene'].min(), 2)} to {number(100 * own['one_gene'].max(), 2)} % of features have more than half there. Dead: at "
            f"most {number(100 * own['dead'].max(), 2)} %; dense: at most {number(100 * own['dense'].max(), 2)} %."
        )
    if "dictionary_stability" in tables:
        for row in records(tables["dictionary_stability"].rename(columns={"above_0.9": "again"})):
            said.append(
                f"{row.hook}, seed {row.other}: {number(100 * row.again, 2)} % of features are found again with a cosine above 0.9; the median is "
                f"{number(row.median, 2)}, of random directions {number(row.null_median, 2)}; n = {number(row.n)}."
            )
    if "dictionary_naming" in tables:
        for row in records(tables["dictionary_naming"].query("source == 'model'")):
            said.append(
                f"{row.hook}, {_BY[row.method][0]}: the usual rule names {number(100 * row.rule, 2)} % of features, and {number(100 * row.rule_random, 2)} % with {_BY[row.method][1]}; "
                f"{number(100 * row.named, 2)} % have a name beyond these (q at most 0.05); n = {number(row.features)} features with a list."
            )
    return said
