"""Many ablations of the same cells without doing the same work twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.ablation.edits import Edits
from workbench.ablation.sites import ATTENTION, FEATURE, GENE, HEAD, MLP, Ablation, Site
from workbench.models import Block, CellModel
from workbench.models.outputs import Outputs
from workbench.models.tokens import Tokens


def exact_sweep(
    model: CellModel, tokens: Tokens, ablations: Sequence[Ablation], edits: Edits, outputs: Sequence[str] = ("cell",)
) -> Iterator[tuple[int | None, Outputs]]:
    """Outputs of the intact model and of every ablation of it.

    An intact pass climbs the layers. An ablation starts from it at its first layer, behind what the ablation leaves as
    it was there (queries, keys, pattern, for heads even the sum of the other heads' results, for features behind the layer all of
    it), and runs the layers above.
    Where only the cell embedding in the style ``cls`` is needed, the last layer computes ``<cls>`` alone. Equal to a
    pass with hooks (`ablated`) but for rounding.

    Parameters
    ----------
    model
        The intact model, without hooks of its own.
    tokens
        Batch of cells, on any device.
    ablations
        What to ablate, one after the other.
    edits
        Of this batch and these ablations.
    outputs
        As in `CellModel.forward`.

    Yields
    ------
    which, outputs
        Number of the ablation, in order of their first layers; None for the intact model, which comes first. Where
        ``<cls>`` is computed alone, ``residual`` repeats its stream.
    """
    padding = tokens.padding.to(model.device) if tokens.facts.padded else None
    only_cls = model.config.cell_style == "cls" and "expression" not in outputs
    last = model.config.n_layers - 1
    by_layer: dict[int, list[int]] = {}
    for i, ablation in enumerate(ablations):
        by_layer.setdefault(ablation.first_layer, []).append(i)

    def keep(layer: int) -> int | None:
        return 1 if only_cls and layer == last else None

    def enter(layer: int, x: Tensor) -> Tensor:
        # A dictionary may stand there; blocks run part by part do not pass it by themselves.
        return model.hook_dict[f"blocks.{layer}.hook_resid_pre"](x)

    def climb(x: Tensor, above: int, ablation: Ablation) -> Outputs:
        for layer in range(above, last + 1):
            here = [place for place in ablation.sites if place.layer == layer]
            x = _layer(model.block(layer), enter(layer, x), padding, keep(layer), here, ablation, edits)
        if only_cls:
            x = x[:, :1].expand(-1, tokens.gene_ids.shape[1], -1)  # a view; the other positions are not read
        return model.decode(x, tokens, outputs)

    # Gradients are off for the work alone: a generator would leave them off for its caller between two outputs.
    with torch.no_grad():
        intact = model(tokens, outputs=outputs)
    # Metrics compare with the intact outputs, so they come first, at the price of a pass that climbs once more.
    yield None, intact
    with torch.no_grad():
        x = model(tokens, stop_at_layer=0).residual
    tokens = tokens.to(model.device, model.dtype)
    for layer in range(last + 1):
        block = model.block(layer)
        n = keep(layer)
        with torch.no_grad():
            below, x = x, enter(layer, x)
            z = block.mix(x, padding, n)
            out = block.project(z)
            mid = block.after_attention(x[:, :n], out)
            mlp = block.feed_forward(mid)
            # Of a spliced model the features are kept, so that a change of one takes no other pass of its layer.
            behind, kept = f"blocks.{layer}.hook_resid_post", dict[str, Tensor]()
            asked = {place.hook for i in by_layer.get(layer, []) for place in ablations[i].sites if place.at == behind}
            with model.hooks([(name, _keep(kept)) for name in asked]):
                post = block.after_mlp(mid, mlp)
        for i in by_layer.get(layer, []):
            here = [place for place in ablations[i].sites if place.layer == layer]
            kinds = {place.kind for place in here}
            again = FEATURE in kinds and any(place.at != behind for place in ablations[i].sites)
            with torch.no_grad(), model.hooks(_hooks(ablations[i], edits)) if again else nullcontext():
                if again:
                    after = _layer(block, enter(layer, below), padding, n, [], ablations[i], edits)
                elif FEATURE in kinds:
                    after = post
                    for place in here:
                        after = edits.without(after, kept[place.hook], ablations[i], place)
                elif GENE in kinds:
                    after = _layer(block, x, padding, n, here, ablations[i], edits)
                elif kinds == {MLP}:
                    after = block.after_mlp(mid, _edit(mlp, here, MLP, ablations[i], edits))
                else:
                    after = _finish(block, x[:, :n], z, out, here, ablations[i], edits)
                found = climb(after, layer + 1, ablations[i])
            yield i, found
        x = post


def _keep(kept: dict[str, Tensor]) -> Callable[..., None]:
    def keep(x: Tensor, hook: Any) -> None:
        kept[hook.name] = x

    return keep


def _hooks(ablation: Ablation, edits: Edits) -> list[tuple[str | Callable, Callable]]:
    """Changes of features by hooks on them, at every layer where they are: what is put in below is computed anew above."""

    def changing(place: Site) -> Callable[..., Tensor]:
        return lambda x, hook: edits.replaced(x, ablation, place)

    return [(place.hook, changing(place)) for place in ablation.sites]


def _layer(
    block: Block,
    x: Float[Tensor, "cell gene d_model"],
    padding: Bool[Tensor, "cell gene"] | None,
    keep: int | None,
    here: list[Site],
    ablation: Ablation,
    edits: Edits,
) -> Tensor:
    x = _edit(x, here, GENE, ablation, edits)
    z = block.mix(x, padding, keep)
    return _finish(block, x[:, :keep], z, block.project(z), here, ablation, edits)


def _finish(
    block: Block, x: Tensor, z: Tensor, out: Tensor, here: list[Site], ablation: Ablation, edits: Edits
) -> Tensor:
    for place in here:
        if place.kind == HEAD:
            # The layer's output is a sum over heads, so only this head's term changes.
            out = out + edits.change(z[:, :, place.head], ablation, place)
    mid = block.after_attention(x, _edit(out, here, ATTENTION, ablation, edits))
    return block.after_mlp(mid, _edit(block.feed_forward(mid), here, MLP, ablation, edits))


def _edit(x: Tensor, here: list[Site], kind: str, ablation: Ablation, edits: Edits) -> Tensor:
    for place in here:
        if place.kind == kind:
            x = edits.replaced(x, ablation, place)
    return x
