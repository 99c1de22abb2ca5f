"""A batch of cells as a model reads them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.errors import ShapeError


@dataclass(frozen=True)
class Facts:
    """What a model checks of a batch.

    Attributes
    ----------
    lowest, highest
        Smallest and largest token id.
    padded, starts_padded
        Whether there is padding at all, and at position 0 of any cell.
    labels
        Smallest and largest batch label; None where there are none.
    """

    lowest: int
    highest: int
    padded: bool
    starts_padded: bool
    labels: tuple[int, int] | None


@dataclass(frozen=True)
class Tokens:
    """Gene ids and values of a batch of cells, padded to one length.

    Position means nothing but for ``<cls>`` at position 0: everything downstream goes by gene id.

    Attributes
    ----------
    gene_ids
        Token id of each position; whatever the vocabulary says at padding.
    values
        Binned expression; the pad value at ``<cls>`` and at padding.
    padding
        True where a position is padding.
    cell_ids
        One name per cell (empty when unknown).
    batch_labels
        Batch index per cell, for checkpoints that have a batch encoder or a domain batch norm.
    flags
        For perturbation fine-tunes, whose cells have no ``<cls>``: 1 where a gene is perturbed, 0 elsewhere. None for all
        other checkpoints.
    without_cls
        Whether position 0 is a gene as all others, as in the convention ``paper`` (docs/conventions.md): such cells have
        no embedding.
    """

    gene_ids: Int[Tensor, "cell gene"]
    values: Float[Tensor, "cell gene"]
    padding: Bool[Tensor, "cell gene"]
    cell_ids: tuple[str, ...] = ()
    batch_labels: Int[Tensor, " cell"] | None = None
    flags: Int[Tensor, "cell gene"] | None = None
    without_cls: bool = False

    def __post_init__(self) -> None:
        if self.gene_ids.ndim != 2 or not self.gene_ids.shape == self.values.shape == self.padding.shape:
            raise ShapeError(
                f"Tokens need gene_ids, values and padding of one shape (cell, gene); found {tuple(self.gene_ids.shape)}, "
                f"{tuple(self.values.shape)} and {tuple(self.padding.shape)}."
            )

    def __len__(self) -> int:
        return self.gene_ids.shape[0]

    @property
    def genes(self) -> Bool[Tensor, "cell gene"]:
        """True where a position holds a gene: neither padding nor ``<cls>``."""
        genes = ~self.padding
        genes[:, :1] &= not self.has_cls
        return genes

    @property
    def has_cls(self) -> bool:
        """Whether position 0 holds ``<cls>``."""
        return self.flags is None and not self.without_cls

    @cached_property
    def facts(self) -> Facts:
        """What a model checks of a batch that has cells. Known beforehand of what `to` has moved, so that no pass waits for it."""
        padding, ids, labels = self.padding, self.gene_ids, self.batch_labels
        limits = None if labels is None else (int(labels.min()), int(labels.max()))
        return Facts(int(ids.min()), int(ids.max()), bool(padding.any()), bool(padding[:, 0].any()), limits)

    def pinned(self) -> Tokens:
        """Copy in memory that a CUDA card reads while the processor goes on."""
        parts = (self.gene_ids, self.values, self.padding, self.batch_labels, self.flags)
        ids, values, padding, labels, flags = (None if part is None else part.pin_memory() for part in parts)
        return self._with(ids, values, padding, labels, flags)

    def to(self, device: torch.device | str, dtype: torch.dtype = torch.float32) -> Tokens:
        """Copy on another device, with values of another float type.

        Parameters
        ----------
        device, dtype
            As in `torch.Tensor.to`; ids and padding stay whole numbers and truth values.
        """
        device = torch.device(device)
        later = self.gene_ids.is_pinned()
        parts = (self.gene_ids, self.values, self.padding, self.batch_labels, self.flags)
        ids, values, padding, labels, flags = (
            None if part is None else part.to(device, non_blocking=later) for part in parts
        )
        moved = self._with(ids, values.to(dtype), padding, labels, flags)  # type: ignore[union-attr]
        if self.gene_ids.numel() and device.type != self.gene_ids.device.type:
            vars(moved)["facts"] = self.facts  # looked at here, on the side where it costs nothing
        return moved

    def __getitem__(self, rows: slice) -> Tokens:
        """Cells of a slice, cut to the longest of them."""
        padding = self.padding[rows]
        length = int((~padding).sum(1).max()) if len(padding) else 0
        labels = None if self.batch_labels is None else self.batch_labels[rows]
        return replace(
            self,
            gene_ids=self.gene_ids[rows, :length],
            values=self.values[rows, :length],
            padding=padding[:, :length],
            cell_ids=self.cell_ids[rows],
            batch_labels=labels,
            flags=None if self.flags is None else self.flags[rows, :length],
        )

    def take(self, rows: Sequence[int]) -> Tokens:
        """Cells by number, in the order asked for, cut to the longest of them.

        Parameters
        ----------
        rows
            Cell numbers, from 0; a cell may be named more than once.
        """
        return self.rows(rows)[:]

    def rows(self, rows: Sequence[int]) -> Tokens:
        """Cells by number, with all of their padding.

        Parameters
        ----------
        rows
            As in `take`.
        """
        at = torch.as_tensor(list(rows), dtype=torch.long, device=self.gene_ids.device)
        parts = (self.gene_ids, self.values, self.padding, self.batch_labels, self.flags)
        ids, values, padding, labels, flags = (None if part is None else part[at] for part in parts)
        names = tuple(self.cell_ids[row] for row in rows) if self.cell_ids else ()
        return replace(self._with(ids, values, padding, labels, flags), cell_ids=names)

    def _with(self, *parts: Tensor | None) -> Tokens:
        """The same cells with other arrays."""
        names = ("gene_ids", "values", "padding", "batch_labels", "flags")
        return replace(self, **dict(zip(names, parts, strict=True)))  # type: ignore[arg-type]

    def batches(self, size: int) -> Iterator[Tokens]:
        """Consecutive batches of at most `size` cells.

        Parameters
        ----------
        size
            Cells per batch; the last one may hold fewer.
        """
        for start in range(0, len(self), size):
            yield self[start : start + size]


def joined(parts: Sequence[Tokens]) -> Tokens:
    """Cells of several batches as one, padded to the longest of all.

    Parameters
    ----------
    parts
        One batch or more, all with batch labels or flags, or none.
    """
    if len(parts) == 1:
        return parts[0]
    length = max(part.gene_ids.shape[1] for part in parts)

    def padded(name: str, fill: bool | None = None) -> Tensor:
        """One array of all parts; <cls> has the value that padding has, and nothing reads an id at padding."""
        wide = []
        for part in parts:
            x = getattr(part, name)
            more = x[:, :1].expand(-1, length - x.shape[1])
            wide.append(torch.cat([x, more if fill is None else torch.full_like(more, fill)], dim=1))
        return torch.cat(wide)

    first = parts[0]
    labels = None if first.batch_labels is None else torch.cat([part.batch_labels for part in parts])  # type: ignore[misc]
    flags = None if first.flags is None else padded("flags")
    names = tuple(name for part in parts for name in part.cell_ids)
    return Tokens(padded("gene_ids"), padded("values"), padded("padding", True), names, labels, flags)
