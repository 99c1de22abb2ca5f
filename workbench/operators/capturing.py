"""Operators of every head from one pass over the cells, or from the checkpoint alone.

They depend on the cells' values, the checkpoint, the panel and the settings of the capture, and on nothing that is
decided later: no label, ruler, fold or anchor has a part in them.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from workbench.capture.pairs import PATTERNS, GenePairSink
from workbench.capture.parts import Pass, capture_in_parts, goes_in_parts
from workbench.capture.record import capture
from workbench.capture.sinks import HookFilter, Sink
from workbench.engine.sweep import Backend
from workbench.models import CellModel
from workbench.operators.convention import Convention
from workbench.operators.store import StoredOperators, check_folder, write_pairs, write_weights
from workbench.operators.weight_operators import weight_operators

_STATE, _SAVE_EVERY = "capture", 256


@dataclass(frozen=True)
class Reading:
    """Which operators are read, of which model and cells, and what else is recorded in the same pass.

    Attributes
    ----------
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
    """

    model: CellModel
    tokenizer: Any
    genes: Sequence[str]
    kind: str
    groups: Mapping[str, int]
    more: Sequence[HookFilter] = ()
    batch_size: int | None = None
    convention: Convention | None = None

    def pairs(self) -> GenePairSink | None:
        """Empty sums of operators that are averaged over cells; None where there are none."""
        if not len(self.genes) or self.kind != "attention":
            return None
        precision = (self.convention or Convention()).sums
        return GenePairSink(self.genes, self.model.vocabulary, self.groups, precision)

    def over_cells(self, pairs: GenePairSink | None) -> Pass:
        """The pass over the cells.

        Parameters
        ----------
        pairs
            Where operators are added up; None where none are averaged.
        """
        sinks, hooks = list[Sink](self.more), [one.pattern for one in self.more]
        if pairs is not None:
            sinks, hooks = [HookFilter(PATTERNS, pairs), *sinks], [PATTERNS, *hooks]
        return Pass(self.model, self.tokenizer, hooks, sinks, self.batch_size)


@dataclass(frozen=True)
class Workers:
    """Who passes the cells through the model, where more than one process does.

    Attributes
    ----------
    backend
        Backend that the command was given.
    reading
        From the opened context of the command to what is read of it.
    handle
        The context as workers open it.
    """

    backend: Backend
    reading: Callable[[Any], Reading]
    handle: Any

    def __call__(self) -> Pass:
        """The pass, in a worker."""
        reading = self.reading(self.handle.open())
        return reading.over_cells(reading.pairs())


def read_operators(folder: Path, reading: Reading, workers: Workers | None = None) -> dict[str, Any]:
    """Operators of every head by group of cells, and whatever else is recorded in the same pass.

    An interrupted pass goes on where it was last saved; `clear_state` removes what it needs for that, once everything
    that was recorded has been written.

    Parameters
    ----------
    folder
        Where they are written, for `StoredOperators`.
    reading
        What is read; the sinks of `Reading.more` are filled.
    workers
        Who passes the cells through the model; this process alone when None.

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
    model, genes, kind = reading.model, reading.genes, reading.kind
    found: dict[str, Any] = {"kind": kind}
    pairs, convention = reading.pairs(), reading.convention or Convention()
    if pairs is not None:
        check_folder(folder, convention)
        matrices = pairs.n_groups * model.config.n_layers * model.config.n_heads
        size = matrices * len(genes) ** 2 * pairs.precision.itemsize / 2**30
        print(f"[operators] {matrices} sums of {len(genes)} x {len(genes)} genes: {size:.1f} GiB of memory during the "
              f"pass and about as much of disk after it", file=sys.stderr)  # fmt: skip
    elif len(genes):
        write_weights(folder, weight_operators(model, tuple(genes), kind))
    made, state = reading.over_cells(pairs), folder / _STATE
    if made.sinks and workers is not None and goes_in_parts(state, workers.backend):
        found["n_tokens"] = capture_in_parts(made, workers, state, workers.backend, _SAVE_EVERY)
    elif made.sinks:
        done = capture(
            model, made.tokens, made.hooks, made.sinks, batch_size=made.batch_size, state=state, save_every=_SAVE_EVERY
        )
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
