"""Batch labels: from a column of the cells to the rows of a checkpoint's batch encoder and batch norms."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

import numpy as np
from anndata import AnnData
from jaxtyping import Int

from workbench.errors import CellsError, unknown_name

_SHOWN = 40


def cell_rows(
    cells: AnnData, column: str | None, n_batches: int, names: Sequence[str] = ()
) -> Int[np.ndarray, " cell"] | None:
    """Row of each cell's batch; which row is which batch is said on stderr.

    Parameters
    ----------
    cells
        The cells, or some of those that `workbench.load` gave: what it saw of batches decides the rows of all parts.
    column
        Column of ``obs`` with batches; None for none.
    n_batches, names
        As in `batch_table`. A checkpoint with 0 batches needs no labels: a column is then numbered by its own names.

    Raises
    ------
    CellsError
        If the checkpoint needs a column and there is none, or as in `batch_table`.
    """
    if column is None:
        if n_batches:
            raise CellsError(
                f"The checkpoint was trained with {n_batches} batches and needs the batch of each cell: name a column of obs by data.batch."
            )
        return None
    if column not in cells.obs:
        raise CellsError(f"The cells have no batch column '{column}' in obs; it holds {list(cells.obs.columns)}.")
    labels = cells.obs[column].astype(str).tolist()
    if n_batches:
        table = batch_table([*cells.uns.get("workbench", {}).get("batches", ()), *labels], n_batches, names)
        said = ", ".join(f"{name} {row}" for name, row in table.items())
        print(f"[batches] rows of the checkpoint for the names in '{column}': {said}", file=sys.stderr)
    else:
        print(f"[batches] the checkpoint has no batches: '{column}' changes nothing", file=sys.stderr)
        table = {name: row for row, name in enumerate(sorted(set(labels)))}
    return np.array([table[label] for label in labels], dtype=np.int64)


def batch_table(labels: Sequence[str], n_batches: int, names: Sequence[str] = ()) -> dict[str, int]:
    """Row of each batch of a column.

    scGPT's scripts number batches by the order of their names as text, all batches of the training data together: 0, 1, 10,
    11, 2. Batches numbered from 0 have their own number by that rule as well, as long as there are ten of them at most.

    Parameters
    ----------
    labels
        Name of each cell's batch, or its row; whole numbers may be written as 4.0.
    n_batches
        Batches that the checkpoint was trained with.
    names
        Their names in the order of the rows, as ``batch_names`` of ``args.json`` gives them; empty where it does not.

    Returns
    -------
    dict
        Row by label, in the order of the rows.

    Raises
    ------
    CellsError
        If a batch is none of `names`, or it cannot be known which row a batch is; the message says what to add to
        ``args.json``.

    Examples
    --------
    >>> from workbench.models.scgpt.batches import batch_table
    >>> batch_table(["10x v3", "Drop-seq", "10x v2"], 3)
    {'10x v2': 0, '10x v3': 1, 'Drop-seq': 2}
    """
    found = sorted(set(labels))
    known = {_plain(name): row for row, name in enumerate(names)}
    rows = {name: int(text) for name in found if (text := _plain(name)).isdecimal() and int(text) < n_batches}
    if names:
        for name in found:
            if _plain(name) not in known:
                raise CellsError(f"{unknown_name('batch', name, known)} These are the batch_names of args.json.")
        table = {name: known[_plain(name)] for name in found}
    elif len(rows) == len(found) and n_batches <= 10:
        table = rows
    elif len(rows) == len(found):
        by_row = [str(row) for row in range(n_batches)]
        raise CellsError(
            f"The batches of the cells are numbers ({_listed(found)}), and the checkpoint has {n_batches}. scGPT's scripts number batches "
            "by the order of their names as text, so that batch 2 is not row 2. Say in args.json which is which. Where these are "
            f'the batches as the data name them: "batch_names": {_listed(sorted(by_row))}. Where they are rows of the checkpoint already: '
            f"{_listed(by_row)}."
        )
    elif len(found) == n_batches:
        table = {name: row for row, name in enumerate(found)}
    else:
        raise CellsError(
            f"The cells have {len(found)} batches ({_listed(found)}) and the checkpoint was trained with {n_batches}, so that their rows "
            'cannot be told. Give the names of all its batches in the order of the rows as "batch_names" in args.json (scGPT\'s scripts: '
            "by the order of the names as text)."
        )
    return dict(sorted(table.items(), key=lambda item: item[1]))


def _plain(name: str) -> str:
    """A whole number without the decimals that a column of floats gives it; any other name as it is."""
    return name[:-2] if name.endswith(".0") and name[:-2].isdecimal() else name


def _listed(names: Sequence[str]) -> str:
    return json.dumps(list(names[:_SHOWN]), ensure_ascii=False).replace("]", ", ...]" if len(names) > _SHOWN else "]")
