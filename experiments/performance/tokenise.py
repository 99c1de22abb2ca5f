"""Binning and gene sampling of the same cells: the workbench's tokeniser against scGPT's own loop over rows.

The peer is what scGPT runs before it embeds cells: the rows of a dense matrix one by one, and its `DataCollator`. Both
sides get one core. Beside that, binning alone: `bin_rows` against one call of scGPT's `binning` per row.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
import types
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import torch
from common import Result, Side, Sizes, arguments, measure, serve, show, synthetic_cells, versions

from workbench.models.scgpt.binning import bin_rows, hash_genes
from workbench.models.scgpt.config import ModelConfig
from workbench.models.scgpt.tokenizer import Tokenizer
from workbench.models.vocabulary import Vocabulary
from workbench.seeds import key

Batches = Iterator[tuple[torch.Tensor, torch.Tensor]]
SIZES: Sizes = {"cells": 1000, "genes": 13_000, "expressed": 1200, "max_tokens": 1200, "batch": 64}
FULL: Sizes = {**SIZES, "cells": 5000}
TOY: Sizes = {"cells": 8, "genes": 400, "expressed": 60, "path": None}
PEER = "scGPT's row loop (DataCollator)"
N_BINS, PAD_VALUE = 51, -2


def upstream(module: str) -> Any:
    """Import a module of the installed ``scgpt`` without its ``__init__``, which needs the abandoned torchtext.

    Parameters
    ----------
    module
        Name below ``scgpt``.
    """
    if "scgpt" not in sys.modules:
        spec = importlib.util.find_spec("scgpt")
        if spec is None or not spec.submodule_search_locations:
            print("scGPT is not installed; install it with: pip install --no-deps scgpt==0.2.4", file=sys.stderr)
            raise SystemExit(2)
        stub: Any = types.ModuleType("scgpt")
        stub.__path__ = list(spec.submodule_search_locations)
        stub.logger = logging.getLogger("scgpt")
        sys.modules["scgpt"] = stub
    return importlib.import_module(f"scgpt.{module}")


def cells_of(sizes: Sizes) -> ad.AnnData:
    """Cells in memory, as CSR.

    Parameters
    ----------
    sizes
        A ``path`` to an h5ad file of which the first cells are taken, or the shape of synthetic cells.
    """
    if not sizes.get("path"):
        return synthetic_cells(sizes["cells"], sizes["genes"], sizes["expressed"])
    adata = ad.read_h5ad(sizes["path"])[: sizes["cells"]].copy()
    adata.X = adata.X.tocsr() if hasattr(adata.X, "tocsr") else adata.X
    return adata


def _prepare_ours(sizes: Sizes) -> tuple[Tokenizer, int]:
    adata = cells_of(sizes)
    vocabulary = Vocabulary.of_genes(adata.var_names)
    config = ModelConfig(len(vocabulary), 8, 1, 1, 8, n_bins=N_BINS, pad_value=PAD_VALUE)
    return Tokenizer(adata, config, vocabulary, max_tokens=sizes["max_tokens"]), sizes["batch"]


def _our_batches(ready: tuple[Tokenizer, int]) -> Batches:
    tokenizer, size = ready
    for tokens in tokenizer.batches(size):
        yield tokens.gene_ids, tokens.values


def _prepare_peer(sizes: Sizes) -> tuple[ad.AnnData, np.ndarray, Vocabulary, Any, int]:
    adata = cells_of(sizes)
    vocabulary = Vocabulary.of_genes(adata.var_names)
    collator = upstream("data_collator").DataCollator(
        pad_token_id=vocabulary.pad_id, pad_value=PAD_VALUE, do_mlm=False, max_length=sizes["max_tokens"]
    )
    np.random.seed(0)
    torch.manual_seed(0)
    return adata, vocabulary.encode(adata.var_names), vocabulary, collator, sizes["batch"]


def _peer_batches(ready: tuple[ad.AnnData, np.ndarray, Vocabulary, Any, int]) -> Batches:
    adata, ids, vocabulary, collate, size = ready
    matrix = adata.X.toarray()
    for start in range(0, len(matrix), size):
        examples = []
        for i in range(start, min(start + size, len(matrix))):
            columns = np.nonzero(matrix[i])[0]
            genes = np.insert(ids[columns], 0, vocabulary.cls_id)
            values = np.insert(matrix[i, columns], 0, PAD_VALUE)
            examples.append(
                {"id": i, "genes": torch.from_numpy(genes).long(), "expressions": torch.from_numpy(values).float()}
            )
        batch = collate(examples)
        yield batch["gene"], batch["expr"]


def _consume(batches: Batches) -> None:
    """Take batches one after another as a model would, keeping none."""
    deque(batches, maxlen=0)


def _flat(batches: Batches) -> Result:
    """Tokens of all cells one after another, without ``<cls>`` and padding."""
    lengths, ids, bins = [], [], []
    for gene_ids, values in batches:
        real = gene_ids != 0  # <pad> comes first in the vocabulary
        real[:, 0] = False
        lengths.append(real.sum(1).numpy())
        ids.append(gene_ids[real].numpy())
        bins.append(values[real].numpy())
    return {"lengths": np.concatenate(lengths), "ids": np.concatenate(ids), "bins": np.concatenate(bins)}


def _prepare_binning(sizes: Sizes) -> tuple[np.ndarray, ...]:
    adata = cells_of(sizes)
    matrix = adata.X
    keys = np.array([key(0, "tokens", name) for name in adata.obs_names], dtype=np.uint64)
    hashes = hash_genes(np.arange(matrix.shape[1]))
    return matrix.data.astype(np.float32), matrix.indptr.astype(np.int64), matrix.indices, hashes, keys


def _run_our_binning(ready: tuple[np.ndarray, ...]) -> np.ndarray:
    out = np.empty(len(ready[0]), dtype=np.float32)
    bin_rows(*ready, np.linspace(0, 1, N_BINS - 1), out)
    return out


def _prepare_peer_binning(sizes: Sizes) -> tuple[np.ndarray, ...]:
    upstream("preprocess")
    return _prepare_binning(sizes)


def _run_peer_binning(ready: tuple[np.ndarray, ...]) -> np.ndarray:
    binning = upstream("preprocess").binning
    data, indptr = ready[:2]
    return np.concatenate([binning(data[a:b], N_BINS) for a, b in zip(indptr[:-1], indptr[1:], strict=True)])


def _binning_result(ready: tuple[np.ndarray, ...], bins: np.ndarray) -> Result:
    return {"lengths": np.diff(ready[1]), "ids": ready[2], "bins": bins}


SIDES = {
    "ours": Side(_prepare_ours, lambda r: _consume(_our_batches(r)), lambda r, _: _flat(_our_batches(r))),
    "peer": Side(_prepare_peer, lambda r: _consume(_peer_batches(r)), lambda r, _: _flat(_peer_batches(r))),
    "our binning": Side(_prepare_binning, _run_our_binning, _binning_result),
    "peer binning": Side(_prepare_peer_binning, _run_peer_binning, _binning_result),
}


def check(result: Result, adata: ad.AnnData, max_genes: int | None, first_id: int) -> None:
    """Hold a side's result against what the definition of the bins allows; the ties are random, the rest is not.

    Parameters
    ----------
    result
        Lengths of all cells, and their gene ids and bins.
    adata
        The cells.
    max_genes
        Most genes that a cell may keep; None for all.
    first_id
        Id of the first column.
    """
    assert len(result["lengths"]) == adata.n_obs
    stops = np.cumsum(result["lengths"])
    for row, stop in enumerate(stops):
        part = slice(stop - result["lengths"][row], stop)
        values = adata.X[[row]].toarray().ravel()
        edges = np.quantile(values[values > 0], np.linspace(0, 1, N_BINS - 1))
        columns, bins = result["ids"][part] - first_id, result["bins"][part]
        expressed = int((values > 0).sum())
        if len(columns) != min(expressed, max_genes or expressed) or len(np.unique(columns)) != len(columns):
            raise SystemExit(f"Cell {row} has {len(columns)} genes, which cannot be: it expresses {expressed}.")
        low, high = (np.searchsorted(edges, values[columns], side=side) for side in ("left", "right"))
        if (values[columns] <= 0).any() or (bins > high).any() or (bins < np.minimum(low + 1, high)).any():
            raise SystemExit(f"Cell {row} has a gene in a bin that its value does not fall in.")


def report(figures: dict[str, dict[str, Any]], results: dict[str, Result], sizes: Sizes) -> dict[str, Any]:
    """Check that the sides agree and put their figures together.

    Parameters
    ----------
    figures, results
        As `measure` gives them, for the sides of this comparison.
    sizes
        What was measured.
    """
    adata = cells_of(sizes)
    first_id = int(Vocabulary.of_genes(adata.var_names).encode(adata.var_names[:1])[0])
    for name in ("ours", "peer"):
        check(results[name], adata, sizes["max_tokens"] - 1, first_id)
        check(results[f"{name.replace('ours', 'our')} binning"], adata, None, 0)
    ours, peer = figures["ours"], figures["peer"]
    binning = {"ours": figures["our binning"], "peer": figures["peer binning"]}
    lengths = np.diff(adata.X.indptr)
    ratio = binning["peer"]["seconds"] / binning["ours"]["seconds"]
    return {
        "what": "tokenise: binning, sampling and padding of the same cells, on one core each",
        "bounds": {"binning_only_ratio": "at least 20"},
        "data": Path(sizes["path"]).name if sizes.get("path") else "synthetic negative binomial counts",
        "ratio": peer["seconds"] / ours["seconds"],
        "cpu_ratio": peer["cpu_seconds"] / ours["cpu_seconds"],
        "memory_ratio": peer["peak_bytes"] / ours["peak_bytes"],
        "binning_only_ratio": ratio,
        "ours": ours,
        "peer": peer,
        "binning_only": binning,
        "peer_name": PEER,
        "sizes": {
            "data": "real" if sizes.get("path") else "synthetic",
            "cells": adata.n_obs,
            "genes": adata.n_vars,
            "median_expressed": float(np.median(lengths)),
            "share_sampled": float((lengths >= sizes["max_tokens"]).mean().round(3)),
            "max_tokens": sizes["max_tokens"],
            "batch": sizes["batch"],
        },
        "threads": sizes["threads"],
        "repetitions": sizes["repetitions"],
        "statistic": "best time of all runs, median peak memory over processes (repetitions), each of which runs for 3 s",
        "agree": True,
        "more": {"binning alone, ratio": ratio},
        "versions": versions("torch", "numpy", "numba", "scgpt"),
    }


def main() -> None:
    options = arguments(
        __doc__,
        cells={"metavar": "PATH", "help": "h5ad file of real cells instead of synthetic ones"},
        n_cells={"type": int, "help": "cells to use"},
    )
    if options.serve:
        return serve(SIDES, options.serve)
    upstream("preprocess")
    outer = 3
    processes = [["ours", "our binning"], ["peer", "peer binning"]]
    sizes = {**(FULL if options.full else SIZES), "path": options.cells, "threads": 1}
    sizes["cells"] = options.n_cells or sizes["cells"]
    figures, results = measure(__file__, processes, sizes, TOY, outer, at_least=3, one_core=True)
    show(report(figures, results, {**sizes, "repetitions": outer}), options.json)


if __name__ == "__main__":
    main()
