"""What is switched off and how: an ablation as data."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from workbench.errors import HookError, ShapeError, unknown_name
from workbench.files import digest
from workbench.models import ModelShape
from workbench.models.vocabulary import Vocabulary

HEAD, ATTENTION, MLP, GENE, FEATURE = "head", "attention", "mlp", "gene", "feature"
HOWS = ("zero", "mean", "resample", "patch", "direction")
DRAWN, SET = ("resample", "patch"), ("clamp", "scale")
_LABEL = re.compile(r"L(\d+)(?:H(\d+)|\.(attention|mlp)|\.gene\.(.+))")
_FEATURE = re.compile(r"(blocks\.(\d+)\..+)\.F(\d+)")


@dataclass(frozen=True, order=True)
class Site:
    """One place of the model.

    Attributes
    ----------
    layer
        Number of the block, counted from 0.
    kind
        ``head`` (its result, in front of W_O and the sum over heads: ``attn.hook_z``), ``attention`` (the layer's
        ``hook_attn_out``, with the output bias), ``mlp`` (``hook_mlp_out``), ``gene`` (one gene's position of
        ``hook_resid_pre``; in layer 0 that is its embedding; the ablated gene stays a key for the others) or ``feature`` (of the
        dictionary that is spliced into the model).
    head
        Head, from 0, when `kind` is ``head``.
    gene
        Gene symbol, when `kind` is ``gene``.
    at, feature
        Hook that the dictionary writes, and number of its feature, when `kind` is ``feature``.
    """

    layer: int
    kind: str
    head: int = -1
    gene: str = ""
    at: str = ""
    feature: int = -1

    def __str__(self) -> str:
        if self.kind == FEATURE:
            return f"{self.at}.F{self.feature}"
        if self.kind == HEAD:
            return f"L{self.layer}H{self.head}"
        return f"L{self.layer}.{self.kind}" + (f".{self.gene}" if self.kind == GENE else "")

    @property
    def hook(self) -> str:
        """Hook point whose activation the site is part of."""
        if self.kind == FEATURE:
            return f"{self.at}.hook_features"
        part = {HEAD: "attn.hook_z", ATTENTION: "hook_attn_out", MLP: "hook_mlp_out", GENE: "hook_resid_pre"}[self.kind]
        return f"blocks.{self.layer}.{part}"


def head(layer: int, head: int) -> Site:
    """An attention head.

    Parameters
    ----------
    layer, head
        Numbers of layer and head, counted from 0.
    """
    return Site(layer, HEAD, head)


def site(label: str | Site) -> Site:
    """Site of a label: ``L2H1``, ``L2.attention``, ``L2.mlp``, ``L0.gene.CD3E`` or ``blocks.2.hook_resid_post.F17``.

    Parameters
    ----------
    label
        The label; a site is returned as it is.

    Raises
    ------
    HookError
        If it is no label.
    """
    if isinstance(label, Site):
        return label
    if feature := _FEATURE.fullmatch(label):
        return Site(int(feature[2]), FEATURE, at=feature[1], feature=int(feature[3]))
    found = _LABEL.fullmatch(label)
    if found is None:
        raise HookError(
            f"'{label}' is no place of the model. Write L2H1 for a head, L2.attention or L2.mlp for a whole part, "
            "L0.gene.CD3E for a gene's token, blocks.2.hook_resid_post.F17 for a dictionary's feature."
        )
    layer, number, part, gene = found.groups()
    if number is not None:
        return Site(int(layer), HEAD, int(number))
    return Site(int(layer), part) if part else Site(int(layer), GENE, gene=gene)


@dataclass(frozen=True, eq=False, init=False)
class Ablation:
    """What to switch off, and what to put in its place.

    Attributes
    ----------
    sites
        Places that are ablated together, in order and each once. Given as one label or site, or as several.
    how
        ``zero``, the default, which needs no other cells; ``mean`` (the mean of the same gene's activation over a reference set); ``resample`` (the same gene's
        activation in one other cell of the reference set, drawn by `seed` and the cell's name; genes that this cell
        does not express get their mean, and are counted); ``patch`` (the same, but such genes keep their own value:
        activation patching, with the other group of cells as reference set); ``direction`` (`subspace` is projected out of what the site
        adds to the residual stream); ``clamp`` and ``scale`` (a feature is set to `amount` at every gene, or multiplied by it). A feature
        takes these two and ``zero``; what its dictionary leaves out of the activation stays.
    subspace
        Directions to project out, (direction, d_model), when `how` is ``direction``; need not be orthonormal.
    seed
        Of the drawing of cells.
    rotation
        Number of a null draw, for heads: the change that the ablation makes to the head's result is turned by a random
        orthogonal matrix before it is added, one matrix per draw for all cells and genes. Norms and all angles between
        cells and genes stay; only what the direction means to the rest of the model is lost. None for the ablation
        itself.
    amount
        What a feature is set to or multiplied by, when `how` is ``clamp`` or ``scale``.
    """

    sites: tuple[Site, ...]
    how: str = "zero"
    subspace: Float[np.ndarray, "direction d_model"] | None = None
    seed: int = 0
    rotation: int | None = None
    amount: float | None = None

    def __init__(
        self,
        sites: str | Site | Sequence[str | Site],
        how: str = "zero",
        subspace: Float[np.ndarray, "direction d_model"] | None = None,
        seed: int = 0,
        rotation: int | None = None,
        amount: float | None = None,
    ) -> None:
        given = (sites,) if isinstance(sites, str | Site) else sites
        places = tuple(sorted({site(label) for label in given}))
        vars(self).update(sites=places, how=how, subspace=subspace, seed=seed, rotation=rotation, amount=amount)
        if not places:
            raise HookError("The ablation names no place; give at least one, for example Ablation('L2H1').")
        if how not in (known := (*HOWS, *SET)):
            raise HookError(unknown_name("way to ablate", how, known))
        if (how == "direction") != (subspace is not None):
            raise HookError("A subspace is given for how='direction', and for no other; pass both or neither.")
        if rotation is not None and any(s.kind != HEAD for s in places):
            raise HookError("The random-direction null is for heads only; leave out rotation for other places.")
        if (how in SET) != (amount is not None):
            raise HookError(
                "An amount is given for how='clamp' and how='scale', and for no other; pass both or neither."
            )
        features = [s.kind == FEATURE for s in places]
        if (
            any(features) != all(features)
            or (any(features) and how not in ("zero", *SET))
            or (how in SET and not all(features))
        ):
            raise HookError(
                f"'{self}' cannot be ablated by '{how}': features go by themselves, by 'zero', 'clamp' or 'scale', and the last two are "
                "for features alone."
            )

    def __str__(self) -> str:
        return "+".join(map(str, self.sites))

    @property
    def key(self) -> str:
        """Name of this ablation and no other: places, way, seed and null draw."""
        null = "" if self.rotation is None else f" null {self.rotation}"
        detail = f" seed {self.seed}" if self.how in DRAWN else "" if self.amount is None else f" {self.amount:g}"
        if self.subspace is not None:
            detail = f" {digest(np.asarray(self.subspace, dtype=np.float64))[:8]}"
        return f"{self} {self.how}{detail}{null}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ablation) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    @property
    def first_layer(self) -> int:
        """Lowest layer that is touched; everything below it is as in the intact model."""
        return self.sites[0].layer

    def check(self, config: ModelShape, vocabulary: Vocabulary) -> None:
        """Refuse places that the model does not have.

        Parameters
        ----------
        config, vocabulary
            Shape and tokens of the model that is ablated.

        Raises
        ------
        HookError
            For a layer or head that does not exist; the sentence says which do.
        ShapeError
            For a subspace of another width.
        """
        for place in self.sites:
            known_head = place.kind != HEAD or 0 <= place.head < config.n_heads
            if not (0 <= place.layer < config.n_layers and known_head):
                raise HookError(
                    f"There is no {place} in this model: it has layers 0 to {config.n_layers - 1} with heads 0 to "
                    f"{config.n_heads - 1} each."
                )
            if place.kind == GENE and place.gene not in vocabulary.ids:
                raise HookError(unknown_name("gene", place.gene, vocabulary.ids))
        if self.subspace is not None and self.subspace.shape[-1:] != (config.d_model,):
            raise ShapeError(
                f"The subspace has shape {self.subspace.shape}, but directions of this model have {config.d_model} "
                "numbers; pass an array (direction, d_model)."
            )


def all_heads(config: ModelShape, how: str = "mean", seed: int = 0) -> list[Ablation]:
    """Every head by itself.

    Parameters
    ----------
    config
        Shape of the model whose heads are listed.
    how, seed
        As in `Ablation`.
    """
    return [Ablation((head(*at),), how, seed=seed) for at in np.ndindex(config.n_layers, config.n_heads)]
