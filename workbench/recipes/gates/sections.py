"""The report of a gate run: gates, screen and geometry, from the tables alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from workbench.engine.section import Report, Section, without_place
from workbench.engine.stages import Results
from workbench.evidence.gate_spec import SPEC, TO_FAIL
from workbench.evidence.gate_table import NOT_APPLICABLE, passed_by
from workbench.figures.requests import Request
from workbench.recipes.gates.maps import CONTROLS

if TYPE_CHECKING:
    from workbench.recipes.gates.context import GatesContext

_CAUTIONS = [
    "The gates ask whether a latent follows the ruler, not whether the model is the reason: plain expression may pass them as "
    "well. Compare with tables/controls.csv.",
    "Gate 5 is passed by any latent that recognises cell types; gate 6 is the one that such a latent fails.",
    "Trustworthiness compares the latent with the feature map it is made of; what the feature map itself lost of the cells' "
    "expression is not in it.",
    "Splits share anchors, and branches differ in size: standard deviations over splits understate the uncertainty.",
    "Cohorts are kept apart by the names of their cells; the same cell under two names would not be noticed.",
]


def report(context: GatesContext, results: Results) -> Report:
    """What a gate run reports.

    Parameters
    ----------
    context
        Gate run whose tables are read.
    results
        Results of its stages by name.
    """
    config, cohorts = context.config, context.read("cohorts")
    sizes = "; ".join(
        f"{row.cohort} ({row.role}): {row.cells} cells, {row.anchors} anchors, {row.stages} stages, {row.donors} donors, "
        f"{context.matches[str(row.cohort)]}"
        for row in cohorts.itertuples()
    )
    screen = screen_section(context) if "screen" in results else _no_screen(context)
    unplaced = [one for name, (_, labels) in context.places.items() for one in without_place(labels, name)]
    return Report(
        title=f"{config.name}: do the gates pass",
        question=f"Does the latent of a linear adaptor on the model's {config.operator} operator ({config.adaptor.name}) "
        f"follow the {context.ruler.name} ruler on anchors it has not seen, beyond null rulers and controls?",
        data=f"{context.sources}. {results['cohorts']['n_genes']} genes. {sizes}.",
        sections=[
            gates_section(context, results),
            screen,
            geometry_section(context, results),
            Section(tables={"cohorts": cohorts}, skipped=unplaced, cautions=_CAUTIONS),
        ],
    )


def gates_section(context: GatesContext, results: Results) -> Section:
    """Gates of every cohort, beside those of the controls.

    Parameters
    ----------
    context
        Gate run whose tables are read.
    results
        Results of its stages, of which the verdict counts.
    """
    gates, controls = (context.read(name) for name in ("gates", "controls"))
    missing = results["verdict"]["unmet"]
    answers = [
        f"Required gates that did not pass: {'; '.join(missing)}."
        if missing
        else "All required gates pass on every cohort."
    ]
    for cohort, own in gates.groupby("cohort", sort=False):
        counts = own["status"].value_counts()
        said = ", ".join(f"{counts.get(status, 0)} {text}" for status, text in _STATUSES.items())
        wanted = " (expected to fail)" if own["role"].iloc[0] == TO_FAIL else ""
        beside = passed_by(controls[controls["cohort"] == cohort])
        answers.append(f"Cohort '{cohort}'{wanted}: {said}; passed by the controls: {beside}.")
    requests = [
        Request(
            "gates",
            f"The seven gates, fixed before any run (spec {SPEC.hash}); a gate that cannot be computed is no pass.",
        ),
        Request("cohorts", "Gates 1 to 4 on every cohort, beside the same adaptor on controls without the model."),
    ]
    skipped = [(f"{row.cohort}: {row.gate}", str(row.note)) for row in gates.query(NOT_APPLICABLE).itertuples()]
    facts = {
        "Gates": f"spec {SPEC.hash}, required: {', '.join(context.config.required)}",
        "Controls": f"{', '.join(CONTROLS)}; each through the same gates",
    }
    return Section(requests, {"gates": gates, "controls": controls}, answers, skipped, facts=facts)


_STATUSES = {"pass": "gates pass", "fail": "fail", "not applicable": "not applicable"}


def screen_section(context: GatesContext) -> Section:
    """Every head alone on the first external cohort, beside the controls.

    Parameters
    ----------
    context
        Gate run whose tables are read.
    """
    heads, controls = (context.read(name) for name in ("screen", "screen_controls"))
    best = heads.iloc[0]
    said = ", ".join(f"{row.operator} {row.residualised:.2f}" for row in controls.itertuples())
    plain = controls.loc[controls["operator"] == CONTROLS[0], "residualised"].max()
    above = int((heads["residualised"] > plain).sum())
    answers = [
        f"Best single head on '{context.external}': L{best['layer']:.0f}H{best['head']:.0f}, residualised correlation "
        f"{best['residualised']:.2f} ({best['low']:.2f} to {best['high']:.2f}), q {best['q']:.3f}; controls: {said}.",
        f"{above} of {len(heads)} heads are above plain expression ({plain:.2f}) on that measure.",
    ]
    caption = (
        f"Each head alone: adaptor fitted on '{context.internal}', frozen, judged on '{context.external}'; rank correlation of "
        "latent angles with the ruler over pairs of anchors, donor and tissue regressed out; null: stages relabelled, adaptor "
        "fitted again, pooled over heads."
    )
    return Section([Request("screen", caption)], {"screen": heads, "screen_controls": controls}, answers)


def _no_screen(context: GatesContext) -> Section:
    why = "switched off" if not context.config.screen else "no cohort is external"
    return Section(skipped=[("Head screen", why)])


def geometry_section(context: GatesContext, results: Results) -> Section:
    """The shape of the configured feature map on the internal cohort.

    Parameters
    ----------
    context
        Gate run whose tables are read.
    results
        Results of its stages; that of the geometry names the tables that there are.
    """
    made = results["geometry"]
    tables = {name: context.read(name) for name in made["tables"]}
    inside = f"Internal cohort '{context.internal}', adaptor fitted on its anchors."
    captions = {
        "dimension": f"Intrinsic dimension by every estimator; bars: 95 % by random halves, bias not included. {inside}",
        "trust": f"Trustworthiness and continuity of the latent against f(x); null: rows of the latent permuted. {inside}",
        "elbow": f"Objective and trustworthiness by the latent's width. {inside}",
        "shape": f"Geodesics along the neighbour graph, the share of variance in the best plane, and Moran's I off it. {inside}",
        "distances": "Ruler distance of two stages against the latent angle of their anchors: how far the fit went, not how far it "
        f"holds. {inside}",
        "trajectories": "Progress (angle from the earliest stage) along each lineage against depth; the adaptor never saw the lineage's own "
        f"anchors; null: depths permuted inside donor and tissue. {inside}",
    }
    options = {"trust": {"threshold": SPEC.trustworthiness}}
    requests = [Request(name, caption, options=options.get(name, {})) for name, caption in captions.items()]
    skipped = list(made["skipped"].items())
    lineages = tables.get("trajectories", pd.DataFrame({"lineage": [], "status": []}))
    failed = lineages[lineages["status"] != "ok"]
    skipped += [(f"Trajectory '{row.lineage}'", str(row.status)) for row in failed.itertuples()]
    # A lineage may have no correlation at all; then there is nothing to draw.
    drawn = {name: len(table) for name, table in tables.items()}
    drawn["trajectories"] = len(lineages) - len(failed)
    return Section([one for one in requests if all(drawn.get(name) for name in one.of.tables)], tables, skipped=skipped)
