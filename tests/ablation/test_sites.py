"""Places and ablations as data: labels, order, keys, and what is refused."""

from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest
from helpers import D_MODEL, N_HEADS, N_LAYERS, tiny_model

from workbench.ablation.sites import HOWS, Ablation, Site, all_heads, head, site
from workbench.errors import HookError, ShapeError

SUBSPACE = np.random.default_rng(0).normal(size=(2, D_MODEL))
LABELS = {
    "L2H1": (Site(2, "head", 1), "blocks.2.attn.hook_z"),
    "L0H13": (Site(0, "head", 13), "blocks.0.attn.hook_z"),
    "L11.attention": (Site(11, "attention"), "blocks.11.hook_attn_out"),
    "L2.mlp": (Site(2, "mlp"), "blocks.2.hook_mlp_out"),
    "L0.gene.CD3E": (Site(0, "gene", gene="CD3E"), "blocks.0.hook_resid_pre"),
    "L1.gene.HLA-DRB1.2": (Site(1, "gene", gene="HLA-DRB1.2"), "blocks.1.hook_resid_pre"),
    "L1.gene.<cls>": (Site(1, "gene", gene="<cls>"), "blocks.1.hook_resid_pre"),
}
BAD = (
    "",
    "H1",
    "L2",
    "L2H",
    "L-1H0",
    "L2H-1",
    "l2h1",
    "L2H1 ",
    "L2.head",
    "L2.attn",
    "L2.mlp.x",
    "L0.gene.",
    "L2H1+L2H2",
)


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def check(model, *args, **more):
    Ablation(*args, **more).check(model.config, model.vocabulary)


# Places


@pytest.mark.parametrize("label", LABELS)
def test_a_label_and_its_place_go_into_each_other(label):
    place, hook = LABELS[label]
    assert site(label) == place and str(place) == label and place.hook == hook
    assert site(place) is place


def test_hooks_of_places_exist(model):
    for kind in ("head", "attention", "mlp", "gene"):
        assert Site(1, kind).hook in model.hook_dict


@pytest.mark.parametrize("label", BAD)
def test_what_is_no_label_is_refused_with_the_right_ones(label):
    with pytest.raises(HookError, match="no place of the model. Write L2H1 for a head, L2.attention or L2.mlp"):
        site(label)


def test_places_go_by_layer_first_and_layers_by_number():
    shuffled = ["L10H0", "L2.mlp", "L2H10", "L2H9", "L0.gene.B", "L0.gene.A"]
    assert [str(s) for s in sorted(map(site, shuffled))] == [
        "L0.gene.A",
        "L0.gene.B",
        "L2H9",
        "L2H10",
        "L2.mlp",
        "L10H0",
    ]


# Ablations


def test_places_are_ordered_and_each_once():
    one = Ablation(["L2H1", "L0.mlp", head(2, 1), "L1H3", "L0.mlp"])
    assert one.sites == (site("L0.mlp"), site("L1H3"), site("L2H1"))
    assert str(one) == "L0.mlp+L1H3+L2H1"
    assert one.first_layer == 0
    assert one == Ablation(("L1H3", "L2H1", "L0.mlp"))


def test_one_place_needs_no_list():
    for given in ("L2H1", head(2, 1), ("L2H1",), [head(2, 1)]):
        assert Ablation(given).sites == (head(2, 1),)
    assert Ablation("L2H1").how == "zero"


def test_the_key_tells_everything_apart():
    different = [
        *(Ablation("L2H1", how) for how in HOWS if how != "direction"),
        *(Ablation("L2H1", how, seed=1) for how in ("resample", "patch")),
        *(Ablation("L2H1", how, rotation=draw) for how in ("zero", "mean", "resample") for draw in (0, 1)),
        Ablation("L2H1", "resample", seed=1, rotation=0),
        *(Ablation("L2H1", "direction", rows) for rows in (SUBSPACE, SUBSPACE[:1], SUBSPACE[1:], SUBSPACE + 1e-6)),
        Ablation("L2H1", "direction", SUBSPACE, rotation=0),
        *(Ablation(label) for label in ("L1H2", "L12H1", "L1H21", "L2.attention", "L2.mlp", "L2.gene.A", "L2.gene.B")),
        *(Ablation(pair) for pair in (["L2H1", "L2H2"], ["L2H1", "L2H3"], ["L2H1", "L2.mlp"])),
    ]
    assert len({one.key for one in different}) == len(set(different)) == len(different)
    for i, one in enumerate(different):
        assert [one == other for other in different] == [i == j for j in range(len(different))]


def test_what_does_not_matter_is_not_in_the_key():
    assert Ablation("L2H1", "zero", seed=1).key == Ablation("L2H1", "zero").key == "L2H1 zero"
    assert Ablation("L2H1", "mean", seed=1) == Ablation("L2H1", "mean", seed=2)
    assert Ablation("L2H1", "resample", seed=3).key == "L2H1 resample seed 3"
    assert Ablation("L2H1", rotation=4).key == "L2H1 zero null 4"


def test_equal_ablations_are_one_key_of_a_dict():
    for one, same in (
        (Ablation("L2H1", "resample", seed=2), Ablation([head(2, 1)], "resample", seed=2)),
        (Ablation("L0.mlp", "direction", SUBSPACE), Ablation("L0.mlp", "direction", SUBSPACE.copy())),
        (Ablation("L0.mlp", "direction", SUBSPACE), Ablation("L0.mlp", "direction", np.asfortranarray(SUBSPACE))),
    ):
        assert one == same and hash(one) == hash(same) and {one: 1}[same] == 1
    assert Ablation("L2H1") != "L2H1 mean"


def test_an_ablation_does_not_change():
    one = Ablation("L2H1")
    for field in dataclasses.fields(one):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(one, field.name, getattr(one, field.name))
    with pytest.raises(dataclasses.FrozenInstanceError):
        site("L2H1").layer = 3


def test_an_ablation_is_copied_with_changes_and_between_processes():
    one = Ablation("L2H1", "resample", seed=2)
    assert dataclasses.replace(one, rotation=5) == Ablation("L2H1", "resample", seed=2, rotation=5)
    direction = Ablation("L2H1", "direction", SUBSPACE, rotation=1)
    assert pickle.loads(pickle.dumps(direction)) == direction


def test_all_heads_are_every_head_by_itself(model):
    found = all_heads(model.config, "resample", 3)
    assert [str(one) for one in found] == [f"L{layer}H{h}" for layer in range(N_LAYERS) for h in range(N_HEADS)]
    assert all(one.how == "resample" and one.seed == 3 and one.rotation is None for one in found)


# What is refused


def test_no_place_is_refused():
    with pytest.raises(HookError, match="names no place; give at least one"):
        Ablation([])


@pytest.mark.parametrize(("how", "near"), [("means", "did you mean 'mean'"), ("nothing", "known: zero, mean")])
def test_an_unknown_way_is_refused_with_the_known_ones(how, near):
    with pytest.raises(HookError, match=f"Unknown way to ablate '{how}': {near}"):
        Ablation("L2H1", how)


def test_a_subspace_comes_with_direction_and_with_nothing_else():
    with pytest.raises(HookError, match="A subspace is given for how='direction'"):
        Ablation("L2H1", "direction")
    for how in set(HOWS) - {"direction"}:
        with pytest.raises(HookError, match="and for no other"):
            Ablation("L2H1", how, SUBSPACE)


@pytest.mark.parametrize("place", ["L1.mlp", "L1.attention", "L1.gene.GENE3", ["L1H0", "L1.mlp"]])
def test_the_null_is_for_heads_only(place):
    with pytest.raises(HookError, match="null is for heads only"):
        Ablation(place, rotation=0)
    assert Ablation(["L1H0", "L2H1"], rotation=0).rotation == 0


@pytest.mark.parametrize(
    "place",
    [
        f"L{N_LAYERS}H0",
        f"L0H{N_HEADS}",
        f"L{N_LAYERS}.mlp",
        f"L{N_LAYERS}.attention",
        f"L{N_LAYERS}.gene.GENE1",
        ["L0H0", f"L1H{N_HEADS}"],
        head(-1, 0),
        head(0, -1),
    ],
)
def test_a_place_outside_the_model_is_refused_with_those_inside(model, place):
    with pytest.raises(HookError, match="There is no L.* in this model: it has layers 0 to 2 with heads 0 to 3 each"):
        check(model, place)


def test_the_last_layer_and_head_are_inside(model):
    check(model, [f"L{N_LAYERS - 1}H{N_HEADS - 1}", f"L{N_LAYERS - 1}.mlp", "L0.gene.GENE39", "L0.gene.<cls>"])


def test_an_unknown_gene_is_refused_with_near_ones(model):
    with pytest.raises(HookError, match="Unknown gene 'gene7': did you mean 'GENE7'"):
        check(model, "L0.gene.gene7")


def test_a_subspace_of_another_width_is_refused(model):
    check(model, "L0H0", "direction", SUBSPACE)
    with pytest.raises(ShapeError, match=r"has shape \(2, 15\), but directions of this model have 16 numbers"):
        check(model, "L0H0", "direction", SUBSPACE[:, 1:])
    with pytest.raises(ShapeError, match=r"has shape \(16, 2\)"):
        check(model, "L0H0", "direction", SUBSPACE.T)
