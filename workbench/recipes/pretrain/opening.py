"""The first sentences of a training's report and its controls, from its table alone."""

from __future__ import annotations

from typing import Any

import pandas as pd

from workbench.engine.section import Control, Opening

MODEL, BEST = "expression decoder", "best possible (ties only)"
_QUESTION = (
    "Does the model predict hidden expression of cells that it was not trained on better than simple predictors do?"
)


def simple(evaluation: pd.DataFrame) -> pd.DataFrame:
    """Rows of the predictors without a transformer.

    Parameters
    ----------
    evaluation
        Table of a training, a row per group of cells, mask ratio and predictor.
    """
    return evaluation[~evaluation["predictor"].str.contains("decoder") & (evaluation["predictor"] != BEST)]


def _apart(ours: Any, other: Any) -> int:
    """1 where the interval of the model lies below that of another predictor, -1 where it lies above, 0 where they meet."""
    return int(ours["high"] < other["low"]) - int(ours["low"] > other["high"])


def opening(evaluation: pd.DataFrame, n_train: int) -> Opening:
    """What a training found on its first group of held-out cells, at its middle mask ratio, in five sentences.

    Parameters
    ----------
    evaluation
        Table of the training, a row per mask ratio and predictor.
    n_train
        Number of cells that were trained on.
    """
    group = str(evaluation["cells"].iloc[0])
    evaluation = evaluation[evaluation["cells"] == group]
    ratios = sorted(evaluation["mask_ratio"].unique())
    ratio = ratios[(len(ratios) - 1) // 2]
    rows = evaluation[evaluation["mask_ratio"] == ratio].set_index("predictor", drop=False)
    others, ours = simple(rows), rows.loc[MODEL]
    if not pd.notna(ours["mse"]) or not others["mse"].notna().any():
        return Opening(
            _QUESTION,
            "No hidden value of a held-out cell could be judged.",
            change="More held-out cells could.",
            step="Hold out more cells with --set settings.held_out=0.3.",
        )
    best: Any = others.loc[str(others["mse"].idxmin())]
    said = {1: "it is surely better", -1: "it is surely worse", 0: "the intervals meet, so neither is surely better"}
    return Opening(
        _QUESTION,
        f"With {ratio:.0%} hidden it errs by {ours['mse']:.3g} bins squared against {best['mse']:.3g} for {_short(best['predictor'])}: "
        f"{said[_apart(ours, best)]}.",
        f"{ours['n_cells']:.0f} held-out cells{'' if group == 'cells' else f' ({group})'}: 95 % {ours['low']:.3g} to {ours['high']:.3g} against {best['low']:.3g} to "
        f"{best['high']:.3g}; no model goes below {rows.loc[BEST, 'mse']:.3g}, because values tie.",
        f"Other cells could: it was trained on {n_train:,} cells and judged on others of the same data."
        if group == "cells"
        else f"Other studies could: it was trained on {n_train:,} cells.",
        "Train longer with --set settings.steps=20000, or give more cells."
        if _apart(ours, best) < 1
        else "Use the checkpoint for trying things out; it says nothing of the released models.",
    )


def _short(predictor: str) -> str:
    return predictor.split(" (")[0]


def controls(evaluation: pd.DataFrame) -> list[Control]:
    """Each simple predictor, and at how many mask ratios of how many groups the model's interval lies below its own.

    Parameters
    ----------
    evaluation
        Table of a training, a row per group of cells, mask ratio and predictor.
    """
    ours = evaluation[evaluation["predictor"] == MODEL].set_index(["cells", "mask_ratio"])
    others = simple(evaluation)
    found = []
    for name, rows in others.dropna(subset="mse").groupby(others["predictor"].map(_short), sort=False):
        held = sum(_apart(ours.loc[(row["cells"], row["mask_ratio"])], row) > 0 for _, row in rows.iterrows())
        several = rows["cells"].nunique()
        what = "mask ratios" if several == 1 else f"mask ratios of {several} groups of cells"
        text = f"beaten at {held} of {len(rows)} {what}" if held else f"not beaten ({len(rows)} {what})"
        found.append(Control(str(name), text, held, len(rows)))
    return found
