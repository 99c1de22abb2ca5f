"""Ablations compiled for a batch of cells, and as hooks on a model."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any

import numpy as np
import torch
from anndata import AnnData
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.ablation.reference import (
    Partners,
    Reference,
    build_reference,
    needed_hooks,
    needs_reference,
    run_partners,
)
from workbench.ablation.sites import DRAWN, FEATURE, GENE, HEAD, Ablation, Site
from workbench.errors import CellsError, HookError
from workbench.models import CellModel
from workbench.models.outputs import Outputs
from workbench.models.tokens import Tokens
from workbench.models.vocabulary import Vocabulary
from workbench.seeds import generator


class Edits:
    """Replacements of activations for one batch.

    Parameters
    ----------
    model
        The intact model, without hooks of its own.
    tokens
        Tokens of the batch that is run.
    ablations
        All that will be asked for.
    reference
        Needed by mean and resample ablations.

    Raises
    ------
    CellsError
        If a reference is needed and absent.
    """

    def __init__(
        self, model: CellModel, tokens: Tokens, ablations: Sequence[Ablation], reference: Reference | None
    ) -> None:
        self.model, self.tokens, self._reference = model, tokens.to(model.device, model.dtype), reference
        self._partners: dict[int, Partners] = {}
        if needs_reference(ablations):
            _ = self.reference  # said now rather than in the middle
        for place in {s for a in ablations for s in a.sites if s.kind == FEATURE}:
            self._check_feature(place)
        for seed in {a.seed for a in ablations if a.how in DRAWN}:
            hooks = list(dict.fromkeys(s.hook for a in ablations if a.how in DRAWN for s in a.sites))
            self._partners[seed] = run_partners(model, self.reference, self.tokens, hooks, seed)

    @property
    def reference(self) -> Reference:
        """The reference set."""
        if self._reference is None:
            raise CellsError(
                "Mean, resample and patch ablations need reference cells; pass a reference, or use how='zero'."
            )
        return self._reference

    def replaced(self, x: Float[Tensor, "cell gene width"], ablation: Ablation, place: Site) -> Tensor:
        """Activation of a site with the ablation's value at real positions; padding stays as it is.

        Parameters
        ----------
        x
            ``hook_z`` of the head, or the site's hook (all features of a dictionary); possibly the first positions only.
        ablation, place
            What is ablated, and where.
        """
        if place.kind == FEATURE:
            # What is no gene is left alone by the splice itself.
            new = x.clone()
            new[..., place.feature] = self.amount(x[..., place.feature], ablation)
            return new
        n = x.shape[1]
        if ablation.how == "zero":
            new = torch.zeros_like(x)
        elif ablation.how == "direction":
            new = x - self.along(x, ablation)
        else:
            new = x
            if ablation.how != "patch":
                new = self._part(self.reference.mean(place.hook, self.tokens.gene_ids[:, :n]), place)
            if ablation.how in DRAWN:
                partners = self._partners[ablation.seed]
                there = (partners.position[:, :n] >= 0)[..., None]
                new = torch.where(there, self._part(partners.values(place.hook, n), place), new)
        where = ~self.tokens.padding[:, :n]
        if place.kind == GENE:
            where = where & (self.tokens.gene_ids[:, :n] == self.model.vocabulary.ids[place.gene])
        return torch.where(where[..., None], new, x)

    @staticmethod
    def amount(x: Tensor, ablation: Ablation) -> Tensor:
        """What a feature is set to.

        Parameters
        ----------
        x
            How much of it there is.
        ablation
            Ablation of a feature, which has a way and an amount.
        """
        amount = ablation.amount or 0.0
        return x * amount if ablation.how == "scale" else torch.full_like(x, amount)

    def without(self, x: Tensor, features: Tensor, ablation: Ablation, place: Site) -> Tensor:
        """What a dictionary's hook gives once one of its features is changed: the rest, its error term included, stays.

        Parameters
        ----------
        x
            What the hook gives in the intact model, (cell, gene, d_model); possibly the first positions only.
        features
            Features of the same positions.
        ablation, place
            What is ablated, and where.
        """
        own = features[..., place.feature]
        move = (self.amount(own, ablation) - own) * self.tokens.genes[:, : x.shape[1]]
        return x + move[..., None] * self._dictionary(place).directions[place.feature]

    def _dictionary(self, place: Site) -> Any:
        """What is spliced in at the place of a feature."""
        return self.model.hook_dict[place.at].dictionary

    def _check_feature(self, place: Site) -> None:
        if place.hook not in self.model.hook_dict:
            raise HookError(
                f"No dictionary is spliced in at '{place.at}', so there is no {place}; ablate it within model.spliced({{...}}, error=True)."
            )
        width = self._dictionary(place).width
        if not place.feature < width:
            raise HookError(f"'{place.at}' has features 0 to {width - 1}, but {place.feature} was asked for.")

    def along(self, x: Tensor, ablation: Ablation) -> Tensor:
        """Part of a d_model vector that lies in the ablation's subspace.

        Parameters
        ----------
        x
            Vectors whose last axis is d_model wide.
        ablation
            Ablation that is confined to a subspace.
        """
        given = np.atleast_2d(np.asarray(ablation.subspace, dtype=np.float64))
        norms = np.linalg.norm(given, axis=1, keepdims=True)
        basis, lengths, _ = np.linalg.svd((given / np.where(norms > 0, norms, 1)).T, full_matrices=False)
        # A direction that depends on the others, up to single precision, adds none of its own.
        q = torch.as_tensor(basis[:, lengths > 1e-6], dtype=x.dtype, device=x.device)
        return (x @ q) @ q.T

    def change(self, z: Float[Tensor, "cell gene d_head"], ablation: Ablation, place: Site) -> Tensor:
        """What ablating a head adds to its layer's ``hook_attn_out``, (cell, gene, d_model).

        Parameters
        ----------
        z
            What ``hook_z`` holds of the head.
        ablation, place
            What is ablated, and where.
        """
        out = self.model.block(place.layer).weight("W_O")[place.head]
        if ablation.how == "direction":
            real = ~self.tokens.padding[:, : z.shape[1]]
            moved = -self.along(z @ out, ablation) * real[..., None]
        else:
            moved = (self.replaced(z, ablation, place) - z) @ out
        if ablation.rotation is None:
            return moved
        turn = torch.as_tensor(_rotation(moved.shape[-1], ablation.rotation, str(place)))
        return moved @ turn.to(moved)

    def fallbacks(self, ablation: Ablation) -> Int[Tensor, " cell"]:
        """Tokens of each cell that got another value than asked for.

        For a mean ablation, genes that no reference cell has (they get the mean over all genes); for resampling and
        patching, genes that the partner cell does not express (they get their mean, or keep their own).

        Parameters
        ----------
        ablation
            Ablation whose tokens are looked at.
        """
        where = touched(self.tokens, ablation, self.model.vocabulary)
        if ablation.how == "mean":
            return (where & ~self.reference.known(self.tokens)).sum(1)
        if ablation.how in DRAWN:
            return (where & (self._partners[ablation.seed].position < 0)).sum(1)
        return torch.zeros_like(where[:, 0], dtype=torch.long)

    @staticmethod
    def _part(x: Tensor, place: Site) -> Tensor:
        return x[..., place.head, :] if place.kind == HEAD else x


def touched(tokens: Tokens, ablation: Ablation, vocabulary: Vocabulary) -> Bool[Tensor, "cell gene"]:
    """Real tokens whose activation an ablation replaces: all, unless it names genes alone.

    Parameters
    ----------
    tokens
        Tokens of the cells that are looked at.
    ablation
        Ablation whose tokens are looked at.
    vocabulary
        Vocabulary of the model, for the ids of genes.
    """
    real = ~tokens.padding
    if any(place.kind != GENE for place in ablation.sites):
        return real
    genes = [vocabulary.ids[place.gene] for place in ablation.sites]
    return real & torch.isin(tokens.gene_ids, real.new_tensor(genes, dtype=torch.long))


# Not cached: a sweep asks for all heads and draws in turn, so a cache must hold them all (4 GB for scGPT) to hit once, and
# a matrix takes a hundredth of the time of the pass that it is for (on a CPU).
def _rotation(d: int, draw: int, place: str) -> np.ndarray:
    """Random orthogonal matrix, uniform over rotations and reflections (Mezzadri 2007)."""
    q, r = np.linalg.qr(generator(draw, "rotation", place).standard_normal((d, d)))
    return q * np.sign(np.diag(r))


@contextmanager
def _bare(model: CellModel) -> Iterator[None]:
    """The model without anybody's hooks or ablations for the length of a ``with`` block."""
    kept = [(module, module._forward_hooks, module._forward_pre_hooks) for module in model.modules()]
    forward = vars(model).pop("forward", None)
    try:
        for module, _, _ in kept:
            module._forward_hooks, module._forward_pre_hooks = OrderedDict(), OrderedDict()
        yield
    finally:
        if forward is not None:
            vars(model)["forward"] = forward
        for module, after, before in kept:
            module._forward_hooks, module._forward_pre_hooks = after, before


@contextmanager
def ablated(
    model: CellModel,
    ablation: str | Ablation | Sequence[Ablation],
    reference: Reference | Tokens | AnnData | None = None,
) -> Iterator[CellModel]:
    """The model with ablations in place for the length of a ``with`` block.

    Weights are not touched, and no hook is left behind, also when the block ends by an exception. Inside, everything
    works as usual: plain calls, `run_with_cache`, `run_with_hooks`, `capture`. Reference cells that are drawn run
    through the model without anybody's hooks.

    Parameters
    ----------
    model
        Model whose layers and heads are listed.
    ablation
        One ablation, or several at once; a place such as ``L2H1`` alone is set to zero.
    reference
        Needed by mean and resample ablations: cells that the values in its place are taken from, or what `build_reference` has
        made of them, with means of the sites' hooks.

    Examples
    --------
    >>> with ablated(model, Ablation("L2H1")):  # doctest: +SKIP
    ...     model(cells[:8]).cell
    >>> with ablated(model, Ablation("L2H1", "mean"), reference=cells):  # doctest: +SKIP
    ...     model(cells[:8]).cell
    """
    wanted = [Ablation(ablation)] if isinstance(ablation, str) else ablation
    wanted = [wanted] if isinstance(wanted, Ablation) else list(wanted)
    for one in wanted:
        one.check(model.config, model.vocabulary)
    if reference is not None and not isinstance(reference, Reference):
        with _bare(model):
            reference = build_reference(model, model.to_tokens(reference), needed_hooks(wanted))
    current: list[Edits] = []
    kept: dict[int, Tensor] = {}

    inner, before = model.forward, vars(model).get("forward")

    @wraps(inner)
    def forward(tokens: Tokens | AnnData, **more: Any) -> Outputs:
        tokens = model.to_tokens(tokens)
        # The partners' own pass must not be ablated, nor seen by those who listen to the pass of these tokens.
        with _bare(model):
            batch = tokens.to(model.device, model.dtype)
            if reference is not None and any(one.how in ("mean", "resample") for one in wanted):
                reference.check(batch)
            current[:] = [Edits(model, batch, wanted, reference)]
        return inner(tokens, **more)

    def hook(function: Callable[[Tensor], Tensor | None]) -> Callable[..., Tensor | None]:
        return lambda x, hook: function(x)

    def edit(one: Ablation, place: Site) -> list[tuple[str, Callable]]:
        if place.kind != HEAD:
            return [(place.hook, hook(lambda x: current[0].replaced(x, one, place)))]
        if one.how != "direction" and one.rotation is None:

            def in_place_of(z: Tensor) -> Tensor:
                new = z.clone()
                new[:, :, place.head] = current[0].replaced(z[:, :, place.head], one, place)
                return new

            return [(place.hook, hook(in_place_of))]
        # A direction of the residual stream is no direction of the head: the change goes to the layer's output.
        at = len(kept)
        kept[at] = torch.empty(0)

        def keep(z: Tensor) -> None:
            kept[at] = z[:, :, place.head]

        after = f"blocks.{place.layer}.hook_attn_out"
        return [(place.hook, hook(keep)), (after, hook(lambda x: x + current[0].change(kept[at], one, place)))]

    # Heads first: what a layer's attention adds is their sum.
    places = sorted(((one, place) for one in wanted for place in one.sites), key=lambda pair: pair[1].kind != HEAD)
    hooks: list[tuple[str | Callable, Callable]] = [pair for one, place in places for pair in edit(one, place)]
    # Not a hook of the model, which `run_with_hooks` goes past.
    vars(model)["forward"] = forward
    try:
        with model.hooks(hooks):
            yield model
    finally:
        del vars(model)["forward"]
        if before is not None:
            vars(model)["forward"] = before
