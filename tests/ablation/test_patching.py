"""What a head carries from one group of cells to another, against passes done by hand and against a planted mechanism."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import N_HEADS, N_LAYERS, make_tokens, tiny_model

from workbench.ablation.edits import Edits, ablated
from workbench.ablation.exact import exact_sweep
from workbench.ablation.patching import activation_patching, path_patching
from workbench.ablation.reference import build_reference
from workbench.ablation.sites import GENE, HEAD, all_heads, site
from workbench.errors import CellsError, EvaluationError, HookError
from workbench.models.scgpt.planted import LABEL, plant_head, planted_cells
from workbench.models.tokens import Tokens
from workbench.seeds import key

SEED, LAYERS, HEADS = 4, 3, 4


@dataclass(frozen=True)
class Groups:
    """A planted model, the head's label, and the cells of both classes."""

    model: object
    name: str
    up: Tokens
    down: Tokens


@lru_cache
def planted(layer: int | None = None, seed: int = 0, n_cells: int = 24) -> Groups:
    made = plant_head(seed, n_layers=LAYERS, n_heads=HEADS, layer=layer)
    cells = planted_cells(made, n_cells, seed)
    tokens = made.model.tokenizer(cells).tokens()
    label = cells.obs[LABEL].to_numpy()
    up, down = (tokens.take(np.flatnonzero(label == name).tolist()) for name in ("up", "down"))
    return Groups(made.model, f"L{made.layer}H{made.head}", up, down)


def cells(n: int, name: str, seed: int, length: int = 12) -> Tokens:
    """Random cells of several lengths, named after their group."""
    tokens = make_tokens(n, length, padded=n < 6, seed=seed)
    return replace(tokens, cell_ids=tuple(f"{name}{i}" for i in range(n)))


@pytest.fixture(scope="module")
def model():
    return tiny_model(2)


@pytest.fixture(scope="module")
def two():
    """Target and source cells, too few to be paired in halves."""
    return cells(3, "target", 1), cells(5, "source", 2)


@pytest.fixture(scope="module")
def many():
    return cells(9, "target", 3), cells(8, "source", 4)


def hooks_left(model) -> list:
    return [m for m in model.modules() if m._forward_hooks or m._forward_pre_hooks or "forward" in vars(m)]


def mean_cell(model, tokens) -> torch.Tensor:
    return model(tokens).cell.mean(0)


def genes_of(tokens: Tokens, cell: int) -> list[int]:
    """Gene ids of a cell by position, ``<cls>`` among them; padding left out."""
    return [int(g) for g, p in zip(tokens.gene_ids[cell], tokens.padding[cell], strict=True) if not p]


def by_hand(model, target: Tokens, source: Tokens, i: int, j: int, label: str, axis: torch.Tensor) -> float:
    """Share of the way that cell i goes when a place's activation is taken from cell j, gene by gene."""
    place = site(label)
    own, other = target.take([i]), source.take([j])
    before, cache = model.run_with_cache(own, names_filter=place.hook)
    theirs = model.run_with_cache(other, names_filter=place.hook)[1][place.hook]
    at = {gene: position for position, gene in enumerate(genes_of(other, 0))}
    new = cache[place.hook].clone()
    for position, gene in enumerate(genes_of(own, 0)):
        if gene not in at or (place.kind == GENE and gene != model.vocabulary.ids[place.gene]):
            continue
        if place.kind == HEAD:
            new[0, position, place.head] = theirs[0, at[gene], place.head]
        else:
            new[0, position] = theirs[0, at[gene]]
    after = model.run_with_hooks(own, fwd_hooks=[(place.hook, lambda x, hook: new)])
    return float((after.cell - before.cell)[0] @ axis / (axis @ axis))


def partners(target: Tokens, source: Tokens, seed: int) -> list[int]:
    """Source cell of each target cell: of the same half, where there are halves."""

    def half(tokens):
        order = sorted(range(len(tokens)), key=lambda i: key(seed, "half", tokens.cell_ids[i]))
        return {row: rank % 2 for rank, row in enumerate(order)}

    halved = len(target) >= 4 and len(source) >= 2
    mine, theirs = (half(t) if halved else dict.fromkeys(range(len(t)), 0) for t in (target, source))
    found = []
    for i in range(len(target)):
        among = sorted((j for j in range(len(source)) if theirs[j] == mine[i]), key=lambda j: source.cell_ids[j])
        found.append(among[key(seed, "partner", target.cell_ids[i]) % len(among)])
    return found


# A known mechanism


@pytest.mark.parametrize("layer", range(LAYERS))
def test_the_planted_head_alone_carries_all_of_the_difference(layer):
    groups = planted(layer)
    for target, source in ((groups.down, groups.up), (groups.up, groups.down)):
        table = activation_patching(groups.model, target, source, draws=200)
        assert table["ablation"].tolist() == [str(one) for one in all_heads(groups.model.config)]
        heads = table.set_index("ablation")
        one, rest = heads.loc[groups.name], heads.drop(groups.name)
        assert 0.95 < one["moved"] < 1.05 and 0.95 < one["low"] < one["moved"] < one["high"] < 1.05
        assert abs(one["null_mean"]) < 0.05 and one["null_high"] < 0.1 and one["q"] <= 0.05
        assert rest["moved"].abs().max() < 0.001 and rest["null_mean"].abs().max() < 0.001
        assert rest["q"].min() > 0.05


def test_groups_that_differ_by_chance_alone_give_small_p_no_more_often_than_chance():
    tables = []
    for seed in range(8):
        groups = planted(seed=seed, n_cells=48)
        tables.append(activation_patching(groups.model, groups.up[:12], groups.up[12:], draws=10, seed=seed))
    p = pd.concat(tables)["p"]
    assert len(p) == 8 * LAYERS * HEADS and p.notna().all()
    assert (p <= 0.05).mean() <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / len(p))
    # The shares themselves are not zero then: these very cells make the difference that they are measured along.
    assert all(table["moved"].sum() > 0.5 for table in tables)


def test_the_table_says_what_was_done(model, two):
    table = activation_patching(model, *two, sites=["L2H3", "L1.mlp"], names=("B", "T"), draws=20)
    assert table[["ablation", "kind", "layer", "head"]].to_numpy().tolist() == [
        ["L2H3", "head", 2, 3],
        ["L1.mlp", "mlp", 1, -1],
    ]
    assert (table["target"] == "B").all() and (table["source"] == "T").all() and (table["n_pairs"] == 3).all()
    assert {"moved", "low", "high", "null_mean", "null_low", "null_high", "p", "q", "shared_genes"} <= set(table)


# Against passes by hand


@pytest.mark.parametrize("group", ["two", "many"])
def test_shares_are_those_of_passes_by_hand_and_genes_that_are_not_shared_keep_their_own(model, group, request):
    target, source = request.getfixturevalue(group)
    places = ["L0H1", "L1H3", "L2H0", "L1.attention", "L2.mlp", "L1.gene.GENE3"]
    axis = mean_cell(model, source) - mean_cell(model, target)
    table = activation_patching(model, target, source, sites=places, seed=SEED, draws=10, batch_size=4)
    pairs = list(enumerate(partners(target, source, SEED)))
    for place, found in zip(places, table["moved"], strict=True):
        expected = np.mean([by_hand(model, target, source, i, j, place, axis) for i, j in pairs])
        assert found == pytest.approx(expected, abs=2e-6), place
    # Some genes were shared and some were not, or this says little.
    shared = [len(set(genes_of(target, i)) & set(genes_of(source, j))) - 1 for i, j in pairs]
    assert 0 < np.mean(shared) < 0.8 * np.mean([len(genes_of(target, i)) - 1 for i, _ in pairs])
    assert table["shared_genes"].tolist() == pytest.approx([np.mean(shared)] * len(places))


def test_shared_genes_are_those_of_the_whole_cell_also_where_one_gene_is_patched(model, two):
    heads, gene = (activation_patching(model, *two, sites=[place], draws=5) for place in ("L0H0", "L0.gene.GENE3"))
    assert heads["shared_genes"].tolist() == gene["shared_genes"].tolist() != [0]


def test_few_cells_are_patched_as_the_ablation_does_it(model, two):
    target, source = two
    axis = mean_cell(model, source) - mean_cell(model, target)
    table = activation_patching(model, target, source, seed=SEED, draws=10).set_index("ablation")
    own = model(target).cell
    for group, column in ((source, "moved"), (target, "null_mean")):
        reference = build_reference(model, group, ())
        for one in all_heads(model.config, "patch", SEED):
            with ablated(model, one, reference):
                patched = model(target).cell
            expected = float(((patched - own) @ axis / (axis @ axis)).mean())
            assert table.loc[str(one), column] == pytest.approx(expected, abs=2e-6)
    assert table["null_low"].notna().all() and table["p"].isna().all() and table["q"].isna().all()


def test_one_cell_against_one_cell_has_no_null(model, two):
    target, source = (group.take([1]) for group in two)
    axis = mean_cell(model, source) - mean_cell(model, target)
    table = activation_patching(model, target, source, draws=10)
    assert len(table) == N_LAYERS * N_HEADS and (table["n_pairs"] == 1).all()
    for place, found in zip(table["ablation"], table["moved"], strict=True):
        assert found == pytest.approx(by_hand(model, target, source, 0, 0, place, axis), abs=2e-6)
    assert table[["low", "high", "null_mean", "null_low", "null_high", "p", "q"]].isna().all(axis=None)


def test_neither_batches_nor_the_order_of_the_cells_change_anything(model, many):
    target, source = many
    first = activation_patching(model, target, source, seed=SEED, draws=50)
    for size in (1, 4):
        again = activation_patching(model, target, source, seed=SEED, draws=50, batch_size=size)
        pd.testing.assert_frame_equal(again, first, rtol=1e-4, atol=1e-6)
    rng = np.random.default_rng(0)
    turned = (side.take(rng.permutation(len(side)).tolist()) for side in many)
    again = activation_patching(model, *turned, seed=SEED, draws=50)
    fixed = ["ablation", "moved", "null_mean", "p", "q", "shared_genes"]  # the bootstrap draws cells by number
    pd.testing.assert_frame_equal(again[fixed], first[fixed], rtol=1e-4, atol=1e-6)
    other = activation_patching(model, target, source, seed=SEED + 1, draws=50)
    assert not np.allclose(other["moved"], first["moved"], atol=1e-3)


def test_intervals_are_over_donors_where_there_are_donors(model, many):
    loose = activation_patching(model, *many, draws=30)
    table = activation_patching(model, *many, donors=np.arange(len(many[0])) % 2, draws=30)
    for found in (loose, table):
        assert (found["low"] < found["moved"]).all() and (found["moved"] < found["high"]).all()
    assert not np.allclose(table["low"], loose["low"], atol=1e-3)
    one = activation_patching(model, *many, donors=np.zeros(len(many[0]), dtype=int), draws=30)
    assert one[["low", "high", "null_low", "null_high"]].isna().all(axis=None), "one donor says nothing of others"
    pd.testing.assert_series_equal(one["moved"], loose["moved"])
    path = path_patching(model, *many, "L0H0", ["cell"], donors=np.zeros(len(many[0]), dtype=int), draws=30)
    assert path[["low", "high"]].isna().all(axis=None)


def test_shares_of_a_model_in_half_precision_are_not_rounded_to_it(two):
    model, (target, source) = tiny_model(2).to(torch.bfloat16), two
    ablations = all_heads(model.config, "patch")
    reference = build_reference(model, source, ())
    edits = Edits(model, target, ablations, reference)
    cells = {which: out.cell.double() for which, out in exact_sweep(model, target, ablations, edits)}
    axis = model(source).cell.double().mean(0) - cells[None].mean(0)
    expected = [float(((cells[i] - cells[None]) @ axis).mean() / (axis @ axis)) for i in range(len(ablations))]
    found = activation_patching(model, target, source, draws=10)["moved"]
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("target", "source", "said"),
    [([0, 1], [], "found 2 target and 0 source cells"), ([], [0], "found 0 target and 1 source cells")],
)
def test_an_empty_group_is_refused(model, two, target, source, said):
    sides = two[0].take(target), two[1].take(source)
    with pytest.raises(CellsError, match=said):
        activation_patching(model, *sides)
    with pytest.raises(CellsError, match=said):
        path_patching(model, *sides, "L0H0", ["cell"])


def test_a_cell_in_both_groups_is_refused(model, two):
    target, source = two
    both = replace(source, cell_ids=("source0", "target2", "source2", "source3", "target1"))
    with pytest.raises(CellsError, match="2 cells are in both groups \\(first: 'target1'\\)"):
        activation_patching(model, target, both)
    with pytest.raises(CellsError, match="in both groups"):
        path_patching(model, target, both, "L0H0", ["cell"])


def test_groups_without_a_difference_are_refused(model, two):
    same = replace(two[0], cell_ids=("a", "b", "c"))
    with pytest.raises(EvaluationError, match="same mean cell embedding"):
        activation_patching(model, two[0], same)


def test_cells_without_names_are_refused(model, two):
    with pytest.raises(CellsError, match="set Tokens.cell_ids"):
        activation_patching(model, two[0], replace(two[1], cell_ids=()))


@pytest.mark.parametrize("place", ["L3H0", "L0H4", "L9.mlp", "L0.gene.ABSENT", "head"])
def test_a_place_that_the_model_does_not_have_is_refused(model, two, place):
    with pytest.raises(HookError):
        activation_patching(model, *two, sites=["L0H0", place])


def test_no_place_at_all_is_refused(model, two):
    with pytest.raises(EvaluationError, match="No place to patch"):
        activation_patching(model, *two, sites=[])


# Paths


def test_all_ways_is_what_activation_patching_finds(model, many):
    table = activation_patching(model, *many, seed=SEED, draws=40).set_index("ablation")
    for sender in ("L0H2", "L2H1"):
        ways = path_patching(model, *many, sender, ["cell"], seed=SEED, draws=40)
        assert ways["receiver"].tolist() == ["all ways", "cell"] and (ways["sender"] == sender).all()
        assert (ways["n_pairs"] == len(many[0])).all()
        for column in ("moved", "low", "high"):
            assert ways[column].iloc[0] == pytest.approx(table.loc[sender, column], abs=2e-6)


def test_from_the_last_layer_the_straight_way_with_its_mlp_is_the_only_one(model, many):
    last = f"L{N_LAYERS - 1}H2"
    free = path_patching(model, *many, last, ["cell"], freeze_mlp=False, draws=10)["moved"]
    assert free[1] == pytest.approx(free[0], abs=1e-6) and abs(free[0]) > 1e-3
    held = path_patching(model, *many, last, ["cell"], draws=10)["moved"]
    assert held[0] == pytest.approx(free[0], abs=1e-6) and abs(held[1] - held[0]) > 1e-3


@pytest.mark.parametrize("layer", range(LAYERS))
def test_what_the_planted_head_writes_goes_straight_to_the_cell_embedding(layer):
    groups = planted(layer)
    later = [f"L{i}H{h}.{part}" for i in range(layer + 1, LAYERS) for h in (0, 3) for part in "qkv"]
    table = path_patching(groups.model, groups.down, groups.up, groups.name, ["cell", *later], draws=50)
    moved = table.set_index("receiver")["moved"]
    assert moved["all ways"] == pytest.approx(1, abs=0.05) and moved["cell"] == pytest.approx(
        moved["all ways"], abs=1e-3
    )
    assert len(moved) == 2 + len(later) and (moved[later].abs() < 1e-3).all()


@pytest.mark.parametrize("freeze_mlp", [True, False])
def test_a_path_is_what_two_passes_by_hand_find(model, two, freeze_mlp):
    target, source = two
    sender, receivers = site("L0H1"), ["L1H2.v", "L2H0.q", "L2H3.k", "cell"]
    axis = mean_cell(model, source) - mean_cell(model, target)
    table = path_patching(model, target, source, "L0H1", receivers, freeze_mlp=freeze_mlp, seed=SEED, draws=10)
    found = table.set_index("receiver")["moved"]
    expected = {name: [] for name in receivers}
    for i, j in enumerate(partners(target, source, SEED)):
        own, other = target.take([i]), source.take([j])
        before, cache = model.run_with_cache(own)
        theirs = model.run_with_cache(other, names_filter=sender.hook)[1][sender.hook]
        at = {gene: position for position, gene in enumerate(genes_of(other, 0))}
        z = cache[sender.hook].clone()
        for position, gene in enumerate(genes_of(own, 0)):
            if gene in at:
                z[0, position, sender.head] = theirs[0, at[gene], sender.head]
        # The stream with the sender's change in it, all other heads' outputs as they were.
        x, streams = cache["blocks.0.hook_resid_pre"], {}
        for layer in range(N_LAYERS):
            block = model.block(layer)
            streams[layer] = x
            out = block.attn.project(z) if layer == 0 else cache[f"blocks.{layer}.hook_attn_out"]
            mid = block.norm1(x + out)
            x = block.norm2(mid + (cache[f"blocks.{layer}.hook_mlp_out"] if freeze_mlp else block.mlp(mid)))
        for name in receivers:
            if name == "cell":
                cell = x[:, 0]
            else:
                place, part = site(name[:4]), name[-1]
                attn = model.block(place.layer).attn
                which = slice("qkv".index(part) * 16 + place.head * 4, "qkv".index(part) * 16 + place.head * 4 + 4)
                new = streams[place.layer] @ attn.qkv.weight[which].T + attn.qkv.bias[which]
                hook = f"blocks.{place.layer}.attn.hook_{part}"
                full = cache[hook].clone()
                full[:, :, place.head] = new
                cell = model.run_with_hooks(own, fwd_hooks=[(hook, lambda x, hook, full=full: full)]).cell
            expected[name].append(float((cell - before.cell)[0] @ axis / (axis @ axis)))
    for name in receivers:
        assert found[name] == pytest.approx(np.mean(expected[name]), abs=2e-6), name
        assert abs(found[name]) > 1e-4, name


def test_a_receiver_that_does_not_read_is_not_reached(two):
    model = tiny_model(2)
    deaf = model.block(1).attn
    for part in range(3):  # queries, keys and values of head 2 of layer 1 read nothing
        deaf.qkv.weight[part * 16 + 8 : part * 16 + 12] = 0
    names = [f"L1H{h}.{part}" for h in (1, 2) for part in "qkv"]
    moved = path_patching(model, *two, "L0H3", names, draws=10).set_index("receiver")["moved"]
    assert (moved[[name for name in names if "H2" in name]] == 0).all()
    assert moved[[name for name in names if "H1" in name]].abs().min() > 1e-5


def test_paths_do_not_depend_on_batches_and_a_receiver_named_twice_is_one_row(model, many):
    first = path_patching(model, *many, "L0H0", ["cell", "L2H1.v", "cell"], draws=20)
    assert first["receiver"].tolist() == ["all ways", "cell", "L2H1.v"]
    again = path_patching(model, *many, "L0H0", ["cell", "L2H1.v"], draws=20, batch_size=2)
    pd.testing.assert_frame_equal(again, first, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("sender", "receiver", "said"),
    [
        ("L1.mlp", "cell", "The sender must be a head such as L2H1; found L1.mlp"),
        ("L3H0", "cell", "There is no L3H0 in this model"),
        ("L1H0", "L1H1.q", "L1H1.q is not later than the sender L1H0"),
        ("L1H0", "L0H1.v", "L0H1.v is not later than the sender L1H0"),
        ("L1H0", "L2H1.z", "'L2H1.z' is no receiver; write L3H1.q"),
        ("L1H0", "cel", "'cel' is no receiver"),
        ("L1H0", "L2H1", "'L2H1' is no receiver"),
        ("L1H0", "L2H4.q", "There is no L2H4 in this model"),
        ("L1H0", "L2.q", "'L2' is no place of the model"),
        ("L1H0", "L2.mlp.q", "'L2.mlp.q' is no receiver"),
    ],
)
def test_senders_and_receivers_that_make_no_path_are_refused(model, two, sender, receiver, said):
    with pytest.raises(HookError, match=said):
        path_patching(model, *two, sender, ["cell", receiver])


def test_the_model_is_left_as_it_was(model, two, monkeypatch):
    before = model.fingerprint()
    activation_patching(model, *two, draws=5)
    path_patching(model, *two, "L0H0", ["L2H1.k", "cell"], draws=5)
    assert not hooks_left(model) and model.fingerprint() == before
    pool, calls = model.pool, []

    def breaks(*args):
        calls.append(1)
        if len(calls) == 6:
            raise ZeroDivisionError
        return pool(*args)

    monkeypatch.setattr(model, "pool", breaks)
    with pytest.raises(ZeroDivisionError):
        path_patching(model, *two, "L0H0", ["L2H1.k", "cell"], draws=5)
    assert not hooks_left(model)
