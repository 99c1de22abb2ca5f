"""Capture: names, estimate, and every sink against the model run one cell at a time, without any padding."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from helpers import N_HEADS, N_LAYERS, genes, make_tokens, tiny_cells, tiny_model
from transformer_lens.hook_points import HookPoint

from workbench.capture import (
    GenePairSink,
    HookFilter,
    MemorySink,
    MomentsSink,
    Plan,
    ShardSink,
    Sink,
    capture,
    pairs,
    read_shards,
    record,
)
from workbench.capture.activations import HookShape, hook_shape, hook_shapes
from workbench.capture.ragged import remove_shards
from workbench.errors import CellsError, EvaluationError, GeneMatchError, HookError
from workbench.files import read_json
from workbench.models.scgpt.components import Attention
from workbench.models.tokens import Tokens

PATTERNS = "blocks.*.attn.hook_pattern"
GENE, HEADS, PAIR, CELL = "blocks.1.hook_resid_post", "blocks.0.attn.hook_z", "blocks.2.attn.hook_pattern", "hook_cell"


@pytest.fixture(scope="module")
def model():
    return tiny_model(seed=1)


@pytest.fixture(scope="module")
def cells():
    """Seventeen cells of very different lengths, some cut to the longest sequence."""
    cells = tiny_cells(17, seed=4)
    matrix = cells.X.tolil()
    for i in range(17):
        matrix[i, (i + 1) % 40 : 40 : 1 + i % 5] = 0
        matrix[i, i] = 1 + i
    cells.X = matrix.tocsr()
    return cells


@pytest.fixture(scope="module")
def tokenizer(model, cells):
    return model.tokenizer(cells, seed=2)


@pytest.fixture(scope="module")
def alone(model, tokenizer):
    """By hook: each cell's activation when it is run alone; and its gene ids."""
    found = {name: [] for name in model.hook_dict}
    ids = []
    with torch.no_grad():
        for i in range(len(tokenizer)):
            tokens = tokenizer.tokens(i, i + 1)
            assert not tokens.padding.any()
            _, cache = model.run_with_cache(tokens)
            for name in found:
                found[name].append(cache[name][0].numpy())
            ids.append(tokens.gene_ids[0].numpy())
    assert len({len(i) for i in ids}) > 5
    return SimpleNamespace(values=found, ids=ids)


def quietly(model, cells, hooks, sinks, **options):
    return capture(model, cells, hooks, sinks, progress=False, **options)


def assert_same_activations(found, expected):
    assert found.cell_ids == expected.cell_ids
    assert np.array_equal(found.indptr, expected.indptr) and np.array_equal(found.gene_ids, expected.gene_ids)
    assert set(found.values) == set(expected.values)
    for name, values in expected.values.items():
        assert found.values[name].shape == values.shape
        np.testing.assert_array_equal(found.values[name], values)


class Recorder:
    """A sink as a user would write it: the mean over each cell's real tokens, at hooks that have one row per token."""

    def __init__(self):
        self.opened, self.means, self.flushed, self.batches = 0, {}, [], []

    def open(self, plan):
        self.opened += 1
        self.means = {name: {} for name in plan.shapes}

    def memory(self, plan):
        return 8 * len(plan.lengths)

    def update(self, hook, activation, tokens):
        self.batches.append(tokens.cell_ids)
        for i, cell in enumerate(tokens.cell_ids):
            if activation.shape[1] == tokens.padding.shape[1]:
                self.means[hook][cell] = activation[i][~tokens.padding[i]].mean().item()

    def flush(self, n_cells):
        self.flushed.append(n_cells)

    def state(self):
        return {}

    def restore(self, arrays, n_cells):
        pass


# Names


@pytest.mark.parametrize("hooks", ["blocks.0.attn.hook_patern", ["hook_cell", "blocks.0.attn.hook_patern"]])
def test_an_unknown_hook_is_refused_with_near_matches_before_any_work(model, cells, hooks):
    sink = Recorder()
    with pytest.raises(HookError, match=r"hook_patern': did you mean .*'blocks.0.attn.hook_pattern'"):
        quietly(model, cells, hooks, sink)
    assert not sink.opened


def test_an_empty_list_of_hooks_is_refused(model, cells):
    with pytest.raises(HookError, match="No hook was named; name at least one"):
        quietly(model, cells, [], MemorySink())


def test_wildcards_name_hooks_in_the_model_s_order(model, cells):
    report = quietly(model, cells, ["hook_cell", PATTERNS], Recorder())
    assert report.hooks == (*(f"blocks.{i}.attn.hook_pattern" for i in range(N_LAYERS)), "hook_cell")


# The estimate


def test_the_estimate_is_the_sum_over_sinks_by_hand(model, tokenizer, alone):
    lengths = np.array([len(ids) for ids in alone.ids])
    d, heads = model.config.d_model, model.config.n_heads
    per_gene, per_pair = d * lengths.sum(), heads * (lengths**2).sum()
    sinks = [MemorySink(), HookFilter(GENE, MomentsSink()), HookFilter(PAIR, GenePairSink(genes(7), model.vocabulary))]
    report = quietly(model, tokenizer, [GENE, PAIR], sinks)
    assert report.estimated_bytes == 2 * 4 * (per_gene + per_pair) + 8 * d**2 + 7 * 7 * (4 * heads + 8)
    assert report.n_cells == len(lengths) and report.n_tokens == lengths.sum() and report.resumed_at == 0


def test_the_bytes_of_every_hook_are_exact(model, tokenizer, alone):
    for name, values in alone.values.items():
        plan = Plan(hook_shapes(model, tokenizer, [name]), tokenizer.lengths())
        assert plan.bytes == 4 * sum(v.size for v in values), name


def test_too_much_memory_is_refused_before_any_work(model, cells, monkeypatch):
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=50_000))
    # Older pytest would leave the method on the model, which others share, when it is put back.
    monkeypatch.setitem(vars(model), "forward", lambda *args, **kwargs: pytest.fail("the model was run"))
    sink = Recorder()
    with pytest.raises(CellsError, match=r"The sinks would take about 0\.0 GiB .*17 cells.*Use ShardSink or GenePair"):
        quietly(model, cells, "blocks.*.attn.*", [sink, MemorySink()])
    assert not sink.opened


def test_a_shard_sink_is_estimated_by_one_shard(model):
    plan = Plan({GENE: hook_shape(GENE, model.config)}, np.full(10_000, 20))
    assert ShardSink("anywhere").memory(plan) == 2 * plan.bytes * 1024 // 10_000


# Modules of one's own on a hook


class Placed(torch.nn.Module):
    """Stands where a hook point stood, lets everything through, and has a hook of its own on what it makes of it."""

    def __init__(self, make):
        super().__init__()
        self.make, self.hook_acts = make, HookPoint()

    def forward(self, x):
        self.hook_acts(self.make(x))
        return x


def features(d, width, seed=0):
    weight = torch.randn(d, width, generator=torch.Generator().manual_seed(seed))
    return lambda x: torch.relu(x @ weight)


def with_module(place, make, seed=1):
    """A model with a module on one of its hooks, and the name of the module's own hook."""
    model = tiny_model(seed=seed)
    owner, _, last = place.rpartition(".")
    setattr(model.get_submodule(owner), last, Placed(make))
    model.setup()
    return model, f"{place}.hook_acts"


LENGTH = 12


@pytest.fixture(scope="module")
def alike():
    """Nine cells, each of as many tokens as a batch has cells, and as wide as a module can be by accident."""
    cells = tiny_cells(9, seed=4)
    matrix = np.zeros(cells.shape, dtype=np.float32)
    for i in range(9):
        matrix[i, i : i + LENGTH - 1] = np.arange(1, LENGTH)
    cells.X = sp.csr_matrix(matrix)
    return cells


@pytest.mark.parametrize("which", ["cells", "alike"])
@pytest.mark.parametrize("width", [3 * 16, LENGTH, 3, 1])
@pytest.mark.parametrize("place", [GENE, CELL])
def test_a_module_on_a_hook_is_captured_whatever_its_width(request, tmp_path, which, width, place):
    cells = request.getfixturevalue(which)
    plain, (model, hook) = tiny_model(seed=1), with_module(place, make := features(16, width))
    tokenizer = model.tokenizer(cells)
    rows = MemorySink()
    quietly(plain, tokenizer, place, rows, batch_size=3)
    expected = make(torch.from_numpy(rows.result().values[place])).numpy()
    memory, shards, moments = MemorySink(), ShardSink(tmp_path / "shards"), MomentsSink()
    report = quietly(model, tokenizer, hook, [memory, shards, moments], batch_size=3, save_every=4)
    lengths = tokenizer.lengths()
    n_rows = len(lengths) if place == CELL else int(lengths.sum())
    assert report.estimated_bytes == 2 * (2 * 4 * n_rows * width) + 8 * width**2 and report.hooks == (hook,)
    found = memory.result()
    assert found.values[hook].shape == (n_rows, width)
    np.testing.assert_allclose(found.values[hook], expected, atol=1e-5)
    assert_same_activations(read_shards(tmp_path / "shards"), found)
    if place == GENE:
        expected = np.delete(expected, found.indptr[:-1], axis=0)
    n, mean, covariance = moments.result(hook)
    assert n == len(expected)
    np.testing.assert_allclose(mean, expected.mean(0), atol=1e-5)
    np.testing.assert_allclose(covariance, np.cov(expected.T).reshape(width, width), atol=1e-4)


def test_a_module_may_have_no_width_several_axes_or_a_map(model, tokenizer, alone):
    for place, make, kind, inner in (
        (GENE, lambda x: x.sum(-1), "gene", ()),
        (CELL, lambda x: x.sum(-1), "cell", ()),
        (GENE, lambda x: x.unflatten(-1, (2, 8)), "gene", (2, 8)),
        (CELL, lambda x: x.unflatten(-1, (4, 2, 2)), "cell", (4, 2, 2)),
        (PAIR, lambda x: x[:, :2] + x[:, 2:], "pair", (2,)),
    ):
        changed, hook = with_module(place, make)
        assert hook_shapes(changed, tokenizer, [hook, GENE if place != GENE else CELL])[hook] == HookShape(kind, inner)
        sink = MemorySink()
        quietly(changed, tokenizer, hook, sink, batch_size=5)
        for i in (0, 7):
            expected = make(torch.from_numpy(alone.values[place][i])[None])[0].numpy()
            found = {"cell": lambda n, i, s=sink: s.result().values[n][i], "gene": sink.result().of_cell, "pair": sink.result().pattern}[kind](hook, i)  # fmt: skip
            np.testing.assert_allclose(found, expected, atol=2e-5)


def test_the_estimate_of_a_wide_module_counts(tokenizer, monkeypatch):
    model, hook = with_module(GENE, features(16, 4000))
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=2_000_000))
    quietly(model, tokenizer, GENE.replace("post", "pre"), MemorySink())
    with pytest.raises(CellsError, match="The sinks would take about"):
        quietly(model, tokenizer, hook, MemorySink())


def test_what_cannot_be_captured_is_a_sentence(tokenizer):
    for place, make, said in (
        (GENE, lambda x: x.flatten(0, 1), r"is passed \(4, 16\) for one cell of 4 tokens and \(6, 16\) for two of 3\. A capture needs"),
        (GENE, lambda x: x.transpose(0, 1), r"is passed \(4, 1, 16\) for one"),
        (GENE, lambda x: x[:, 1:], r"is passed \(1, 3, 16\) for one"),
        (GENE, lambda x: x.mean(), r"is passed \(\) for one"),
        (GENE, lambda x: (x, x), r"is passed \(\) for one"),
        (PAIR, lambda x: x.mean(1), r"is passed \(1, 4, 4\) for one"),
    ):  # fmt: skip
        model, hook = with_module(place, make)
        with pytest.raises(HookError, match=f"The hook '{hook}' {said}"):
            quietly(model, tokenizer, hook, MemorySink())
        assert not model.hook_dict[hook].fwd_hooks


def test_a_hook_that_nothing_passes_or_that_is_passed_twice_is_an_error(tokenizer):
    model = tiny_model(seed=1)
    model.hook_nobody = HookPoint()
    model.blocks[0].hook_resid_post = model.blocks[2].hook_resid_post = Placed(features(16, 5))
    model.setup()
    with pytest.raises(HookError, match="0 tensors passed the hook 'hook_nobody' in two passes of the model"):
        quietly(model, tokenizer, "hook_nobody", MemorySink())
    twice = "blocks.0.hook_resid_post.hook_acts"
    with pytest.raises(HookError, match=f"4 tensors passed the hook '{twice}' .* give each place a module of its own"):
        quietly(model, tokenizer, [twice, CELL], MemorySink())


def test_what_every_model_has_is_known_by_name(model):
    own = {name for name in model.hook_dict if hook_shape(name, model.config) is None}
    inside = {f"blocks.{i}.mlp.hook_{part}" for i in range(N_LAYERS) for part in ("pre", "post")}
    assert own == {"embed.hook_gene", "embed.hook_value"} | inside
    assert hook_shape("blocks.1.hook_resid_post.hook_acts", model.config) is None


# Memory and shards


def test_every_hook_in_memory_equals_each_cell_run_alone(model, tokenizer, alone):
    sink = MemorySink()
    report = quietly(model, tokenizer, "*", sink, batch_size=4)
    assert report.hooks == tuple(model.hook_dict)
    found = sink.result()
    assert found.cell_ids == tuple(tokenizer.adata.obs_names)
    assert found.indptr.tolist() == np.cumsum([0, *map(len, alone.ids)]).tolist()
    np.testing.assert_array_equal(found.gene_ids, np.concatenate(alone.ids))
    for name, expected in alone.values.items():
        for i, values in enumerate(expected):
            kind = hook_shapes(model, tokenizer, [name])[name].kind
            got = {"cell": lambda n, i: found.values[n][i], "gene": found.of_cell, "pair": found.pattern}[kind](name, i)
            assert got.shape == values.shape, name
            np.testing.assert_allclose(got, values, atol=2e-5, err_msg=f"{name} of cell {i}")


def test_the_value_hook_of_a_scaling_checkpoint(cells):
    model = tiny_model(seed=5, value_style="scaling")
    sink = MemorySink()
    tokenizer = model.tokenizer(cells)
    quietly(model, tokenizer, "embed.hook_value", sink, batch_size=5)
    found = sink.result()
    for i in range(len(tokenizer)):
        np.testing.assert_array_equal(found.of_cell("embed.hook_value", i)[:, 0], tokenizer.tokens(i, i + 1).values[0])


def test_a_model_in_double_precision(cells):
    model = tiny_model(seed=1).double()
    memory, moments = MemorySink(), MomentsSink()
    quietly(model, cells, GENE, [memory, moments])
    assert memory.result().values[GENE].dtype == np.float32
    assert np.isfinite(moments.result(GENE)[2]).all()


def test_cells_as_anndata_or_as_a_tokenizer_are_the_same(model, cells, tokenizer):
    first, second = MemorySink(), MemorySink()
    quietly(model, cells, GENE, first, seed=2, max_tokens=9)
    quietly(model, model.tokenizer(cells, seed=2, max_tokens=9), GENE, second)
    assert_same_activations(first.result(), second.result())
    assert np.diff(first.result().indptr).max() == 9


def test_a_sink_used_again_starts_empty(model, tokenizer):
    sink = MemorySink()
    quietly(model, tokenizer, GENE, sink)
    once = sink.result()
    quietly(model, tokenizer, GENE, sink)
    assert_same_activations(sink.result(), once)


def test_shards_equal_memory_and_the_manifest_is_right(model, tokenizer, tmp_path):
    memory, shards = MemorySink(), ShardSink(tmp_path / "shards")
    hooks = [GENE, HEADS, PAIR, CELL]
    quietly(model, tokenizer, hooks, [memory, shards], save_every=5, batch_size=3)
    assert_same_activations(read_shards(tmp_path / "shards"), memory.result())
    manifest = read_json(tmp_path / "shards" / "manifest.json")
    assert manifest["n_cells"] == 17 and set(manifest["hooks"]) == set(hooks)
    assert [(s["start"], s["stop"]) for s in manifest["shards"]] == [(0, 5), (5, 10), (10, 15), (15, 17)]
    there = {p.name for p in (tmp_path / "shards").iterdir()} - {"manifest.json", "capture-state.safetensors"}
    assert there == {s["file"] for s in manifest["shards"]}


def test_removing_shards_removes_nothing_else(model, tokenizer, tmp_path):
    quietly(model, tokenizer, CELL, ShardSink(tmp_path / "shards"))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    for folder in ("shards", "other", "absent"):
        remove_shards(tmp_path / folder)
    assert [p.name for p in tmp_path.iterdir()] == ["other"] and (tmp_path / "other" / "file").is_file()


# Moments


@pytest.mark.parametrize("hook", [GENE, HEADS, CELL])
def test_moments_equal_numpy_over_real_genes_without_cls(model, tokenizer, alone, hook):
    sink = MomentsSink()
    quietly(model, tokenizer, hook, sink, batch_size=3)
    rows = np.concatenate(
        [v.reshape(1, -1) if hook == CELL else v[1:].reshape(len(v) - 1, -1) for v in alone.values[hook]]
    )
    n, mean, covariance = sink.result(hook)
    assert n == len(rows)
    np.testing.assert_allclose(mean, rows.mean(0), atol=1e-5)
    np.testing.assert_allclose(covariance, np.cov(rows.T), atol=1e-5)


def test_moments_of_two_hooks_stay_apart(model, tokenizer):
    both, one = MomentsSink(), MomentsSink()
    quietly(model, tokenizer, [GENE, HEADS], both)
    quietly(model, tokenizer, GENE, one)
    for a, b in zip(both.result(GENE), one.result(GENE), strict=True):
        np.testing.assert_array_equal(a, b)


def test_moments_of_a_map_are_refused(model, cells):
    with pytest.raises(HookError, match=f"'{PAIR}' is a map of gene pairs; use GenePairSink"):
        quietly(model, cells, PAIR, MomentsSink())


# Gene pairs


def dense(alone, model, panel, cells=None):
    """Sums and counts over cells, by gene id, one entry at a time."""
    place = {model.vocabulary.ids[gene]: i for i, gene in enumerate(panel)}
    d = len(panel)
    sums, counts = np.zeros((N_LAYERS, N_HEADS, d, d)), np.zeros((d, d), dtype=int)
    for cell in range(len(alone.ids)) if cells is None else cells:
        ids = alone.ids[cell].tolist()
        for a, query in enumerate(ids):
            for b, key in enumerate(ids):
                if query in place and key in place:
                    counts[place[query], place[key]] += 1
                    for layer in range(N_LAYERS):
                        pattern = alone.values[f"blocks.{layer}.attn.hook_pattern"][cell]
                        sums[layer, :, place[query], place[key]] += pattern[:, a, b]
    return sums, counts


PANELS = {
    "all": genes(),
    "some": [f"GENE{i}" for i in (3, 30, 4, 17, 5, 16, 8)],
    "reversed": genes()[::-1],
    "one": ["GENE5"],
}


@pytest.mark.parametrize("budget", [0, 2**22], ids=["queries and keys", "patterns"])
@pytest.mark.parametrize("panel", PANELS.values(), ids=PANELS)
def test_pair_means_equal_a_dense_average_by_gene_id(model, tokenizer, alone, panel, budget, monkeypatch):
    monkeypatch.setattr(record, "_MAP_BUDGET", {"cpu": budget})
    sink = GenePairSink(panel, model.vocabulary)
    quietly(model, tokenizer, PATTERNS, sink, batch_size=4)
    sums, counts = dense(alone, model, panel)
    found = sink.result()
    assert found.genes == tuple(panel) and found.hooks == tuple(
        f"blocks.{i}.attn.hook_pattern" for i in range(N_LAYERS)
    )
    np.testing.assert_array_equal(found.counts, counts)
    np.testing.assert_allclose(found.sums, sums, atol=1e-5)
    np.testing.assert_allclose(found.mean(), sums / np.maximum(counts, 1), atol=1e-5)
    assert (found.mean()[:, :, counts == 0] == 0).all()
    assert len(panel) < 40 or (counts == 0).any(), "pairs that are never seen are among those compared"
    assert len(panel) == 1 or not np.allclose(found.mean(), found.mean().swapaxes(2, 3))


@pytest.mark.parametrize("queries", [1, 3, 64])
def test_pair_means_do_without_maps(model, tokenizer, alone, monkeypatch, queries):
    """A few queries at a time are compared with all keys, and the pass itself is the plain one."""
    monkeypatch.setattr(pairs, "_QUERIES", queries)
    monkeypatch.setattr(record, "_MAP_BUDGET", {"cpu": 0})
    sizes, scores = [], Attention.scores
    monkeypatch.setattr(
        Attention, "scores", lambda self, q, k, p: (sizes.append(q.shape[:2]), scores(self, q, k, p))[1]
    )
    sink, memory = GenePairSink(PANELS["some"], model.vocabulary), MemorySink()
    quietly(model, tokenizer, [PATTERNS, CELL], [HookFilter(PATTERNS, sink), HookFilter(CELL, memory)], batch_size=4)
    sums, counts = dense(alone, model, PANELS["some"])
    np.testing.assert_array_equal(sink.result().counts, counts)
    np.testing.assert_allclose(sink.result().sums, sums, atol=1e-5)
    assert {cells for cells, _ in sizes} == {1} and max(n for _, n in sizes) <= queries
    with torch.no_grad():
        plain = torch.cat([model(tokens).cell for tokens in tokenizer.batches(4)])
    np.testing.assert_array_equal(memory.result().values[CELL], plain.numpy())


def test_pair_means_of_a_hooked_model_are_of_its_patterns(model, tokenizer):
    def uniform(pattern, hook):
        return torch.where(pattern > 0, 1.0, 0.0) / (pattern > 0).sum(-1, keepdim=True)

    sink = GenePairSink(PANELS["all"], model.vocabulary)
    with model.hooks([("blocks.1.attn.hook_pattern", uniform)]):
        quietly(model, tokenizer, PATTERNS, sink, batch_size=1)
    one = 1 / tokenizer.lengths()
    assert sink.result().sums[1].max() <= one.sum() + 1e-5
    seen = sink.result().sums[1][0]
    np.testing.assert_allclose(seen[seen > 0].min(), one.min(), rtol=1e-5)


def test_padding_is_left_out_even_where_it_carries_gene_ids(model):
    padded = make_tokens(5, 12)
    gene_ids = padded.gene_ids.clone()
    gene_ids[padded.padding] = 3
    tokens = Tokens(gene_ids, padded.values, padded.padding, padded.cell_ids)
    maps = torch.rand(5, N_HEADS, 12, 12)
    sink = GenePairSink(genes(), model.vocabulary)
    sink.open(Plan({PAIR: hook_shape(PAIR, model.config)}, np.full(5, 12)))
    sink.update(PAIR, maps, tokens)
    sums, counts = np.zeros((N_HEADS, 40, 40)), np.zeros((40, 40))
    for cell, ids in enumerate(gene_ids.tolist()):
        real = range(1, 12 - 2 * cell)
        for a in real:
            for b in real:
                sums[:, ids[a], ids[b]] += maps[cell, :, a, b].numpy()
                counts[ids[a], ids[b]] += 1
    np.testing.assert_array_equal(sink.result().counts, counts)
    np.testing.assert_allclose(sink.result().sums[0], sums, atol=1e-5)


def test_scores_are_averaged_as_patterns_are(model, tokenizer, alone):
    sink = GenePairSink(PANELS["some"], model.vocabulary)
    quietly(model, tokenizer, "blocks.*.attn.hook_scores", sink)
    as_patterns = SimpleNamespace(
        ids=alone.ids, values={k.replace("scores", "pattern"): v for k, v in alone.values.items() if "scores" in k}
    )
    sums, _ = dense(as_patterns, model, PANELS["some"])
    np.testing.assert_allclose(sink.result().sums, sums, atol=1e-4)
    assert np.isfinite(sink.result().sums).all(), "-inf at padding is left out"


def test_groups_are_kept_apart_and_leave_out_exactly_one(model, tokenizer, alone):
    names = list(tokenizer.adata.obs_names)
    groups = {cell: (i * 7) % 3 for i, cell in enumerate(names)}
    panel = PANELS["some"]
    apart, together = GenePairSink(panel, model.vocabulary, groups), GenePairSink(panel, model.vocabulary)
    quietly(model, tokenizer, PATTERNS, [apart, together], batch_size=4)
    total = apart.result()
    np.testing.assert_array_equal(total.counts, together.result().counts)
    np.testing.assert_allclose(total.sums, together.result().sums, atol=1e-5)
    for group in range(3):
        inside = [i for i, cell in enumerate(names) if groups[cell] == group]
        outside = sorted(set(range(len(names))) - set(inside))
        rest = apart.result(without=group)
        for cells, sums, counts in (
            (outside, rest.sums, rest.counts),
            (inside, total.sums - rest.sums, total.counts - rest.counts),
        ):
            expected_sums, expected_counts = dense(alone, model, panel, cells)
            np.testing.assert_array_equal(counts, expected_counts)
            np.testing.assert_allclose(sums, expected_sums, atol=1e-5)


def test_a_cell_without_a_group_is_an_error(model, tokenizer):
    groups = dict.fromkeys(tokenizer.adata.obs_names[:-1], 0)
    with pytest.raises(EvaluationError, match="Cell 'cell16' has no group"):
        quietly(model, tokenizer, PATTERNS, GenePairSink(genes(), model.vocabulary, groups))


def test_a_panel_gene_outside_the_vocabulary_is_an_error(model):
    with pytest.raises(GeneMatchError, match=r"2 of 4 panel genes are not in the vocabulary \(first: NOGENE\)"):
        GenePairSink(["GENE0", "NOGENE", "GENE1", "NEITHER"], model.vocabulary)


@pytest.mark.parametrize("hook", [GENE, CELL])
def test_what_is_no_map_is_refused(model, cells, hook):
    with pytest.raises(HookError, match=f"'{hook}' is no map of gene pairs; capture 'blocks"):
        quietly(model, cells, [hook, PAIR], GenePairSink(genes(), model.vocabulary))


# Several sinks, batches, order


def test_only_passes_on_its_part(model, tokenizer):
    sinks = MemorySink(), MemorySink(), MemorySink()
    quietly(
        model, tokenizer, [GENE, PAIR, CELL], [sinks[0], HookFilter("blocks.*", sinks[1]), HookFilter(CELL, sinks[2])]
    )
    assert [set(s.result().values) for s in sinks] == [{GENE, PAIR, CELL}, {GENE, PAIR}, {CELL}]
    for sink in sinks[1:]:
        for name, values in sink.result().values.items():
            np.testing.assert_array_equal(values, sinks[0].result().values[name])


def test_only_without_its_hook_is_an_error(model, cells):
    with pytest.raises(HookError, match=r"None of the captured hooks matches 'blocks\.\*'; capture it, or drop"):
        quietly(model, cells, CELL, HookFilter("blocks.*", MemorySink()))


def all_sinks(model, folder):
    return {
        "memory": MemorySink(),
        "gene moments": HookFilter(GENE, MomentsSink()),
        "cell moments": HookFilter(CELL, MomentsSink()),
        "pairs": HookFilter(PATTERNS, GenePairSink(PANELS["some"], model.vocabulary)),
        "shards": ShardSink(folder),
    }


def test_all_sinks_in_one_pass_equal_one_pass_each(model, tokenizer, tmp_path, monkeypatch):
    hooks = [GENE, CELL, PATTERNS]
    together = all_sinks(model, tmp_path / "together")
    calls = []
    forward = type(model).forward  # of the class: a model with a forward of its own is taken for an ablated one
    monkeypatch.setattr(type(model), "forward", lambda *a, **k: (calls.append(1), forward(*a, **k))[1])
    quietly(model, tokenizer, hooks, list(together.values()), batch_size=6)
    assert len(calls) == 3, "17 cells in batches of 6 are three passes, whatever the number of sinks"
    for name, sink in all_sinks(model, tmp_path / "apart").items():
        quietly(model, tokenizer, hooks, sink, batch_size=6)
        other = together[name]
        if name == "memory":
            assert_same_activations(other.result(), sink.result())
        elif name == "shards":
            assert_same_activations(read_shards(other.folder), read_shards(sink.folder))
        elif name == "pairs":
            # By itself it takes queries and keys, and the fused attention runs; beside sinks of patterns it takes those.
            np.testing.assert_allclose(other.sink.result().sums, sink.sink.result().sums, rtol=1e-5, atol=1e-6)
        else:
            hook = GENE if name.startswith("gene") else CELL
            np.testing.assert_allclose(other.sink.result(hook)[2], sink.sink.result(hook)[2], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("change", [1, 3, 32, "order"])
def test_neither_batches_nor_the_order_of_the_cells_matter(model, cells, tokenizer, tmp_path, change):
    hooks = [GENE, CELL, PATTERNS]
    usual, other = all_sinks(model, tmp_path / "usual"), all_sinks(model, tmp_path / "other")
    quietly(model, tokenizer, hooks, list(usual.values()), batch_size=5)
    order = list(range(17)) if change != "order" else np.random.default_rng(0).permutation(17).tolist()
    changed = model.tokenizer(cells[order].copy(), seed=2)
    quietly(model, changed, hooks, list(other.values()), batch_size=5 if change == "order" else change)
    one, two = usual["memory"].result(), other["memory"].result()
    for i, row in enumerate(order):
        assert two.cell_ids[i] == one.cell_ids[row]
        np.testing.assert_array_equal(np.diff(two.indptr)[i], np.diff(one.indptr)[row])
        np.testing.assert_allclose(two.of_cell(GENE, i), one.of_cell(GENE, row), atol=1e-5)
        np.testing.assert_allclose(two.pattern(PAIR, i), one.pattern(PAIR, row), atol=1e-5)
        np.testing.assert_allclose(two.values[CELL][i], one.values[CELL][row], atol=1e-5)
    for name, hook in (("gene moments", GENE), ("cell moments", CELL)):
        for a, b in zip(usual[name].sink.result(hook), other[name].sink.result(hook), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)
    a, b = usual["pairs"].sink.result(), other["pairs"].sink.result()
    np.testing.assert_array_equal(a.counts, b.counts)
    np.testing.assert_allclose(a.mean(), b.mean(), atol=1e-5)


def test_a_sink_of_one_s_own_works(model, tokenizer, alone):
    sink = Recorder()
    assert isinstance(sink, Sink) and not isinstance(object(), Sink)
    quietly(model, tokenizer, [GENE, HEADS], sink, batch_size=4, save_every=8)
    assert sink.opened == 1 and sink.flushed == [8, 16, 17]
    assert list(dict.fromkeys(cell for batch in sink.batches for cell in batch)) == list(tokenizer.adata.obs_names)
    for hook in (GENE, HEADS):
        expected = [v.mean() for v in alone.values[hook]]
        np.testing.assert_allclose(list(sink.means[hook].values()), expected, atol=1e-5)


def test_only_the_needed_blocks_run(model, tokenizer, monkeypatch):
    for block in list(model.blocks)[1:]:
        monkeypatch.setitem(vars(block), "forward", lambda *args: pytest.fail("a block above the last hook was run"))
    sink = Recorder()
    quietly(model, tokenizer, "blocks.0.attn.hook_pattern", sink)
    assert sum(map(len, sink.batches)) == len(tokenizer)
    with pytest.raises(pytest.fail.Exception, match="above the last hook"):
        quietly(model, tokenizer, "blocks.1.hook_resid_post", Recorder())


def test_an_exception_leaves_no_hook_behind(model, tokenizer):
    class Breaks(Recorder):
        def update(self, hook, activation, tokens):
            if len(self.batches) == 3:
                raise RuntimeError("on purpose")
            super().update(hook, activation, tokens)

    before, after = MemorySink(), MemorySink()
    quietly(model, tokenizer, GENE, before)
    with pytest.raises(RuntimeError, match="on purpose"):
        quietly(model, tokenizer, [GENE, PAIR], [after, Breaks()], batch_size=2)
    assert not any(point.fwd_hooks or point.bwd_hooks for point in model.hook_dict.values())
    assert not any(point._forward_hooks for point in model.hook_dict.values())
    quietly(model, tokenizer, GENE, after)
    assert_same_activations(after.result(), before.result())


def test_gradients_are_neither_needed_nor_kept(tokenizer):
    model = tiny_model(seed=1).requires_grad_(True)
    sink = MemorySink()
    quietly(model, tokenizer, GENE, sink)
    assert all(p.grad is None for p in model.parameters()) and sink.result().values[GENE].shape[1] == 16


def test_the_progress_bar_says_the_estimate(model, tokenizer, capsys):
    report = capture(model, tokenizer, GENE, MemorySink())
    said = capsys.readouterr().err
    assert f"~{report.estimated_bytes // 1024} KiB" in said and "17/17" in said
