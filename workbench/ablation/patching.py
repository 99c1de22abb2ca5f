"""What a head carries from one group of cells to another: activation patching and path patching, by gene id."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.ablation.edits import Edits
from workbench.ablation.effects import bootstrap_weights, interval
from workbench.ablation.exact import exact_sweep
from workbench.ablation.reference import Reference, build_reference
from workbench.ablation.sites import HEAD, Ablation, Site, all_heads, site
from workbench.errors import CellsError, EvaluationError, HookError
from workbench.model.hooked import HookedScGPT
from workbench.model.tokens import Tokens
from workbench.seeds import generator
from workbench.stats import benjamini_hochberg, permutation_p

_FLIPS = 2000


def activation_patching(
    model: HookedScGPT,
    target: Tokens,
    source: Tokens,
    *,
    sites: Sequence[str | Site] | None = None,
    names: tuple[str, str] = ("target", "source"),
    donors: Int[np.ndarray, " cell"] | None = None,
    seed: int = 0,
    draws: int = 1000,
    batch_size: int = 16,
) -> pd.DataFrame:
    """How far a part of the model moves target cells towards source cells.

    Each target cell runs with one part's activation replaced by that of a source cell, gene by gene; genes that the
    source cell does not express keep their own. Reported is the share of the way between the two groups' mean cell
    embeddings that this moves the cell: with a the difference of the means, ((patched - own) . a) / (a . a).

    Parameters
    ----------
    model
        The intact model.
    target, source
        Cells of two groups (one cell each will do, without a null), with names.
    sites
        Parts; every head when None.
    names
        Of the groups, for the table.
    donors
        Donor of each target cell, for intervals over donors.
    seed, draws
        Of the pairing, and the bootstrap's.
    batch_size
        Cells per pass.

    Returns
    -------
    pandas.DataFrame
        One row per part: ``ablation``, ``kind``, ``layer``, ``head``, ``moved`` (mean share), ``low``, ``high`` (95 %
        bootstrap), ``null_mean``, ``null_low``, ``null_high`` (the same with another cell of the target group as
        source), ``p`` (one-sided: the share exceeds the null's, by sign flips of the per-cell differences, 2,000 draws),
        ``q`` (Benjamini-Hochberg), ``n_pairs``, ``shared_genes`` (mean), ``target``, ``source``.

    Raises
    ------
    CellsError
        If a group is empty or the groups share a cell.
    EvaluationError
        If the groups have the same mean embedding.
    """
    places = [a.sites[0] for a in all_heads(model.config)] if sites is None else [site(s) for s in sites]
    ablations = [Ablation((place,), "patch", seed=seed) for place in places]
    target, source = target.to(model.device, model.dtype), source.to(model.device, model.dtype)
    axis, reference = _axis(model, target, source, batch_size)
    moved, shared = _moved(model, target, reference, ablations, axis, batch_size)
    within = np.full_like(moved, np.nan)
    if len(target) > 1:
        within, _ = _moved(model, target, build_reference(model, target, ()), ablations, axis, batch_size)
    weights = bootstrap_weights(len(target), draws, seed, donors)
    rows = []
    for i, place in enumerate(places):
        low, high = interval(moved[i], weights)
        null_low, null_high = interval(within[i], weights)
        rows.append(
            {
                "ablation": str(place),
                "kind": place.kind,
                "layer": place.layer,
                "head": place.head,
                "moved": float(moved[i].mean()),
                "low": low,
                "high": high,
                "null_mean": float(within[i].mean()),
                "null_low": null_low,
                "null_high": null_high,
                "p": _flip_p(moved[i] - within[i], seed),
                "n_pairs": len(target),
                "shared_genes": shared,
                "target": names[0],
                "source": names[1],
            }
        )
    table = pd.DataFrame(rows)
    return table.assign(q=benjamini_hochberg(table["p"].to_numpy()))


def _axis(model: HookedScGPT, target: Tokens, source: Tokens, batch_size: int) -> tuple[Tensor, Reference]:
    if not len(target) or not len(source):
        raise CellsError(
            f"Patching needs cells on both sides; found {len(target)} target and {len(source)} source cells."
        )
    both = set(target.cell_ids) & set(source.cell_ids)
    if both:
        raise CellsError(f"{len(both)} cells are in both groups (first: '{sorted(both)[0]}'); keep the groups apart.")
    with torch.no_grad():
        means = [torch.cat([_cell(model, b) for b in side.batches(batch_size)]).mean(0) for side in (target, source)]
    axis = means[1] - means[0]
    if float(axis.norm()) <= 1e-6 * float(means[0].norm()):
        raise EvaluationError("Both groups have the same mean cell embedding, so there is no difference to carry.")
    return axis, build_reference(model, source, ())


def _cell(model: HookedScGPT, tokens: Tokens) -> Tensor:
    cell = model(tokens).cell
    assert cell is not None
    return cell


def _moved(
    model: HookedScGPT, target: Tokens, reference: Reference, ablations: list[Ablation], axis: Tensor, batch_size: int
) -> tuple[Float[np.ndarray, "ablation cell"], float]:
    """Share of the way per ablation and cell, and the mean number of shared genes."""
    parts, shared = [], []
    for batch in target.batches(batch_size):
        edits = Edits(model, batch, ablations, reference)
        lost = edits.fallbacks(ablations[0])
        shared.append(((~batch.padding).sum(1) - lost - 1).cpu().numpy())  # without <cls>, which every cell has
        found = torch.zeros(len(ablations), len(batch), device=model.device)
        own: Tensor | None = None
        for which, out in exact_sweep(model, batch, ablations, edits):
            assert out.cell is not None
            if which is None:
                own = out.cell
            else:
                found[which] = _share(out.cell, own, axis)
        parts.append(found.cpu().numpy())
    return np.concatenate(parts, axis=1).astype(np.float64), float(np.concatenate(shared).mean())


def _share(patched: Tensor, own: Tensor | None, axis: Tensor) -> Tensor:
    assert own is not None
    return ((patched - own) @ axis / (axis @ axis)).float()


def _flip_p(differences: np.ndarray, seed: int) -> float:
    if not np.isfinite(differences).all():
        return float("nan")
    signs = generator(seed, "sign flips").choice([-1.0, 1.0], size=(_FLIPS, len(differences)))
    return permutation_p(float(differences.mean()), signs @ differences / len(differences))


def path_patching(
    model: HookedScGPT,
    target: Tokens,
    source: Tokens,
    sender: str | Site,
    receivers: Sequence[str],
    *,
    freeze_mlp: bool = True,
    donors: Int[np.ndarray, " cell"] | None = None,
    seed: int = 0,
    draws: int = 1000,
    batch_size: int = 16,
) -> pd.DataFrame:
    """What goes from one head straight to a later part, leaving out the ways through all other heads.

    The sender's activation comes from a source cell; every later head's ``hook_z`` (and every MLP's output) is held at
    the target cell's own. What a receiver then reads is put into an otherwise intact pass (path patching: Wang et al.
    2023, Goldowsky-Dill et al. 2023). In a post-norm model the way passes through the LayerNorms in between.

    Parameters
    ----------
    model, target, source, donors, seed, draws, batch_size
        As in `activation_patching`.
    sender
        A head.
    receivers
        ``L3H1.q``, ``L3H1.k`` or ``L3H1.v`` (what that head reads as query, key or value), or ``cell`` (what the cell
        embedding reads). Later than the sender.
    freeze_mlp
        Hold the MLPs too; else ways through MLPs count as straight.

    Returns
    -------
    pandas.DataFrame
        One row per receiver, and one (``all ways``) for plain activation patching of the sender: ``sender``,
        ``receiver``, ``moved``, ``low``, ``high``, ``n_pairs``.

    Raises
    ------
    HookError
        If the sender is no head, or a receiver does not exist or is not later.
    """
    place = site(sender)
    if place.kind != HEAD:
        raise HookError(f"The sender must be a head such as L2H1; found {place}.")
    ablation = Ablation((place,), "patch", seed=seed)
    ablation.check(model.config, model.vocabulary)
    parsed = [_receiver(model, name, place) for name in receivers]
    target, source = target.to(model.device, model.dtype), source.to(model.device, model.dtype)
    axis, reference = _axis(model, target, source, batch_size)
    found: dict[str, list[np.ndarray]] = {name: [] for name in ("all ways", *receivers)}
    with torch.no_grad():
        for batch in target.batches(batch_size):
            edits = Edits(model, batch, [ablation], reference)
            for name, cell, own in _paths(model, batch, edits, ablation, receivers, parsed, freeze_mlp):
                found[name].append(_share(cell, own, axis).cpu().numpy())
    weights = bootstrap_weights(len(target), draws, seed, donors)
    rows = []
    for name, parts in found.items():
        moved = np.concatenate(parts).astype(np.float64)
        low, high = interval(moved, weights)
        rows.append({"sender": str(place), "receiver": name, "moved": float(moved.mean()), "low": low, "high": high})
    return pd.DataFrame(rows).assign(n_pairs=len(target))


def _receiver(model: HookedScGPT, name: str, sender: Site) -> tuple[str, int] | None:
    """Hook and head of a receiver; None for the cell embedding."""
    if name == "cell":
        return None
    label, _, part = name.partition(".")
    if part not in ("q", "k", "v"):
        raise HookError(f"'{name}' is no receiver; write L3H1.q, L3H1.k, L3H1.v or cell.")
    place = site(label)
    Ablation((place,), "zero").check(model.config, model.vocabulary)
    if place.layer <= sender.layer:
        raise HookError(f"The receiver {name} is not later than the sender {sender}, so nothing goes there.")
    return f"blocks.{place.layer}.attn.hook_{part}", place.head


def _paths(
    model: HookedScGPT,
    tokens: Tokens,
    edits: Edits,
    ablation: Ablation,
    names: Sequence[str],
    receivers: Sequence[tuple[str, int] | None],
    freeze_mlp: bool,
) -> list[tuple[str, Tensor, Tensor]]:
    """Cell embedding per receiver, beside the intact one."""
    place = ablation.sites[0]
    wanted = ["blocks.*.attn.hook_z", "blocks.*.hook_mlp_out"]
    out, own = model.run_with_cache(tokens, names_filter=wanted)
    read: dict[str, Tensor] = {}

    def send(z: Tensor, hook: Any) -> Tensor:
        new = z.clone()
        new[:, :, place.head] = edits.replaced(z[:, :, place.head], ablation, place)
        return new

    def hold(x: Tensor, hook: Any) -> Tensor:
        return own[hook.name]

    def keep(x: Tensor, hook: Any) -> None:
        read[hook.name] = x

    def receive(hook_name: str, head: int) -> Callable[[Tensor, Any], Tensor]:
        def function(x: Tensor, hook: Any) -> Tensor:
            new = x.clone()
            new[:, :, head] = read[hook_name][:, :, head]
            return new

        return function

    def run(hooks: list[tuple[str | Callable, Callable]]) -> Tensor:
        with model.hooks(hooks):
            return _cell(model, tokens)

    found = [("all ways", run([(place.hook, send)]), out.cell)]
    later = range(place.layer + 1, model.config.n_layers)
    hooks: list[tuple[str | Callable, Callable]] = [(place.hook, send)]
    hooks += [(f"blocks.{layer}.attn.hook_z", hold) for layer in later]
    if freeze_mlp:
        hooks += [(f"blocks.{layer}.hook_mlp_out", hold) for layer in (place.layer, *later)]
    hooks += [(name, keep) for name in {r[0] for r in receivers if r is not None}]
    direct = run(hooks)
    for name, receiver in zip(names, receivers, strict=True):
        cell = direct if receiver is None else run([(receiver[0], receive(*receiver))])
        found.append((name, cell, out.cell))
    return found
