"""Activations of hooks as rows: streamed from cells, without ``<cls>`` and padding, through a shuffled buffer of fixed size.

The order is that of the seed alone: cells are dealt out in units of a few neighbours, whole units fill the buffer, and what is in
it is shuffled. So it does not depend on how many cells a forward pass takes, and memory not on how many there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from anndata import AnnData
from jaxtyping import Float, Int
from torch import Tensor

from workbench.capture.activations import CELL, PAIR, HookShape, hook_shapes, last_layer, run_to
from workbench.cells.groups import make_folds, make_groups
from workbench.cells.splits import Split
from workbench.errors import CellsError, HookError
from workbench.models import CellModel, CellTokenizer
from workbench.models.devices import Fitting
from workbench.models.tokens import Tokens, joined
from workbench.seeds import generator
from workbench.tools.common import check_cells, column

# Consecutive cells that stay together: few, because neighbours in a file are often alike; more than one, because rows of a
# file are read in blocks.
_UNIT = 4


@dataclass(frozen=True)
class Rows:
    """Activations, one row per gene of a cell (of a hook with a row per cell: one per cell).

    Attributes
    ----------
    values
        By hook: (row, width) in single precision, inner axes flattened, on the model's device.
    genes
        Token id of each row's gene; -1 for a whole cell.
    levels
        Value of the gene in the cell, as the model reads it; NaN for a whole cell.
    cells
        Number of each row's cell.
    """

    values: Mapping[str, Float[Tensor, "row width"]]
    genes: Int[Tensor, " row"]
    levels: Float[Tensor, " row"]
    cells: Int[Tensor, " row"]

    def __len__(self) -> int:
        return len(self.genes)

    def take(self, rows: Tensor | slice) -> Rows:
        """Some of the rows.

        Parameters
        ----------
        rows
            Numbers of the rows in the order that is wanted, or a slice.
        """
        values = {hook: x[rows] for hook, x in self.values.items()}
        return Rows(values, self.genes[rows], self.levels[rows], self.cells[rows])


def together(parts: Sequence[Rows], order: Int[Tensor, " row"] | None = None) -> Rows:
    """Rows of several parts, copied once: they are most of what is held.

    Parameters
    ----------
    parts
        One part or more, of the same hooks.
    order
        Numbers of the rows, counted over all parts, in the order that is wanted; one part after the other when None.
    """
    places = None if order is None else torch.argsort(order).split([len(part) for part in parts])

    def made(found: list[Tensor]) -> Tensor:
        if places is None:
            return torch.cat(found)
        new = found[0].new_empty((sum(map(len, found)), *found[0].shape[1:]))
        for x, place in zip(found, places, strict=True):
            new[place] = x
        return new

    values = {hook: made([part.values[hook] for part in parts]) for hook in parts[0].values}
    return Rows(values, *(made([getattr(part, name) for part in parts]) for name in ("genes", "levels", "cells")))


def dealt_anew(rows: Rows, seed: int, *names: str) -> Rows:
    """Rows of which each coordinate is dealt anew among the rows of the same gene: means and spreads of genes stay, nothing goes together.

    Parameters
    ----------
    rows
        Activations; whole cells count as one gene.
    seed
        Seed of the deal, together with the hook.
    *names
        What the deal is for, such as the number of a round; other names give another deal.
    """
    genes = rows.genes.cpu().numpy()
    device = rows.genes.device
    home = torch.as_tensor(np.argsort(genes, kind="stable"), device=device)
    rank = np.unique(genes, return_inverse=True)[1]
    new = {}
    for hook, x in rows.values.items():
        new[hook] = torch.empty_like(x)
        for j in range(x.shape[1]):
            drawn = generator(seed, "dealt anew", hook, str(j), *names).random(len(rank))
            new[hook][home, j] = x[torch.as_tensor(np.argsort(rank + drawn), device=device), j]
    return Rows(new, rows.genes, rows.levels, rows.cells)


class Reader:
    """Activations of some hooks, of any cells of a data set.

    Parameters
    ----------
    model
        Model in evaluation mode; what is spliced into it or hooked takes part.
    tokenizer
        Tokens of the cells, from ``model.tokenizer``.
    hooks
        Full names of hooks that have a row per gene, or of hooks that have one per cell; not both.
    cells_at_once
        Cells per forward pass, at most.

    Raises
    ------
    HookError
        If a hook has a map of gene pairs, or some have rows of genes and others of cells.
    CellsError
        If a cell expresses none of the model's genes.
    """

    def __init__(
        self, model: CellModel, tokenizer: CellTokenizer, hooks: Sequence[str], cells_at_once: int = 16
    ) -> None:
        self.model, self.tokenizer, self.hooks = model, tokenizer, tuple(hooks)
        self.shapes: dict[str, HookShape] = hook_shapes(model, tokenizer, self.hooks)
        kinds = {shape.kind for shape in self.shapes.values()}
        if PAIR in kinds:
            pair = next(name for name, shape in self.shapes.items() if shape.kind == PAIR)
            raise HookError(
                f"'{pair}' is a map of gene pairs, of which no dictionary can be made; name a hook with a width."
            )
        if len(kinds) > 1:
            raise HookError(
                f"Of {', '.join(self.hooks)} some have a row per gene and others one per cell; make dictionaries of them in two calls."
            )
        self.of_cells = kinds == {CELL}
        self._fitting = Fitting(cells_at_once)
        names = [f"cell {i}" for i in range(len(tokenizer))]
        check_cells(tokenizer, names)
        lengths = tokenizer.lengths()
        self.n_rows = np.ones(len(lengths), dtype=np.int64) if self.of_cells else lengths - 1

    def width(self, hook: str) -> int:
        """Numbers of one row.

        Parameters
        ----------
        hook
            Name of one of the hooks.
        """
        return int(np.prod(self.shapes[hook].inner))

    def read(self, cells: Sequence[int]) -> Iterator[Rows]:
        """Rows of cells, pass by pass, in the order of the cells; within a cell in that of its tokens.

        Parameters
        ----------
        cells
            Numbers of cells; runs of consecutive ones are read in one go.

        Raises
        ------
        HookError
            If an activation is not finite; hook and cell are named.
        """
        size = self._fitting.size
        for start in range(0, len(cells), size):
            part = np.asarray(cells[start : start + size], dtype=np.int64)
            tokens = self._tokens(part)
            done = 0
            for rows in self._fitting.batches(tokens, self._rows):
                n = int(rows.cells.max()) + 1
                numbers = torch.as_tensor(part[done : done + n], device=rows.cells.device)
                done += n
                yield Rows(rows.values, rows.genes, rows.levels, numbers[rows.cells])

    def _tokens(self, cells: np.ndarray) -> Tokens:
        runs = np.split(cells, np.flatnonzero(np.diff(cells) != 1) + 1)
        return joined([self.tokenizer.tokens(int(run[0]), int(run[-1]) + 1) for run in runs])

    def _rows(self, tokens: Tokens) -> Rows:
        tokens = tokens.to(self.model.device, self.model.dtype)
        kept: dict[str, Tensor] = {}
        stop_at = last_layer(self.hooks, self.model.config.n_layers)
        with (
            torch.no_grad(),
            self.model.hooks([(hook, lambda x, hook: kept.__setitem__(hook.name, x)) for hook in self.hooks]),
        ):
            run_to(self.model, tokens, stop_at)
        each = torch.arange(len(tokens), device=self.model.device)
        if self.of_cells:
            values = {hook: kept[hook].flatten(1).float() for hook in self.hooks}
            rows = Rows(values, torch.full_like(each, -1), torch.full_like(each, torch.nan, dtype=torch.float32), each)
        else:
            keep = tokens.genes
            places = keep.flatten().nonzero()[:, 0]
            values = {hook: kept[hook].flatten(2).flatten(0, 1).index_select(0, places).float() for hook in self.hooks}
            cells = each[:, None].expand_as(keep)[keep]
            rows = Rows(values, tokens.gene_ids[keep], tokens.values[keep].float(), cells)
        for hook, x in values.items():
            # A sum is quick to look at; only where it is no number, or too large for one, every number is.
            if not torch.isfinite(x.sum(1)).all() and (bad := ~torch.isfinite(x).all(1)).any():
                cell = tokens.cell_ids[int(rows.cells[bad][0])] if tokens.cell_ids else str(int(rows.cells[bad][0]))
                raise HookError(
                    f"The activation at '{hook}' is not finite in cell '{cell}'; look for weights or values that are not, or run the model in "
                    "single precision."
                )
        return rows


class Feed:
    """Shuffled batches of rows without end, epoch after epoch.

    A round fills the buffer with whole units of cells, shuffles it and gives it away in batches; what is left over goes first into
    the next round. Between rounds it can be saved.

    Parameters
    ----------
    reader
        Where the rows come from.
    rows
        Number of rows in a batch.
    buffer
        Rows that are held at once, at most.
    seed
        Seed of the order of cells and of rows, and of what is left out.
    keep
        Share of the rows of each token id that is kept, (token,); None keeps all.
    shuffled
        Whether coordinates are dealt anew among the rows of each gene that are held at once, see `dealt_anew`.

    Raises
    ------
    CellsError
        If the buffer cannot hold a unit of the longest cells, or a batch.
    """

    def __init__(
        self,
        reader: Reader,
        rows: int,
        buffer: int,
        seed: int,
        keep: Float[np.ndarray, " token"] | None = None,
        shuffled: bool = False,
    ) -> None:
        self.reader, self.rows, self.seed, self.keep, self.shuffled = reader, rows, seed, keep, shuffled
        units = np.arange(len(reader.n_rows)) // _UNIT
        self._unit_rows = np.bincount(units, weights=reader.n_rows).astype(np.int64)
        # Rows left over from the round before need room, too.
        self._room = buffer - (rows - 1)
        if self._room < self._unit_rows.max():
            raise CellsError(
                f"A buffer of {buffer} rows holds no batch of {rows} beside the {self._unit_rows.max()} rows of {_UNIT} cells; set buffer to "
                f"{rows + self._unit_rows.max()} or more, or rows lower."
            )
        self.epoch, self.round = 0, 0
        self.left: Rows | None = None

    def rounds(self) -> Iterator[list[Rows]]:
        """Batches of a round, round after round without end; `state` is that behind the round that was given last."""
        while True:
            units = self._plan(self.epoch)
            while self.round < len(units):
                number = (str(self.epoch), str(self.round))
                parts = self._fill(units[self.round])
                order = generator(self.seed, "shuffle", *number).permutation(sum(map(len, parts)))
                rows = together(parts, torch.as_tensor(order, device=parts[0].genes.device))
                if self.shuffled:
                    rows = dealt_anew(rows, self.seed, *number)
                whole = len(rows) // self.rows * self.rows
                self.left = rows.take(slice(whole, None))
                self.round += 1
                yield [rows.take(slice(at, at + self.rows)) for at in range(0, whole, self.rows)]
            self.epoch, self.round = self.epoch + 1, 0

    def _plan(self, epoch: int) -> list[list[int]]:
        """Units of each round of an epoch: as many as the buffer holds."""
        order = generator(self.seed, "order", str(epoch)).permutation(len(self._unit_rows))
        plan: list[list[int]] = [[]]
        held = 0
        for unit in order.tolist():
            if held + self._unit_rows[unit] > self._room:
                plan.append([])
                held = 0
            plan[-1].append(unit)
            held += self._unit_rows[unit]
        return plan

    def _fill(self, units: list[int]) -> list[Rows]:
        n = len(self.reader.n_rows)
        cells = [cell for unit in units for cell in range(unit * _UNIT, min((unit + 1) * _UNIT, n))]
        parts = [] if self.left is None else [self.left]
        return parts + [self._thinned(part) for part in self.reader.read(cells)]

    def _thinned(self, rows: Rows) -> Rows:
        if self.keep is None:
            return rows
        genes, cells = rows.genes.cpu().numpy(), rows.cells.cpu().numpy()
        kept = np.zeros(len(genes), dtype=bool)
        for cell in np.unique(cells):
            own = np.flatnonzero(cells == cell)
            # One draw per gene, in order of the ids: what is kept does not depend on the order of the genes.
            draws = generator(self.seed, "balance", str(self.epoch), str(cell)).random(len(own))
            kept[own[np.argsort(genes[own], kind="stable")]] = draws < self.keep[np.sort(genes[own])]
        return rows.take(torch.as_tensor(np.flatnonzero(kept), device=rows.genes.device))

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, int]]:
        """Rows that are left over, and how far the feed has come: what `restore` takes."""
        arrays = {}
        if self.left is not None:
            arrays = {f"value/{hook}": x.cpu().numpy() for hook, x in self.left.values.items()}
            arrays |= {name: getattr(self.left, name).cpu().numpy() for name in ("genes", "levels", "cells")}
        return arrays, {"epoch": self.epoch, "round": self.round}

    def restore(self, arrays: Mapping[str, np.ndarray], about: Mapping[str, int]) -> None:
        """Go on where `state` was asked for.

        Parameters
        ----------
        arrays, about
            Both parts of the state.
        """
        self.epoch, self.round = int(about["epoch"]), int(about["round"])
        device = self.reader.model.device
        there = {name: torch.as_tensor(array, device=device) for name, array in arrays.items()}
        values = {hook: there[f"value/{hook}"] for hook in self.reader.hooks if f"value/{hook}" in there}
        self.left = Rows(values, there["genes"], there["levels"], there["cells"]) if values else None


def balancing(tokenizer: CellTokenizer, n_tokens: int) -> tuple[Float[np.ndarray, " token"], int]:
    """Share of each gene's rows that is kept so that no gene counts more than the median one, and how many rows that leaves.

    Parameters
    ----------
    tokenizer
        Tokens of the cells; all of them are made once.
    n_tokens
        Rows of the model's gene embedding.

    Returns
    -------
    tuple
        The share of each token id, 1 for a gene that no more cells express than the median of those that any does; and the expected
        number of rows of one pass over the cells.
    """
    counts = np.zeros(n_tokens, dtype=np.int64)
    for tokens in tokenizer.batches(256):
        counts += np.bincount(tokens.gene_ids[tokens.genes].numpy(), minlength=n_tokens)
    keep = np.minimum(1.0, np.median(counts[counts > 0]) / np.maximum(counts, 1))
    return keep, round(float((keep * counts).sum()))


def split_cells(cells: AnnData, *, donor: str | None = "donor", folds: int = 5, seed: int = 0) -> Split:
    """Cells to train on and cells held out: whole donors where there are any, else cells by a hash of their names.

    Parameters
    ----------
    cells
        Cells as `workbench.load` returns them.
    donor
        Column of ``obs`` with the donors; cells are held out where it is absent or None.
    folds
        One of so many folds is held out.
    seed
        Seed of the dealing, keyed by names.

    Returns
    -------
    Split
        Numbers of the cells, ascending: ``cells[split.train]`` and ``cells[split.test]``.
    """
    names = cells.obs_names.to_numpy(dtype=str)
    donors = column(cells, donor) if donor is not None and donor in cells.obs else None
    fold = make_folds(make_groups(names, donors, None, seed), np.full(len(names), ""), folds, seed)
    return Split(np.flatnonzero(fold != 0), np.flatnonzero(fold == 0), name="donors" if donors is not None else "cells")
