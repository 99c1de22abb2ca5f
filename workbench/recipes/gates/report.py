"""The last stage of a gate run: metrics, manifest, figures and the report page, from the tables alone."""

from __future__ import annotations

import shlex
from typing import Any

import pandas as pd
import yaml

from workbench.engine.config import absolute
from workbench.engine.provenance import describe_model, manifest, pairs
from workbench.engine.stages import StageRunner
from workbench.evidence.gate_spec import SPEC
from workbench.figures.requests import Request
from workbench.files import write_json, write_text
from workbench.recipes.gates.chain import GatesChain
from workbench.recipes.gates.panels import TO_FAIL
from workbench.recipes.gates.tasks import CONTROLS

_TABLES = (
    "gates", "controls", "screen", "screen_controls", "panels", "dimension", "dimension_curve", "quality", "elbow",
    "shape", "distances", "trajectories",
)  # fmt: skip


def report_stage(chain: GatesChain, runner: StageRunner, results: dict[str, dict[str, Any]]) -> None:
    """Write ``metrics.json``, ``manifest.json``, ``figures/`` and ``report.html``.

    Parameters
    ----------
    chain, runner
        The run.
    results
        What the stages returned, by name.
    """
    from workbench.engine.report import report_run

    made = {"gates", "controls", "panels", *results["geometry"]["tables"]}
    if "screen" in results:
        made |= {"screen", "screen_controls"}
    tables = {name: pd.read_csv(chain.tables / f"{name}.csv") for name in _TABLES if name in made}
    effective = absolute(chain.config)
    write_text(chain.out / "config.yaml", yaml.safe_dump(effective, sort_keys=False))
    metrics: dict[str, Any] = {name: table.to_dict("records") for name, table in tables.items()}
    write_json(chain.out / "metrics.json", {**metrics, "unmet": results["gates"]["unmet"], "spec": SPEC.hash})
    stages = {
        name: {"seconds": seconds, "kept": runner.reused[name], "key": results.get(name, {}).get("key")}
        for name, seconds in runner.seconds.items()
    }
    content = "; ".join(f"{name} {value}" for name, value in chain.inputs()["content"].items())
    made_from = manifest(effective, chain.model, content, stages)
    write_json(chain.out / "manifest.json", made_from)
    command = shlex.join(["workbench", "gates", str(chain.out / "config.yaml"), "--out", str(chain.out)])
    summary = {
        **_summary(chain, results, tables),
        "command": command,
        "provenance": pairs(made_from),
    }
    tables["runtime"] = runner.runtime()
    report_run(chain.out, summary, tables, _figures(chain, tables))


def _figures(chain: GatesChain, tables: dict[str, pd.DataFrame]) -> list[Request]:
    setting = _setting(chain)
    inside = f"Internal panel '{chain.internal.name}', adaptor fitted on its anchors. {setting}"
    captions = {
        "gates": f"The seven gates, fixed before any run (spec {SPEC.hash}); a gate that cannot be computed is no pass. {setting}",
        "panels": f"Gates 1 to 4 on every panel, beside the same adaptor on controls without the model. {setting}",
        "screen": f"Each head alone: adaptor fitted on '{chain.internal.name}', frozen, judged on '{chain.external}'; rank correlation "
        "of latent angles with the ruler over pairs of anchors, donor and tissue regressed out; null: stages relabelled, "
        f"adaptor fitted again, pooled over heads. {setting}",
        "dimension": f"Intrinsic dimension by every estimator; bars: 95 % by random halves, bias not included. {inside}",
        "trust": f"Trustworthiness and continuity of the latent against f(x); null: rows of the latent permuted. {inside}",
        "elbow": f"Objective and trustworthiness by the latent's width. {inside}",
        "shape": f"Geodesics along the neighbour graph, the share of variance in the best plane, and Moran's I off it. {inside}",
        "distances": "Ruler distance of two stages against the latent angle of their anchors: how far the fit went, not how far it "
        f"holds. {inside}",
        "trajectories": "Progress (angle from the earliest stage) along each lineage against depth; the adaptor never saw the lineage's own "
        f"anchors; null: depths permuted inside donor and tissue. {inside}",
        "runtime": f"This run on one machine. {setting}",
    }
    options = {"trust": {"threshold": SPEC.trustworthiness}}
    requests = [Request(name, caption, options=options.get(name, {})) for name, caption in captions.items()]
    # A lineage may have no correlation at all; then there is nothing to draw.
    known = dict(tables)
    if "trajectories" in known and not (known["trajectories"]["status"] == "ok").any():
        del known["trajectories"]
    return [one for one in requests if all(len(known.get(name, ())) for name in one.of.tables)]


def _setting(chain: GatesChain) -> str:
    data = sorted({panel.cells.uns["workbench"]["name"] for panel in chain.panels.values()})
    return f"Model: {describe_model(chain.model, chain.config.checkpoint)}. Data: {', '.join(data)}."


def _summary(chain: GatesChain, results: dict[str, dict[str, Any]], tables: dict[str, pd.DataFrame]) -> dict[str, Any]:
    config = chain.config
    what = config.adaptor.name
    sources = dict.fromkeys(panel.cells.uns["workbench"]["source"] for panel in chain.panels.values())
    sizes = "; ".join(
        f"{row.panel} ({row.role}): {row.cells} cells, {row.anchors} anchors, {row.stages} stages, {row.donors} donors"
        for row in tables["panels"].itertuples()
    )
    return {
        "title": f"{config.name}: do the gates pass",
        "question": f"Does the latent of a linear adaptor on the model's {config.operator} operator ({what}) follow the "
        f"{chain.ruler.name} ruler on anchors it has not seen, beyond null rulers and controls?",
        "answers": _answers(chain, results, tables),
        "facts": {
            "Gates": f"spec {SPEC.hash}, required: {', '.join(config.required)}",
            "Controls": f"{', '.join(CONTROLS)}; each through the same gates",
        },
        "model": describe_model(chain.model, config.checkpoint),
        "data": f"{'; '.join(sources)}. {results['panels']['n_genes']} genes. {sizes}.",
        "skipped": _skipped(chain, results, tables),
        "cautions": [
            "The gates ask whether a latent follows the ruler, not whether the model is the reason: plain expression may pass "
            "them as well. Compare with tables/controls.csv.",
            "Gate 5 is passed by any latent that recognises cell types; gate 6 is the one that such a latent fails.",
            "Trustworthiness compares the latent with the feature map it is made of; what the feature map itself lost of the "
            "cells' expression is not in it.",
            "Splits share anchors, and branches differ in size: standard deviations over splits understate the uncertainty.",
            "Panels are kept apart by the names of their cells; the same cell under two names would not be noticed.",
        ],
    }


def _answers(chain: GatesChain, results: dict[str, dict[str, Any]], tables: dict[str, pd.DataFrame]) -> list[str]:
    gates, controls = tables["gates"], tables["controls"]
    missing = results["gates"]["unmet"]
    answers = [
        f"Required gates that did not pass: {'; '.join(missing)}."
        if missing
        else "All required gates pass on every panel."
    ]
    for panel, own in gates.groupby("panel", sort=False):
        counts = own["status"].value_counts()
        said = f"{counts.get('pass', 0)} gates pass, {counts.get('fail', 0)} fail, {counts.get('not applicable', 0)} not applicable"
        wanted = " (expected to fail)" if own["role"].iloc[0] == TO_FAIL else ""
        beside = []
        for operator, other in controls[controls["panel"] == panel].groupby("operator", sort=False):
            beside.append(f"{operator} {(other['status'] == 'pass').sum()}")
        answers.append(f"Panel '{panel}'{wanted}: {said}; passed by the controls: {', '.join(beside)}.")
    if "screen" in tables:
        best = tables["screen"].iloc[0]
        others = tables["screen_controls"]
        said = ", ".join(f"{row.operator} {row.residualised:.2f}" for row in others.itertuples())
        plain = others.loc[others["operator"] == CONTROLS[0], "residualised"].max()
        above = int((tables["screen"]["residualised"] > plain).sum())
        answers.append(
            f"{above} of {len(tables['screen'])} heads are above plain expression ({plain:.2f}) on that measure."
        )
        answers.insert(
            -1,
            f"Best single head on '{chain.external}': L{best['layer']:.0f}H{best['head']:.0f}, residualised correlation "
            f"{best['residualised']:.2f} ({best['low']:.2f} to {best['high']:.2f}), q {best['q']:.3f}; controls: {said}.",
        )
    return answers


def _skipped(
    chain: GatesChain, results: dict[str, dict[str, Any]], tables: dict[str, pd.DataFrame]
) -> list[dict[str, str]]:
    skipped = [
        {"what": f"{row.panel}: {row.gate}", "why": str(row.note)}
        for row in tables["gates"].itertuples()
        if row.status == "not applicable"
    ]
    skipped += [{"what": name, "why": why} for name, why in results["geometry"]["skipped"].items()]
    if "screen" not in results:
        why = "switched off" if not chain.config.screen else "no panel is external"
        skipped.append({"what": "Head screen", "why": why})
    for name, panel in chain.panels.items():
        for label, hint in panel.unplaced.items():
            skipped.append(
                {"what": f"{name}: cells labelled '{label}'", "why": f"the ruler does not know the label ({hint})"}
            )
    for row in tables.get("trajectories", pd.DataFrame({"status": []})).itertuples():
        if row.status != "ok":
            skipped.append({"what": f"Trajectory '{row.lineage}'", "why": str(row.status)})
    return skipped
