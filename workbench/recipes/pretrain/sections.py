"""The report of ``workbench pretrain``: how well hidden values of held-out cells are predicted, beside baselines."""

from __future__ import annotations

from typing import Any

from workbench.engine.section import Report, Section
from workbench.engine.stages import Results
from workbench.figures.requests import Request
from workbench.recipes.pretrain.context import PretrainContext
from workbench.recipes.pretrain.opening import BEST, MODEL, controls, opening


def report(context: PretrainContext, results: Results) -> Report:
    """What a training reports, from the tables that its stages have left.

    Parameters
    ----------
    context
        Configuration, cells and checkpoint, and the tables of its run.
    results
        Results of the stages, by name.
    """
    settings, evaluation = context.config.settings, context.read("evaluation")
    groups = list(dict.fromkeys(evaluation["cells"]))
    by_ratio = evaluation.set_index(["cells", "mask_ratio", "predictor"]).sort_index()
    section = Section(
        figures=[
            Request("masked_errors", "Every predictor sees the same visible genes of the same cells."),
            Request("training_course", "Squared bins, by step of the training."),
        ],
        tables={"evaluation": evaluation, "curve": context.read("curve")},
        answers=[
            _answer(group, ratio, by_ratio.loc[(group, ratio)]) for group in groups for ratio in settings.mask_ratios
        ],
        cautions=[
            "It is trained on few cells: a stand-in with scGPT's format and arithmetic, which says nothing of the released "
            "models.",
            "Held-out cells come from the same data as the others; of other donors or tissues nothing is known."
            if groups == ["cells"]
            else "Intervals are over cells: of donors and studies that differ more than these they say nothing.",
        ],
        facts={
            "Objective": f"squared error of masked bins, mask ratios {', '.join(map(str, settings.mask_ratios))}, "
            f"{settings.steps} steps of {settings.batch_size} cells",
            "Controls": "gene mean, linear regression, nearest training cells; all see the same visible genes",
        },
    )
    return Report(
        title=f"A checkpoint trained on {context.data_name.split(',')[0]}"
        if len(context.studies) == 1
        else f"A checkpoint trained on {len(context.studies) - len(context.config.held_out_studies)} studies",
        opening=opening(evaluation, results["train"]["n_train"]),
        data=context.source,
        sections=[section],
        shows="masked_errors",
        controls=controls(evaluation),
        n=f"{results['train']['n_train']} cells trained on, {results['train']['n_held_out']} held out, "
        f"{results['train']['n_genes']} genes",
    )


def _answer(group: str, ratio: float, rows: Any) -> str:
    whose = "" if group == "cells" else f"{group[0].upper()}{group[1:]}, held out: with "
    ours: Any = rows.loc[MODEL]
    simple = rows["mse"].drop([name for name in rows.index if "decoder" in name or name == BEST])
    return (
        f"{whose or 'With '}{ratio:.0%} of the values hidden, the expression decoder errs by {ours['mse']:.1f} bins squared (95 % over cells "
        f"{ours['low']:.1f} to {ours['high']:.1f}, n = {int(ours['n_cells'])}), {ours['gain']:+.1%} less than the gene mean; "
        f"the best of the simple predictors, {simple.idxmin()}, errs by {simple.min():.1f}, and "
        f"{rows['mse'][BEST]:.1f} is the least that ties between bins allow."
    )
