"""What an ablated activation is replaced by: means and other cells' values, by gene id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from workbench.ablation.sites import DRAWN, Ablation
from workbench.errors import CellsError, GeneMatchError, HookError
from workbench.models import CellModel
from workbench.models.devices import Fitting, sums_type
from workbench.models.tokens import Tokens
from workbench.seeds import key

_LEAST_KNOWN = 0.5


@dataclass(frozen=True)
class Reference:
    """Cells that stand for ordinary activations.

    Attributes
    ----------
    tokens
        Tokens of the cells, which carry their names.
    row
        Row of `means` of each token id; the last row, the mean over all genes, where no reference cell has the gene.
    means
        By hook: mean activation of each gene over the cells that express it, (gene + 1, ...). ``<cls>`` is a gene here;
        padding is not counted.
    order
        Cell numbers in the order of their names, so that a draw does not depend on the order of the cells.
    """

    tokens: Tokens
    row: Int[Tensor, " token"]
    means: Mapping[str, Tensor]
    order: tuple[int, ...]

    def known(self, tokens: Tokens) -> Bool[Tensor, "cell gene"]:
        """Where a token's gene occurs in the reference.

        Parameters
        ----------
        tokens
            Tokens of the cells that are ablated.
        """
        return self.row[tokens.gene_ids] < self.row.max()

    def mean(self, hook: str, gene_ids: Int[Tensor, "cell gene"]) -> Tensor:
        """Mean activation of genes, (cell, gene, ...).

        Parameters
        ----------
        hook
            Name of a hook that was averaged.
        gene_ids
            Token ids whose means are wanted.

        Raises
        ------
        HookError
            If the reference was built without this hook.
        """
        if hook not in self.means:
            raise HookError(f"The reference has no means of '{hook}'; build it with needed_hooks(ablations).")
        return self.means[hook][self.row[gene_ids]]

    def check(self, tokens: Tokens) -> None:
        """Refuse cells that share too few genes with the reference.

        Parameters
        ----------
        tokens
            Tokens of the cells, which carry their names.

        Raises
        ------
        GeneMatchError
            If fewer than half of their genes occur in the reference.
        """
        genes = tokens.genes
        share = float((self.known(tokens) & genes).sum() / genes.sum().clamp(min=1))
        if share < _LEAST_KNOWN:
            raise GeneMatchError(
                f"Only {share:.0%} of the cells' tokens are genes that the reference set has. Use reference cells of the "
                "same tissue and gene panel, or how='zero', which needs none."
            )

    def partners(self, names: Sequence[str], seed: int) -> list[int]:
        """Reference cell that each cell is paired with: drawn by seed and name, never the cell itself.

        Parameters
        ----------
        names
            Names of the cells that need a partner.
        seed
            Seed of the draw, keyed by cell names.

        Raises
        ------
        CellsError
            If there is no other cell, or the cells or the reference cells have no names.
        """
        if len(names) == 0 or len(self.tokens.cell_ids) == 0:
            raise CellsError("Resampling draws by cell name, but the tokens carry none; set Tokens.cell_ids.")
        found = []
        for name in names:
            at = key(seed, "partner", name) % len(self.order)
            if self.tokens.cell_ids[self.order[at]] == name:
                at = (at + 1) % len(self.order)
            if self.tokens.cell_ids[self.order[at]] == name:
                raise CellsError(
                    f"The reference set holds no cell but '{name}' itself; give two reference cells or more."
                )
            found.append(self.order[at])
        return found


def needed_hooks(ablations: Sequence[Ablation]) -> tuple[str, ...]:
    """Hooks of which mean ablations and the fallback of resampling need means.

    Parameters
    ----------
    ablations
        Ablations that will be judged, of any kind.
    """
    return tuple(dict.fromkeys(s.hook for a in ablations if a.how in ("mean", "resample") for s in a.sites))


def needs_reference(ablations: Sequence[Ablation]) -> bool:
    """Whether any of the ablations takes its values from other cells.

    Parameters
    ----------
    ablations
        Ablations that will be judged, of any kind.
    """
    return any(a.how in ("mean", *DRAWN) for a in ablations)


def build_reference(model: CellModel, tokens: Tokens, hooks: Sequence[str], batch_size: int = 32) -> Reference:
    """Run reference cells and average their activations by gene id.

    Parameters
    ----------
    model
        The intact model, without hooks of its own.
    tokens
        Tokens of the reference cells, which carry names.
    hooks
        Hooks to average, for example ``blocks.*.attn.hook_z``; none for zero and direction ablations.
    batch_size
        Number of cells in a pass, at most.

    Returns
    -------
    Reference

    Raises
    ------
    CellsError
        If there is no cell.
    """
    if len(tokens) == 0:
        raise CellsError("The reference set holds no cell; check its filter.")
    known = torch.unique(tokens.gene_ids[~tokens.padding]).cpu()
    row = torch.full((model.config.n_tokens,), len(known))
    row[known] = torch.arange(len(known))
    row, wide = row.to(model.device), sums_type(model.device)
    # The last row takes the padding, so that no batch waits for the number of its tokens.
    sums: dict[str, Tensor] = {}
    counts = torch.zeros(len(known) + 1, dtype=wide, device=model.device)
    names = model.resolve_hooks(hooks) if hooks else ()
    current: list[Tensor] = []
    # Cells that a hook has been averaged over: a pass that is done again in halves may have come past it.
    counted = dict.fromkeys(names, 0)
    done = 0

    def add(x: Tensor, hook: object) -> None:
        name = str(getattr(hook, "name", ""))
        if name not in sums:
            sums[name] = torch.zeros(len(known) + 1, *x.shape[2:], dtype=wide, device=x.device)
        if counted[name] <= done:
            sums[name].index_add_(0, current[0], x.flatten(0, 1).to(wide))
            counted[name] = done + len(x)

    def work(batch: Tokens) -> int:
        batch = batch.to(model.device, model.dtype)
        current[:] = [row[batch.gene_ids].masked_fill(batch.padding, len(known)).flatten()]
        if names:
            model(batch, outputs=())
        counts.index_add_(0, current[0], torch.ones(len(current[0]), dtype=wide, device=counts.device))
        return len(batch)

    with torch.no_grad(), model.hooks([(name, add) for name in names]):
        for n in Fitting(batch_size).batches(tokens, work):
            done += n
    means, counts = {}, counts[:-1]
    for name, total in sums.items():
        total = total[:-1]
        each = total / counts.reshape(-1, *[1] * (total.ndim - 1))
        means[name] = torch.cat([each, total.sum(0, keepdim=True) / counts.sum()]).to(model.dtype)
    names_of = tokens.cell_ids or tuple(map(str, range(len(tokens))))
    return Reference(
        tokens, row, means, tuple(int(i) for i in np.argsort(np.array(names_of, dtype=str), kind="stable"))
    )


@dataclass(frozen=True)
class Partners:
    """Activations of the reference cells that a batch is paired with, lined up by gene id.

    Attributes
    ----------
    position
        Position of each token's gene in the partner cell; -1 where the partner does not express it.
    activations
        By hook, of the partner cells.
    """

    position: Int[Tensor, "cell gene"]
    activations: Mapping[str, Tensor] = field(repr=False)

    def values(self, hook: str, n: int) -> Tensor:
        """The partner's activation of the same gene, (cell, gene, ...); meaningless where `position` is -1.

        Parameters
        ----------
        hook
            Name of a hook that was averaged.
        n
            First so many positions only.
        """
        x = self.activations[hook]
        at = self.position[:, :n].clamp(min=0)
        return x[torch.arange(len(x), device=x.device)[:, None], at]


def line_up(tokens: Tokens, other: Tokens) -> Int[Tensor, "cell gene"]:
    """Position in each cell of `other` of the genes of the same row's cell; -1 where it has none or at padding.

    Parameters
    ----------
    tokens, other
        Tokens of as many cells on either side.
    """
    ids = other.gene_ids.masked_fill(other.padding, torch.iinfo(torch.long).max)
    ordered, at = ids.sort(dim=1)
    wanted = tokens.gene_ids.contiguous()
    found = torch.searchsorted(ordered, wanted).clamp(max=ordered.shape[1] - 1)
    same = (ordered.gather(1, found) == wanted) & ~tokens.padding
    return torch.where(same, at.gather(1, found), -1)


def run_partners(model: CellModel, reference: Reference, tokens: Tokens, hooks: Sequence[str], seed: int) -> Partners:
    """Run the reference cells that a batch is paired with.

    Parameters
    ----------
    model
        The intact model, without hooks of its own.
    reference
        Reference set that partners are drawn from.
    tokens
        Tokens of the batch that is run.
    hooks
        Names of the hooks whose activations are kept.
    seed
        Seed of the pairing, keyed by cell names.
    """
    other = reference.tokens.take(reference.partners(tokens.cell_ids, seed)).to(model.device, model.dtype)
    kept: dict[str, Tensor] = {}
    with torch.no_grad(), model.hooks([(name, lambda x, hook: kept.__setitem__(hook.name, x)) for name in hooks]):
        model(other, outputs=())
    return Partners(line_up(tokens, other), kept)
