"""Mean attention of all heads per gene pair: the workbench's pair sink against caching all patterns, then averaging.

The model has 12 layers x 8 heads and random weights. The peer is what transformer-lens users write: `run_with_cache` on
the patterns of every batch, and when all cells are through, one NumPy addition per cell and layer. Memory of the
workbench does not grow with the cells; the peer's does, so more cells only widen the difference.

Beside them stand the plain pass, which makes no pattern at all (`times_plain`: what the capture costs on top of it), and a capture
whose sink asks for the patterns themselves, as it has to where somebody edits them (`times_hooked`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anndata as ad
import numpy as np
import torch
from common import Result, Side, Sizes, arguments, compared, measure, serve, show, synthetic_cells, versions

from workbench.capture.pairs import GenePairMeans, GenePairSink
from workbench.capture.record import capture
from workbench.models.scgpt.config import ModelConfig
from workbench.models.scgpt.hooked import HookedScGPT
from workbench.models.vocabulary import Vocabulary

SIZES: Sizes = {"cells": 128, "genes": 400, "expressed": 300, "panel": 400, "width": 64, "max_tokens": 1200, "batch": 4}
FULL: Sizes = {
    "cells": 12,
    "genes": 3000,
    "expressed": 1600,
    "panel": 600,
    "width": 512,
    "max_tokens": 1200,
    "batch": 1,
}
TOY: Sizes = {"cells": 3, "genes": 30, "expressed": 20, "panel": 20}
N_LAYERS, N_HEADS = 12, 8
HOOKS = "blocks.*.attn.hook_pattern"
PEER = "cache all patterns, then average"

Ready = tuple[HookedScGPT, ad.AnnData, list[str], Sizes]


def prepare(sizes: Sizes) -> Ready:
    """Make model, cells and panel, the same in every process.

    Parameters
    ----------
    sizes
        Sizes; the panel is a random choice of the genes.
    """
    cells = synthetic_cells(sizes["cells"], sizes["genes"], sizes["expressed"])
    vocabulary = Vocabulary.of_genes(cells.var_names)
    torch.manual_seed(0)
    width = sizes["width"]
    config = ModelConfig(len(vocabulary), width, N_LAYERS, N_HEADS, width, max_tokens=sizes["max_tokens"])
    model = HookedScGPT(config, vocabulary).requires_grad_(False).eval()
    chosen = np.sort(np.random.default_rng(0).choice(sizes["genes"], sizes["panel"], replace=False))
    return model, cells, [cells.var_names[i] for i in chosen], sizes


class Hooked:
    """A pair sink without its shortcut: it is given every pattern."""

    def __init__(self, sink: GenePairSink) -> None:
        names = ("open", "memory", "update", "flush", "state", "restore")
        self.__dict__.update({name: getattr(sink, name) for name in names})


def means(ready: Ready, kind: Callable[[GenePairSink], Any] = lambda sink: sink) -> GenePairMeans:
    """One pass that adds every map to sums by gene pair and forgets it.

    Parameters
    ----------
    ready
        From `prepare`.
    kind
        What the capture is given of the sink: `Hooked`, or the sink itself.
    """
    model, cells, panel, _ = ready
    sink = GenePairSink(panel, model.vocabulary)
    capture(model, cells, HOOKS, kind(sink), progress=False)
    return sink.result()


def plain(ready: Ready) -> np.ndarray:
    """The pass alone.

    Parameters
    ----------
    ready
        From `prepare`.
    """
    model, cells, _, _ = ready
    with torch.no_grad():
        return torch.cat([model(tokens).cell for tokens in model.tokenizer(cells).batches(1)]).numpy()


def peer(ready: Ready) -> GenePairMeans:
    """Cache the patterns of all cells, then average.

    Parameters
    ----------
    ready
        From `prepare`.
    """
    model, cells, panel, sizes = ready
    names = [name for name in model.hook_dict if name.endswith("hook_pattern")]
    kept: list[tuple[Any, Any]] = []
    with torch.no_grad():
        for tokens in model.tokenizer(cells).batches(sizes["batch"]):
            _, cache = model.run_with_cache(tokens, names_filter=lambda name: name.endswith("hook_pattern"))
            kept.append((tokens, cache))
    place = np.full(len(model.vocabulary), -1)
    place[model.vocabulary.encode(panel)] = np.arange(len(panel))
    sums = np.zeros((N_LAYERS, N_HEADS, len(panel), len(panel)), dtype=np.float32)
    counts = np.zeros((len(panel), len(panel)), dtype=np.int64)
    for tokens, cache in kept:
        patterns = [cache[name].numpy() for name in names]
        places = np.where(tokens.padding.numpy(), -1, place[tokens.gene_ids.numpy()])
        for cell in range(len(tokens)):
            at = np.flatnonzero(places[cell] >= 0)
            # A slice of the patterns, no copy, where the panel's genes lie side by side.
            side_by_side = at[-1] - at[0] == len(at) - 1
            part = (slice(at[0], at[-1] + 1),) * 2 if side_by_side else np.ix_(at, at)
            rows, columns = np.ix_(places[cell, at], places[cell, at])
            counts[rows, columns] += 1
            for layer in range(N_LAYERS):
                sums[layer][:, rows, columns] += patterns[layer][cell][:, *part]
    return GenePairMeans(tuple(panel), tuple(names), sums, counts)


SIDES = {
    "ours": Side(prepare, means, lambda _, found: {"mean": found.mean()}),
    "plain": Side(prepare, plain, lambda _, cell: {"cell": cell}),
    "hooked": Side(prepare, lambda ready: means(ready, Hooked), lambda _, found: {"mean": found.mean()}),
    "peer": Side(prepare, peer, lambda _, found: {"mean": found.mean()}),
}


def report(figures: dict[str, dict[str, Any]], results: dict[str, Result], sizes: Sizes) -> dict[str, Any]:
    """Check that the sides agree and put their figures together.

    Parameters
    ----------
    figures, results
        As `measure` gives them.
    sizes
        What was measured.
    """
    one, others = results["ours"]["mean"], [results[name]["mean"] for name in ("peer", "hooked")]
    difference = max(float(np.abs(one - other).max()) for other in others)
    if one.max() <= 0 or not all(np.allclose(one, other, rtol=1e-4, atol=1e-7) for other in others):
        raise SystemExit(f"The sides differ by up to {difference:g}; nothing was compared.")
    cost = {name: figures[name]["cpu_seconds"] for name in ("ours", "plain", "hooked")}
    sums = 4 * one.size
    model, cells, _, _ = prepare(sizes)
    lengths = model.tokenizer(cells).lengths()
    return {
        "what": "capture: mean attention of 12 layers x 8 heads per gene pair, random weights, synthetic counts",
        "bounds": {"ratio": "at least 3", "memory_ratio": "at least 20"},
        "data": "synthetic negative binomial counts",
        "times_plain": cost["ours"] / cost["plain"],
        "times_hooked": cost["hooked"] / cost["plain"],
        "memory_beyond_sums": (figures["ours"]["peak_bytes"] - sums) / figures["plain"]["peak_bytes"],
        "plain": figures["plain"],
        "hooked": figures["hooked"],
        **compared(figures, sizes, PEER),
        "sizes": {
            "layers": N_LAYERS,
            "heads": N_HEADS,
            "width": sizes["width"],
            "cells": sizes["cells"],
            "median_tokens": float(np.median(lengths)),
            "max_tokens": int(lengths.max()),
            "genes": sizes["genes"],
            "panel": sizes["panel"],
            "peer_batch": sizes["batch"],
        },
        "greatest_difference": difference,
        "more": {
            "processor time in plain passes": cost["ours"] / cost["plain"],
            "the same with hooks on patterns": cost["hooked"] / cost["plain"],
            "memory beyond the sums, in plain passes": (figures["ours"]["peak_bytes"] - sums)
            / figures["plain"]["peak_bytes"],
            "greatest difference of the means": difference,
            "torch threads": float(sizes["threads"]),
        },
        "versions": versions("torch", "transformer-lens", "numpy", "numba"),
    }


def main() -> None:
    options = arguments(
        __doc__,
        threads={"type": int, "default": 1, "help": "threads of PyTorch for either side (default: 1)"},
        peer_batch={"type": int, "help": "cells per batch of the peer (default: what is fastest for it)"},
    )
    if options.serve:
        return serve(SIDES, options.serve)
    outer = 1 if options.full else 3
    sizes = {**(FULL if options.full else SIZES), "threads": options.threads}
    sizes["batch"] = options.peer_batch or sizes["batch"]
    figures, results = measure(__file__, [["ours"], ["plain"], ["hooked"], ["peer"]], sizes, TOY, outer)
    show(report(figures, results, {**sizes, "repetitions": outer}), options.json)


if __name__ == "__main__":
    main()
