"""What the comparisons of head ablation share: a study of random weights, the naive sweep, and the exact one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from common import Sizes, synthetic_cells
from torch import Tensor

from workbench.ablation.edits import Edits
from workbench.ablation.exact import exact_sweep
from workbench.ablation.metrics import Metric, Run, mask_values
from workbench.ablation.reference import build_reference
from workbench.ablation.sites import all_heads
from workbench.ablation.study import Study
from workbench.models.scgpt.config import ModelConfig
from workbench.models.scgpt.hooked import HookedScGPT
from workbench.models.tokens import Tokens
from workbench.models.vocabulary import Vocabulary

SIZES: Sizes = {
    "cells": 6,
    "reference": 32,
    "genes": 400,
    "expressed": 300,
    "width": 64,
    "max_tokens": 1200,
    "batch": 1,
    "peer_batch": 1,
}
FULL: Sizes = {**SIZES, "cells": 2, "reference": 4, "genes": 3000, "expressed": 1600, "width": 512}
TOY: Sizes = {"cells": 2, "reference": 4, "genes": 30, "expressed": 20}
N_LAYERS, N_HEADS = 12, 8
PEER = "a pass with a hook for each head"


@dataclass(frozen=True)
class Ready:
    """What a side starts from.

    Attributes
    ----------
    study
        Model, cells, one metric, and means of ``hook_z`` by gene.
    means
        The same means for the peer, by layer and head: one row per token id.
    sizes
        Sizes.
    """

    study: Study
    means: list[list[Tensor]]
    sizes: Sizes


def prepare(sizes: Sizes, metric: Metric) -> Ready:
    """Make model, cells and means, the same in every process.

    Parameters
    ----------
    sizes
        Sizes.
    metric
        What heads are judged by; of masked input or of plain input.
    """
    cells = synthetic_cells(sizes["cells"] + sizes["reference"], sizes["genes"], sizes["expressed"])
    vocabulary = Vocabulary.of_genes(cells.var_names)
    torch.manual_seed(0)
    width = sizes["width"]
    config = ModelConfig(len(vocabulary), width, N_LAYERS, N_HEADS, width, max_tokens=sizes["max_tokens"])
    model = HookedScGPT(config, vocabulary).requires_grad_(False).eval()
    for layer in range(N_LAYERS):
        # By PyTorch's own draw attention is nearly even, and a head nearly its mean: effects would be rounding.
        model.block(layer).attn.qkv.weight.mul_(3)
    tokenizer = model.tokenizer(cells)
    tokens, others = tokenizer.tokens(0, sizes["cells"]), tokenizer.tokens(sizes["cells"])
    study = Study(model, tokens, (metric,), batch_size=sizes["batch"])
    if metric.masked:
        others, _, _ = mask_values(others, config, study.mask_share, study.seed)
    reference = build_reference(model, others, ["blocks.*.attn.hook_z"], sizes["batch"])
    study = Study(model, tokens, (metric,), reference, reference, batch_size=sizes["batch"])
    tables = [reference.means[f"blocks.{layer}.attn.hook_z"][reference.row] for layer in range(N_LAYERS)]
    return Ready(study, [[table[:, head].contiguous() for head in range(N_HEADS)] for table in tables], sizes)


def _batches(study: Study, size: int) -> Iterator[tuple[np.ndarray, Tokens, Tensor | None, Tensor | None]]:
    """Cell numbers, what the model reads, true values and mask."""
    for start in range(0, len(study.tokens), size):
        rows = np.arange(start, min(start + size, len(study.tokens)))
        tokens = study.tokens.take(rows.tolist())
        if study.metrics[0].masked:
            yield rows, *mask_values(tokens, study.model.config, study.mask_share, study.seed)
        else:
            yield rows, tokens, None, None


def exact(ready: Ready) -> np.ndarray:
    """The workbench's exact sweep over all heads: effects, (layer, head, cell).

    Parameters
    ----------
    ready
        From `prepare`.
    """
    study = ready.study
    metric, heads = study.metrics[0], all_heads(study.model.config)
    effects = np.zeros((len(heads), len(study.tokens)), dtype=np.float32)
    for rows, tokens, target, mask in _batches(study, study.batch_size):
        edits = Edits(study.model, tokens, heads, study.reference)
        intact = before = None
        for which, out in exact_sweep(study.model, tokens, heads, edits, metric.needs):
            intact = intact or out
            value = metric.function(Run(out, intact, rows, tokens, target, mask))
            if which is None:
                before = value
            else:
                effects[which, rows] = value - before
    return effects.reshape(N_LAYERS, N_HEADS, -1)


def naive(ready: Ready) -> np.ndarray:
    """One intact pass, and one for each head with a hook that puts in the means: effects, (layer, head, cell).

    Parameters
    ----------
    ready
        From `prepare`.
    """
    study = ready.study
    model, metric = study.model, study.metrics[0]
    effects = np.zeros((N_LAYERS, N_HEADS, len(study.tokens)), dtype=np.float32)
    with torch.no_grad():
        for rows, tokens, target, mask in _batches(study, ready.sizes["peer_batch"]):
            intact = model(tokens, outputs=metric.needs)
            before = metric.function(Run(intact, intact, rows, tokens, target, mask))
            for layer in range(N_LAYERS):
                for head in range(N_HEADS):

                    def put(z, hook, head=head, table=ready.means[layer][head], ids=tokens.gene_ids):
                        z[:, :, head] = table[ids]
                        return z

                    hooks = [(f"blocks.{layer}.attn.hook_z", put)]
                    out = model.run_with_hooks(tokens, outputs=metric.needs, fwd_hooks=hooks)
                    value = metric.function(Run(out, intact, rows, tokens, target, mask))
                    effects[layer, head, rows] = value - before
    return effects


def agreement(one: np.ndarray, other: np.ndarray) -> float:
    """Greatest difference between effects as a share of the largest effect; an error where it is too great.

    Parameters
    ----------
    one, other
        Effects of the two exact ways.
    """
    largest = float(np.abs(other).max())
    difference = float(np.abs(one - other).max()) / max(largest, 1e-12)
    if not (largest > 1e-5 and difference < 1e-3):
        raise SystemExit(
            f"The effects differ by up to {difference:g} of the largest, {largest:g}; nothing was compared."
        )
    return difference


def shared_layers() -> float:
    """Layers that a pass for each head runs, per layer that a sweep cannot do without: a limit of what sharing gives.

    A sweep needs one intact pass, and for each head the layers above it. A head's own layer, where little changes, and the
    last one, where ``<cls>`` is enough, are counted as free.
    """
    return (1 + N_LAYERS * N_HEADS) * N_LAYERS / (N_LAYERS - 1 + N_HEADS * (N_LAYERS - 1) * (N_LAYERS - 2) / 2)


def multiplications(lengths: np.ndarray, width: int) -> float:
    """The same ratio in multiplications, nothing counted as free.

    Parameters
    ----------
    lengths
        Tokens of each cell.
    width
        Of the residual stream and the MLP.
    """
    n, square = lengths.astype(float), width**2
    layer = n * 6 * square + 2 * n**2 * width
    last = n * 2 * square + 2 * n * width + 4 * square
    start = n * (square / N_HEADS + 2 * square)
    above = N_LAYERS - 1
    heads = above * (start + last) + above * (above - 1) / 2 * layer + start / n
    return float(((1 + N_LAYERS * N_HEADS) * N_LAYERS * layer).sum() / (above * layer + last + N_HEADS * heads).sum())


def described(sizes: Sizes, lengths: np.ndarray) -> Sizes:
    """Sizes for a report.

    Parameters
    ----------
    sizes
        What was measured.
    lengths
        Tokens of each cell.
    """
    return {
        "layers": N_LAYERS,
        "heads": N_HEADS,
        "width": sizes["width"],
        "cells": sizes["cells"],
        "median_tokens": float(np.median(lengths)),
        "max_tokens": int(lengths.max()),
        "genes": sizes["genes"],
        "reference_cells": sizes["reference"],
        "batch": sizes["batch"],
        "peer_batch": sizes["peer_batch"],
    }
