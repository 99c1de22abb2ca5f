"""The report of a run of several rulers: how far their latents agree, and what each of them says, under its name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pandas as pd

from workbench.engine.section import Opening, Report, Section
from workbench.engine.stages import Results
from workbench.figures.requests import Request
from workbench.figures.style import counted, number
from workbench.geometry.agreement import CKA
from workbench.recipes.manifold.recipe import report as genes_report
from workbench.recipes.run.agreement import AGREEMENT, named
from workbench.recipes.run.explorer import FRAGMENT
from workbench.recipes.run.rulers import GeneRuler, SeveralContext
from workbench.recipes.run.sections import TABLES, drift_section, report

_ALPHA = 0.05
_OF_PART = ("panel", "operators", "untrained", *TABLES, "genes", "signals")


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
        own = {stage: results[part.staged(stage)] for stage in _OF_PART if part.staged(stage) in results}
        if isinstance(part, GeneRuler):
            if "genes" in own:
                reports[name] = genes_report(part, own)
        elif {"heads", "compaction", "factors"} & set(own):
            reports[name] = report(part, own)
    sections = [_compared(context)] if AGREEMENT in results else []
    if "drift" in results:
        sections.append(drift_section(context, results["drift"]))
    whole = {name: Section.joined(one.sections) for name, one in reports.items()}
    sections += [_of_ruler(name, one, reports[name].opening, whole) for name, one in whole.items()]
    tables = _side_by_side(whole)
    if "expected" in tables:
        context.write({"expected": tables["expected"]})
    sections.append(Section(tables=tables))
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
        f"{'; '.join(placed)}. {results['operators']['n_tokens']:,} tokens read, once for all rulers.",
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


def _of_ruler(name: str, own: Section, opening: Opening, whole: Mapping[str, Section]) -> Section:
    """What one ruler adds: every sentence, figure and fact says whose it is; cautions of all rulers are said once."""
    everybody = [set(one.cautions) for one in whole.values()]
    first = next(iter(whole)) == name
    cautions = [
        text if all(text in one for one in everybody) else f"{name}: {text}"
        for text in own.cautions
        if first or not all(text in one for one in everybody)
    ]
    figures = [
        replace(
            one,
            name=f"{one.name}-{name}",
            entry=one.entry or one.name,
            caption=f"Ruler: {name}. {one.caption}",
            rows={"ruler": name},
        )
        for one in own.figures
    ]
    said = [f"{name}: {text}" for text in (opening.question, opening.answer, opening.sure, *own.answers) if text]
    skipped = [(f"{name}: {what}", why) for what, why in own.skipped]
    return Section(figures, {}, said, skipped, cautions, {f"{key} ({name})": text for key, text in own.facts.items()})


def _side_by_side(whole: Mapping[str, Section]) -> dict[str, pd.DataFrame]:
    """Tables of all rulers one under the other."""
    found: dict[str, list[pd.DataFrame]] = {}
    for name, one in whole.items():
        for table, rows in one.tables.items():
            found.setdefault(table, []).append(named(rows, name))
    return {table: pd.concat(parts, ignore_index=True) for table, parts in found.items()}


def _compared(context: SeveralContext) -> Section:
    """How far the latents agree."""
    table = context.read(AGREEMENT)
    answers = []
    for (one, other, points), rows in table.groupby(["ruler", "other", "points"], sort=False):
        said = [
            f"{measure} {number(part['value'].iloc[0], 2)} ("
            + "; ".join(
                f"rulers without meaning for {row['null_of']} {number(row['null_mean'], 2)}, p {number(row['p'], 3)}"
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
    rows = table[(table["points"] == kind) & (table["measure"] == CKA)]
    pairs = rows.groupby(["ruler", "other"], sort=False).agg(value=("value", "first"), p=("p", "max"))
    close = int((pairs["p"] <= _ALPHA).sum())
    best = pairs.sort_values("value", ascending=False, kind="stable").iloc[0]
    of = rows[(rows["ruler"] == best.name[0]) & (rows["other"] == best.name[1])]
    chance = number(float(of["null_mean"].max()), 2)
    verdict = (
        f"{'Yes' if close else 'No'}: {close} of {len(pairs)} pairs" if len(pairs) > 1 else "Yes" if close else "No"
    )
    answer = (
        f"{verdict}. {' and '.join(best.name)}: debiased CKA {number(best['value'], 2)}; rulers without meaning {chance}; "
        f"the larger p {number(best['p'], 2)}."
    )
    n, draws = of["n_points"].iloc[0], int(of["n_null"].min())
    sure = f"n = {n:,} {kind}; {counted(draws, 'draw')} either way, so that no p is below {1 / (draws + 1):.2g}."
    change = "Rulers that are alike themselves would; and a latent with fewer coordinates (adaptor.k, genes.k) is closer to its ruler."
    return Opening(question, answer, sure, change, step)
