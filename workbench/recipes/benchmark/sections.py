"""The report of a campaign: methods beside ours, costs and audit, from the tables alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from workbench.engine.section import Report, Section, without_place
from workbench.engine.stages import Results
from workbench.evidence.audit import OK, REFUSED
from workbench.evidence.endpoints import ALL, CLUSTERS, LEAKAGE
from workbench.evidence.expected import expected_table
from workbench.evidence.methods import COMPACT, CONTROL, LAYERS, OUTSIDE, OWN, UNSEEN
from workbench.evidence.statistics import cautions
from workbench.figures.checks import records
from workbench.figures.requests import Request
from workbench.recipes.benchmark.opening import controls, opening
from workbench.recipes.benchmark.splits import HOLDOUT, INTERNAL, STRATIFIED

if TYPE_CHECKING:
    from workbench.recipes.benchmark.context import BenchmarkContext

# In the order of the report; the longest come last.
_TABLES = (
    "splits",
    "costs",
    "methods",
    "audit",
    "summary",
    "comparisons",
    "tally",
    "campaign_costs",
    "scores",
    "ranks",
)
_FEW = 3
Tables = Mapping[str, pd.DataFrame]


def report(context: BenchmarkContext, results: Results) -> Report:
    """What a campaign reports.

    Parameters
    ----------
    context
        Campaign whose tables are read.
    results
        Results of its stages by name.
    """
    config, cohorts = context.config, results["cells"]["cohorts"]
    tables = {name: context.read(name) for name in _TABLES if name != "audit" or config.audit}
    unplaced = [
        (what, why)
        for name, one in cohorts.items()
        for what, why in without_place(one["unplaced_labels"], "" if name == INTERNAL else name)
    ]
    sizes = "; ".join(
        f"{name}: {one['cells']} of {one['of']} cells, {one['stages']} stages, {one['donors'] or 'no'} donors, {context.matches[name]}"
        for name, one in cohorts.items()
    )
    return Report(
        title=f"{config.name}: the extracted algorithm beside what else one could use",
        opening=opening(tables, config.ours, bool(config.transfer)),
        data=f"{context.sources}. {results['cells']['n_genes']} genes. {sizes}.",
        sections=[
            comparison_section(context, tables),
            cost_section(context, tables),
            *([] if config.expected is None else [_published(context, tables)]),
            Section(skipped=_skipped(tables) + unplaced, cautions=_CAUTIONS),
        ],
        controls=controls(tables),
        shows="benchmark_tally",
        left_out=("scores",),
    )


def comparison_section(context: BenchmarkContext, tables: Tables) -> Section:
    """Every method beside ours, endpoint by endpoint, and what the audit found.

    Parameters
    ----------
    context
        Campaign whose configuration and captions are used.
    tables
        All tables of the campaign by name.
    """
    ours, splits, methods = context.config.ours, tables["splits"], tables["methods"]
    requests, answers = [], []
    for place, ((kind, data), own) in enumerate(splits.groupby(["kind", "data"], sort=False)):
        # The first kind has the plain names; what follows says which it is.
        last = "" if not place else f"_{str(kind).replace(' ', '_')}" + (f"_{place}" if place > 1 else "")
        options = {"kind": str(kind), "data": str(data)}
        captions = _captions(ours, f"{kind}, {len(own)} split(s), {data}")
        requests += [
            Request(f"{name}{last}", caption, entry=name, options=options)
            for name, caption in captions.items()
            if name != "benchmark_ranks" or len(own) >= _FEW
        ]
    # Forms of our own heads and layers of the model are no competitors; the table of them all is named.
    group = dict(zip(methods["method"], methods["group"], strict=True))
    for (kind, data), rows in tables["tally"].groupby(["kind", "data"], sort=False):
        against = [
            f"{row.method} {row.wins}/{row.ties}/{row.losses}"
            for row in records(rows)
            if row.wins + row.ties + row.losses and group.get(row.method) not in (COMPACT, LAYERS)
        ]
        answers.append(
            f"{str(kind).capitalize()} ({Path(str(data)).name}): endpoint metrics that {ours} wins / ties / loses against "
            f"{'; '.join(against) or 'nobody'}. All methods: the table 'tally'."
        )
    kinds = splits.groupby("kind", sort=False).size()
    facts = {
        "Splits": "; ".join(f"{n} {kind}" for kind, n in kinds.items()),
        "Controls": ", ".join(methods.loc[methods["group"] == CONTROL, "method"]) or "none was asked for",
        "Audit": _audited(tables),
    }
    warned = cautions(tables["scores"], splits, tables["comparisons"])
    if brought := [name for name in methods.loc[methods["group"] == OWN, "method"] if name not in context.own]:
        warned.append(f"{', '.join(brought)}: {UNSEEN}.")
    if context.own:
        warned.append(
            f"{', '.join(context.own)}: {OUTSIDE}. The command that this page names runs the campaign without; run the same Python "
            "again."
        )
    return Section(requests, dict(tables), answers, cautions=warned, facts=facts)


def _captions(ours: str, what: str) -> dict[str, str]:
    return {
        "benchmark_endpoints": f"Every method on cells that nothing was fitted on ({what}); bars: sd over splits, which "
        "overlap.",
        "benchmark_differences": f"{ours} less each other method on the same splits ({what}); above 0: ours is better; 95 % "
        "intervals; filled: q <= 0.05 by the same test, Benjamini-Hochberg over the endpoint metrics of a method.",
        "benchmark_tally": f"Wins, ties and losses of {ours}, endpoint metric by endpoint metric ({what}).",
        "benchmark_ranks": f"Mean rank over splits ({what}); methods on one bar do not differ by more than Nemenyi's critical "
        "difference, which takes splits to be independent: these are not.",
    }


def _audited(tables: Tables) -> str:
    if "audit" not in tables:
        return "switched off"
    status = tables["audit"]["status"]
    leaks = tables["audit"].loc[status.isin(REFUSED), "method"].tolist()
    same = (
        f"{(status == OK).sum()} methods predict the same when the cells they are judged on were noise during fitting"
    )
    return f"{same}; not run because they do not, or it cannot be known: {', '.join(leaks)}" if leaks else same


def cost_section(context: BenchmarkContext, tables: Tables) -> Section:
    """What the campaign costs with each method, and what embeddings with an MLP cost beside ours.

    Parameters
    ----------
    context
        Campaign whose configuration and captions are used.
    tables
        All tables of the campaign by name.
    """
    ours, costs = context.config.ours, tables["campaign_costs"]
    answers = [
        f"The same splits by {row.method} take {row.times_ours:.2g} times the seconds of {ours} ({row.times_ours_given:.2g} "
        f"times where operators are at hand) and {row.parameters_times_ours:.2g} times its trained numbers."
        for row in records(costs)
        if "3-layer MLP" in row.method
    ]
    caption = f"Seconds of a split against trained numbers, {len(tables['splits'])} splits."
    return Section([Request("benchmark_costs", caption)], answers=answers)


def _published(context: BenchmarkContext, tables: Tables) -> Section:
    assert context.config.expected is not None
    table, answer = expected_table(context.config.expected, context.out, tables)
    return Section(tables={"expected": table}, answers=[answer])


def _skipped(tables: Tables) -> list[tuple[str, str]]:
    skipped = [(row.method, row.status) for row in records(tables["methods"]) if row.status != "run"]
    if HOLDOUT not in set(tables["splits"]["kind"]):
        why = f"the data name no donors; splits are {STRATIFIED} by label, which is an easier test"
        skipped.insert(0, ("Donor holdout", why))
    scores = tables["scores"]
    wrong = scores["status"].str.startswith(("undefined", "not run: needs igraph")) & (scores["scope"] == ALL)
    counted = scores[wrong].groupby(["kind", "endpoint", "status"], sort=False)["split"].nunique().reset_index()
    return skipped + [(f"{row.endpoint} ({row.kind}, {row.split} split(s))", row.status) for row in records(counted)]


_CAUTIONS = [
    "The labels come with the data; where they were made from the same expression values, methods that see these values are "
    "favoured.",
    "The checkpoint may have seen these cells in its own training (see its model card); no other method has.",
    f"'{CLUSTERS}' is judged at one resolution of one clustering, and '{LEAKAGE}' asks a linear probe only.",
    "Every method was run with the settings that the table of methods names; none was tuned on these data, ours included, "
    "except where its defaults were.",
]
