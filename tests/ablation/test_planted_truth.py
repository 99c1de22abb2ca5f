"""A model whose mechanism is known: every method finds the planted head, and finds nothing in the others."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd
import pytest
import torch

from workbench.ablation.attribution import attribute
from workbench.ablation.edits import ablated
from workbench.ablation.effects import effect_table, top_heads
from workbench.ablation.metrics import fit_probes, readout
from workbench.ablation.reference import build_reference
from workbench.ablation.sites import Ablation, all_heads
from workbench.ablation.study import Study, differences, evaluate, intact_cells
from workbench.models.scgpt.planted import LABEL, plant_head, planted_cells

N_CELLS, N_LAYERS, N_HEADS, DRAWS = 48, 3, 4, 4
SWEEPS = ("zero", "mean", "resample", "direction")
ATTRIBUTIONS = {"gradient": {}, "second order": {"draws": 2}, "integrated gradients": {"steps": 1}}
METHODS = (*SWEEPS, *(f"{how}, {kind}" for how in SWEEPS[:3] for kind in ATTRIBUTIONS))
FEW, MANY = tuple(range(4)), tuple(range(20))


@dataclass(frozen=True)
class Found:
    """What one seed gave: the planted head's rank by method, and the tables behind it."""

    name: str
    ranks: dict[str, int]
    effects: pd.DataFrame
    accuracy: float
    accuracy_without: float
    follows_partner: float
    cosine: float


@lru_cache
def found(seed: int) -> Found:
    planted = plant_head(seed, n_layers=N_LAYERS, n_heads=N_HEADS)
    model, name = planted.model, f"L{planted.layer}H{planted.head}"
    adata = planted_cells(planted, N_CELLS, seed)
    tokens, label = model.tokenizer(adata).tokens(), adata.obs[LABEL].to_numpy()
    intact = intact_cells(model, tokens)
    probe = fit_probes(intact, label.tolist(), np.random.default_rng(seed).permutation(np.arange(N_CELLS) % 4))
    loss = readout(probe, True)
    reference = build_reference(model, tokens, ["blocks.*.attn.hook_z"])
    study = Study(model, tokens, (loss, readout(probe, False)), reference, batch_size=N_CELLS, seed=seed)
    subspace = planted.direction[None]
    ablations = [one for how in SWEEPS[:3] for one in all_heads(model.config, how, seed)]
    ablations += [Ablation(one.sites, "direction", subspace) for one in all_heads(model.config)]
    ablations += [
        Ablation(one.sites, "mean", seed=seed, rotation=k) for one in all_heads(model.config) for k in range(DRAWS)
    ]
    table = evaluate(study, ablations, range(N_CELLS))
    described = pd.DataFrame(
        {
            "key": one.key,
            "places": str(one),
            "how": one.how,
            "kind": "head",
            "layer": one.sites[0].layer,
            "head": one.sites[0].head,
            "null": -1 if one.rotation is None else one.rotation,
        }
        for one in ablations
    )
    effects = effect_table(
        differences(study, table, ablations),
        described,
        draws=50,
        seed=0,
        worse={m.name: m.worse for m in study.metrics},
    )
    ranks = {}
    for how in SWEEPS:
        order = top_heads(effects[effects["how"] == how], loss.name, N_LAYERS * N_HEADS)
        ranks[how] = 1 + order.index(name)
    for how in SWEEPS[:3]:
        for kind, more in ATTRIBUTIONS.items():
            estimate = attribute(study, loss, range(N_CELLS), how, **more).mean(2)
            ranks[f"{how}, {kind}"] = 1 + int((estimate > estimate[planted.layer, planted.head]).sum())
    resampled = next(one for one in ablations if one.how == "resample" and str(one) == name)
    with ablated(model, resampled, reference):
        changed = intact_cells(model, tokens)
    partner = label[reference.partners(tokens.cell_ids, seed)]
    read = np.array(probe.classes)[
        (np.einsum("nd,ndc->nc", changed, probe.weights[probe.fold]) + probe.offset[probe.fold]).argmax(1)
    ]
    rest = [x - np.outer(x @ planted.direction, planted.direction) for x in (intact, changed)]
    values = table.set_index(["ablation", "row"])["label_error"]
    return Found(
        name,
        ranks,
        effects,
        float(1 - values["intact"].mean()),
        float(1 - values[resampled.key].mean()),
        float((read == partner).mean()),
        float(torch.cosine_similarity(*map(torch.as_tensor, rest)).min()),
    )


def check_ranks(seeds: tuple[int, ...], wanted: int) -> None:
    for method in METHODS:
        first = [found(seed).ranks[method] == 1 for seed in seeds]
        assert sum(first) >= wanted, (method, [found(seed).ranks[method] for seed in seeds])


def check_resampling(seeds: tuple[int, ...]) -> None:
    for seed in seeds:
        one = found(seed)
        assert one.accuracy > 0.95, seed
        assert 0.3 < one.accuracy_without < 0.7, (seed, one.accuracy_without)
        assert one.follows_partner > 0.95, (seed, one.follows_partner)
        assert one.cosine > 0.98, (seed, one.cosine)


def useless(seeds: tuple[int, ...]) -> pd.DataFrame:
    """Mean ablations, by label loss, of the heads that carry nothing."""
    parts = []
    for seed in seeds:
        table = found(seed).effects
        here = (table["metric"] == "label_loss") & (table["how"] == "mean") & (table["ablation"] != found(seed).name)
        parts.append(table[here].assign(seed=seed))
    return pd.concat(parts, ignore_index=True)


def check_useless(seeds: tuple[int, ...]) -> None:
    """At most one in twenty has p <= 0.05, but for three standard errors, and all are far smaller than the planted one."""
    table = useless(seeds)
    n = len(table)
    assert n == len(seeds) * (N_LAYERS * N_HEADS - 1)
    assert (table["p"] <= 0.05).mean() <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / n)
    assert (table["q"] > 0.05).mean() > 0.95
    for seed in seeds:
        effects = found(seed).effects
        effects = effects[(effects["metric"] == "label_loss") & (effects["how"] == "mean")].set_index("ablation")[
            "effect"
        ]
        assert effects.drop(found(seed).name).abs().max() < 0.05 * effects[found(seed).name], seed


def test_every_method_ranks_the_planted_head_first():
    check_ranks(FEW, wanted=len(FEW))


def test_resampling_the_planted_head_gives_another_cells_label_and_spares_the_rest():
    check_resampling(FEW)


def test_mean_ablation_of_the_other_heads_does_no_more_than_chance():
    check_useless(FEW)


@pytest.mark.slow
def test_every_method_ranks_the_planted_head_first_in_nineteen_of_twenty_models():
    check_ranks(MANY, wanted=19)


@pytest.mark.slow
def test_resampling_the_planted_head_in_twenty_models():
    check_resampling(MANY)


@pytest.mark.slow
def test_mean_ablation_of_the_other_heads_in_twenty_models():
    check_useless(MANY)
