"""What a running sum in float16 loses, measured on real cells: the only public export of per-head operators was made so.

python experiments/float16_sums.py
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torch import Tensor

import workbench
from workbench.capture.pairs import PATTERNS
from workbench.capture.record import capture
from workbench.capture.sinks import Plan
from workbench.models.tokens import Tokens

CHECKPOINT = Path(__file__).parents[1] / "artifacts" / "scgpt-blood-mini"
CELLS = 600  # as many as the export took


class _Sums:
    """The same maps added up in half and in double precision."""

    def __init__(self, place: np.ndarray, d: int) -> None:
        self.place, self.d = place, d
        self.lost, self.terms = 0, 0

    def open(self, plan: Plan) -> None:
        heads = next(iter(plan.shapes.values())).inner[0]
        self.hooks = list(plan.shapes)
        self.half = np.zeros((len(self.hooks), heads, self.d, self.d), np.float16)
        self.double = np.zeros(self.half.shape)

    def memory(self, plan: Plan) -> int:
        return 10 * len(plan.shapes) * 4 * self.d**2

    def update(self, hook: str, activation: Tensor, tokens: Tokens) -> None:
        layer = self.hooks.index(hook)
        for maps, ids, keep in zip(activation.numpy(), tokens.gene_ids.numpy(), tokens.genes.numpy(), strict=True):
            at, genes = np.flatnonzero(keep), self.place[ids[keep]]
            part = maps[:, at[:, None], at]
            for head, own in enumerate(part):
                where = np.ix_(genes, genes)
                before = self.half[layer, head][where]
                after = before + own.astype(np.float16)
                self.lost += int(((after == before) & (own > 0)).sum())
                self.terms += own.size
                self.half[layer, head][where] = after
                self.double[layer, head][where] += own

    def flush(self, n_cells: int) -> None: ...

    def state(self) -> dict[str, np.ndarray]:
        return {}

    def restore(self, arrays: Mapping[str, np.ndarray], n_cells: int) -> None: ...


def main() -> None:
    """Measure and print."""
    model, cells = workbench.load_model(CHECKPOINT), workbench.load("pbmc68k")[:CELLS].copy()
    own = model.tokenizer(cells)
    measured = sorted(own.match.genes)  # the paper's input has cells of a panel, all of which they measure
    for name, tokens in (("scGPT's own input", own), ("the paper's input", model.tokenizer(cells, panel=measured))):
        place = np.full(max(model.vocabulary.ids.values()) + 1, -1)
        place[model.vocabulary.encode(tokens.match.genes)] = np.arange(len(tokens.match.genes))
        sums = _Sums(place, len(tokens.match.genes))
        capture(model, tokens, PATTERNS, sums, progress=False)
        seen = sums.double > 0
        error = np.abs(sums.half[seen].astype(np.float64) - sums.double[seen]) / sums.double[seen]
        large = sums.double[seen] >= np.quantile(sums.double[seen], 0.99)
        print(
            f"{name}: {sums.lost / sums.terms:.2%} of {sums.terms:,} terms lost; relative error of a sum: median {np.median(error):.2%}, "
            f"95 % {np.quantile(error, 0.95):.2%}, largest {error.max():.1%}; of the largest hundredth of the sums: median "
            f"{np.median(error[large]):.2%}, largest {error[large].max():.1%}; largest sum {sums.double.max():.3g}, n = {len(cells)} cells"
        )


if __name__ == "__main__":
    main()
