"""The stage ``card``: the model card, and the report of the training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from workbench.engine.stages import Result, Results
from workbench.files import write_json, write_text
from workbench.pretrain_settings import PretrainSettings
from workbench.recipes.pretrain.context import PretrainContext

FILES = ("README.md", "training.json")


def card_stage(context: PretrainContext, folder: Path, results: Results) -> Result:
    """Write ``README.md`` and ``training.json``.

    Parameters
    ----------
    context
        Configuration, cells, and the tables of its run.
    folder
        Not used: both files lie beside the weights.
    results
        Of the stage ``train``: numbers of cells, genes and parameters.
    """
    settings, data = context.config.settings, context.data
    report = {
        "source": context.source,
        "note": context.config.note,
        **{name: value for name, value in results["train"].items() if name != "key"},
        "held_out": {group: len(rows) for group, rows in data.held_out_groups.items()},
        "evaluation": context.read("evaluation").to_dict("records"),
        "curve": context.read("curve").to_dict("records"),
    }
    held_out = sorted(data.cell_ids[data.held_out].tolist())
    whole = {**report, "settings": settings.model_dump(mode="json"), "held_out_cells": held_out}
    write_json(context.out / "training.json", whole)
    write_text(context.out / "README.md", model_card(settings, report))
    return {}


def model_card(settings: PretrainSettings, report: dict[str, Any]) -> str:
    """Markdown card of a trained checkpoint.

    Parameters
    ----------
    settings, report
        Settings and figures as ``training.json`` has them.
    """
    rows = [
        f"| {r['cells']} | {r['mask_ratio']} | {r['predictor']} | {r['mse']:.1f} | {r['low']:.1f} to {r['high']:.1f} | {r['gain']:+.1%} | "
        f"{r['gain_low']:+.1%} to {r['gain_high']:+.1%} |"
        for r in report["evaluation"]
    ]
    curve = report["curve"]
    step = max(1, len(curve) // 12)
    shown = sorted({*range(step - 1, len(curve), step), len(curve) - 1})
    losses = [
        f"| {c['step']} | {c['train_expression']:.1f} | {c['train_mvc']:.1f} | {c['held_out_expression']:.1f} | "
        f"{c['held_out_mvc']:.1f} |"
        for c in (curve[i] for i in shown)
    ]
    n_cells = {r["cells"]: r["n_cells"] for r in report["evaluation"]}
    whom = ", ".join(f"{n}{'' if len(n_cells) == 1 else f' ({group})'}" for group, n in n_cells.items())
    return "\n".join(
        [
            "# A mini scGPT checkpoint",
            "",
            "Made by `workbench pretrain`; the file `training.json` holds every setting, the whole loss curve and the names",
            "of the held-out cells. It is small and trained on few cells: a stand-in with scGPT's format and arithmetic for",
            "tests, demos and teaching. It says nothing about what the released scGPT models encode.",
            "",
            f"- Data: {report['source']}. {report['n_train']} cells trained on, {report['n_held_out']} held out {_held_out(report)}.",
            f"- Model: {settings.n_layers} layers x {settings.n_heads} heads, width {settings.d_model}, "
            f"{report['n_parameters']:,} parameters, {report['n_genes']} genes.",
            f"- Objective: squared error of masked bins from the expression and the MVC decoder, mask ratios "
            f"{', '.join(map(str, settings.mask_ratios))}, {settings.genes_per_cell} genes per cell sampled afresh at each "
            f"of {settings.steps} steps of {settings.batch_size} cells, seed {settings.seed}.",
            "",
            *([f"Note: {report['note']}", ""] if report["note"] else []),
            "## Masked-value error on held-out cells",
            "",
            f"Mean over {whom} held-out cells of the squared error in bins (1 to {settings.n_bins - 1}), with 95 % "
            "bootstrap intervals over cells;",
            "all predictors see the same visible genes.",
            "",
            "| held out | mask ratio | predictor | mean squared error | 95 % interval | less than the gene mean | 95 % interval, paired |",
            "|---|---|---|---|---|---|---|",
            *rows,
            "",
            '"Best possible" knows the true value and is left with scGPT\'s random breaking of ties between bins.',
            "",
            "## Loss curve (squared error in bins)",
            "",
            "| step | train expression | train MVC | held-out expression | held-out MVC |",
            "|---|---|---|---|---|",
            *losses,
            "",
        ]
    )


def _held_out(report: dict[str, Any]) -> str:
    """By what cells were held out, and how many of each group where there are several."""
    groups = report["held_out"]
    if list(groups) == ["cells"]:
        return "by a hash of the cell name"
    return f"({', '.join(f'{name}: {n}' for name, n in groups.items())}; cells and donors by hashes of their names)"
