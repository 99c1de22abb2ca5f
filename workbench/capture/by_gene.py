"""Mean vector of each gene over the cells in which it is a token, from streams with a row per gene."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.capture.activations import GENE
from workbench.capture.sinks import Plan
from workbench.errors import HookError
from workbench.models.devices import sums_type
from workbench.models.tokens import Tokens
from workbench.models.vocabulary import Vocabulary


def stream_of(layer: int) -> str:
    """Name of the hook of the residual stream behind a layer.

    Parameters
    ----------
    layer
        Number of the layer from 0; below 0 for the stream in front of the first.
    """
    return "blocks.0.hook_resid_pre" if layer < 0 else f"blocks.{layer}.hook_resid_post"


class GeneMeansSink:
    """Sum of each hook's rows by gene, and the number of cells behind it; padding and ``<cls>`` are left out.

    Memory is (hooks x genes x width) numbers of double precision whatever the number of cells.

    Parameters
    ----------
    genes
        Genes that are kept, in the vocabulary's spelling; all others are passed over.
    vocabulary
        Vocabulary of the model, which gives the genes' ids.
    """

    def __init__(self, genes: Sequence[str], vocabulary: Vocabulary) -> None:
        self.identity = list(genes)
        ids = vocabulary.encode(genes)
        # What is not kept goes to a last row that is never read.
        self._row = torch.full((max(vocabulary.ids.values()) + 1,), len(genes))
        self._row[torch.as_tensor(ids)] = torch.arange(len(genes))
        self._sums: dict[str, Tensor] = {}
        self._n = torch.zeros(len(genes) + 1, dtype=torch.int64)

    def open(self, plan: Plan) -> None:
        """See `Sink`; hooks with one row per gene suit."""
        wrong = [name for name, shape in plan.shapes.items() if shape.kind != GENE]
        if wrong:
            raise HookError(f"'{wrong[0]}' has no row per gene; capture 'blocks.*.hook_resid_post' for this sink.")
        n = len(self._n)
        self._sums = {
            name: torch.zeros(n, int(np.prod(shape.inner)), dtype=torch.float64) for name, shape in plan.shapes.items()
        }

    def memory(self, plan: Plan) -> int:
        """See `Sink`."""
        return sum(8 * len(self._n) * int(np.prod(shape.inner)) for shape in plan.shapes.values())

    def update(self, hook: str, activation: Tensor, tokens: Tokens) -> None:
        """See `Sink`."""
        device, rest = activation.device, len(self._n) - 1
        self._row, self._n = self._row.to(device), self._n.to(device)
        total = self._sums[hook] = self._sums[hook].to(device, sums_type(device))
        at = torch.where(tokens.genes, self._row[tokens.gene_ids], rest).flatten()
        # Made before anything is added: where memory runs out, the same cells come again.
        wide, ones = activation.flatten(0, 1).flatten(1).to(total.dtype), torch.ones_like(at)
        total.index_add_(0, at, wide)
        if hook == next(iter(self._sums)):
            self._n.index_add_(0, at, ones)

    def flush(self, n_cells: int) -> None:
        """See `Sink`."""

    def state(self) -> dict[str, np.ndarray]:
        """See `Sink`."""
        return {
            "n": self._n.cpu().numpy(),
            **{hook: total.cpu().double().numpy() for hook, total in self._sums.items()},
        }

    def restore(self, arrays: Mapping[str, np.ndarray], n_cells: int) -> None:
        """See `Sink`."""
        self._n = torch.as_tensor(arrays["n"]).clone()
        self._sums = {hook: torch.as_tensor(arrays[hook]).double().clone() for hook in self._sums}

    def join(self, arrays: Mapping[str, np.ndarray]) -> None:
        """See `JoinedSink`."""
        self._n = self._n.cpu() + torch.as_tensor(arrays["n"])
        self._sums = {hook: total.cpu().double() + torch.as_tensor(arrays[hook]) for hook, total in self._sums.items()}

    def result(self) -> tuple[Int[np.ndarray, " gene"], dict[str, Float[np.ndarray, "gene width"]]]:
        """Cells in which each gene is a token, and its mean by hook; NaN where there is none."""
        arrays = self.state()
        n = arrays.pop("n")[:-1]
        with np.errstate(invalid="ignore", divide="ignore"):
            return n, {hook: total[:-1] / n[:, None] for hook, total in arrays.items()}
