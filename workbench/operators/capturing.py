"""Operators of every head from one pass over the cells, or from the checkpoint alone.

They depend on the cells' values, the checkpoint, the panel and the settings of the capture, and on nothing that is
decided later: no label, ruler, fold or anchor has a part in them.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from workbench.capture.pairs import PATTERNS, GenePairSink
from workbench.capture.record import capture
from workbench.capture.sinks import HookFilter, Sink
from workbench.models import CellModel
from workbench.operators.convention import Convention
from workbench.operators.store import StoredOperators, check_folder, write_pairs, write_weights
from workbench.operators.weight_operators import weight_operators

_STATE, _SAVE_EVERY = "capture", 256


def read_operators(
    folder: Path,
    model: CellModel,
    tokenizer: Any,
    genes: Sequence[str],
    kind: str,
    *,
    groups: Mapping[str, int],
    more: Sequence[HookFilter] = (),
    batch_size: int | None = None,
    convention: Convention | None = None,
) -> dict[str, Any]:
    """Operators of every head by group of cells, and whatever else is recorded in the same pass.

    An interrupted pass goes on where it was last saved; `clear_state` removes what it needs for that, once everything
    that was recorded has been written.

    Parameters
    ----------
    folder
        Where they are written, for `StoredOperators`.
    model
        Model whose heads are read, on any device.
    tokenizer
        Its tokens of the cells, in the order of the file.
    genes
        Gene panel of the operators; none are made where it is empty.
    kind
        ``attention`` (mean pattern over the cells in which both genes are tokens), or ``qk`` and ``ov``, which need no
        pass.
    groups
        Group of each cell by its name; sums are kept apart by it.
    more
        Further sinks, each with the hooks that it sees.
    batch_size
        Cells per pass; by default as many as keep a layer's attention maps small.
    convention
        Convention of operators that are averaged over cells; the default when None. The tokens have to be of it.

    Returns
    -------
    dict
        ``kind``; after a pass ``n_tokens``, and of averaged operators ``share_of_pairs_seen`` and
        ``median_cells_per_pair``.

    Raises
    ------
    ArtifactError
        If the folder holds operators of another convention.
    """
    found: dict[str, Any] = {"kind": kind}
    pairs, sinks, hooks = None, list[Sink](more), [one.pattern for one in more]
    convention = convention or Convention()
    if len(genes) and kind == "attention":
        check_folder(folder, convention)
        pairs = GenePairSink(genes, model.vocabulary, groups, convention.sums)
        sinks, hooks = [HookFilter(PATTERNS, pairs), *sinks], [PATTERNS, *hooks]
        matrices = pairs.n_groups * model.config.n_layers * model.config.n_heads
        size = matrices * len(genes) ** 2 * pairs.precision.itemsize / 2**30
        print(f"[operators] {matrices} sums of {len(genes)} x {len(genes)} genes: {size:.1f} GiB of memory during the "
              f"pass and about as much of disk after it", file=sys.stderr)  # fmt: skip
    elif len(genes):
        write_weights(folder, weight_operators(model, tuple(genes), kind))
    if sinks:
        state = folder / _STATE
        done = capture(model, tokenizer, hooks, sinks, batch_size=batch_size, state=state, save_every=_SAVE_EVERY)
        found["n_tokens"] = done.n_tokens
    if pairs is not None:
        write_pairs(folder, pairs, convention=convention)
        counts = StoredOperators(folder).counts
        found |= {"share_of_pairs_seen": float((counts > 0).mean()), "median_cells_per_pair": float(np.median(counts))}
    return found


def clear_state(folder: Path) -> None:
    """Remove what an interrupted pass would need to go on.

    Parameters
    ----------
    folder
        As `read_operators` was given it.
    """
    shutil.rmtree(folder / _STATE, ignore_errors=True)
