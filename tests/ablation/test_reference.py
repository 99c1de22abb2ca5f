"""Means and partners by gene id, against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import D_MODEL, N_GENES, N_HEADS, N_LAYERS, make_tokens, tiny_model, vocabulary_ids

from workbench.ablation.reference import Partners, build_reference, line_up, needed_hooks, run_partners
from workbench.ablation.sites import Ablation, all_heads
from workbench.errors import CellsError, GeneMatchError, HookError
from workbench.models.tokens import Tokens

IDS = vocabulary_ids()
HOOKS = ("blocks.0.hook_resid_pre", "blocks.1.attn.hook_z", "blocks.1.hook_attn_out", "blocks.2.hook_mlp_out")


def named(tokens: Tokens, prefix: str = "other") -> Tokens:
    names = tuple(f"{prefix}{i}" for i in range(len(tokens)))
    return Tokens(tokens.gene_ids, tokens.values, tokens.padding, names, tokens.batch_labels)


def over(rows: list[list[str]]) -> Tokens:
    """Cells of genes by name, each with ``<cls>`` in front and padded to the longest."""
    length = 1 + max(map(len, rows))
    full = [["<cls>", *row, *["<pad>"] * (length - 1 - len(row))] for row in rows]
    ids = torch.tensor([[IDS[gene] for gene in row] for row in full])
    values = torch.where(ids < N_GENES, 1 + ids.float(), torch.tensor(-2.0))
    return Tokens(ids, values, ids == IDS["<pad>"], tuple(f"made{i}" for i in range(len(rows))))


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def tokens():
    return named(make_tokens(7, 13, seed=3))


@pytest.fixture(scope="module")
def reference(model, tokens):
    return build_reference(model, tokens, HOOKS)


# Means


def test_means_are_those_of_a_loop_over_cells_and_positions(model, tokens, reference):
    cache = model.run_with_cache(tokens)[1]
    assert tuple(reference.means) == HOOKS
    for hook in HOOKS:
        by_gene: dict[int, list[np.ndarray]] = {}
        for cell in range(len(tokens)):
            for position in range(tokens.gene_ids.shape[1]):
                if not tokens.padding[cell, position]:
                    found = cache[hook][cell, position].double().numpy()
                    by_gene.setdefault(int(tokens.gene_ids[cell, position]), []).append(found)
        assert IDS["<cls>"] in by_gene and IDS["<pad>"] not in by_gene
        assert len(by_gene[IDS["<cls>"]]) == len(tokens)
        overall = np.mean([x for each in by_gene.values() for x in each], axis=0)
        every = torch.arange(len(IDS))[None]
        expected = np.stack([np.mean(by_gene[i], axis=0) if i in by_gene else overall for i in range(len(IDS))])
        assert np.allclose(reference.mean(hook, every)[0].numpy(), expected, atol=1e-6)
        assert np.allclose(reference.means[hook][-1].numpy(), overall, atol=1e-6)
        assert reference.means[hook].shape == (len(by_gene) + 1, *cache[hook].shape[2:])


def test_a_gene_is_known_where_a_reference_cell_expresses_it(tokens, reference):
    real = set(tokens.gene_ids[~tokens.padding].tolist())
    others = make_tokens(5, 30)
    assert reference.known(others).tolist() == [[i in real for i in row] for row in others.gene_ids.tolist()]
    assert not reference.known(tokens)[tokens.padding].any()


def test_means_do_not_depend_on_batches_or_on_the_order_of_cells(model, tokens, reference):
    for size in (1, 3, 7, 32):
        again = build_reference(model, tokens, HOOKS, batch_size=size)
        assert torch.equal(again.row, reference.row)
        for hook in HOOKS:
            assert torch.allclose(again.means[hook], reference.means[hook], atol=1e-6)
    shuffled = build_reference(model, tokens.take([4, 0, 6, 2, 5, 1, 3]), HOOKS, batch_size=2)
    for hook in HOOKS:
        assert torch.allclose(shuffled.means[hook], reference.means[hook], atol=1e-6)


def test_means_do_not_depend_on_padding(model, tokens, reference):
    more = torch.zeros(len(tokens), 3)
    wider = Tokens(
        torch.cat([tokens.gene_ids, more.long() + 7], 1),
        torch.cat([tokens.values, more + 50], 1),
        torch.cat([tokens.padding, more == 0], 1),
        tokens.cell_ids,
    )
    again = build_reference(model, wider, HOOKS)
    for hook in HOOKS:
        assert torch.allclose(again.means[hook], reference.means[hook], atol=1e-6)


def test_wildcards_name_hooks(model, tokens):
    found = build_reference(model, tokens, ["blocks.*.attn.hook_z"]).means
    assert list(found) == [f"blocks.{layer}.attn.hook_z" for layer in range(N_LAYERS)]
    assert all(x.shape[1:] == (N_HEADS, D_MODEL // N_HEADS) for x in found.values())


def test_nothing_is_run_where_no_hook_is_asked_for(model, tokens, monkeypatch):
    monkeypatch.setattr(model.__class__, "forward", lambda *args, **more: pytest.fail("the model ran"))
    reference = build_reference(model, tokens, ())
    assert not reference.means and reference.known(tokens)[~tokens.padding].all()


def test_building_leaves_no_hook_behind_also_when_it_fails(model, tokens):
    outside = Tokens(tokens.gene_ids.clone(), tokens.values, tokens.padding.clone(), tokens.cell_ids)
    outside.padding[:, 0] = True
    with pytest.raises(ValueError, match="padding at position 0"):
        build_reference(model, outside, HOOKS)
    assert not any(point._forward_hooks for point in model.hook_dict.values())


def test_needed_hooks_are_those_of_means_and_their_fallback(model):
    wanted = [
        Ablation("L2H1", "mean"),
        Ablation("L2H3", "resample"),
        Ablation(["L0.mlp", "L1.gene.GENE3"], "resample"),
        Ablation("L1.attention", "zero"),
        Ablation("L1H0", "patch"),
        Ablation("L0H0", "direction", np.ones((1, D_MODEL))),
    ]
    assert needed_hooks(wanted) == ("blocks.2.attn.hook_z", "blocks.0.hook_mlp_out", "blocks.1.hook_resid_pre")
    assert needed_hooks(wanted[3:]) == needed_hooks([]) == ()
    assert len(needed_hooks(all_heads(model.config))) == N_LAYERS


def test_a_reference_needs_a_cell(model, tokens):
    with pytest.raises(CellsError, match="The reference set holds no cell; check its filter"):
        build_reference(model, tokens.take([]), HOOKS)


def test_means_that_were_not_built_are_asked_for_by_name(model, tokens, reference):
    with pytest.raises(HookError, match=r"no means of 'blocks.0.attn.hook_z'; build it with needed_hooks"):
        reference.mean("blocks.0.attn.hook_z", tokens.gene_ids)


# Which cells a reference serves


@pytest.mark.parametrize("n_shared", range(5))
def test_a_reference_without_half_of_the_genes_is_refused(model, n_shared):
    here = over([["GENE0", "GENE1", "GENE2"], ["GENE3"]])
    there = build_reference(model, over([["GENE20", *(f"GENE{i}" for i in range(n_shared))], ["GENE21"]]), ())
    if n_shared >= 2:
        there.check(here)
    else:
        share = f"Only {25 * n_shared}% of the cells' tokens are genes that the reference set has"
        with pytest.raises(GeneMatchError, match=share):
            there.check(here)


def test_cls_and_padding_are_no_genes_that_match(model):
    there = build_reference(model, over([["GENE20", "GENE21"]]), ())
    with pytest.raises(GeneMatchError, match="Only 0%"):
        there.check(over([["GENE1"], ["GENE2", "GENE3", "GENE4"]]))


# Partners


def test_partners_depend_on_seed_and_name_alone(model, tokens, reference):
    names = [f"cell{i}" for i in range(40)]

    def drawn(one, seed=0, wanted=names):
        return [one.tokens.cell_ids[i] for i in one.partners(wanted, seed)]

    first = drawn(reference)
    assert drawn(reference, wanted=names[::-1]) == first[::-1]
    assert drawn(reference, wanted=names[17:18]) == first[17:18]
    for order in ([6, 5, 4, 3, 2, 1, 0], [3, 0, 6, 2, 5, 1, 4]):
        assert drawn(build_reference(model, tokens.take(order), ())) == first
    assert drawn(reference, seed=1) != first
    assert set(first) == set(tokens.cell_ids)


def test_a_cell_is_never_its_own_partner(model, tokens):
    for n in range(2, 8):
        one = build_reference(model, tokens[:n], ())
        for seed in range(30):
            assert all(at != i for i, at in enumerate(one.partners(tokens.cell_ids[:n], seed)))


def test_partners_are_drawn_evenly(reference):
    drawn = reference.partners([f"cell{i}" for i in range(2800)], 0)
    assert np.abs(np.bincount(drawn, minlength=7) - 400).max() < 4.5 * np.sqrt(400)


def test_a_lone_cell_has_no_partner(model, tokens):
    one = build_reference(model, tokens[2:3], ())
    assert one.partners(["other0", "other1"], 5) == [0, 0]
    with pytest.raises(CellsError, match="holds no cell but 'other2' itself; give two reference"):
        one.partners(["other1", "other2"], 5)


def test_cells_without_names_are_refused(model, tokens, reference):
    nameless = Tokens(tokens.gene_ids, tokens.values, tokens.padding)
    with pytest.raises(CellsError, match="draws by cell name, but the tokens carry none"):
        reference.partners(nameless.cell_ids, 0)
    with pytest.raises(CellsError, match="draws by cell name, but the tokens carry none"):
        build_reference(model, nameless, HOOKS).partners(tokens.cell_ids, 0)


# Lining up


def looped(tokens: Tokens, other: Tokens) -> list[list[int]]:
    found = []
    for i in range(len(tokens)):
        there = {int(g): at for at, g in enumerate(other.gene_ids[i]) if not other.padding[i, at]}
        found.append(
            [
                -1 if hidden else there.get(int(g), -1)
                for g, hidden in zip(tokens.gene_ids[i], tokens.padding[i], strict=True)
            ]
        )
    return found


@pytest.mark.parametrize(("n", "m"), [(12, 12), (5, 30), (30, 5), (1, 9), (9, 1)])
@pytest.mark.parametrize("padded", [True, False])
def test_genes_are_lined_up_as_by_a_loop(n, m, padded):
    a, b = (make_tokens(4, size, padded=padded and size > 8, seed=size) for size in (n, m + 1))
    found = line_up(a, b)
    assert found.tolist() == looped(a, b)
    assert (found[:, 0] == 0).all(), "<cls> is a gene like others"
    if min(n, m) > 1:
        assert (found[:, 1:] > 0).any() and (found[~a.padding] == -1).any()


def test_padding_of_the_partner_is_never_a_gene():
    a = over([["GENE1", "GENE2"], ["GENE3"]])
    hidden = Tokens(a.gene_ids.clone(), a.values, a.padding.clone(), a.cell_ids)
    hidden.padding[0, 2] = True
    assert line_up(a, hidden).tolist() == [[0, 1, -1], [0, 1, -1]]
    assert line_up(hidden, a).tolist() == [[0, 1, -1], [0, 1, -1]]


def test_values_of_partners_are_those_of_the_same_gene(model, tokens, reference):
    cells = make_tokens(5, 25)
    hooks = HOOKS[:2]
    partners = run_partners(model, reference, cells, hooks, 4)
    names = reference.partners(cells.cell_ids, 4)
    assert isinstance(partners, Partners) and set(partners.activations) == set(hooks)
    shared = 0
    for i, row in enumerate(names):
        alone = tokens.take([row])
        cache = model.run_with_cache(alone, names_filter=list(hooks))[1]
        there = alone.gene_ids[0].tolist()
        for at, gene in enumerate(cells.gene_ids[i].tolist()):
            if cells.padding[i, at] or gene not in there:
                assert partners.position[i, at] == -1
                continue
            shared += 1
            for hook in hooks:
                for n in (at + 1, 25):
                    found = partners.values(hook, n)[i, at]
                    assert torch.allclose(found, cache[hook][0, there.index(gene)], atol=1e-5)
    assert shared > 2 * len(cells)
    assert not any(point._forward_hooks for point in model.hook_dict.values())
