"""The report of a run of several rulers: how far their latents agree, and what each of them says, under its name."""

from __future__ import annotations

from dataclasses import replace

from workbench.engine.section import Opening, Report, Section
from workbench.engine.stages import Results
from workbench.figures.requests import Request
from workbench.figures.style import counted, number
from workbench.recipes.manifold.recipe import GENE_STAGES
from workbench.recipes.manifold.recipe import report as genes_report
from workbench.recipes.parts import results_of, told_of
from workbench.recipes.run.agreement import AGREEMENT
from workbench.recipes.run.explorer import FRAGMENT
from workbench.recipes.run.rulers import RULER, GeneRuler, SeveralContext
from workbench.recipes.run.sections import TABLES, drift_section, report, tokens_read

_ALPHA = 0.05
_OF_PART = ("panel", "operators", "untrained", *TABLES, *GENE_STAGES)


def report_several(context: SeveralContext, results: Results) -> Report:
    """What a run of several rulers reports.

    Parameters
    ----------
    context
        Run whose tables are read.
    results
        Results of its stages by name; of stages that are not among them nothing is said.
    """
    reports = {}
    for name, part in context.parts.items():
        own = results_of(results, part, _OF_PART)
        if isinstance(part, GeneRuler):
            if "genes" in own:
                reports[name] = genes_report(part, own)
        elif {"heads", "compaction", "factors"} & set(own):
            reports[name] = report(part, own)
    sections = [_compared(context)] if AGREEMENT in results else []
    if "drift" in results:
        sections.append(drift_section(context, results["drift"]))
    whole = {name: Section.joined(one.sections) for name, one in reports.items()}
    sections += told_of(whole, {name: one.opening for name, one in reports.items()}, RULER)
    if "expected" in (tables := Section.joined(sections).tables):
        context.write({"expected": tables["expected"]})
    fragment = context.folder("explorer") / FRAGMENT
    placed = []
    for name, part in context.parts.items():
        for stage, count, what in (("cells", "n_placed", "cells"), ("genes", "n_genes", "genes")):
            if part.staged(stage) in results:
                placed.append(f"{name}: {results[part.staged(stage)][count]} {what} placed on the ruler")
    panel = results["panel"]
    return Report(
        title=f"{context.config.name}: {len(context.parts)} rulers on one model",
        opening=_opening(context, AGREEMENT in results),
        data=f"{context.adata.uns['workbench']['source']}. Vocabulary: {panel['matched']}. Panel of {panel['n_panel']} genes. "
        f"{'; '.join(placed)}. {tokens_read(results['operators'])}, once for all rulers.",
        sections=sections,
        controls=[replace(one, name=f"{name}: {one.name}") for name, told in reports.items() for one in told.controls],
        shows=AGREEMENT if AGREEMENT in results else "",
        n=f"n = {len(context.adata):,} cells; {'; '.join(placed)}",
        algorithm=" ".join(
            f"{name}: {context.parts[name].out.relative_to(context.out).as_posix()}/{told.algorithm}"
            for name, told in reports.items()
            if told.algorithm
        ),
        explorer=fragment.read_text(encoding="utf-8") if "explorer" in results else "",
        left_out=("latent",),
    )


def _compared(context: SeveralContext) -> Section:
    """How far the latents agree."""
    table = context.read(AGREEMENT)
    answers = []
    for (one, other, points), rows in table.groupby(["ruler", "other", "points"], sort=False):
        said = [
            f"{measure} {number(part['value'].iloc[0], 3)} ("
            + "; ".join(
                f"rulers without meaning for {row['null_of']} {number(row['null_mean'], 3)}, p {number(row['p'], 3)}"
                for row in part.to_dict("records")
            )
            + ")"
            for measure, part in rows.groupby("measure", sort=False)
        ]
        answers.append(
            f"{one} and {other} on {rows['n_points'].iloc[0]} {points}: {'; '.join(said)}; {counted(int(rows['n_null'].max()), 'draw')} each."
        )
    draws = counted(context.config.evaluation.refits, "draw")
    caption = (
        f"Agreement of the latents of two rulers, on the same points. Bars: the one beside {draws} of the other whose ruler has no meaning "
        "(stages exchanged, or a graph rewired with all degrees kept), the adaptor fitted anew, 2.5 to 97.5 %."
    )
    cautions = [
        "Latents of one model share its features and so agree whatever their rulers say: only what is beyond rulers without meaning counts.",
        "Where one axis holds most of the variance of both latents, debiased CKA is near 1 for any two; the principal angle weighs all axes alike.",
        "Two rulers that put the same points far apart agree for that reason, and no model is needed for it.",
    ]
    return Section([Request(AGREEMENT, caption)], {AGREEMENT: table}, answers, [], cautions)


def _opening(context: SeveralContext, compared: bool) -> Opening:
    names = list(context.parts)
    question = f"Do the latents of {', '.join(names[:-1])} and {names[-1]} agree more than rulers without meaning would make them?"
    step = "Read what is said of each ruler below; tables have a column `ruler`."
    if not compared:
        return Opening(question, "They were not compared: only a part of the run was done.", step=step)
    table = context.read(AGREEMENT)
    kind = table["points"].iloc[0]
    rows = table[table["points"] == kind]
    # A pair agrees where both measures stand out from the null of either ruler.
    pairs = rows.groupby(["ruler", "other"], sort=False)["p"].max()
    close = int((pairs <= _ALPHA).sum())
    one, other = pairs.sort_values(kind="stable").index[0]
    of = rows[(rows["ruler"] == one) & (rows["other"] == other)]
    said = [
        f"{measure} {number(part['value'].iloc[0], 3)} (without meaning {number(part['null_mean'].min(), 3)} to {number(part['null_mean'].max(), 3)})"
        for measure, part in of.groupby("measure", sort=False)
    ]
    verdict = (
        f"{'Yes' if close else 'No'}: {close} of {len(pairs)} pairs" if len(pairs) > 1 else "Yes" if close else "No"
    )
    answer = f"{verdict}. {one} and {other}: {', '.join(said)}; largest p {number(float(pairs[one, other]), 2)}."
    n, draws = of["n_points"].iloc[0], int(of["n_null"].min())
    sure = f"n = {n:,} {kind}; {counted(draws, 'draw')} of either ruler; both measures have to stand out from both."
    change = "Rulers that are alike themselves would; and a latent with fewer coordinates (adaptor.k, genes.k) is closer to its ruler."
    return Opening(question, answer, sure, change, step)
