"""What the report says of compaction and factors."""

from __future__ import annotations

import pandas as pd

from workbench.engine.section import Section
from workbench.engine.stages import Result
from workbench.figures.requests import Request
from workbench.recipes.run.context import RunContext
from workbench.recipes.run.factors import TABLES

_ALPHA = 0.05


def compaction_section(context: RunContext, result: Result) -> Section:
    """Sizes and losses.

    Parameters
    ----------
    context
        Run whose tables are read.
    result
        What the stage returned, as metrics.json holds it.
    """
    table = context.read("compaction")
    chosen = ", ".join(f"{name} in {n}" for name, n in result["heads"].items())
    lost = table[table["lost"].astype(str) == "True"].groupby("variant").size()
    metrics = len(table.drop_duplicates(["endpoint", "metric"]))
    said = [
        f"{row['variant']} ({row['bytes'] / 1024:,.0f} KiB): {int(lost.get(row['variant'], 0))}"
        for row in table.drop_duplicates("variant").sort_values("order").to_dict("records")
        if row["variant"] != "reference" and pd.notna(row["value"])
    ]
    tested = table[table["p"].notna() & (table["detectable"] > 0)]["detectable"]
    missed = (
        f" Each test finds a difference of {tested.median():.2g} (median) in four of five such runs."
        if len(tested)
        else ""
    )
    left_out = table[table["note"].fillna("") != ""].drop_duplicates("variant")
    caption = (
        f"Feature maps of falling size, adaptor and readouts fitted again on {result['n_splits']} splits that hold out "
        f"{result['held_out']:.0%} of the cells each; t-test against the reference, corrected for cells that splits share (Nadeau and Bengio), "
        f"Benjamini-Hochberg over all variants and metrics; the table has Wilcoxon's p beside, which does not allow for that. "
        f"Single head: {chosen} splits."
    )
    return Section(
        figures=[Request("compaction", caption)],
        tables={"compaction": table},
        answers=[f"Compaction, metrics lost of {metrics} (q <= {_ALPHA}): {'; '.join(said)}.{missed}"],
        skipped=[(f"Compaction: {r['variant']}", str(r["note"])) for r in left_out.to_dict("records")],
        cautions=[
            "Folding operator, adaptor and bias into one matrix is exact, so it is the size to compare with: see 'folded'."
        ],
    )


def factors_section(context: RunContext, result: Result) -> Section:
    """Factors: genes, programs, stability, necessity.

    Parameters
    ----------
    context
        Run whose tables are read.
    result
        What the stage returned, as metrics.json holds it.
    """
    tables = {name: context.read(name) for name in TABLES}
    where = f"Head {result['head']}, {result['method']} of {result['n_factors']} factors."
    null = (
        f"null: {result['null_draws']} relabellings of the held-out cells inside their groups, which change {result['moved']:.0%} of the labels "
        f"(smallest p {1 / (1 + result['null_draws']):.2g})"
    )
    captions = {
        "factor_drops": f"Mean drop over endpoint metrics when a factor is set to its mean over the training cells, readouts fixed; sd over "
        f"{result['n_splits']} splits; {null}. {where}",
        "factor_effects": f"The same drop per endpoint metric. {where}",
        "factor_subsets": f"Only some of the top factors kept, all other factors at their mean, readouts fixed; sd over {result['n_splits']} splits. {where}",
        "factor_genes": f"Largest loadings on either side; share: of {result['bootstraps']} bootstraps of {result['groups']} groups of cells in which the gene "
        f"is among the top; programs: over-representation and pre-ranked enrichment against {result['gene_sets']}, background the "
        f"panel of {len(context.cells.genes)} genes, p from {result['program_draws']:,} random directions of the cells' expression, "
        f"Benjamini-Hochberg over factors, terms and sides. {where}",
    }
    # What is drawn is set to its mean; the tables also have what is set to zero.
    options = {"factor_drops": {"how": "mean"}, "factor_effects": {"how": "mean"}}
    figures = [Request(name, caption, options=options.get(name, {})) for name, caption in captions.items()]
    return Section(figures, tables, _answers(tables, result), list(result["skipped"].items()), list(result["cautions"]))


def _answers(tables: dict[str, pd.DataFrame], result: Result) -> list[str]:
    own = tables["factors"].query("how == 'mean'").sort_values("impact", ascending=False)
    top = own.head(4)
    beyond = int((own["q"] <= _ALPHA).sum())
    answers = [
        f"Factors of head {result['head']}: taking out {beyond} of {len(own)} costs the readouts more than relabelled cells lose (q <= {_ALPHA}); the top "
        f"four ({', '.join(f'{r.factor} {r.impact:.3f}' for r in top.itertuples())}) make {own['share'].head(4).sum():.0%} of the summed impact."
    ]
    programs, control = tables["programs"], tables["programs_control"]
    hits = programs[programs["q"] <= _ALPHA]
    for method, part in hits.groupby("method", sort=False):
        plain = control.loc[control["method"] == method, "hits"].sum()
        answers.append(
            f"{method}: {len(part)} of {(programs['method'] == method).sum()} tests have q <= {_ALPHA} ({part['term'].nunique()} of "
            f"{result['n_terms']} programs, {part['factor'].nunique()} factors), beyond {result['program_draws']:,} random directions of the cells' expression; "
            f"factors of the cells' own gene correlation, without the model, have {plain:.0f}."
        )
    if hits.empty:
        answers.append(f"No gene program is enriched in any factor (q <= {_ALPHA}, {len(programs)} tests).")
    return answers
