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
from workbench.ablation.metrics import at_least_single
from workbench.ablation.reference import Reference, build_reference
from workbench.ablation.sites import HEAD, Ablation, Site, all_heads, site
from workbench.errors import CellsError, EvaluationError, HookError
from workbench.models import CellModel
from workbench.models.devices import Fitting
from workbench.models.tokens import Tokens
from workbench.seeds import generator, key
from workbench.stats import benjamini_hochberg, permutation_p

_PERMUTATIONS = 2000


def activation_patching(
    model: CellModel,
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
        The intact model, without hooks of its own.
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
        Number of cells in a pass, at most.

    Returns
    -------
    pandas.DataFrame
        One row per part: ``ablation``, ``kind``, ``layer``, ``head``, ``moved`` (mean share), ``low``, ``high`` (95 %
        bootstrap), ``null_mean``, ``null_low``, ``null_high`` (the same with another cell of the target group as
        source), ``p`` (one-sided: the share exceeds the null's), ``q`` (Benjamini-Hochberg), ``n_pairs``,
        ``shared_genes`` (mean), ``target``, ``source``.

    Raises
    ------
    CellsError
        If a group is empty, the groups share a cell, or the cells have no names.
    EvaluationError
        If the groups have the same mean embedding, or no place is named.
    HookError
        If a place does not exist.

    Notes
    -----
    The difference of two means holds the chance differences of these very cells, and patching from these very cells
    carries those over, too. So ``moved`` is not zero for groups that differ by chance alone, and p must not be taken
    along the same difference. Both groups are split into halves by seed and name; target cells are paired within their
    half, and p takes their shares along the difference of the means of the other half's cells. It compares source cells
    with other target cells by permuting which is which among the cells patched from (2,000 draws). NaN with fewer than
    four target or two source cells, which are paired without halves. Cells count as independent: between groups of other donors, who
    differ, p finds the donors (`experiments/calibration_others.py`).
    """
    places = [a.sites[0] for a in all_heads(model.config)] if sites is None else [site(s) for s in sites]
    ablations = [Ablation((place,), "patch", seed=seed) for place in places]
    if not ablations:
        raise EvaluationError("No place to patch was named; name at least one, or leave `sites` out for every head.")
    for one in ablations:
        one.check(model.config, model.vocabulary)
    cells = _cells(model, target, source, batch_size)
    axis, parts = _axis(*cells), _parts(target, source, seed)
    # By what is patched from (source cells, other target cells): share along the axis, and along the other half's.
    moved = np.full((2, 2, len(ablations), len(target)), np.nan)
    partners = np.zeros((2, len(target)), dtype=object)
    shared = np.zeros((2, len(target)))
    for i, (mine, theirs) in enumerate(parts):
        other = _axis(*(x[rows] for x, rows in zip(cells, parts[1 - i], strict=True))) if len(parts) > 1 else axis
        batch = target.take(mine)
        for k, group in enumerate([source.take(theirs), batch] if len(mine) > 1 else [source.take(theirs)]):
            reference = build_reference(model, group, ())
            found = _moved(model, batch, reference, ablations, (axis, other), batch_size)
            moved[k][:, :, mine], shared[k, mine] = found
            partners[k, mine] = [group.cell_ids[row] for row in reference.partners(batch.cell_ids, seed)]
    p = _excess_p(moved[:, 1], partners, seed) if len(parts) > 1 else np.full(len(places), np.nan)
    order = np.argsort(np.array(target.cell_ids), kind="stable")  # draws go by name, not by the order of the file
    weights = bootstrap_weights(len(target), draws, seed, None if donors is None else donors[order])
    rows = []
    for i, place in enumerate(places):
        own, null = moved[0, 0, i], moved[1, 0, i]
        low, high = interval(own[order], weights)
        null_low, null_high = interval(null[order], weights)
        rows.append(
            {
                "ablation": str(place),
                "kind": place.kind,
                "layer": place.layer,
                "head": place.head,
                "moved": float(own.mean()),
                "low": low,
                "high": high,
                "null_mean": float(null.mean()),
                "null_low": null_low,
                "null_high": null_high,
                "p": float(p[i]),
                "n_pairs": len(target),
                "shared_genes": float(shared[0].mean()),
                "target": names[0],
                "source": names[1],
            }
        )
    table = pd.DataFrame(rows)
    return table.assign(q=benjamini_hochberg(table["p"].to_numpy()))


def _cells(model: CellModel, target: Tokens, source: Tokens, batch_size: int) -> tuple[Tensor, Tensor]:
    """Intact cell embeddings of two groups that can be patched."""
    if not len(target) or not len(source):
        raise CellsError(
            f"Patching needs cells on both sides; found {len(target)} target and {len(source)} source cells."
        )
    if not target.cell_ids or not source.cell_ids:
        raise CellsError("Cells are paired by name, but the tokens carry none; set Tokens.cell_ids.")
    both = set(target.cell_ids) & set(source.cell_ids)
    if both:
        raise CellsError(f"{len(both)} cells are in both groups (first: '{sorted(both)[0]}'); keep the groups apart.")
    fitting = Fitting(batch_size)
    with torch.no_grad():
        of_target, of_source = (
            torch.cat(list(fitting.batches(side, lambda batch: _cell(model, batch)))) for side in (target, source)
        )
    return at_least_single(of_target), at_least_single(of_source)


def _axis(of_target: Tensor, of_source: Tensor) -> Tensor:
    """From the mean cell embedding of one group to that of the other."""
    start = of_target.mean(0)
    axis = of_source.mean(0) - start
    if float(axis.norm()) <= 1e-6 * float(start.norm()):
        raise EvaluationError("Both groups have the same mean cell embedding, so there is no difference to carry.")
    return axis


def _parts(target: Tokens, source: Tokens, seed: int) -> list[tuple[list[int], list[int]]]:
    """Numbers of the target and source cells that are paired among themselves: halves by seed and name, where possible."""
    if len(target) < 4 or len(source) < 2:
        return [(list(range(len(target))), list(range(len(source))))]
    return list(zip(_halves(target, seed), _halves(source, seed), strict=True))


def _halves(tokens: Tokens, seed: int) -> list[list[int]]:
    order = sorted(range(len(tokens)), key=lambda i: key(seed, "half", tokens.cell_ids[i]))
    return [sorted(order[half::2]) for half in (0, 1)]


def _cell(model: CellModel, tokens: Tokens) -> Tensor:
    cell = model(tokens).cell
    assert cell is not None
    return cell


def _moved(
    model: CellModel,
    target: Tokens,
    reference: Reference,
    ablations: list[Ablation],
    axes: tuple[Tensor, ...],
    batch_size: int,
) -> tuple[Float[np.ndarray, "axis ablation cell"], Float[np.ndarray, " cell"]]:
    """Share of the way per axis, ablation and cell, and the number of shared genes."""
    every = Ablation((Site(0, HEAD, 0),), "patch", seed=ablations[0].seed)  # touches every token of a cell

    def work(batch: Tokens) -> tuple[Tensor, Tensor]:
        batch = batch.to(model.device, model.dtype)
        edits = Edits(model, batch, ablations, reference)
        lost = edits.fallbacks(every)
        found = torch.zeros(len(axes), len(ablations), len(batch), device=model.device)
        own: Tensor | None = None
        for which, out in exact_sweep(model, batch, ablations, edits):
            assert out.cell is not None
            if which is None:
                own = out.cell
            else:
                for i, axis in enumerate(axes):
                    found[i, which] = _share(out.cell, own, axis)
        return found, (~batch.padding).sum(1) - lost - 1  # without <cls>, which every cell has

    moved, shared = zip(*Fitting(batch_size).batches(target, work), strict=True)
    return torch.cat(moved, dim=2).cpu().double().numpy(), torch.cat(shared).cpu().double().numpy()


def _share(patched: Tensor, own: Tensor | None, axis: Tensor) -> Tensor:
    assert own is not None
    return ((at_least_single(patched) - at_least_single(own)) @ axis / (axis @ axis)).float()


def _excess_p(
    moved: Float[np.ndarray, "group ablation cell"], partners: np.ndarray, seed: int
) -> Float[np.ndarray, " ablation"]:
    """One-sided p that source cells move the targets further than other target cells do.

    What is permuted are the cells that were patched from, because several targets may share one.
    """
    names, unit = np.unique(partners.ravel().astype(str), return_inverse=True)
    is_source = np.isin(names, partners[0].astype(str))
    shares = np.concatenate(list(moved), axis=1)
    mean = np.stack([np.bincount(unit.ravel(), row) for row in shares]) / np.bincount(unit.ravel())
    draws = generator(seed, "patched from").permuted(np.tile(is_source, (_PERMUTATIONS, 1)), axis=1)

    def excess(chosen: np.ndarray) -> np.ndarray:
        first, second = (side / side.sum(-1, keepdims=True) for side in (chosen.astype(float), (~chosen).astype(float)))
        return mean @ (first - second).T

    return np.array([permutation_p(float(x), null) for x, null in zip(excess(is_source), excess(draws), strict=True)])


def path_patching(
    model: CellModel,
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
        Head whose path to others is patched.
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
    receivers = list(dict.fromkeys(receivers))
    parsed = [_receiver(model, name, place) for name in receivers]
    axis = _axis(*_cells(model, target, source, batch_size))
    found = {name: np.zeros(len(target)) for name in ("all ways", *receivers)}
    with torch.no_grad():
        for mine, theirs in _parts(target, source, seed):
            reference = build_reference(model, source.take(theirs), ())
            for start in range(0, len(mine), batch_size):
                at = mine[start : start + batch_size]
                batch = target.take(at).to(model.device, model.dtype)
                edits = Edits(model, batch, [ablation], reference)
                for name, cell, own in _paths(model, batch, edits, ablation, receivers, parsed, freeze_mlp):
                    found[name][at] = _share(cell, own, axis).cpu().numpy()
    order = np.argsort(np.array(target.cell_ids), kind="stable")  # draws go by name, not by the order of the file
    weights = bootstrap_weights(len(target), draws, seed, None if donors is None else donors[order])
    rows = []
    for name, moved in found.items():
        low, high = interval(moved[order], weights)
        rows.append({"sender": str(place), "receiver": name, "moved": float(moved.mean()), "low": low, "high": high})
    return pd.DataFrame(rows).assign(n_pairs=len(target))


def _receiver(model: CellModel, name: str, sender: Site) -> tuple[str, int] | None:
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
    model: CellModel,
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
