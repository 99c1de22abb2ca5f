"""The last stage of a run: metrics, manifest, figures and the report page, from the tables alone."""

from __future__ import annotations

import shlex
from collections.abc import Collection
from typing import Any

import pandas as pd

from workbench.engine.provenance import describe_model, manifest, pairs
from workbench.engine.stages import StageRunner
from workbench.figures.requests import Request
from workbench.files import write_json
from workbench.operators.controls import IDENTITY
from workbench.recipes.run.chain import CONTROL_NAMES, Chain
from workbench.recipes.run.drift import drift_section
from workbench.recipes.run.evidence import ours_of
from workbench.recipes.run.expected import side_by_side
from workbench.recipes.run.explorer import explorer_of
from workbench.recipes.run.factor_report import compaction_section, factors_section
from workbench.recipes.run.gates import gates_section
from workbench.recipes.run.section import Section, read_table, setting

_ALPHA = 0.05


def report_stage(chain: Chain, runner: StageRunner, results: dict[str, dict[str, Any]], made: Collection[str]) -> None:
    """Write ``metrics.json``, ``manifest.json``, ``figures/`` and ``report.html``.

    Parameters
    ----------
    chain, runner
        The run.
    results
        What the stages returned, by name; the report holds what is there.
    made
        Names of the tables that these stages left.
    """
    from workbench.engine.report import report_run

    sections = [_cells_section(chain, results)]
    # Tables of one configuration only: what was interrupted under another may have left some of these.
    if {"heads", "readouts", "algorithm"} <= set(results):
        sections.append(_extract_section(chain, results))
    if "drift" in results:
        sections.append(drift_section(chain, results["drift"]))
    if "gates" in results:
        sections.append(gates_section(chain))
    else:
        sections.append(Section(facts={"Gates": "not judged: the configuration has no section 'gates'"}))
    if "compaction" in results:
        sections.append(compaction_section(chain, results["compaction"]))
    if "factors" in results:
        sections.append(factors_section(chain, results["factors"]))
    if chain.config.expected is not None:
        sections.append(side_by_side(chain, made))
    whole = Section.joined(sections)
    metrics = {
        "stages": {name: {k: v for k, v in result.items() if k != "key"} for name, result in results.items()},
        **{name: table.to_dict("records") for name, table in whole.tables.items() if name != "latent"},
        "skipped": whole.skipped,
    }
    write_json(chain.out / "metrics.json", metrics)
    stages = {
        name: {"seconds": seconds, "kept": runner.reused[name], "key": results.get(name, {}).get("key")}
        for name, seconds in runner.seconds.items()
    }
    made_from = manifest(chain.config.model_dump(mode="json"), chain.model, chain.inputs("data")["content"], stages)
    write_json(chain.out / "manifest.json", made_from)
    summary = {**_summary(chain, results, whole), "provenance": pairs(made_from)}
    whole.tables["runtime"] = runner.runtime()
    figures = [*whole.figures, Request("runtime", f"This run on one machine. {setting(chain)}")]
    explorer = explorer_of(chain) if "explorer" in results else ""
    report_run(chain.out, summary, whole.tables, figures, explorer=explorer)


def _summary(chain: Chain, results: dict[str, dict[str, Any]], whole: Section) -> dict[str, Any]:
    config, cells, operators = chain.config, results["cells"], results["operators"]
    algorithm = results.get("algorithm")
    command = shlex.join(["workbench", "run", str(chain.out / "config.yaml"), "--out", str(chain.out)])
    return {
        "title": f"{config.name}: a small algorithm out of scGPT",
        "question": f"Do {config.operator} operators of the model's attention heads, through a linear adaptor, carry the "
        f"{chain.ruler.name} ruler, and do they add anything to the same adaptor on plain expression?",
        "answers": whole.answers or ["Nothing was judged in this run."],
        "model": describe_model(chain.model, config.checkpoint),
        "data": f"{chain.adata.uns['workbench']['source']}. {cells['genes']['matched']} of {cells['genes']['columns']} genes in the "
        f"vocabulary, panel of {cells['n_panel']}; {cells['values'].split(' (')[0]}; {cells['n_placed']} cells placed on the ruler; "
        f"{operators['n_tokens']:,} tokens read.",
        "skipped": whole.skipped,
        "cautions": whole.cautions,
        "facts": whole.facts,
        "command": command,
        "algorithm": algorithm
        and f"algorithm/ ({algorithm['bytes'] / 1024:.0f} KiB): one {cells['n_panel']} x {config.adaptor.k} matrix, an offset and "
        f"{len(algorithm['readouts'])} readouts ({algorithm['n_parameters']} parameters); the feature map alone is "
        f"{algorithm['bytes_feature_map'] / 2**20:.1f} MiB, folded with the adaptor {algorithm['bytes_folded'] / 1024:.0f} KiB.",
    }


def _cells_section(chain: Chain, results: dict[str, dict[str, Any]]) -> Section:
    """What was left out of the cells, and what holds for whatever is made of them."""
    skipped = []
    if "donor" not in chain.obs:
        why = "the data name no donors; folds are stratified by label, which is an easier test"
        skipped.append({"what": "Donor holdout", "why": why})
    if "tissue" not in chain.obs:
        skipped.append({"what": "Tissue as a grouping of anchors", "why": "the data name no tissue"})
    for label, hint in results["cells"]["unplaced_labels"].items():
        what, why = f"Cells labelled '{label}'", f"the ruler does not know the label ({hint})"
        skipped.append(
            {"what": what, "why": why} if label else {"what": "Cells without a label", "why": "they have no stage"}
        )
    return Section(skipped=skipped, cautions=_cautions(chain))


def _extract_section(chain: Chain, results: dict[str, dict[str, Any]]) -> Section:
    """Heads, holdouts, readouts, controls, sensitivity, and the latent that is exported."""
    config, cells, evaluation = chain.config, results["cells"], chain.config.evaluation
    names = ["latent", "heads", "holdouts", "readouts", "added", "calibration", "distances"]
    names += ["sensitivity"] if "sensitivity" in results else []
    tables = {name: read_table(chain, name) for name in names}
    own, ours = config.adaptor.name, ours_of(chain)
    model_and_data = setting(chain)
    null = f"null: {evaluation.permutations} permutations of the labels, its upper bound the 97.5 % quantile"
    again = "stages relabelled at random and the adaptor fitted again, its upper bound the 97.5 % quantile"
    captions = {
        "latent": f"UMAP of the exported latent, fitted on all of these cells: a picture, no evidence. {model_and_data}",
        "latent_3d": f"Principal axes of the exported latent, fitted on all of these cells: a picture, no evidence. {model_and_data}",
        "heads": f"Each head alone through the adaptor: rank correlation of latent angles with ruler distances on held-out anchors "
        f"({int(tables['heads']['n_anchors'].iloc[0])} anchors, mean over {evaluation.holdouts} random holdouts; null: {again}, "
        f"{evaluation.head_refits} draws per head pooled over the heads). {model_and_data}",
        "holdouts": f"The configured feature map beside controls without the model; bars: sd over splits; null: {again}, {evaluation.refits} draws. {model_and_data}",
        "distances": f"Ruler distance of two stages against the latent angle (radians) of their anchors, fitted on these anchors: "
        f"how far the fit went, not how far it holds. {model_and_data}",
        "readouts": f"Readouts of cells that neither operator, adaptor nor readout was fitted on ({evaluation.folds} folds, "
        f"{cells['folds']}; bars: sd over folds; {null} inside folds). {model_and_data}",
        "added": f"Ours less each other representation on the same folds; 95 % intervals corrected for shared training cells. {model_and_data}",
    }
    if "sensitivity" in tables:
        captions["sensitivity"] = (
            f"Holdouts of the configured feature map under other settings of the adaptor. {model_and_data}"
        )
    undefined = tables["readouts"].query("status != 'ok'").drop_duplicates("endpoint")[["endpoint", "status"]]
    skipped = [{"what": f"Readout '{name}'", "why": why} for name, why in undefined.itertuples(index=False)]
    if config.adaptor.k < 3:
        del captions["latent_3d"]
    options = {"heads": {"own": own}, "holdouts": {"own": own}, "readouts": {"own": ours}}
    figures = [Request(name, caption, options=options.get(name, {})) for name, caption in captions.items()]
    facts = {"Controls": f"{'; '.join(CONTROL_NAMES)}. Same adaptor, folds and readouts."}
    return Section(figures, tables, _answers(chain, tables), skipped, facts=facts)


def _answers(chain: Chain, tables: dict[str, pd.DataFrame]) -> list[str]:
    answers = [_verdict(chain, tables)]
    answers.append(f"On held-out anchors, rank correlation with the ruler: {'; '.join(_held_out(chain, tables))}.")
    answers.append(_readouts_said(tables["added"]))
    best = tables["heads"].sort_values("spearman", ascending=False).iloc[0]
    answers.append(
        f"Strongest head alone: layer {int(best['layer'])}, head {int(best['head'])} (rank correlation {best['spearman']:.2f}, sd "
        f"{best['sd']:.2f}, q {best['q']:.3f} over {len(tables['heads'])} heads); chosen by the same number, so it is biased upward."
    )
    return answers


def _held_out(chain: Chain, tables: dict[str, pd.DataFrame]) -> list[str]:
    said, own = [], chain.config.adaptor.name
    for kind, rows in tables["holdouts"].query("status == 'ok'").groupby("holdout", sort=False):
        ours, others = rows[rows["operator"] == own], rows[rows["operator"] != own].sort_values("spearman")
        low, high = others.iloc[0], others.iloc[-1]
        numbers = (
            "".join(f"{r.spearman:.2f} (sd {r.sd:.2f}, p {r.p:.3f})" for r in ours.itertuples()) or "not applicable"
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
    lines = [f"{_plain(str(name))} {row.above} ({row.better})" for name, row in totals.drop(heads.index).iterrows()]
    if len(heads):
        lines.append(
            f"{len(heads)} other heads of the adaptor {heads['above'].min()} to {heads['above'].max()} ({heads['better'].max()} at most)"
        )
    worse = [f"{name} on {row.worse}" for name, row in totals[totals["worse"] > 0].iterrows()]
    return (
        f"Readouts of the operator's latent on held-out cells, metrics of {n} on which it is above (q <= {_ALPHA}): {'; '.join(lines)}. Surely "
        f"below: {', '.join(worse) or 'none'}."
    )


def _plain(name: str) -> str:
    """A representation by what the adaptor acts on."""
    return name.removeprefix("latent (LET on ").removesuffix(")") if name.startswith("latent (") else name


def _verdict(chain: Chain, tables: dict[str, pd.DataFrame]) -> str:
    """Say first whether the model's operator beat the same adaptor without the model, anywhere."""
    kind, ours = chain.config.adaptor.name, ours_of(chain)
    held = (
        tables["holdouts"].query("status == 'ok'").pivot_table(index="holdout", columns="operator", values="spearman")
    )
    read = tables["readouts"].query("status == 'ok'")
    wide = read.pivot_table(index=["endpoint", "metric"], columns="representation", values="value")
    wins = int((held[kind] > held[IDENTITY]).sum()) if kind in held else 0
    wins += int((wide[ours] > wide[f"latent (LET on {IDENTITY})"]).sum()) if ours in wide else 0
    total = len(held) * (kind in held) + len(wide)
    if total == 0:
        return "On these data no holdout and no endpoint metric could be judged; what was skipped says why."
    if wins == 0:
        return f"On these data the model's operator adds nothing: on all {total} holdouts and endpoint metrics the same adaptor on plain expression does as well or better."
    return f"On {wins} of {total} holdouts and endpoint metrics the model's operator is above the same adaptor on plain expression."


def _cautions(chain: Chain) -> list[str]:
    cautions = [
        "The p of the holdouts asks whether the latent follows this ruler rather than a relabelled one: recognising cell "
        "types, donors or parts of one group counts for nothing in it.",
        "The folds share donors, tissue and technology: nothing here speaks of other donors."
        if "donor" not in chain.obs
        else "Whole donors are held out, but all donors come from one study.",
        "The labels come with the dataset; where they were made from the same expression values, any method that sees "
        "these values is favoured alike.",
        "The operator was averaged over training folds only, but the checkpoint may have seen these cells in its own "
        "training (see its model card).",
        "Spreads are over folds or splits that overlap in their training cells, so they understate the uncertainty.",
    ]
    if chain.config.anchors.parts > 1:
        cautions.append(
            f"Each group of cells was split at random into up to {chain.config.anchors.parts} anchors: parts of a group are no "
            "replicates, and a random holdout of anchors leaves parts of the same group in training."
        )
    return cautions
