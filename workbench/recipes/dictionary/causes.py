"""What the report says of the causes of features, from the tables of their stages."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from workbench.ablation.nulls import ALPHA
from workbench.engine.section import Control, Section
from workbench.engine.stages import Results
from workbench.figures.checks import records
from workbench.figures.requests import Request
from workbench.figures.style import metric_title, number
from workbench.recipes.dictionary.context import DictionaryContext
from workbench.recipes.dictionary.sweep import DIFFERENCE, EDGES, EFFECTS, ESTIMATES, STEERING, SWEPT
from workbench.recipes.dictionary.swept import pairs_of_hooks
from workbench.tools.steer import MOVED

_CAUTIONS = (
    "Of the features that are tested the null is other features of the same dictionary: it asks whether a feature does more than its like, not whether it does anything.",
    "An edge is a lead, to first order: ablation (the column exact) measures it, and in a residual stream a feature that is only passed on has an edge to its like.",
)


def causes(context: DictionaryContext, results: Results) -> Section:
    """The section on causes; of what was not done it says why.

    Parameters
    ----------
    context
        Run whose tables are read.
    results
        Results of its stages by name.
    """
    asked = context.config.sweep
    if asked is None:
        return Section(skipped=[("What features cause", "sweep is null")])
    if not any(stage in results for stage in SWEPT):
        return Section(skipped=[("Part 'sweep'", "it was not asked for")])
    tables = {name: context.read(name) for stage, names in SWEPT.items() if stage in results for name in names}
    skipped = list[tuple[str, str]]()
    if not asked.steering:
        skipped.append(("Steering", "sweep.steering names no cell types"))
    if not pairs_of_hooks(context):
        skipped.append(("Edges between features", "no hook of sweep.hooks is behind another"))
    for stage, what in {EDGES: "Edges between features", STEERING: "Steering"}.items():
        skipped += [(what, why) for why in results.get(stage, {}).get("skipped", ())]
    return Section(
        figures=_figures(tables),
        tables=tables,
        answers=[*_of_effects(tables), *_of_estimates(tables), *_of_edges(tables), *_of_steering(tables)],
        skipped=skipped,
        cautions=list(_CAUTIONS),
    )


def cause_controls(tables: Mapping[str, pd.DataFrame]) -> list[Control]:
    """How many features and edges stand out from what they are compared with.

    Parameters
    ----------
    tables
        Tables of the run by name; what they do not hold is not judged.
    """
    found = []
    if EFFECTS in tables:
        table = tables[EFFECTS]
        beyond, n = int(table["beyond"].sum()), int(table["q"].notna().sum())
        text = f"{beyond} of {n} tested features do more (by metric and hook)"
        found.append(Control("features that are alike", text, beyond, n))
    if STEERING in tables:
        rows = _furthest(tables[STEERING])
        rows = rows[rows["along"] != DIFFERENCE]
        held = int((rows["q"] <= ALPHA).sum())
        found.append(
            Control("random directions", f"{held} of {len(rows)} features move cells further", held, len(rows))
        )
    return found


def _figures(tables: Mapping[str, pd.DataFrame]) -> list[Request]:
    found = []
    if EFFECTS in tables:
        for hook, metric in tables[EFFECTS][["hook", "metric"]].drop_duplicates().itertuples(index=False):
            caption = f"Features of {hook}; null: features of the same dictionary that fire as often and are as strong."
            options = {"hook": hook, "metric": metric}
            found.append(Request(f"feature_effects_{_slug(hook)}_{_slug(metric)}", caption, "feature_effects", options))
    if ESTIMATES in tables:
        found.append(
            Request("feature_estimates", "Estimates by gradients beside ablation, on the same held-out cells.")
        )
    if EDGES in tables and len(tables["feature_edges"]):
        found.append(
            Request(
                "feature_graph", "Null: random mixtures of features that read as much, fire as often and are as strong."
            )
        )
    if STEERING in tables:
        for r in records(_shown(tables[STEERING])):
            caption = f"Direction added at {r.hook}; null: random directions of the same length."
            options = {name: getattr(r, name) for name in ("target", "source", "hook", "along")}
            name = "_".join(["feature_doses", *map(_slug, (r.hook, r.along, r.target, r.source))])
            found.append(Request(name, caption, "feature_doses", options))
    return found


def _furthest(table: pd.DataFrame) -> pd.DataFrame:
    """How far cells are moved at the highest dose, a row per direction."""
    rows = table[table["measure"] == MOVED]
    return rows[rows["dose"] == rows.groupby(["hook", "along", "target", "source"])["dose"].transform("max")]


def _shown(table: pd.DataFrame) -> pd.DataFrame:
    """Directions that are drawn: of each hook and contrast the difference of means, and the feature that moves cells furthest."""
    rows = _furthest(table).assign(mean=lambda x: x["along"] == DIFFERENCE)
    rows = rows.sort_values("value", ascending=False, kind="stable")
    return rows.drop_duplicates(["hook", "target", "source", "mean"]).sort_index()


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in name.removesuffix(".hook_resid_post"))


def _of_effects(tables: Mapping[str, pd.DataFrame]) -> list[str]:
    said = []
    table = tables.get(EFFECTS, pd.DataFrame(columns=["hook", "metric"]))
    for hook, metric in table[["hook", "metric"]].drop_duplicates().itertuples(index=False, name=None):
        rows = table[(table["hook"] == hook) & (table["metric"] == metric)]
        most = rows.iloc[int(rows["effect"].abs().argmax())]
        null = f"{number(most['null_low'], 2)} to {number(most['null_high'], 2)}, n = {int(most['n_null'])}"
        q = "no q" if rows["q"].isna().all() else f"smallest q {number(rows['q'].min(), 2)}"
        said.append(
            f"{hook}, {metric_title(metric)}: {int(rows['beyond'].sum())} of {len(rows)} tested features do more than those that are alike ({q}). The largest "
            f"effect is F{int(most['feature'])}'s, {number(most['effect'], 2)} {most['unit']} (95 % {number(most['low'], 2)} to {number(most['high'], 2)}; alike "
            f"{null}), n = {int(most['n_cells'])} cells."
        )
    return said


def _of_estimates(tables: Mapping[str, pd.DataFrame]) -> list[str]:
    return [
        f"{r.hook}, {metric_title(r.metric)}: gradients rank {int(r.n_features)} features drawn at random as ablation does with rho {number(r.spearman, 2)}, slope "
        f"{number(r.slope, 2)}; n = {int(r.n_cells)} cells."
        for r in records(tables.get("feature_agreement", pd.DataFrame()))
    ]


def _of_edges(tables: Mapping[str, pd.DataFrame]) -> list[str]:
    return [
        f"From {r.source_hook} to {r.target_hook}: {number(100 * r.share_found, 2)} % of n = {int(r.pairs)} pairs have q at most {ALPHA}, beside {int(r.n_null)} with random "
        f"mixtures. A source's edges follow its firing rate with rho {number(r.degree_rate, 2)}, by strength alone {number(r.degree_rate_raw, 2)}. Gradients rank "
        f"{int(r.exact_pairs)} pairs as ablation does with rho {number(r.spearman, 2)}."
        for r in records(tables.get(EDGES, pd.DataFrame()))
    ]


def _of_steering(tables: Mapping[str, pd.DataFrame]) -> list[str]:
    if STEERING not in tables:
        return []
    said = []
    for (hook, target, source), rows in _furthest(tables[STEERING]).groupby(["hook", "target", "source"], sort=False):
        features, means = rows[rows["along"] != DIFFERENCE], rows[rows["along"] == DIFFERENCE]
        text = f"{hook}, {target} towards {source} at dose {number(rows['dose'].max())}:"
        if len(means):
            one = means.iloc[0]
            text += f" along the difference of means cells go {number(100 * one['value'])} % of the way (p = {number(one['p'], 2)}, {int(one['n_null'])} random directions);"
        if len(features):
            best = features.iloc[int(features["value"].argmax())]
            text += (
                f" of {len(features)} features {int((features['q'] <= ALPHA).sum())} move them further than random directions do, {best['along']} the furthest with "
                f"{number(100 * best['value'])} % (q = {number(best['q'], 2)});"
            )
        said.append(f"{text} n = {int(rows['n_cells'].max())} cells.")
    return said
