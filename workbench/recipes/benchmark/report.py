"""The last stage of a campaign: metrics, manifest, figures and the report page, from the tables alone."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from workbench.engine.config import absolute
from workbench.engine.provenance import describe_model, manifest, pairs
from workbench.engine.stages import StageRunner
from workbench.evidence.costs import campaign_costs
from workbench.evidence.endpoints import ALL, CLUSTERS, LEAKAGE
from workbench.evidence.methods import COMPACT, CONTROL, LAYERS
from workbench.evidence.statistics import cautions
from workbench.figures.requests import Request
from workbench.figures.style import records
from workbench.files import write_json, write_text
from workbench.recipes.benchmark.bench import INTERNAL
from workbench.recipes.benchmark.chain import TABLES, BenchmarkChain
from workbench.recipes.benchmark.splits import HOLDOUT, STRATIFIED

_FEW = 3


def report_stage(chain: BenchmarkChain, runner: StageRunner, results: dict[str, dict[str, Any]]) -> None:
    """Write ``metrics.json``, ``manifest.json``, ``figures/`` and ``report.html``.

    Parameters
    ----------
    chain, runner
        The run.
    results
        What the stages returned, by name.
    """
    from workbench.engine.report import report_run

    config, out = chain.config, chain.out
    tables = {name: chain.read(name) for name in TABLES if (chain.tables / f"{name}.csv").is_file()}
    n_cells = sum(panel["cells"] for panel in results["cells"]["panels"].values())
    forward = results["operators"]["forward_seconds_per_cell"]
    forwarded = {name for name, one in chain.bench.methods.items() if one.forward}
    tables["campaign_costs"] = campaign_costs(
        tables["costs"], tables["methods"], config.ours, n_cells, forward, forwarded
    )
    write_text(chain.tables / "campaign_costs.csv", tables["campaign_costs"].to_csv(index=False))
    answers = []
    if config.expected is not None:
        from workbench.recipes.run.expected import expected_table

        tables["expected"], said = expected_table(config.expected, out)
        answers = [said]
    effective = absolute(config)
    write_text(out / "config.yaml", yaml.safe_dump(effective, sort_keys=False))
    short = {name: table.to_dict("records") for name, table in tables.items() if name != "scores"}
    write_json(out / "metrics.json", short)
    stages = {
        name: {"seconds": seconds, "kept": runner.reused[name], "key": results.get(name, {}).get("key")}
        for name, seconds in runner.seconds.items()
    }
    content = "; ".join(f"{name} {value}" for name, value in chain.content.items())
    made_from = manifest(effective, chain.model, content, stages)
    write_json(out / "manifest.json", made_from)
    summary = _summary(chain, results, tables)
    summary = {**summary, "answers": [*summary["answers"], *answers], "provenance": pairs(made_from)}
    tables["runtime"] = runner.runtime()
    shown = {name: table for name, table in tables.items() if name not in ("scores", "ranks")}
    report_run(out, summary, {**shown, "scores": tables["scores"], "ranks": tables["ranks"]}, _figures(chain, tables))


def _figures(chain: BenchmarkChain, tables: dict[str, pd.DataFrame]) -> list[Request]:
    setting = _setting(chain)
    n = len(tables["splits"])
    found = []
    for place, ((kind, data), own) in enumerate(tables["splits"].groupby(["kind", "data"], sort=False)):
        # The first kind has the plain names; what follows says which it is.
        last = "" if not place else f"_{str(kind).replace(' ', '_')}" + (f"_{place}" if place > 1 else "")
        options = {"kind": str(kind), "data": str(data)}
        said = f"{kind}, {len(own)} split(s), {data}"
        captions = {
            "benchmark_endpoints": f"Every method on cells that nothing was fitted on ({said}); bars: sd over splits, which overlap. {setting}",
            "benchmark_differences": f"{chain.config.ours} less each other method on the same splits ({said}); above 0: ours is better; 95 % intervals; "
            f"filled: q <= 0.05, two-sided Wilcoxon over splits, Benjamini-Hochberg over the endpoint metrics of a method. {setting}",
            "benchmark_tally": f"Wins, ties and losses of {chain.config.ours}, endpoint metric by endpoint metric ({said}). {setting}",
            "benchmark_ranks": f"Mean rank over splits ({said}); methods on one bar do not differ by more than Nemenyi's critical difference, which takes "
            f"splits to be independent: these are not. {setting}",
        }
        few = len(own) < _FEW
        for name, caption in captions.items():
            if not (few and name == "benchmark_ranks"):
                found.append(Request(f"{name}{last}", caption, entry=name, options=options))
    found.append(Request("benchmark_costs", f"Seconds of a split against trained numbers, {n} splits. {setting}"))
    found.append(Request("runtime", f"This run on one machine. {setting}"))
    return found


def _setting(chain: BenchmarkChain) -> str:
    data = ", ".join(chain.bench.about["data"].values())
    return f"Model: {describe_model(chain.model, chain.config.checkpoint)}. Data: {data}."


def _summary(
    chain: BenchmarkChain, results: dict[str, dict[str, Any]], tables: dict[str, pd.DataFrame]
) -> dict[str, Any]:
    config, panels = chain.config, results["cells"]["panels"]
    sources = dict.fromkeys(cells.uns["workbench"]["source"] for cells in chain.cells.values())
    sizes = "; ".join(
        f"{name}: {one['cells']} of {one['of']} cells, {one['stages']} stages, {one['donors'] or 'no'} donors"
        for name, one in panels.items()
    )
    kinds = tables["splits"].groupby("kind", sort=False).size()
    controls = tables["methods"].loc[tables["methods"]["group"] == CONTROL, "method"].tolist()
    return {
        "title": f"{config.name}: the extracted algorithm beside what else one could use",
        "question": f"On cells that nothing was fitted on, where is {config.ours} better, where worse, and where no different from every other "
        "method?",
        "answers": _answers(chain, tables),
        "facts": {
            "Splits": "; ".join(f"{n} {kind}" for kind, n in kinds.items()),
            "Controls": ", ".join(controls) or "none was asked for",
            "Audit": _audited(tables),
        },
        "model": describe_model(chain.model, config.checkpoint),
        "data": f"{'; '.join(sources)}. {results['cells']['n_genes']} genes. {sizes}.",
        "skipped": _skipped(results, tables),
        "cautions": [*cautions(tables["scores"], tables["splits"], tables["comparisons"]), *_cautions(tables)],
        "command": shlex.join(["workbench", "benchmark", str(chain.out / "config.yaml"), "--out", str(chain.out)]),
    }


def _answers(chain: BenchmarkChain, tables: dict[str, pd.DataFrame]) -> list[str]:
    """Wins, ties and losses against every method, and the costs beside scGPT with an MLP; no winner over all."""
    answers = []
    group = dict(zip(tables["methods"]["method"], tables["methods"]["group"], strict=True))
    for (kind, data), rows in tables["tally"].groupby(["kind", "data"], sort=False):
        said = [
            f"{row.method} {row.wins}/{row.ties}/{row.losses}"
            for row in records(rows)
            if row.wins + row.ties + row.losses and group.get(row.method) not in (COMPACT, LAYERS)
        ]
        answers.append(
            f"{str(kind).capitalize()} ({Path(str(data)).name}): endpoint metrics that {chain.config.ours} wins / ties / loses against "
            f"{'; '.join(said) or 'nobody'}. All methods: the table 'tally'."
        )
    costs = tables["campaign_costs"].set_index("method")
    for name in [name for name in costs.index if "3-layer MLP" in str(name)]:
        row = costs.loc[name]
        answers.append(
            f"The same splits by {name} take {row['times_ours']:.2g} times the seconds of {chain.config.ours} ({row['times_ours_given']:.2g} times where "
            f"operators are at hand) and {row['parameters_times_ours']:.2g} times its trained numbers."
        )
    return answers


def _audited(tables: dict[str, pd.DataFrame]) -> str:
    if "audit" not in tables:
        return "switched off"
    status = tables["audit"]["status"]
    leaks = tables["audit"].loc[status == "leaks", "method"].tolist()
    said = f"{(status == 'ok').sum()} methods say the same when the cells they are judged on were noise during fitting"
    return f"{said}; not run because they do not: {', '.join(leaks)}" if leaks else said


def _skipped(results: dict[str, dict[str, Any]], tables: dict[str, pd.DataFrame]) -> list[dict[str, str]]:
    skipped: list[dict[str, str]] = []
    if HOLDOUT not in set(tables["splits"]["kind"]):
        skipped.append(
            {
                "what": "Donor holdout",
                "why": f"the data name no donors; splits are {STRATIFIED} by label, which is an easier test",
            }
        )
    skipped += [{"what": row.method, "why": row.status} for row in records(tables["methods"]) if row.status != "run"]
    scores = tables["scores"]
    wrong = scores["status"].str.startswith(("undefined", "not run: needs igraph")) & (scores["scope"] == ALL)
    counted = scores[wrong].groupby(["kind", "endpoint", "status"], sort=False)["split"].nunique().reset_index()
    skipped += [
        {"what": f"{row.endpoint} ({row.kind}, {row.split} split(s))", "why": row.status} for row in records(counted)
    ]
    for name, panel in results["cells"]["panels"].items():
        where = "" if name == INTERNAL else f"{name}: "
        for label, hint in panel["unplaced_labels"].items():
            skipped.append(
                {"what": f"{where}cells labelled '{label}'", "why": f"the ruler does not know the label ({hint})"}
            )
    return skipped


def _cautions(tables: dict[str, pd.DataFrame]) -> list[str]:
    return [
        "The labels come with the data; where they were made from the same expression values, methods that see these values are favoured.",
        "The checkpoint may have seen these cells in its own training (see its model card); no other method has.",
        f"'{CLUSTERS}' is judged at one resolution of one clustering, and '{LEAKAGE}' asks a linear probe only.",
        "Every method was run with the settings that the table of methods names; none was tuned on these data, ours included, except where "
        "its defaults were.",
    ]
