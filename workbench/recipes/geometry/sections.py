"""The report of a geometry, from its tables."""

from __future__ import annotations

import pandas as pd

from workbench.engine.section import Report, Section
from workbench.engine.stages import Results
from workbench.figures.requests import Request
from workbench.figures.style import number
from workbench.geometry.space_draws import FEWEST_DONORS
from workbench.recipes.geometry.config import THINNED
from workbench.recipes.geometry.context import REFERENCE, SCVI, GeometryContext
from workbench.recipes.geometry.genes import TABLES
from workbench.recipes.geometry.measures import ANGLE, CKA, STREAM
from workbench.recipes.geometry.opening import FAITHFUL, controls, faithful, opening
from workbench.tools.probe import EXPRESSION

# What answers which question, in the order of a page.
MEASURES = (
    ("TwoNN", "raw"),
    ("maximum likelihood", "raw"),
    ("participation ratio", "covariance"),
    ("spectral anisotropy", "covariance"),
    ("cosine", "within cell types"),
    ("cosine", "between cell types"),
    ("trustworthiness", "k = 15"),
    ("partial eta squared", "cell type, whole space"),
    ("partial eta squared", "batch, whole space"),
)


def report(context: GeometryContext, results: Results) -> Report:
    """What a geometry reports.

    Parameters
    ----------
    context
        Geometry whose tables are read.
    results
        Results of its stages by name.
    """
    about, table, apart = results[REFERENCE], context.read("geometry"), context.read("differences")
    donors = 0 if (donor := context.column("donor")) is None else len(set(donor.tolist()) - {""})
    rows, scope = faithful(table)
    drawn = [*([("R_NX", scope)] if scope else []), *MEASURES]
    hooks = list(dict.fromkeys(table.loc[table["source"] == "model", "hook"]))
    figures = [
        Request(
            "geometry",
            f"R_NX against neighbours of {about['of']}, inside batches, corrected for chance.",
            options={"hook": STREAM if STREAM in hooks else hooks[0], "measures": [list(one) for one in drawn]},
        ),
        *(
            Request(
                f"geometry_{hook.replace(' ', '_')}",
                "The same of this hook.",
                "geometry",
                {"hook": hook, "measures": [list(one) for one in drawn]},
            )
            for hook in hooks
            if hook != STREAM
        ),
        *_more(context, results),
        Request("likeness", "Null: the cells of one space dealt anew.", options={"measure": CKA}),
        Request("angles", "Null: the cells of one space dealt anew.", "likeness", {"measure": ANGLE}),
    ]
    skipped = [(f"Space {name}", why) for name, why in results["measures"]["skipped"].items()]
    why: dict[str, str] = (
        {THINNED: "needs counts"} if THINNED in context.config.controls and THINNED not in context.passes else {}
    )
    skipped += [(f"Control {name}", f"it {reason}, and these values are none") for name, reason in why.items()]
    skipped += [
        (f"Batch '{name}'", f"it has {n} cells, fewer than neighbourhoods need")
        for name, n in about["left_out"].items()
    ]
    if SCVI in results and results[SCVI]["skipped"]:
        skipped.append(("scVI", results[SCVI]["skipped"]))
    if why_not := results["probe"]["skipped"]:
        skipped.append(("Linear probe of the cell type", why_not))
    names = ["geometry", "differences", "likeness"] + ([] if why_not else ["probe"])
    if "genes" in results:
        names += [name for name in TABLES if len(context.read(name))]
    notes = sorted(set(table["note"].dropna().astype(str)) - {""})
    section = Section(
        figures=figures,
        tables={name: context.read(name) for name in names},
        answers=[
            *_answers(table),
            *_changes(apart, (FAITHFUL, scope), donors),
            *([] if why_not else [_probed(context)]),
            *(_genes(context) if "genes" in results else []),
        ],
        skipped=skipped,
        cautions=[
            "A dimension at one number of cells is none: it grows with the cells, and estimators disagree; compare spaces of the same cells.",
            "Measures per coordinate and at unit variance change when a space is turned; those of the covariance and the whole space do not.",
            *notes,
            *(results["genes"]["notes"] if "genes" in results else []),
        ],
        facts={
            "Neighbours of expression": f"{about['of']}, {number(about['genes'])} genes for the baselines, recall {number(about['recall'])}",
            "Batches": ", ".join(f"{name} ({n} cells)" for name, n in about["batches"].items()),
        },
    )
    shown = [name for name in context.passes if name != "model"]
    return Report(
        title="Geometry, layer by layer",
        opening=opening(table, about["of"], donors),
        data=context.cells.uns["workbench"]["source"],
        sections=[section],
        controls=controls(table, shown, why),
        shows="geometry",
        n=f"{number(len(context.cells))} cells",
    )


def _more(context: GeometryContext, results: Results) -> list[Request]:
    """Figures of what was asked for, or could be made, beside the measures."""
    found = []
    if context.read("geometry")["scope"].str.endswith("of the cells").any():
        found.append(
            Request(
                "dimension_by_cells",
                "One figure at one number of cells is no dimension.",
                "dimension_curves",
                {"hook": STREAM},
            )
        )
    if not results["probe"]["skipped"]:
        probed = "A logistic regression on each stream, judged on held-out cells, or donors where they are named."
        found.append(Request("probe", probed, "layer_probes"))
    if "maps" in results:
        found.append(Request("maps", "A picture, no evidence.", "space_maps", {"hook": STREAM}))
    if "genes" in results:
        found.append(Request("genes", "Sets against genes that are alike in level; q over all tests.", "gene_layers"))
    return found


def _probed(context: GeometryContext) -> str:
    """What a linear probe reads after the last layer, in a sentence."""
    rows = context.read("probe")
    base = rows[rows["features"] == EXPRESSION].iloc[0]
    last = rows[(rows["layer"] == rows["layer"].max()) & (rows["pool"] == "mean")].set_index("features")
    own = last.loc["model"]
    beside = [f"principal components of expression {number(base['value'], 2)}"]
    beside += [f"{name} {number(last.loc[name, 'value'], 2)}" for name in last.index if name != "model"]
    return (
        f"A linear probe reads the cell type after layer {own['layer']:.0f} with {own['metric']} {number(own['value'], 2)} (sd {number(own['sd'], 2)} over "
        f"{own['n_folds']:.0f} folds of {own['folds_of']}, n = {number(own['n_cells'])} cells); {', '.join(beside)}; relabelled up to {number(own['null_high'], 2)}."
    )


def _genes(context: GeometryContext) -> list[str]:
    """What came out for genes, in two sentences."""
    spectrum, axes = context.read("gene_spectrum"), context.read("gene_axes")
    first = spectrum[(spectrum["axis"] == 1) & (spectrum["group"] == "all cells") & (spectrum["source"] == "model")]
    said = [
        f"Genes: expression level explains {number(first['level_r2'].min(), 2)} to {number(first['level_r2'].max(), 2)} of the first axis over the "
        f"layers; n = {number(first['n'].max())} genes."
    ]
    if len(axes):
        beyond = axes[axes["called"] == "beyond level"].groupby("source")["set"].nunique()
        counts = ", ".join(f"{name} {int(beyond.get(name, 0))}" for name in ("model", "gene table", "random weights"))
        said.append(f"Genes: sets beyond expression level at q 0.05, of {axes['set'].nunique()}: {counts}.")
    return said


def _answers(table: pd.DataFrame) -> list[str]:
    """A sentence per question: the last layer's stream beside the embedding in front of the first."""
    own = table[(table["source"] == "model") & (table["hook"] == STREAM)]
    found = []
    for measure, scope in MEASURES:
        part = own[(own["measure"] == measure) & (own["scope"] == scope)].sort_values("layer")
        if len(part) < 2:
            continue
        first, last = part.iloc[0], part.iloc[-1]
        interval = f" (95 % {number(last['low'])} to {number(last['high'])})" if last["low"] == last["low"] else ""
        found.append(
            f"{measure[0].upper()}{measure[1:]}, {scope}: {number(first['value'])} in front of layer {max(first['layer'], 0):.0f}, "
            f"{number(last['value'])}{interval} after layer {last['layer']:.0f}; n = {number(last['n'])}."
        )
    return found


def _changes(apart: pd.DataFrame, faithful: tuple[str, str], donors: int) -> list[str]:
    """A sentence per question on the last layer's stream less the first's, paired by donor."""
    own = apart[(apart["source"] == "model") & (apart["hook"] == STREAM)]
    if own.empty:
        return []
    own = own[(own["layer"] == own["layer"].max()) & (own["beside"] == own["beside"].min())]
    drawn = "donors" if donors >= FEWEST_DONORS else "groups of cells"
    found = []
    for measure, scope in (faithful, *MEASURES):
        for row in own[(own["measure"] == measure) & (own["scope"] == scope)].itertuples():
            interval = (
                f" (95 % {number(row.low)} to {number(row.high)}, over the same {drawn})" if row.low == row.low else ""
            )
            found.append(
                f"{measure[0].upper()}{measure[1:]}, {scope}: the last layer less {'the embedding' if row.beside < 0 else 'the first'} is "
                f"{number(row.value)}{interval}."
            )
    return found
