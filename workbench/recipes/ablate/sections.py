"""The report of ``workbench ablate``: which heads matter for what, and against what null."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from workbench.ablation.effects import top_heads
from workbench.ablation.nulls import ALPHA
from workbench.engine.section import Report, Section
from workbench.engine.stages import Results
from workbench.figures.requests import Request
from workbench.figures.style import counted, metric_title
from workbench.recipes.ablate.context import AblationContext
from workbench.recipes.ablate.opening import controls, opening
from workbench.recipes.ablate.tables import heads_floor, pairs_by, pairs_floor

_NULL = "the null turns the head's change by a random orthogonal matrix, norms and angles between cells and genes kept"


def report(context: AblationContext, results: Results) -> Report:
    """What an ablation reports, from the tables that its stages have left.

    Parameters
    ----------
    context
        Configuration, study, and the tables of its run.
    results
        Results of the stages that were done or kept, by name.
    """
    parts = {
        "effects": _effects,
        "draws": _draws,
        "attribution": _attribution,
        "interactions": _interactions,
        "transfer": _transfer,
    }
    sections = [section(context) for name, section in parts.items() if name in results]
    tables = Section.joined(sections).tables
    # The opening speaks of the metrics of all cells, and of the first way of ablating.
    single = [m.name for m in context.study.metrics if m.label is None]
    for name in {"effects", "draws"} & set(tables):
        table = tables[name]
        tables[name] = table[(table["how"] == context.config.sweep.how[0]) & table["metric"].isin(single)]
    return Report(
        title=f"{context.config.name}: which heads matter for what",
        opening=opening(tables, 0 if context.study.donors is None else len(set(context.study.donors))),
        data=context.cells.uns["workbench"]["source"],
        sections=[*sections, _left_out(context)],
        controls=controls(tables),
        shows=f"heads_{_slug(single[0])}" if context.config.sweep.heads else "",
        n=f"{len(context.study.tokens)} cells, {len(context.grid)} ablations with null draws",
    )


def _effects(context: AblationContext) -> Section:
    table, config = context.read("effects"), context.config
    how, single = config.sweep.how[0], [m.name for m in context.study.metrics if m.label is None]
    figures = []
    for name in single if config.sweep.heads else ():
        slug = _slug(name)
        caption = f"Change of {metric_title(name)} when a head's output is replaced ({how}); {_NULL}."
        figures.append(Request(f"effect_{slug}", caption, "effect", {"metric": name, "how": how}))
        bars = _bars(context, table[table["metric"] == name])
        caption = f"The heads that matter most for {metric_title(name)}; bars: {bars}; grey: range of the head's own null draws."
        figures.append(Request(f"heads_{slug}", caption, "intervals", {"metric": name, "how": how}))
    if len(single) < len(context.study.metrics) and config.sweep.heads:
        caption = "Change in the share of wrongly read cells of each label, the probe held fixed."
        figures.append(Request("labels", caption, options={"how": how}))
    rows = table[table["how"] == how]
    return Section(
        figures,
        {"effects": table},
        [_answer(rows[rows["metric"] == name], name) for name in single],
        cautions=_cautions(context, table),
        facts={
            "Gates": "none: an ablation asks what a head does, not whether a latent follows a ruler (workbench gates)",
            "Controls": f"{config.sweep.null_draws} null draws per head: its change turned in a random direction",
        },
    )


def _slug(metric: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in metric.split(" (")[0])


def _capital(metric: str) -> str:
    title = metric_title(metric)
    return title[:1].upper() + title[1:]


def _answer(rows: pd.DataFrame, name: str) -> str:
    heads = rows[rows["kind"] == "head"]
    what = f"{_capital(name)} ({rows['unit'].iloc[0]})"
    if not len(heads):
        far = rows.iloc[int(np.argmax(rows["effect"].abs().fillna(-1).to_numpy()))]
        return (
            f"{what}: of {len(rows)} places {far['ablation']} changes it most, {far['effect']:+.3g} ({_interval(far)}, "
            f"n = {int(far['n_cells'])}); no null was drawn."
        )
    best: Any = heads.set_index("ablation").loc[top_heads(rows, name, 1)[0]]
    beyond = int(heads["beyond"].sum())
    null = "no null was drawn"
    if best["n_null"] and np.isnan(best["p"]):
        null = f"its null draws, {best['null_low']:.2g} to {best['null_high']:.2g}, give no p"
    elif best["n_null"]:
        null = (
            f"{beyond} of {len(heads)} heads are beyond the random-direction null (q <= {ALPHA}, interval without 0); the draws of "
            f"{best.name}: {best['null_low']:.2g} to {best['null_high']:.2g}, p {best['p']:.2g} of {counted(best['n_pool'], 'draw')}, "
            f"q {best['q']:.2g}; {_detectable(heads)}"
        )
    return (
        f"{what}: {best.name} matters most, {best['effect']:+.3g} ({_interval(best)}, n = {int(best['n_cells'])}); "
        f"{null}.{_better_without(heads)}"
    )


def _detectable(rows: pd.DataFrame) -> str:
    """What the test of these heads or pairs finds four times in five."""
    size = rows["detectable"].dropna()
    if not len(size):
        return "what this could have found is not known"
    if np.isinf(size).all():
        return f"by these draws no single one can reach q <= {ALPHA}, whatever the data"
    return f"found four times in five: an effect of {size.median():.2g} (median; {size.min():.2g} to {size.max():.2g})"


def _draws(context: AblationContext) -> Section:
    table, draws = context.read("draws"), context.config.draws
    rows, answers = table[table["how"] == context.config.sweep.how[0]], []
    for name in (m.name for m in context.study.metrics if m.label is None):
        heads = rows[rows["metric"] == name]
        found = heads["n_found"]
        test = "without null draws there is no test of them"
        if found.notna().any():
            test = (
                f"{int((found == heads['n_draws']).sum())} of {len(heads)} heads are beyond the null (as above) in every draw, "
                f"{int((found > 0).sum())} in one or more; of one draw: {_detectable(heads)}"
            )
        answers.append(
            f"{_capital(name)}, {draws} disjoint draws of {heads['n_cells'].min():.0f} cells or more: {test}; sd of a head's effect "
            f"over draws {heads['sd'].median():.2g} (median)."
        )
    cautions = [
        "A draw where no head does anything still names one up to once in twenty: what is found in one draw of several is no finding.",
        "The draws are disjoint in cells, and share the model, the probes, the means of the reference, and the cells that a neighbourhood "
        "or a ruler correlation is made of; they are draws of cells, not of donors.",
    ]
    return Section([], {"draws": table}, answers, cautions=cautions)


def _better_without(heads: pd.DataFrame) -> str:
    """A sentence where ablating some head improves a metric more than ablating any head harms it."""
    worse = int(heads["worse"].iloc[0])
    gain = -worse * heads.set_index("ablation")["effect"]
    if worse == 0 or not gain.max() > -gain.min():
        return ""
    best = heads.loc[heads["ablation"] == gain.idxmax()].iloc[0]
    return f" Larger still, without {best['ablation']} it gets better: {best['effect']:+.3g} (q {best['q']:.2g})."


def _cautions(context: AblationContext, effects: pd.DataFrame) -> list[str]:
    cautions = [
        "The head named first was chosen by the same number that is reported, so its effect is biased upward.",
        "An ablation shows what the model loses when the rest is not allowed to adapt; heads of which one does what the other does "
        "look harmless one by one, so that a harmless head is not shown to be unused.",
        "No head beyond the null means: none with an effect of the size that is said to be found, in these cells.",
        "Beyond the null means: more than a random change of the same size in the same tokens, and a mean over cells that is not 0. "
        "It does not say why. q allows for an effect that scatters over cells more than those of random changes do (se beside null_se).",
        "p values are pooled over the null draws of all heads, on the assumption that these scatter alike.",
        "Probes were fitted on the same model's intact embeddings, on other folds; labels come with the dataset.",
    ]
    settings = context.config.sweep
    if floor := heads_floor(len(context.heads), settings.null_draws):
        cautions.append(floor)
    if "mean" in settings.how:
        cautions.append("Mean ablation leaves what a head does on average per gene; zero ablation removes that, too.")
    alone = effects.loc[effects["low"].isna() & (effects["n_cells"] > 1), "metric"].unique()
    if len(alone):
        which = "any metric" if len(alone) == effects["metric"].nunique() else ", ".join(alone)
        cautions.append(f"There is no interval for {which}: its cells are all of one donor, and say nothing of others.")
    share = float(effects["fallback_share"].max())
    if share > 0:
        cautions.append(
            f"Of the tokens that an ablation touches up to {share:.1%} got a fallback value, because the gene was not there "
            "to take one from."
        )
    return cautions


def _attribution(context: AblationContext) -> Section:
    lines = context.read("agreement")
    caption = "Effects estimated from one backward pass against the exact ones, a point per head."
    rank = "; ".join(f"{metric_title(str(r.metric))}, {r.method}: {r.spearman:.2f}" for r in lines.itertuples())
    steady = "; ".join(
        f"{metric_title(str(r.metric))} {r.split_half:.2f}" for r in lines.drop_duplicates("metric").itertuples()
    )
    answer = (
        f"Attribution against exact effects of the same cells, rank correlation over heads: {rank}. The exact effects of "
        f"two halves of the cells agree with each other by {steady}: where that is near 0, there is no ranking to find."
    )
    apart = not bool(lines.groupby("metric")["agrees"].any().all())
    return Section(
        [Request("attribution", caption)],
        {"attribution": context.read("attribution"), "agreement": lines},
        [answer],
        cautions=["Where attribution disagrees with the exact effects, the exact ones count."] if apart else [],
    )


def _interactions(context: AblationContext) -> Section:
    whole, by = context.read("interactions"), pairs_by(context)
    table = whole[whole["metric"] == by]
    drawn, control = table[table["random"]], table[table["same_layer"]]
    top = table[~table["random"] & ~table["same_layer"]]
    if not len(top):
        answer = f"Pairs by {metric_title(by)}: the top heads are all of one layer and cannot react to each other, so that no pair was tested."
        return Section([], {"interactions": whole}, [answer])
    found = top[top["beyond"]]
    most: Any = top.sort_values("relative", ascending=False).iloc[0]
    null = "there are no others to compare with, so that none is shown to be beyond the sum"
    if len(drawn):
        null = (
            f"{len(found)} of {len(top)} are beyond {len(drawn)} random pairs across layers for the size of their heads (q <= {ALPHA}, interval without 0; no p "
            f"is below {1 / (1 + len(drawn)):.2g}){_redundant(context, found, by)}; {_detectable(top)}"
        )
    p = f"p {most['p']:.2g}, q {most['q']:.2g}, " if len(drawn) else ""
    answers = [
        f"Pairs of the top heads across layers, by {metric_title(by)}: {null}. Largest for its size: {most['first']} and {most['second']} together "
        f"{most['interaction']:+.3g} beside the sum of both ({_interval(most)}; {p}n = {int(most['n_cells'])} cells)."
    ]
    if len(drawn) and len(control):
        answers.append(
            f"Control: of {len(control)} pairs of one layer, which cannot react to each other, {int((control['p'] <= ALPHA).sum())} "
            f"have p <= {ALPHA} against the same random pairs (median size of the interaction over that of the heads {control['relative'].median():.2g}, "
            f"across layers {drawn['relative'].median():.2g}). What they show comes from layers above and from the metric."
        )
    cautions = [
        "Pairs are of heads with large effects alone: two heads of which each does nothing alone are not among them.",
        "Beyond the sum means: the two interact more than random pairs do. It is redundancy only where together they do more harm.",
    ]
    if len(drawn):
        cautions.append(
            "p takes into account how large both heads are and how far the interaction scatters over cells: over random pairs it grows with "
            f"that size to the power of {1 + float(table['growth'].iloc[0]):.2f}. The tested pairs are of the largest heads, at the edge of what this is fitted to."
        )
    if floor := pairs_floor(len(top), len(drawn)):
        cautions.append(floor)
    caption = f"Effect on {metric_title(by)} of two heads of different layers together minus the sum of both; {_bars(context, table)}."
    figures = [Request("interactions", caption, options={"by": by})]
    return Section(figures, {"interactions": whole}, answers, cautions=cautions)


def _redundant(context: AblationContext, found: pd.DataFrame, by: str) -> str:
    worse = next(metric.worse for metric in context.study.metrics if metric.name == by)
    if not worse or not len(found):
        return ""
    return f", {int((worse * found['interaction'] > 0).sum())} of them redundant (together more harm than the sum)"


def _transfer(context: AblationContext) -> Section:
    table, figures, answers = context.read("transfer"), [], []
    caption = (
        "How far one head's activations from cells of the source type move cells of the target type towards it; "
        f"null: other cells of the target type as source; {_bars(context, table)}."
    )
    for i, (names, part) in enumerate(table.groupby(["target", "source"], sort=False)):
        target, source = map(str, names)
        figures.append(Request(f"transfer_{i + 1}", caption, "transfer", {"target": target, "source": source}))
        most: Any = part.sort_values("moved", ascending=False).iloc[0]
        drawn = f"within the target type {most['null_mean']:.1%}; q {most['q']:.2g}"
        null = drawn if np.isfinite(most["null_mean"]) else "no null was drawn"
        answers.append(
            f"From {target} to {source}: {most['ablation']} carries most, {most['moved']:.1%} of the way ({_interval(most, '.1%')}; "
            f"{null}; n = {int(most['n_pairs'])} pairs, {most['shared_genes']:.0f} shared genes on average)."
        )
    return Section(figures, {"transfer": table}, answers)


def _left_out(context: AblationContext) -> Section:
    config, missing = context.config, dict(context.study.notes)
    if config.sweep.heads and context.no_draws:
        missing["draws"] = context.no_draws
    if not config.sweep.heads:
        wanted = {"interactions": config.sweep.pairs_of_top > 0, "attribution": config.attribution}
        missing |= {name: "the sweep leaves out the heads (sweep.heads)" for name, here in wanted.items() if here}
    elif config.attribution and not context.differentiable:
        missing["attribution"] = "none of the metrics is differentiable"
    if context.study.donors is None:
        why = "the data name no donors; intervals are over cells, and say nothing of other donors"
        missing["Intervals over donors"] = why
    return Section(skipped=list(missing.items()))


def _bars(context: AblationContext, rows: pd.DataFrame) -> str:
    if context.study.donors is None:
        return "95 % bootstrap over cells"
    if rows["low"].notna().any():
        return "95 % bootstrap over donors"
    return "no interval, because all cells are of one donor"


def _interval(row: Any, form: str = ".2g") -> str:
    if not np.isfinite(row["low"]):
        return "no interval: a single donor or cell"
    return f"95 % {row['low']:{form}} to {row['high']:{form}}"
