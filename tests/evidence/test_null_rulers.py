"""Null rulers: what they keep, what they change, and permutations inside blocks."""

from __future__ import annotations

from collections import Counter
from itertools import permutations

import numpy as np
import pytest

from workbench.errors import EvaluationError
from workbench.evidence.null_rulers import dealt, meaningless, permute_in_blocks, rewired, shuffled
from workbench.evidence.ruler import build_ruler, load_ruler, path_lengths
from workbench.seeds import generator
from workbench.stats import spearman

PBMC68K = ["MPP", "monocyte", "dendritic", "B", "NK", "CD4 naive", "CD4 memory", "Treg", "CD8 naive", "CD8 effector"]
NULLS = {"shuffled": lambda r: shuffled(r, 3), "rewired": lambda r: rewired(r, 3), "meaningless": meaningless}


@pytest.fixture(scope="module")
def ruler():
    return load_ruler("hematopoiesis")


def graph(**parents):
    stages = {stage: {"from": list(of), "branch": stage} for stage, of in parents.items()}
    return build_ruler("small", stages, {})


def pairs(ruler):
    return ruler.distances[np.triu_indices(len(ruler.stages), 1)]


@pytest.mark.parametrize("null", NULLS.values(), ids=NULLS)
def test_a_null_is_a_metric_that_places_the_same_labels_and_says_null(ruler, null):
    found = null(ruler)
    assert found.name.startswith("null: hematopoiesis, ") and "null" in found.literature["HSC"]
    assert found.stages == ruler.stages and found.labels == ruler.labels and found.ontology == ruler.ontology
    assert sorted(found.branches) == sorted(ruler.branches) and set(found.literature) == set(ruler.stages)
    d = found.distances
    assert np.array_equal(d, d.T) and (np.diag(d) == 0).all() and d.max() == 1
    assert (d[:, :, None] <= d[:, None, :] + d[None] + 1e-12).all() and (pairs(found) > 0).all()
    assert found.depths.min() == 0 and np.isfinite(found.depths).all()
    paths, depths = path_lengths("null", found.stages, found.edges)
    np.testing.assert_allclose(paths / paths.max(), d)
    np.testing.assert_array_equal(depths, found.depths)
    assert abs(spearman(pairs(found), pairs(ruler))) < 0.3, "it does not follow the real one"


@pytest.mark.parametrize("null", [shuffled, rewired])
def test_the_same_seed_gives_the_same_null_and_another_one_another(ruler, null):
    assert np.array_equal(null(ruler, 1).distances, null(ruler, 1).distances)
    assert not np.array_equal(null(ruler, 1).distances, null(ruler, 2).distances)


# Shuffled


def test_shuffling_moves_whole_places(ruler):
    found = shuffled(ruler, 5)
    assert sorted(pairs(found)) == sorted(pairs(ruler)) and sorted(found.depths) == sorted(ruler.depths)
    place = {stage: (ruler.depths[i], ruler.branches[i], sorted(ruler.distances[i])) for i, stage in enumerate(ruler.stages)}  # fmt: skip
    after = [(found.depths[i], found.branches[i], sorted(found.distances[i])) for i in range(len(found.stages))]
    assert sorted(map(repr, after)) == sorted(map(repr, place.values()))
    assert Counter(length for *_, length in found.edges) == Counter(length for *_, length in ruler.edges)


def test_only_the_stages_named_change_places(ruler):
    found = shuffled(ruler, 5, among=PBMC68K)
    at = [ruler.stages.index(stage) for stage in PBMC68K]
    rest = np.setdiff1d(np.arange(len(ruler.stages)), at)
    assert np.array_equal(found.distances[np.ix_(rest, rest)], ruler.distances[np.ix_(rest, rest)])
    triangle = np.triu_indices(len(at), 1)
    mine, real = found.distances[np.ix_(at, at)][triangle], ruler.distances[np.ix_(at, at)][triangle]
    assert sorted(mine) == sorted(real) and not np.array_equal(mine, real)


def test_shuffling_is_uniform():
    small = graph(a="", b="a", c="b")
    seen = Counter(tuple(shuffled(small, seed).depths.astype(int).tolist()) for seed in range(3000))
    assert set(seen) == set(permutations(range(3)))
    assert max(abs(n - 500) for n in seen.values()) < 100, "five standard deviations"


def test_shuffling_needs_two_known_stages(ruler):
    with pytest.raises(EvaluationError, match="The stages to shuffle: Unknown stage 'monocytes': did you mean 'monocyte'"):  # fmt: skip
        shuffled(ruler, 1, among=["B", "monocytes"])
    with pytest.raises(EvaluationError, match="1 stage.s. cannot change places; name at least two"):
        shuffled(ruler, 1, among=["B", "B"])


# Rewired


def degrees(ruler):
    return [Counter(edge[end] for edge in ruler.edges) for end in (0, 1)]


@pytest.mark.parametrize("seed", range(4))
def test_rewiring_keeps_degrees_and_lengths_and_moves_most_steps(ruler, seed):
    found = rewired(ruler, seed)
    assert degrees(found) == degrees(ruler), "parents and children of every stage"
    assert {c: length for _, c, length in found.edges} == {c: length for _, c, length in ruler.edges}
    assert len({e[:2] for e in found.edges}) == len(ruler.edges)
    assert len({e[:2] for e in found.edges} & {e[:2] for e in ruler.edges}) < len(ruler.edges) / 3
    assert found.branches == ruler.branches and found.depths[ruler.stages.index("HSC")] == 0


def test_rewiring_a_graph_with_two_parents_and_two_roots_keeps_it_connected_and_acyclic():
    net = graph(a="", b="", c="ab", d="a", e="cd", f="c", g="ef", h="b", i="d")
    for seed in range(20):
        found = rewired(net, seed)
        assert degrees(found) == degrees(net) and not np.allclose(found.distances, net.distances)
        path_lengths("rewired", found.stages, found.edges)  # an error if not connected, or a circle


def test_what_cannot_be_rewired_says_so(tmp_path):
    with pytest.raises(EvaluationError, match="'small' cannot be rewired into another one with the same degrees .3 steps, 0 swaps"):  # fmt: skip
        rewired(graph(a="", b="a", c="a", d="a"), 1)
    (tmp_path / "own.csv").write_text(",a,b\na,0,1\nb,1,0\n")
    matrix = load_ruler(tmp_path / "own.csv")
    with pytest.raises(EvaluationError, match="'own' has no edges to rewire .it comes from a matrix"):
        rewired(matrix, 1)
    assert shuffled(matrix, 1).edges == () and len(meaningless(matrix).edges) == 1


# Meaningless


def test_the_meaningless_line_is_always_the_same_and_knows_no_biology(ruler):
    found = meaningless(ruler)
    assert np.array_equal(found.distances, meaningless(ruler).distances)
    assert sorted(found.depths) == list(range(len(ruler.stages)))
    np.testing.assert_allclose(found.distances, np.abs(found.depths[:, None] - found.depths) / found.depths.max())
    at = np.ix_(*[[ruler.stages.index(stage) for stage in PBMC68K]] * 2)
    triangle = np.triu_indices(len(PBMC68K), 1)
    assert abs(spearman(found.distances[at][triangle], ruler.distances[at][triangle])) < 0.2
    assert abs(spearman(pairs(found), pairs(ruler))) < 0.2


def test_the_meaningless_order_depends_on_names_alone():
    one, other = meaningless(graph(a="", b="a", c="b", d="c")), meaningless(graph(d="", c="d", a="c", b="a"))
    at = [other.stages.index(stage) for stage in one.stages]
    assert np.array_equal(one.depths, other.depths[at])


# Permutations inside blocks


def test_permuted_labels_stay_in_their_block():
    rng = np.random.default_rng(0)
    labels, blocks = rng.integers(0, 6, 200), rng.integers(0, 9, 200)
    found, movable = permute_in_blocks(labels, blocks, 4, 50)
    assert found.shape == (50, 200) and found.dtype == labels.dtype and movable.all()
    for block in range(9):
        inside = np.sort(found[:, blocks == block], axis=1)
        assert (inside == np.sort(labels[blocks == block])).all()
    assert (found != labels).any(1).all() and len(np.unique(found, axis=0)) == 50


def test_permutations_are_uniform_and_blocks_independent():
    labels, blocks = np.array(["a", "x", "b", "y", "c"]), np.array(["one", "two", "one", "two", "one"])
    found, _ = permute_in_blocks(labels, blocks, 1, 12_000)
    seen = Counter(map("".join, found.tolist()))
    assert len(seen) == 12, "six orders of a, b, c by two of x, y"
    assert max(abs(n - 1000) for n in seen.values()) < 160, "five standard deviations"


def test_blocks_may_be_combinations_of_factors():
    donor, tissue = np.repeat(["d1", "d2"], 40), np.tile(np.repeat(["blood", "gut"], 20), 2)
    labels = np.arange(80)
    found, _ = permute_in_blocks(labels, np.column_stack([donor, tissue]), 2, 30)
    assert (found // 20 == labels // 20).all(), "donor and tissue"
    combined = np.char.add(donor, tissue)
    assert np.array_equal(found, permute_in_blocks(labels, combined, 2, 30)[0])


def test_labels_alone_in_their_block_or_alike_cannot_move_and_this_is_said():
    labels = np.array(["B", "T", "NK", "B", "B"], dtype=object)
    found, movable = permute_in_blocks(labels, np.array([0, 0, 1, 2, 2]), 3, 20)
    assert movable.tolist() == [True, True, False, False, False]
    assert (found[:, 2:] == labels[2:]).all() and set(found[:, 0]) == {"B", "T"}


def test_no_label_that_can_move_is_an_error():
    with pytest.raises(EvaluationError, match="of 4 blocks 3 have one member and the others one label each. Use coarser"):  # fmt: skip
        permute_in_blocks(np.array([1, 2, 3, 3, 3]), np.array([1, 2, 3, 4, 4]), 0, 5)
    with pytest.raises(EvaluationError, match="5 labels, 4 blocks and 5 draws; give one block per label"):
        permute_in_blocks(np.arange(5), np.zeros(4), 0, 5)
    with pytest.raises(EvaluationError, match="0 draws"):
        permute_in_blocks(np.arange(5), np.zeros(5), 0, 0)


def test_a_seed_or_a_generator_gives_the_draws_and_more_draws_begin_alike():
    labels, blocks = np.arange(30), np.arange(30) % 3
    found, _ = permute_in_blocks(labels, blocks, 8, 7)
    assert np.array_equal(found, permute_in_blocks(labels, blocks, generator(8, "blocks"), 7)[0])
    assert np.array_equal(found[:4], permute_in_blocks(labels, blocks, 8, 4)[0])
    assert not np.array_equal(found, permute_in_blocks(labels, blocks, 9, 7)[0])


def test_many_draws_are_made_piece_by_piece():
    labels, blocks = np.arange(30_000), np.arange(30_000) // 100
    found, _ = permute_in_blocks(labels, blocks, 8, 100)  # 70 at once
    assert (found // 100 == labels // 100).all() and (np.sort(found[[0, 69, 70, 99]], axis=1) == labels).all()
    assert np.array_equal(found[:2], permute_in_blocks(labels, blocks, 8, 2)[0])


# Negative panels


def test_a_negative_panel_per_type_gives_all_anchors_of_a_type_the_stage_of_another():
    kind = np.repeat(list("abcdef"), 5)
    stage = np.repeat([0, 1, 2, 2, 7, 7], 5)
    seen = set()
    for draw in range(30):
        found = dealt(stage, kind, 0, draw)
        of_kind = [set(found[kind == one]) for one in "abcdef"]
        assert all(len(one) == 1 for one in of_kind)
        assert sorted(one.pop() for one in of_kind) == [0, 1, 2, 2, 7, 7], "no stage comes or goes"
        seen.add(tuple(found))
    assert len(seen) > 20 and (dealt(stage, kind, 0, 3) == dealt(stage, kind, 0, 3)).all()


def test_a_negative_panel_per_anchor_leaves_nothing_to_know():
    stage = np.repeat(np.arange(6), 20)
    shared = []
    for draw in range(50):
        found = dealt(stage, np.arange(120), 1, draw)
        assert sorted(found) == sorted(stage)
        shared.append((found == stage).mean())
    assert np.mean(shared) == pytest.approx(1 / 6, abs=0.03)


def test_a_type_of_two_stages_is_dealt_as_two():
    stage, kind = np.array([0, 0, 1, 1, 2, 2]), np.array(list("aaaabb"))
    found = dealt(stage, kind, 0, 0)
    assert found[0] == found[1] and found[2] == found[3] and sorted(found) == sorted(stage)
