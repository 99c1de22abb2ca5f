"""Effects of all heads at once by gradients: the workbench's attribution against a pass with a hook for each head.

The model has 12 layers x 8 heads and random weights; the metric is the error of masked values that the MVC decoder
predicts. Attribution estimates what the peer computes, so the sides cannot be equal: what is checked is that the
workbench's exact sweep, measured as a third side, gives the peer's effects, and how the estimate ranks heads is reported.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from common import Result, Side, Sizes, arguments, compared, measure, serve, show, versions
from heads import FULL, PEER, SIZES, TOY, Ready, agreement, described, exact, naive
from heads import prepare as prepare_study

from workbench.ablation.attribution import attribute
from workbench.ablation.metrics import masked_error
from workbench.stats import spearman

AT_LEAST = 2.0


def prepare(sizes: Sizes) -> Ready:
    """Make model, cells and means, the same in every process.

    Parameters
    ----------
    sizes
        Sizes.
    """
    return prepare_study(sizes, masked_error("mvc"))


def ours(ready: Ready) -> np.ndarray:
    """Plain attribution of all heads, (layer, head, cell).

    Parameters
    ----------
    ready
        From `prepare`.
    """
    study = ready.study
    return attribute(study, study.metrics[0], range(len(study.tokens)), "mean")


def _finish(ready: Ready, effects: Any) -> Result:
    return {"effects": effects, "lengths": (~ready.study.tokens.padding).sum(1).numpy()}


SIDES = {
    "ours": Side(prepare, ours, _finish),
    "peer": Side(prepare, naive, _finish),
    "exact": Side(prepare, exact, _finish),
}


def report(figures: dict[str, dict[str, Any]], results: dict[str, Result], sizes: Sizes) -> dict[str, Any]:
    """Check that the exact sweep gives the peer's effects and put the figures together.

    Parameters
    ----------
    figures, results
        As `measure` gives them.
    sizes
        What was measured.
    """
    difference = agreement(results["exact"]["effects"], results["peer"]["effects"])
    estimate, effects = (results[side]["effects"].mean(2).ravel() for side in ("ours", "peer"))
    if not np.isfinite(estimate).all():
        raise SystemExit("Attribution gave values that are no numbers; nothing was compared.")
    return {
        "what": "attribution: all of 12 layers x 8 heads, masked MVC error, random weights, synthetic counts",
        "bounds": {"ratio": "at least 20"},
        "data": "synthetic negative binomial counts",
        "exact": figures["exact"],
        **compared(figures, sizes, PEER),
        "sizes": described(sizes, results["ours"]["lengths"]),
        "more": {
            "the workbench's exact sweep, seconds": figures["exact"]["seconds"],
            "Spearman of estimate and effect, heads": spearman(estimate, effects),
            "exact sweep: greatest difference": difference,
            "torch threads": float(sizes["threads"]),
        },
        "versions": versions("torch", "transformer-lens", "numpy"),
    }


def main() -> None:
    options = arguments(
        __doc__,
        threads={"type": int, "default": 1, "help": "threads of PyTorch for either side (default: 1)"},
        batch={"type": int, "help": "cells per batch of the workbench (default: what is fastest for it)"},
        peer_batch={"type": int, "help": "cells per batch of the peer (default: what is fastest for it)"},
    )
    if options.serve:
        return serve(SIDES, options.serve)
    outer = 1 if options.full else 3
    sizes = {**(FULL if options.full else SIZES), "threads": options.threads}
    sizes["batch"] = options.batch or sizes["batch"]
    sizes["peer_batch"] = options.peer_batch or sizes["peer_batch"]
    figures, results = measure(__file__, [["ours"], ["peer"], ["exact"]], sizes, TOY, outer, AT_LEAST)
    show(report(figures, results, {**sizes, "repetitions": outer}), options.json)


if __name__ == "__main__":
    main()
