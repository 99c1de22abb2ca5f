"""The report of a gate run: gates, screen and geometry, from the tables alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from workbench.engine.section import Report, Section, without_place
from workbench.engine.stages import Results
from workbench.evidence.donor_interval import FEWEST_DONORS
from workbench.evidence.gate_spec import BRANCH, DONOR, RANDOM, SPEC, TO_FAIL
from workbench.evidence.gate_table import NOT_APPLICABLE, beside_holdouts, listing, margins, passed_by
from workbench.figures.requests import Request
from workbench.figures.style import counted
from workbench.operators.controls import CODE, IDENTITY
from workbench.recipes.gates.maps import CONTROLS, DRAWN, MODEL, NEGATIVES, NOT_ASKED, WHOLE
from workbench.recipes.gates.opening import marks, opening

if TYPE_CHECKING:
    from workbench.recipes.gates.context import GatesContext

HOLDOUTS = (RANDOM, DONOR, BRANCH)
_CAUTIONS = [
    "The gates ask whether a latent follows the ruler, not whether the model is the reason: plain expression may pass them as "
    "well. Compare with tables/controls.csv.",
    "Gate 5 is passed by any latent that recognises cell types; gate 6 is the one that such a latent fails.",
    "Trustworthiness compares the latent with the feature map it is made of; what the feature map itself lost of the cells' "
    "expression is not in it.",
    "A code per label holds no expression and no model. What it passes as well says that types are recognised, no more.",
    "Intervals over donors leave the fits as they are; how often they hold the mean over other cohorts was simulated (docs/calibration_donors.md).",
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
    question = (
        f"Does the latent of the model's {config.operator} operator ({config.adaptor.name}) follow the {context.ruler.name} ruler on "
        "unseen cells, beyond null rulers and controls?"
    )
    gates, controls = context.read("gates"), context.read("controls")
    return Report(
        title=f"{config.name}: do the gates pass",
        opening=opening(question, gates, controls, results["verdict"]["unmet"]),
        data=f"{context.sources}. {results['cohorts']['n_genes']} genes. {sizes}.",
        sections=[
            gates_section(context, results),
            screen,
            readings_section(context),
            geometry_section(context, results),
            Section(tables={"cohorts": cohorts}, skipped=unplaced, cautions=_CAUTIONS),
        ],
        controls=marks(gates, controls),
        shows="gates",
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
    gates, controls, draws = (context.read(name) for name in ("gates", "controls", "control_draws"))
    missing = results["verdict"]["unmet"]
    answers = [
        f"Required gates that did not pass: {'; '.join(missing)}."
        if missing
        else "All required gates pass on every cohort."
    ]
    details = []
    for cohort, own in gates.groupby("cohort", sort=False):
        counts = own["status"].value_counts()
        said = ", ".join(f"{counts.get(status, 0)} {text}" for status, text in _STATUSES.items())
        wanted = " (expected to fail)" if own["role"].iloc[0] == TO_FAIL else ""
        beside = passed_by(draws[draws["cohort"] == cohort])
        answers.append(f"Cohort '{cohort}'{wanted}: {said}; passed by controls and negative panels: {beside}.")
        if over := margins(own):
            answers.append(f"Cohort '{cohort}', value beside the mean of its null: {over}.")
        if beside := beside_holdouts(own):
            details.append(f"Cohort '{cohort}', {beside}.")
        own_controls = controls[controls["cohort"] == cohort]
        for name in WHOLE:
            if over := margins(own_controls[own_controls["operator"] == name]):
                details.append(f"Beside the mean of its null, {name} on '{cohort}': {over}.")
        for name in (CODE, *NEGATIVES):
            details.append(_passes(str(cohort), name, own_controls[own_controls["operator"] == name]))
    requests = [
        Request(
            "gates",
            f"The seven gates, fixed before any run (spec {SPEC.hash}); a gate that cannot be computed is no pass. Where library size, detected "
            "genes or mitochondrial share are known, values and nulls of gates 1 to 6 are of features without what follows them, and gates 1 to 5 "
            "pass only if those of the features as they are (plain) do as well.",
        ),
        Request(
            "cohorts",
            "Gates 1 to 4 on every cohort, beside the same adaptor on controls and on stages dealt at random; of what is drawn, the "
            f"mean of {counted(context.config.control_draws, 'draw')}. {' '.join(details)}",
        ),
    ]
    skipped = [(f"{row.cohort}: {row.gate}", str(row.note)) for row in gates.query(NOT_APPLICABLE).itertuples()]
    few = gates[gates["gate"].isin(HOLDOUTS) & gates["value"].notna() & gates["donor_low"].isna()]
    for cohort, own in few.groupby("cohort", sort=False):
        why = f"{own['n_donors'].max()} donors are judged" if own["n_donors"].any() else "the data name no donors"
        skipped.append((f"{cohort}: interval over donors", f"{why}; at least {FEWEST_DONORS} are needed"))
    facts = {
        "Gates": f"spec {SPEC.hash}, required: {', '.join(context.config.required)}",
        "Controls": f"{', '.join(CONTROLS)}; each through the same gates",
        "Negative panels": f"the configured feature map with {' and with '.join(NEGATIVES)}",
        "Drawn": f"{', '.join(DRAWN)}: {counted(context.config.control_draws, 'draw')} each",
        "Null ruler": NOT_ASKED,
    }
    tables = {"gates": gates, "controls": controls, "control_draws": draws}
    return Section(requests, tables, answers, skipped, facts=facts)


def _passes(cohort: str, name: str, rows: pd.DataFrame) -> str:
    """Which gates a control passes, and in how many draws."""
    asked = rows[rows["value"].notna() & (rows["gate"] != TO_FAIL)]
    said = listing(asked, "{gate} {passed} of {n_draws}")
    return f"Draws that pass on '{cohort}', of {name}: {said or 'no gate can be computed'}."


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
    fixed, drawn = controls[controls["n_draws"] == 1], controls[controls["n_draws"] > 1]
    said = listing(fixed, "{operator} {residualised:.2f}")
    said += "; " + listing(
        drawn, "{operator} {residualised:.2f} ({draws_low:.2f} to {draws_high:.2f} in {n_draws} draws)"
    )
    plain = controls.loc[controls["operator"] == IDENTITY, "residualised"].max()
    above = int((heads["residualised"] > plain).sum())
    known = np.isfinite(best["low"])
    interval = f"{best['low']:.2f} to {best['high']:.2f}" if known else "no interval, for too few donors"
    answers = [
        f"Best single head on '{context.external}': L{best['layer']:.0f}H{best['head']:.0f}, residualised correlation "
        f"{best['residualised']:.2f} ({interval}), q {best['q']:.3f}; controls: {said}.",
        f"{above} of {len(heads)} heads are above plain expression ({plain:.2f}) on that measure.",
    ]
    caption = (
        f"Each head alone: adaptor fitted on '{context.internal}', frozen, judged on '{context.external}'; rank correlation of "
        "latent angles with the ruler over pairs of anchors, donor, tissue and what is known of library size, detected genes and mitochondrial "
        "share regressed out, the latter three of the features as well; null: stages relabelled, adaptor fitted again, pooled over heads."
    )
    return Section([Request("screen", caption)], {"screen": heads, "screen_controls": controls}, answers)


def _no_screen(context: GatesContext) -> Section:
    why = "switched off" if not context.config.screen else "no cohort is external"
    return Section(skipped=[("Head screen", why)])


def readings_section(context: GatesContext) -> Section:
    """Holdouts and correlations under each reading, beside plain expression.

    Parameters
    ----------
    context
        Gate run whose tables are read.
    """
    table = context.read("readings")
    known = table[table["value"].notna()]
    answers = []
    for (cohort, measure), own in known[known["operator"] == MODEL].groupby(["cohort", "measure"], sort=False):
        plain = known[(known["operator"] == IDENTITY) & (known["cohort"] == cohort) & (known["measure"] == measure)]
        said, beside = (listing(rows, "{reading} {value:.2f}") for rows in (own, plain))
        answers.append(f"Cohort '{cohort}', {measure}, as it may be read: {said}; {IDENTITY}: {beside}.")
    return Section(tables={"readings": table}, answers=answers)


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
        "dimension": f"Intrinsic dimension by every estimator; bars: where the same estimator comes out on 95 % of other samples, by random halves; not an interval of the dimension. {inside}",
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
