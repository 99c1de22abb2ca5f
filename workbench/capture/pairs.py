"""Gene by gene means of attention, over cells, without keeping a cell's maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from jaxtyping import Float, Int
from numba import njit
from torch import Tensor

from workbench.capture.activations import PAIR
from workbench.capture.sinks import Plan
from workbench.errors import EvaluationError, GeneMatchError, HookError
from workbench.models.protocol import Block
from workbench.models.tokens import Tokens
from workbench.models.vocabulary import Vocabulary

PATTERNS = "blocks.*.attn.hook_pattern"
# Devices whose maps are added up by compiled code; on others torch does it, and the sums stay there until they are asked for.
_COMPILED = frozenset({"cpu"})
_PARTS = ("sums", "counts")
_QUERIES = 64  # of one cell, whose part of all heads' patterns is made and added at a time


@njit(cache=True, nogil=True)
def _scatter(maps, first, rows, keys, genes, sums):
    """Add maps (head, query, key), at some rows and keys, to the rows and columns of their genes; sums are (head, gene, gene).

    Row i of `rows` is that of gene ``first + i``.
    """
    n = len(keys)
    # Panel genes nearly always lie side by side behind <cls>; then the keys need no look-up.
    consecutive = n > 0 and keys[-1] - keys[0] == n - 1
    for head in range(len(maps)):
        for i in range(len(rows)):
            total = sums[head, genes[first + i]]
            if consecutive:
                row = maps[head, rows[i], keys[0] : keys[0] + n]
                for j in range(n):
                    total[np.uint64(genes[j])] += row[j]
            else:
                row = maps[head, rows[i]]
                for j in range(n):
                    total[np.uint64(genes[j])] += row[np.uint64(keys[j])]


@dataclass(frozen=True)
class GenePairMeans:
    """Sums and counts of a map over cells, per ordered pair of panel genes.

    Attributes
    ----------
    genes
        The panel, in the order of both axes.
    hooks
        Names of the hooks, one per layer.
    sums
        Sum over the cells in which both genes are tokens; axis 2 is the query gene, axis 3 the key gene.
    counts
        Number of cells in which both genes are tokens.
    """

    genes: tuple[str, ...]
    hooks: tuple[str, ...]
    sums: Float[np.ndarray, "hook head gene gene"]
    counts: Int[np.ndarray, "gene gene"]

    def mean(self) -> Float[np.ndarray, "hook head gene gene"]:
        """Mean map of every head; 0 where a pair was never seen together."""
        return self.sums / np.maximum(self.counts, 1).astype(np.float32)


class _Away:
    """Sums and counts of one group on a device, begun with those that are here. Nothing in it waits for the device."""

    def __init__(self, here: _Sums, device: torch.device) -> None:
        self.d = here.counts.shape[-1]
        # One row and one column more: what is no gene of the panel goes there, and is never looked at.
        wide = (self.d + 1, self.d + 1)
        self.sums = torch.zeros(*here.sums.shape[:2], *wide, device=device, dtype=getattr(torch, here.sums.dtype.name))
        self.counts = torch.zeros(*wide, dtype=torch.long, device=device)
        self.sums[..., : self.d, : self.d] = torch.as_tensor(here.sums, device=device)
        self.counts[: self.d, : self.d] = torch.as_tensor(here.counts, device=device)

    def add(self, map_: Tensor, places: Tensor, which: int) -> None:
        pairs = (places[:, None] * (self.d + 1) + places).flatten()
        self.sums[which].flatten(1).index_add_(1, pairs, map_.to(self.sums.dtype).flatten(1))
        if which == 0:
            self.counts.view(-1).index_add_(0, pairs, torch.ones_like(pairs))

    def copy_to(self, here: _Sums) -> None:
        here.sums[:] = self.sums[..., : self.d, : self.d].cpu().numpy()
        here.counts[:] = self.counts[: self.d, : self.d].cpu().numpy()


@dataclass(frozen=True)
class _Sums:
    """Sums (hook, head, gene, gene) and counts (gene, gene) of one group."""

    sums: np.ndarray
    counts: np.ndarray


class GenePairSink:
    """Sum and count per ordered gene pair, of attention patterns or scores, by gene id.

    Memory is (groups x hooks x heads x genes x genes) numbers whatever the number of cells, of the groups whose cells have come. Padding
    and ``<cls>`` are left out. A float32 sum over n cells has a relative rounding error of about 6e-8 x sqrt(n), far under the sampling
    error of the mean.

    Parameters
    ----------
    genes
        Genes of the panel, each once, in the vocabulary's spelling.
    vocabulary
        Vocabulary of the model, which gives the genes' ids.
    groups
        Group of each cell by its name, 0 to n - 1, to keep sums apart (for cross-validation: the sums of all other
        folds are the total minus a fold's own), in the order of the cells. None for one group.
    precision
        Float type of the sums, ``float32`` or ``float64``; a device without double precision has the first alone.
    """

    def __init__(
        self,
        genes: Sequence[str],
        vocabulary: Vocabulary,
        groups: Mapping[str, int] | None = None,
        precision: str = "float32",
    ) -> None:
        ids = vocabulary.encode(genes)
        if (ids < 0).any():
            unknown = [gene for gene, i in zip(genes, ids, strict=True) if i < 0]
            raise GeneMatchError(
                f"{len(unknown)} of {len(genes)} panel genes are not in the vocabulary (first: {unknown[0]}); "
                "make the panel with choose_panel."
            )
        if len(set(genes)) < len(genes):
            twice = next(gene for gene in genes if list(genes).count(gene) > 1)
            raise GeneMatchError(f"The panel names '{twice}' more than once; make the panel with choose_panel.")
        self.genes, self.groups = tuple(genes), groups
        self.precision = np.dtype(precision)
        self.identity = [list(genes), None if groups is None else dict(groups), self.precision.name]
        self.n_groups = 1 if groups is None else max(groups.values()) + 1
        self._place = np.full(max(vocabulary.ids.values()) + 1, -1, dtype=np.int64)
        self._place[ids] = np.arange(len(ids))
        self._hooks: tuple[str, ...] = ()
        self._heads = 0
        self._held: dict[int, _Sums] = {}  # by group, from its first cell on
        self._away: dict[int, _Away] = {}
        self._places: Tensor | None = None  # `_place` on the device that the maps are on

    def open(self, plan: Plan) -> None:
        """See `Sink`; only scores and patterns suit."""
        wrong = [name for name, shape in plan.shapes.items() if shape.kind != PAIR]
        if wrong:
            raise HookError(
                f"'{wrong[0]}' is no map of gene pairs; capture 'blocks.*.attn.hook_pattern' for this sink."
            )
        self._hooks = tuple(plan.shapes)
        self._heads = next(iter(plan.shapes.values())).inner[0]
        self._held, self._away = {}, {}

    def memory(self, plan: Plan) -> int:
        """See `Sink`."""
        heads, n = sum(shape.inner[0] for shape in plan.shapes.values()), self.n_groups
        if self.groups is not None:
            own = islice(self.groups.values(), plan.first, plan.first + len(plan.lengths))
            n = len(set(own)) if len(self.groups) >= plan.first + len(plan.lengths) else n
        return n * len(self.genes) ** 2 * (self.precision.itemsize * heads + 8)

    def update(self, hook: str, activation: Tensor, tokens: Tokens) -> None:
        """See `Sink`."""
        which, groups = self._hooks.index(hook), self._groups_of(tokens)
        if activation.device.type not in _COMPILED:
            self._add_away(activation, tokens, groups, which)
            return
        maps = activation.float().numpy()
        for cell, (positions, genes) in enumerate(self._seen(tokens, groups, which)):
            _scatter(maps[cell], 0, positions, positions, genes, self._of(groups[cell]).sums[which])

    def update_heads(self, hook: str, q: Tensor, k: Tensor, tokens: Tokens, block: Block) -> None:
        """See `HeadSink`."""
        padding = tokens.padding if tokens.facts.padded else None
        if q.device.type not in _COMPILED:
            self.update(hook, block.pattern(q, k, padding), tokens)
            return
        which, groups = self._hooks.index(hook), self._groups_of(tokens)
        for cell, (positions, genes) in enumerate(self._seen(tokens, groups, which)):
            hidden = None if padding is None else padding[cell : cell + 1]
            # Laid out once as the product needs them, not once for every few queries.
            keys = k[cell : cell + 1].permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
            # So few queries at a time that their part of the pattern is still in the cache when it is added.
            for first in range(0, len(positions), _QUERIES):
                few = torch.as_tensor(positions[first : first + _QUERIES])
                part = block.pattern(q[cell : cell + 1, few], keys, hidden)[0].float().numpy()
                _scatter(part, first, np.arange(len(few)), positions, genes, self._of(groups[cell]).sums[which])

    def _of(self, group: int) -> _Sums:
        """Sums of a group, which are nothing before its first cell."""
        if group not in self._held:
            d, of = len(self.genes), (len(self._hooks), self._heads)
            self._held[group] = _Sums(np.zeros((*of, d, d), self.precision), np.zeros((d, d), np.int64))
        return self._held[group]

    def _add_away(self, maps: Tensor, tokens: Tokens, groups: Sequence[int], which: int) -> None:
        """Add maps where they are."""
        d, device = len(self.genes), maps.device
        if self._places is None or self._places.device != device:
            self._places = torch.as_tensor(np.where(self._place < 0, d, self._place), device=device)
        # All sums are made before any is added to: where memory runs out, the same cells come again.
        for group in set(groups) - set(self._away):
            self._away[group] = _Away(self._of(group), device)
        places = torch.where(tokens.genes, self._places[tokens.gene_ids], d)
        for cell, group in enumerate(groups):
            self._away[group].add(maps[cell], places[cell], which)

    def _groups_of(self, tokens: Tokens) -> list[int]:
        return [0 if self.groups is None else self._group(cell) for cell in tokens.cell_ids]

    def _seen(self, tokens: Tokens, groups: Sequence[int], which: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Positions of the panel's genes in each cell and their places in the panel; the first hook's are counted."""
        places = self._place[tokens.gene_ids.cpu().numpy()]
        places[~tokens.genes.cpu().numpy()] = -1
        found = []
        for own, group in zip(places, groups, strict=True):
            positions = np.flatnonzero(own >= 0)
            genes = own[positions]
            if which == 0:
                self._of(group).counts[np.ix_(genes, genes)] += 1
            found.append((positions, genes))
        return found

    def _group(self, cell: str) -> int:
        assert self.groups is not None
        if cell not in self.groups:
            raise EvaluationError(f"Cell '{cell}' has no group; give every captured cell one.")
        return self.groups[cell]

    def flush(self, n_cells: int) -> None:
        """See `Sink`."""

    def state(self) -> dict[str, np.ndarray]:
        """See `Sink`."""
        self._fetch()
        return {f"{what}/{group}": getattr(one, what) for group, one in self._held.items() for what in _PARTS}

    def restore(self, arrays: Mapping[str, np.ndarray], n_cells: int) -> None:
        """See `Sink`."""
        self._held, self._away = {}, {}
        self.join(arrays)

    def join(self, arrays: Mapping[str, np.ndarray]) -> None:
        """See `JoinedSink`."""
        self._fetch()
        for name, array in arrays.items():
            what, group = name.split("/")
            own = getattr(self._of(int(group)), what)
            own += array
        self._away = {}

    def _fetch(self) -> None:
        """Bring the sums here from a device, where they stay as well."""
        for group, one in self._away.items():
            one.copy_to(self._of(group))

    def group(self, number: int) -> GenePairMeans:
        """Sums and counts of one group: the sink's own arrays, not a copy.

        Parameters
        ----------
        number
            Number of the group, from 0.
        """
        self._fetch()
        own = self._of(number)
        return GenePairMeans(self.genes, self._hooks, own.sums, own.counts)

    def result(self, without: int | None = None) -> GenePairMeans:
        """Sums and counts over all groups, or all but one. A single group's are the sink's own arrays, not a copy.

        Parameters
        ----------
        without
            Number of a group to leave out; None for the sums of all.
        """
        if self.n_groups == 1 and without is None:
            return self.group(0)
        self._fetch()
        d, of = len(self.genes), (len(self._hooks), self._heads)
        sums, counts = np.zeros((*of, d, d), self.precision), np.zeros((d, d), np.int64)
        for group in sorted(self._held):
            if group != without:
                sums += self._held[group].sums
                counts += self._held[group].counts
        return GenePairMeans(self.genes, self._hooks, sums, counts)
