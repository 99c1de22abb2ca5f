"""What the report says of heads, holdouts, readouts, controls and the latent that is exported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from workbench.cells.anchors import TECHNICAL
from workbench.engine.section import Section
from workbench.engine.stages import Results
from workbench.evidence.latent_measures import AXES, SCORE, SPREAD, TRUST
from workbench.evidence.transfers import LOGISTIC, OURS
from workbench.figures.requests import Request
from workbench.figures.style import assign_colors, counted
from workbench.operators.operator import head_name
from workbench.recipes.run.adaptor_heads import ADAPTOR_HEADS, HYBRID
from workbench.recipes.run.context import ANCHOR_CONTROLS, RunContext
from workbench.recipes.run.export import TABLES as EXPORTED
from workbench.recipes.run.heads import SENSITIVITY
from workbench.recipes.run.heads import TABLES as HEADS
from workbench.recipes.run.opening import above_plain
from workbench.recipes.run.readouts import TABLES as READOUTS
from workbench.stats import WITHOUT

_ALPHA = 0.05
Tables = Mapping[str, pd.DataFrame]


def extract_section(context: RunContext, results: Results) -> Section:
    """Heads, holdouts, readouts, controls, sensitivity, and the latent that is exported.

    Parameters
    ----------
    context
        Run whose tables are read.
    results
        Results of its stages by name, of which heads, readouts and algorithm have ended.
    """
    more = [SENSITIVITY] if SENSITIVITY in results else []
    tables = {name: context.read(name) for name in (*EXPORTED, *HEADS, *READOUTS, *more)}
    undefined = tables["readouts"].query("status != 'ok'").drop_duplicates("endpoint")[["endpoint", "status"]]
    skipped = [(f"Readout '{name}'", why) for name, why in undefined.itertuples(index=False)]
    there, ruler = set(tables["latent"]["branch"]), context.ruler
    colors = assign_colors((name for name in ruler.branches if name in there), ruler.colors)
    own = {"own": context.config.adaptor.name}
    options: dict[str, dict[str, Any]] = {"heads": own, "holdouts": own, "readouts": {"own": context.ours}}
    options |= {name: {"colors": colors} for name in ("latent", "latent_3d")}
    captions = _captions(context, results, int(tables["heads"]["n_anchors"].iloc[0]), len(tables["levels"]))
    figures = [Request(name, caption, options=options.get(name, {})) for name, caption in captions.items()]
    facts = {
        "Controls": f"{len(ANCHOR_CONTROLS)}, named above; same adaptor, folds and readouts; of random ones the mean of "
        f"{counted(context.config.evaluation.control_draws, 'draw')}"
    }
    cautions = [*_technical_said(tables["latent_axes"]), *_unconverged_said(tables)]
    cautions += [
        f"{n} cells of the study '{name}' have the names of cells that the algorithm is of: where they are the same cells, it was not tried on "
        "another study there."
        for name, n in results["algorithm"].get("shared", {}).items()
    ]
    return Section(figures, tables, _answers(context, results, tables), skipped, cautions, facts)


def _captions(context: RunContext, results: Results, n_anchors: int, n_levels: int) -> dict[str, str]:
    """Captions of the figures, in their order."""
    evaluation = context.config.evaluation
    again = (
        "stages relabelled at random and the adaptor fitted again to features without what follows library size, detected genes and "
        "mitochondrial share, as far as these are known, its upper bound the 97.5 % quantile"
    )
    null = f"null: {evaluation.permutations} permutations of the labels, its upper bound the 97.5 % quantile"
    picture = "of the exported latent, fitted on all of these cells: a picture, no evidence."
    captions = {
        "latent": f"UMAP {picture}",
        "latent_3d": f"Principal axes {picture}",
        "heads": f"Each head alone through the adaptor: rank correlation of latent angles with ruler distances on held-out anchors "
        f"({n_anchors} anchors, mean over {evaluation.holdouts} random holdouts; null: {again}, "
        f"{counted(evaluation.head_refits, 'draw')} per head pooled over the heads).",
        "holdouts": f"The configured feature map beside controls without the model; bars: sd over splits; null: {again}, "
        f"{counted(evaluation.refits, 'draw')}. Of random controls the mean of {counted(evaluation.control_draws, 'draw')} is shown, and no null: the draws "
        "are the operator's.",
        "distances": "Ruler distance of two stages against the latent angle (radians) of their anchors, fitted on these anchors: "
        "how far the fit went, not how far it holds.",
        "readouts": f"Readouts of cells that neither operator, adaptor nor readout was fitted on ({evaluation.folds} folds of whole "
        f"groups, {results['panel']['n_groups']} groups: {results['panel']['groups']}; bars: sd over folds; {null} inside folds).",
        "added": "Ours less each other representation on the same folds; 95 % intervals corrected for shared training cells.",
    }
    if n_levels:
        captions["levels"] = (
            "The exported readouts on held-out training cells from which genes or counts were taken; what `apply` refuses is set by it."
        )
    if context.config.transfer:
        captions["transfers"] = (
            "The exported algorithm on labelled cells of other studies, beside methods fitted on the same training cells."
        )
    if SENSITIVITY in results:
        captions["sensitivity"] = "Holdouts of the configured feature map under other settings of the adaptor."
    if context.config.adaptor.k < 3:
        del captions["latent_3d"]
    return captions


def _answers(context: RunContext, results: Results, tables: Tables) -> list[str]:
    wins, total = above_plain(context.config.adaptor.name, tables)
    answers = [
        f"On {wins} of {total} holdouts and endpoint metrics the model's operator is above the same adaptor on plain expression."
        if total
        else "On these data no holdout and no endpoint metric could be judged; what was skipped says why."
    ]
    answers.append(f"On held-out anchors, rank correlation with the ruler: {'; '.join(_held_out(context, tables))}.")
    answers.append(_drawn_said(tables["holdouts"]))
    answers.append(_readouts_said(tables["added"]))
    best = tables["heads"].sort_values("spearman", ascending=False).iloc[0]
    answers.append(
        f"Strongest head: {head_name(int(best['layer']), int(best['head']))} ({best['spearman']:.2f}, sd "
        f"{best['sd']:.2f}, q {best['q']:.3f} over {len(tables['heads'])} heads); chosen by it, so biased upward. "
        f"{_projections_said(results['heads']['best_projections'], len(tables['heads']))}"
    )
    if said := _heads_said(tables[ADAPTOR_HEADS]):
        answers.append(said)
    answers.append(_transfers_said(tables["transfers"]))
    return answers


def _heads_said(rows: pd.DataFrame) -> str:
    """The adaptor's heads beside each other, where there are several."""
    # A measure that no fold allows is no column of its own.
    wide = rows.pivot_table(index="head", columns="measure", values="value", sort=False).reindex(
        columns=[TRUST, SPREAD, AXES, SCORE]
    )
    if len(wide) < 2:
        return ""
    hybrid = rows.loc[rows["kind"] == HYBRID, "head"].unique()
    scores = wide.loc[wide.index.isin(hybrid), SCORE].dropna()
    best = scores.idxmax() if len(scores) else None
    shown = [name for name in wide.index if name not in hybrid or name == best]
    said = [
        f"{name}{' (the best of its kind by the selection score, chosen on these cells)' if name == best else ''} "
        + ", ".join(f"{value:.2f}" if np.isfinite(value) else "unknown" for value in row)
        for name, row in wide.loc[shown, [TRUST, SPREAD, AXES]].iterrows()
    ]
    return f"Heads of the adaptor on held-out cells, {TRUST}, {SPREAD}, {AXES}: {'; '.join(said)}. More in the table {ADAPTOR_HEADS}."


def _transfers_said(rows: pd.DataFrame) -> str:
    """How the exported algorithm did on each other study, beside logistic regression."""
    if rows.empty:
        return "On cells of another study the algorithm was not tried: name some under transfer in the configuration."
    wide = rows.pivot_table(index="study", columns="method", values="accuracy", sort=False)
    own = dict(rows.loc[rows["method"] == OURS, ["study", "fit"]].itertuples(index=False, name=None))
    said = [
        f"{study} {ours[OURS]:.2f} (logistic regression {ours[LOGISTIC]:.2f}; {'fit' if str(own[study]) == 'True' else 'not fit'} by its "
        "own word)"
        for study, ours in wide.iterrows()
    ]
    return f"On cells of other studies, share right: {'; '.join(said)}."


def _projections_said(found: Mapping[str, Any], n: int) -> str:
    return (
        f"The best of {n} random projections: {found['draws_mean']:.2f} ({counted(found['n_draws'], 'draw')}, {found['draws_low']:.2f} to "
        f"{found['draws_high']:.2f}; p of the head {found['p_draws']:.3f})."
    )


def _drawn_said(holdouts: pd.DataFrame) -> str:
    """How many draws of each random control do as well as the operator on each kind of holdout."""
    drawn = holdouts[holdouts["status"] == "ok"].dropna(subset="p_draws")
    if drawn.empty:
        return "No random control stands beside the operator, which no holdout can judge."
    drawn = drawn.assign(as_high=(drawn["p_draws"] * (drawn["n_draws"] + 1) - 1).round().astype(int))
    counts = [f"{name} {', '.join(map(str, part['as_high']))}" for name, part in drawn.groupby("operator", sort=False)]
    kinds = ", ".join(drawn["holdout"].unique())
    return f"Of {int(drawn['n_draws'].max())} draws, as high as the operator ({kinds} holdout): {'; '.join(counts)}."


def _p(row: dict[str, Any]) -> str:
    """The p of a holdout, and what it is of where that is not the correlation as it is."""
    of = row.get(WITHOUT, np.nan)
    return f"without what follows sequencing {of:.2f}, p {row['p']:.3f}" if np.isfinite(of) else f"p {row['p']:.3f}"


def _held_out(context: RunContext, tables: Tables) -> list[str]:
    said, own = [], context.config.adaptor.name
    for kind, rows in tables["holdouts"].query("status == 'ok'").groupby("holdout", sort=False):
        ours, others = rows[rows["operator"] == own], rows[rows["operator"] != own].sort_values("spearman")
        low, high = others.iloc[0], others.iloc[-1]
        numbers = (
            "".join(f"{r['spearman']:.2f} (sd {r['sd']:.2f}, {_p(r)})" for r in ours.to_dict("records"))
            or "not applicable"
        )
        said.append(
            f"{kind} holdout {numbers}, controls {low['spearman']:.2f} ({low['operator']}) to {high['spearman']:.2f} ({high['operator']})"
        )
    return said or ["no holdout could be made"]


def _readouts_said(added: pd.DataFrame) -> str:
    """On how many metrics ours is above each other representation, and on how many of them surely."""
    if added.empty:
        return "No readout could be judged: no fold has both classes of an endpoint on both sides."
    sure = added["q"] <= _ALPHA
    counted = added.assign(
        above=added["difference"] > 0, better=sure & (added["difference"] > 0), worse=sure & (added["difference"] < 0)
    )
    totals = counted.groupby("control", sort=False)[["above", "better", "worse"]].sum()
    n = len(added.drop_duplicates(["endpoint", "metric"]))
    heads = totals[totals.index.str.endswith(" head")]
    lines = [
        f"{_plain(str(name))} {row.above}{f' ({row.better})' if row.better else ''}"
        for name, row in totals.drop(heads.index).iterrows()
    ]
    if len(heads):
        lines.append(
            f"{len(heads)} other heads of the adaptor {heads['above'].min()} to {heads['above'].max()} ({heads['better'].max()} at most)"
        )
    worse = [f"{name} on {row.worse}" for name, row in totals[totals["worse"] > 0].iterrows()]
    found = added["detectable"].dropna()
    missed = f" ({len(found)} tests, each of which finds a difference of {found.median():.2g} (median) in four of five such runs)"
    return (
        f"Readouts of held-out cells, above on how many of {n} metrics (with q <= {_ALPHA}): {'; '.join(lines)}. Surely "
        f"below: {', '.join(worse) or 'none'}{missed if len(found) else ''}."
    )


def _technical_said(axes: pd.DataFrame) -> list[str]:
    """The axis that follows sequencing most, inside stages, and what the data do not tell of it."""
    unknown = " and ".join(words for words in TECHNICAL.values() if words not in set(axes["covariate"]))
    untold = f" The data do not tell cells apart by {unknown}." if unknown else ""
    if (known := axes.dropna(subset="within")).empty:
        return [f"How far the latent follows sequencing cannot be said.{untold}"]
    most = known.sort_values("within", key=abs, kind="stable").iloc[-1]
    spread = f", sd {most['within_sd']:.2f} over {most['n_donors']} donors" if most["n_donors"] > 1 else ""
    return [
        f"Of the latent's axes {most['axis']} ({most['variance_share']:.0%} of its variance) follows sequencing most: rank correlation "
        f"with {most['covariate']} {most['spearman']:.2f} over {most['n_cells']} cells, {most['within']:.2f} inside stages{spread} (by "
        f"chance within {most['null_high']:.2f}; table latent_axes). Null and p of holdouts are of features without it, and so are gates; "
        f"values of holdouts and readouts are not corrected for it.{untold}"
    ]


def _unconverged_said(tables: Tables) -> list[str]:
    """Fits that ended early, of which nothing but a column of the tables would tell."""
    counts = pd.concat([tables[name]["n_unconverged"] for name in ("heads", "holdouts")]).fillna(0)
    if not (n := int(counts.sum())):
        return []
    return [
        f"{counted(n, 'fit')} of the adaptor behind heads and holdouts ended before the optimum ({(counts > 0).sum()} of {len(counts)} rows, column "
        "n_unconverged): such results hang on last digits. Raise adaptor.steps."
    ]


def _plain(name: str) -> str:
    """A representation by what the adaptor acts on."""
    short = name.removesuffix(" (log-normalised panel)")
    return short.removeprefix("latent (LET on ").removesuffix(")") if short.startswith("latent (") else short
