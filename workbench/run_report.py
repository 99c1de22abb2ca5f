"""The last stage of a run: metrics, manifest, figures and the report page, from the tables alone."""

from __future__ import annotations

from typing import Any

import pandas as pd
import yaml

from workbench.chain import Chain
from workbench.config import absolute
from workbench.extractor.controls import IDENTITY
from workbench.files import write_json, write_text
from workbench.provenance import describe_model, manifest, pairs
from workbench.stages import StageRunner

_ALPHA = 0.05
_TABLES = ("latent", "heads", "holdouts", "readouts", "added", "distances")


def report_stage(chain: Chain, runner: StageRunner, results: dict[str, dict[str, Any]]) -> None:
    """Write ``metrics.json``, ``manifest.json``, ``figures/`` and ``report.html``.

    Parameters
    ----------
    chain, runner
        The run.
    results
        What the stages returned, by name.
    """
    from workbench.figures import head_map, holdouts, latent_map, readouts, ruler_against_latent
    from workbench.report import write_report

    write_text(chain.out / "config.yaml", yaml.safe_dump(absolute(chain.config), sort_keys=False))
    tables = {name: pd.read_csv(chain.tables / f"{name}.csv") for name in _TABLES}
    random = tables["holdouts"].query("holdout == 'random'")
    controls = dict(zip(random["operator"].astype(str), random["spearman"].astype(float), strict=True))
    kind = chain.config.adaptor.feature_map
    figures = {
        "latent": latent_map(tables["latent"]),
        "heads": head_map(tables["heads"], controls),
        "holdouts": holdouts(tables["holdouts"], baselines=[name for name in controls if name != kind]),
        "distances": ruler_against_latent(tables["distances"]),
        "readouts": readouts(
            tables["readouts"],
            baselines=[
                name for name in tables["readouts"]["representation"].unique() if name != f"latent (LET on {kind})"
            ],
        ),
    }
    summary = _summary(chain, results, tables)
    metrics = {
        "stages": {name: {k: v for k, v in result.items() if k != "key"} for name, result in results.items()},
        "heads": tables["heads"].to_dict("records"),
        "holdouts": tables["holdouts"].to_dict("records"),
        "readouts": tables["readouts"].to_dict("records"),
        "added": tables["added"].to_dict("records"),
        "skipped": summary["skipped"],
    }
    write_json(chain.out / "metrics.json", metrics)
    stages = {
        name: {"seconds": seconds, "kept": runner.reused[name], "key": results.get(name, {}).get("key")}
        for name, seconds in runner.seconds.items()
    }
    made_from = manifest(chain.config.model_dump(mode="json"), chain.model, chain.inputs("data")["content"], stages)
    write_json(chain.out / "manifest.json", made_from)
    summary["provenance"] = pairs(made_from)
    write_report(chain.out, summary, tables, figures)


def _summary(chain: Chain, results: dict[str, dict[str, Any]], tables: dict[str, pd.DataFrame]) -> dict[str, Any]:
    config, cells, operators = chain.config, results["cells"], results["operators"]
    source = chain.adata.uns["workbench"]["source"]
    model = describe_model(chain.model, config.checkpoint)
    setting = f"Model: {model}. Data: {chain.adata.uns['workbench']['name']}, {cells['n_cells']} cells."
    command = f"workbench run {chain.out / 'config.yaml'} --out {chain.out}"
    evaluation = config.evaluation
    null = f"null: {evaluation.permutations} permutations of the labels, its upper bound the 97.5 % quantile"
    relabelled = "stages relabelled at random and the adaptor fitted again, its upper bound the 97.5 % quantile"
    anchors = int(tables["heads"]["n_anchors"].iloc[0])
    captions = {
        "latent": f"UMAP of the exported latent, fitted on all of these cells: a picture, no evidence. {setting}",
        "heads": f"Each head alone through the adaptor: rank correlation of latent angles with ruler distances on held-out "
        f"anchors ({anchors} anchors, mean over {evaluation.holdouts} random holdouts; null: {relabelled}, {evaluation.head_refits} draws per head pooled over the heads). {setting}",
        "holdouts": f"The configured feature map beside controls without the model; bars: sd over splits; null: {relabelled}, {evaluation.refits} draws. {setting}",
        "distances": f"Ruler distance of two stages against the latent angle (radians) of their anchors, fitted on these anchors: "
        f"how far the fit went, not how far it holds. {setting}",
        "readouts": f"Linear readouts of cells that neither operator, adaptor nor readout was fitted on "
        f"({config.evaluation.folds} folds, {cells['folds']}; bars: sd over folds; {null} inside folds). {setting}",
    }
    return {
        "title": f"{config.name}: a small algorithm out of scGPT",
        "question": "Do gene-space operators of the model's attention heads, through a linear adaptor, carry the "
        f"{chain.ruler.name} ruler, and do they add anything to the same adaptor on plain expression?",
        "answers": _answers(chain, results, tables),
        "model": model,
        "data": f"{source}. {cells['genes']['matched']} of {cells['genes']['columns']} genes in the vocabulary, panel of "
        f"{cells['n_panel']}; values: {cells['values']}; {cells['n_placed']} cells placed on the ruler; "
        f"{operators['n_tokens']} tokens read.",
        "skipped": _skipped(chain, results, tables),
        "cautions": _cautions(chain),
        "captions": captions,
        "commands": dict.fromkeys(captions, command),
        "algorithm": f"algorithm/ ({results['algorithm']['bytes'] / 1024:.0f} KiB): one {cells['n_panel']} x {config.adaptor.k} "
        f"matrix, an offset and {len(results['algorithm']['readouts'])} linear readouts; applied again from the file alone it "
        f"differs by {results['algorithm']['relative_difference_from_file']:.1e} of the largest latent value.",
    }


def _answers(chain: Chain, results: dict[str, dict[str, Any]], tables: dict[str, pd.DataFrame]) -> list[str]:
    kind = chain.config.adaptor.feature_map
    answers = [_verdict(kind, tables)]
    for holdout in ("random", "branch", "donor"):
        rows = tables["holdouts"].query("holdout == @holdout and status == 'ok'")
        if len(rows):
            said = ", ".join(f"{r.operator} {r.spearman:.2f} (sd {r.sd:.2f}, p {r.p:.3f})" for r in rows.itertuples())
            answers.append(f"{holdout.capitalize()} holdout of anchors, rank correlation with the ruler: {said}.")
    compared = []
    for name, rows in tables["added"].groupby("control", sort=False):
        sure = rows["q"] <= _ALPHA
        better, worse = (sure & (rows["difference"] > 0)).sum(), (sure & (rows["difference"] < 0)).sum()
        compared.append(
            f"{name}: above on {(rows['difference'] > 0).sum()} (q <= {_ALPHA}: {better} above, {worse} below)"
        )
    n = len(tables["added"].drop_duplicates(["endpoint", "metric"]))
    answers.append(
        f"Readouts of the latent of the model's operator, {n} endpoint metrics, against {'; '.join(compared)}."
    )
    best = tables["heads"].sort_values("spearman", ascending=False).iloc[0]
    answers.append(
        f"Strongest head alone: layer {int(best['layer'])}, head {int(best['head'])} (rank correlation {best['spearman']:.2f}, sd "
        f"{best['sd']:.2f}, q {best['q']:.3f} over {len(tables['heads'])} heads); chosen by the same number, so it is biased upward."
    )
    return answers


def _verdict(kind: str, tables: dict[str, pd.DataFrame]) -> str:
    """Say first whether the model's operator beat the same adaptor without the model, anywhere."""
    held = (
        tables["holdouts"].query("status == 'ok'").pivot_table(index="holdout", columns="operator", values="spearman")
    )
    read = tables["readouts"].query("status == 'ok'")
    wide = read.pivot_table(index=["endpoint", "metric"], columns="representation", values="value")
    wins = int((held[kind] > held[IDENTITY]).sum())
    wins += int((wide[f"latent (LET on {kind})"] > wide[f"latent (LET on {IDENTITY})"]).sum())
    total = len(held) + len(wide)
    if wins == 0:
        return f"On these data the model's operator adds nothing: on all {total} holdouts and endpoint metrics the same adaptor on plain expression does as well or better."
    return f"On {wins} of {total} holdouts and endpoint metrics the model's operator is above the same adaptor on plain expression."


def _skipped(chain: Chain, results: dict[str, dict[str, Any]], tables: dict[str, pd.DataFrame]) -> list[dict[str, str]]:
    skipped = []
    if "donor" not in chain.obs:
        skipped.append(
            {
                "what": "Donor holdout",
                "why": "the data name no donors; folds are stratified by label, which is an easier test",
            }
        )
    if "tissue" not in chain.obs:
        skipped.append({"what": "Tissue as a grouping of anchors", "why": "the data name no tissue"})
    undefined = tables["readouts"].query("status != 'ok'")
    for endpoint, why in undefined.drop_duplicates("endpoint")[["endpoint", "status"]].itertuples(index=False):
        skipped.append({"what": f"Readout '{endpoint}'", "why": why})
    for label, hint in results["cells"]["unplaced_labels"].items():
        skipped.append({"what": f"Cells labelled '{label}'", "why": f"the ruler does not know the label ({hint})"})
    return skipped


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
