"""Mean ablation of every head, exactly: the workbench's sweep against a pass with a hook for each head.

The model has 12 layers x 8 heads and random weights; both sides judge by the cell embedding, from the same means, which
are made before the clock starts. The peer is what transformer-lens users write: an intact pass, then `run_with_hooks` 96
times. The workbench shares what lies below an ablated head, so its gain has a limit, which is reported.
"""

from __future__ import annotations

from typing import Any

from common import Result, Side, Sizes, arguments, compared, measure, serve, show, versions
from heads import FULL, PEER, SIZES, TOY, Ready, agreement, described, exact, multiplications, naive, shared_layers
from heads import prepare as prepare_study

from workbench.ablation.metrics import cell_shift


def prepare(sizes: Sizes) -> Ready:
    """Make model, cells and means, the same in every process.

    Parameters
    ----------
    sizes
        Sizes.
    """
    return prepare_study(sizes, cell_shift())


def _finish(ready: Ready, effects: Any) -> Result:
    return {"effects": effects, "lengths": (~ready.study.tokens.padding).sum(1).numpy()}


SIDES = {"ours": Side(prepare, exact, _finish), "peer": Side(prepare, naive, _finish)}


def report(figures: dict[str, dict[str, Any]], results: dict[str, Result], sizes: Sizes) -> dict[str, Any]:
    """Check that the sides agree and put their figures together.

    Parameters
    ----------
    figures, results
        As `measure` gives them.
    sizes
        What was measured.
    """
    difference = agreement(results["ours"]["effects"], results["peer"]["effects"])
    lengths = results["ours"]["lengths"]
    return {
        "what": "ablation: mean ablation of each of 12 layers x 8 heads, cell shift, random weights, synthetic counts",
        "bounds": {"ratio": "at least 2"},
        "data": "synthetic negative binomial counts",
        **compared(figures, sizes, PEER),
        "sizes": described(sizes, lengths),
        "more": {
            "limit: layers run by either, at least": shared_layers(),
            "the same in multiplications": multiplications(lengths, sizes["width"]),
            "greatest difference, share of largest": difference,
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
    figures, results = measure(__file__, [["ours"], ["peer"]], sizes, TOY, outer)
    show(report(figures, results, {**sizes, "repetitions": outer}), options.json)


if __name__ == "__main__":
    main()
