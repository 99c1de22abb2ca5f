"""A second architecture needs nothing outside its own class: a tiny pre-norm model goes through capture and ablation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import genes, make_tokens, randomise, tiny_cells, tiny_model, vocabulary_ids
from torch import nn
from transformer_lens.hook_points import HookPoint

from workbench.ablation.attribution import attribute
from workbench.ablation.build import prepare
from workbench.ablation.edits import Edits, ablated
from workbench.ablation.exact import exact_sweep
from workbench.ablation.metrics import Metric
from workbench.ablation.patching import activation_patching
from workbench.ablation.reference import build_reference, needed_hooks
from workbench.ablation.settings import StudyConfig
from workbench.ablation.sites import Ablation, all_heads
from workbench.ablation.study import evaluate
from workbench.capture import GenePairSink, HookFilter, MemorySink, MomentsSink, capture
from workbench.models import Block, CellModel, CellTokenizer, ModelShape
from workbench.models.hooking import HookedModel
from workbench.models.outputs import Outputs
from workbench.models.tokens import Tokens
from workbench.models.vocabulary import Vocabulary
from workbench.operators.weight_operators import weight_operators

ROOT = Path(__file__).resolve().parents[2]
LAYERS, HEADS, WIDTH = 2, 3, 12


class ToyTokenizer:
    """Expressed genes in the order of the matrix, with their rank in the cell as value."""

    def __init__(self, cells, vocabulary, seed, max_tokens, min_gene_share):
        from workbench.cells.genes import match_genes
        from workbench.cells.values import describe_values

        self.cells, self.vocabulary, self.seed, self.limit = cells, vocabulary, seed, max_tokens or 20
        self.match = match_genes(
            cells.var_names.to_numpy(), vocabulary.genes, 0.3 if min_gene_share is None else min_gene_share
        )
        self.values = describe_values(cells.X)

    def __len__(self):
        return self.cells.shape[0]

    def _cell(self, i):
        row = self.cells.X[i].toarray().ravel()
        at = np.flatnonzero(row)[: self.limit - 1]
        ranks = np.argsort(np.argsort(row[at], kind="stable")) + 1
        return self.vocabulary.encode(self.cells.var_names[at]), ranks

    def lengths(self):
        return np.array([len(self._cell(i)[0]) + 1 for i in range(len(self))])

    def tokens(self, start=0, stop=None):
        rows = range(start, len(self) if stop is None else min(stop, len(self)))
        found = [self._cell(i) for i in rows]
        shape = len(found), max(len(ids) for ids, _ in found) + 1
        ids, values = np.full(shape, self.vocabulary.pad_id), np.zeros(shape, np.float32)
        padding = np.ones(shape, dtype=bool)
        for i, (mine, ranks) in enumerate(found):
            n = len(mine) + 1
            ids[i, :n], values[i, 1:n], padding[i, :n] = [self.vocabulary.cls_id, *mine], ranks, False
        names = tuple(self.cells.obs_names[i] for i in rows)
        return Tokens(torch.from_numpy(ids), torch.from_numpy(values), torch.from_numpy(padding), names)

    def batches(self, size=32, start=0, stop=None):
        stop = len(self) if stop is None else stop
        for at in range(start, stop, size):
            yield self.tokens(at, min(at + size, stop))

    def fingerprint(self):
        return f"{len(self)} {self.seed} {self.limit}"


class ToyAttention(nn.Module):
    def __init__(self, shape: ModelShape):
        super().__init__()
        h, d, e = shape.n_heads, shape.d_model, shape.d_head
        self.scale = e**-0.5
        self.weights = nn.ParameterDict(
            {"W_Q": torch.randn(h, d, e), "b_Q": torch.randn(h, e), "W_K": torch.randn(h, d, e)}
        )
        self.weights |= {"W_V": torch.randn(h, d, e), "W_O": torch.randn(h, e, d)}
        for name in ("q", "k", "v", "scores", "pattern", "z"):
            setattr(self, f"hook_{name}", HookPoint())


class ToyBlock(nn.Module):
    """Pre-norm with RMSNorm and a gated MLP: nothing of scGPT's arithmetic."""

    def __init__(self, shape: ModelShape):
        super().__init__()
        self.hook_resid_pre = HookPoint()
        self.attn = ToyAttention(shape)
        self.hook_attn_out, self.hook_resid_mid = HookPoint(), HookPoint()
        self.norm1, self.norm2 = nn.RMSNorm(shape.d_model), nn.RMSNorm(shape.d_model)
        self.up, self.gate = nn.Linear(shape.d_model, shape.d_mlp), nn.Linear(shape.d_model, shape.d_mlp)
        self.down = nn.Linear(shape.d_mlp, shape.d_model)
        self.hook_mlp_out, self.hook_resid_post = HookPoint(), HookPoint()

    def mix(self, x, padding, keep=None):
        attn, x = self.attn, self.norm1(x)
        q = torch.einsum("cgd,hde->cghe", x[:, :keep], attn.weights["W_Q"]) + attn.weights["b_Q"]
        q = attn.hook_q(q)
        k = attn.hook_k(torch.einsum("cgd,hde->cghe", x, attn.weights["W_K"]))
        v = attn.hook_v(torch.einsum("cgd,hde->cghe", x, attn.weights["W_V"]))
        pattern = attn.hook_pattern(attn.hook_scores(self.scores(q, k, padding)).softmax(-1))
        return attn.hook_z(torch.einsum("chqk,ckhe->cqhe", pattern, v))

    def scores(self, q, k, padding):
        scores = torch.einsum("cqhe,ckhe->chqk", q, k) * self.attn.scale
        return scores if padding is None else scores.masked_fill(padding[:, None, None, :], -torch.inf)

    def pattern(self, q, k, padding):
        return self.scores(q, k, padding).softmax(-1)

    def project(self, z):
        return torch.einsum("cqhe,hed->cqd", z, self.attn.weights["W_O"])

    def after_attention(self, x, out):
        return self.hook_resid_mid(x + self.hook_attn_out(out))

    def feed_forward(self, mid):
        mid = self.norm2(mid)
        return self.down(self.up(mid) * torch.sigmoid(self.gate(mid)))

    def after_mlp(self, mid, out):
        return self.hook_resid_post(mid + self.hook_mlp_out(out))

    def weight(self, name):
        return self.attn.weights[name]

    def forward(self, x, padding):
        x = self.hook_resid_pre(x)
        mid = self.after_attention(x, self.project(self.mix(x, padding)))
        return self.after_mlp(mid, self.feed_forward(mid))


class ToyModel(HookedModel):
    """Genes with their ranks; the cell embedding is the last stream of ``<cls>``, or the mean over genes."""

    architecture = "toy"
    outputs = ("cell",)

    def __init__(self, config, vocabulary, report=None):
        super().__init__(config, vocabulary, report)
        self.embedding = nn.Embedding(config.n_tokens, config.d_model)
        self.value = nn.Linear(1, config.d_model)
        self.blocks = nn.ModuleList(ToyBlock(config) for _ in range(config.n_layers))
        self.hook_cell = HookPoint()
        self.setup()

    def tokenizer(self, cells, *, seed=0, max_tokens=None, min_gene_share=None):
        return ToyTokenizer(cells, self.vocabulary, seed, max_tokens, min_gene_share)

    def gene_embedding(self, ids):
        return self.embedding(ids)

    def block(self, layer):
        return self.blocks[layer]

    def forward(self, tokens, *, outputs=("cell",), start_at_layer=0, stop_at_layer=None, residual=None):
        tokens = tokens.to(self.device, self.dtype)
        x = self.embedding(tokens.gene_ids) + self.value(tokens.values[..., None]) if residual is None else residual
        for block in list(self.blocks)[start_at_layer:stop_at_layer]:
            x = block(x, tokens.padding)
        return self.decode(x, tokens, outputs) if stop_at_layer is None else Outputs(residual=x)

    def decode(self, x, tokens, outputs):
        if "cell" not in outputs:
            return Outputs(residual=x)
        if self.config.cell_style == "cls":
            return Outputs(residual=x, cell=self.hook_cell(x[:, 0]))
        weight = tokens.genes.to(x.dtype)[..., None]
        return Outputs(residual=x, cell=self.hook_cell((x * weight).sum(1) / weight.sum(1)))


def make_toy(cell_style: str = "cls") -> ToyModel:
    vocabulary = Vocabulary(vocabulary_ids())
    shape = ModelShape(len(vocabulary), WIDTH, LAYERS, HEADS, d_mlp=10, cell_style=cell_style)
    return randomise(ToyModel(shape, vocabulary), seed=1).requires_grad_(False).eval()


@pytest.fixture(scope="module")
def toy():
    return make_toy()


@pytest.fixture(scope="module")
def cells():
    return tiny_cells(12)


def test_both_models_satisfy_the_protocol(toy, cells):
    for model in (toy, tiny_model()):
        assert isinstance(model, CellModel) and isinstance(model.block(0), Block)
        assert isinstance(model.tokenizer(cells), CellTokenizer)
        fresh = model.untrained(3)
        assert type(fresh) is type(model) and fresh.config == model.config
        assert fresh.fingerprint() == model.untrained(3).fingerprint() != model.untrained(4).fingerprint()
    assert not isinstance(nn.Linear(2, 2), CellModel)


@pytest.mark.parametrize("model", [make_toy(), make_toy("mean"), tiny_model()], ids=["toy", "toy mean", "scGPT"])
def test_layers_in_parts_and_decoding_are_the_pass(model):
    tokens = make_tokens()
    x = model(tokens, stop_at_layer=0).residual
    for layer in range(model.config.n_layers):
        block = model.block(layer)
        z = block.mix(x, tokens.padding)
        assert torch.allclose(block.mix(x, tokens.padding, 1), z[:, :1], atol=1e-5)
        by_head = torch.einsum("cghe,hed->cgd", z, block.weight("W_O"))
        constant = (block.project(z) - by_head)[~tokens.padding]
        assert torch.allclose(constant, constant[:1].expand_as(constant), atol=1e-5), "a sum over heads, and a bias"
        mid = block.after_attention(x, block.project(z))
        x = block.after_mlp(mid, block.feed_forward(mid))
        assert torch.allclose(x, model(tokens, stop_at_layer=layer + 1).residual, atol=1e-5)
    assert torch.allclose(model.decode(x, tokens, ("cell",)).cell, model(tokens).cell, atol=1e-5)


def test_capture_goes_by_gene_and_leaves_out_padding_and_cls(toy, cells):
    tokenizer = toy.tokenizer(cells)
    panel, moments, memory = genes()[:6], MomentsSink(), MemorySink()
    pairs = GenePairSink(panel, toy.vocabulary)
    hook, patterns = "blocks.1.hook_resid_post", "blocks.*.attn.hook_pattern"
    sinks = [HookFilter(patterns, pairs), HookFilter(hook, moments), HookFilter("hook_cell", memory)]
    capture(toy, cells, [patterns, hook, "hook_cell"], sinks, batch_size=5, progress=False)
    total, count, rows, embedded = np.zeros((LAYERS, HEADS, 6, 6)), np.zeros((6, 6)), [], []
    for i in range(len(tokenizer)):  # one cell at a time: no padding at all
        tokens = tokenizer.tokens(i, i + 1)
        out, cache = toy.run_with_cache(tokens)
        at = {int(gene): place for place, gene in enumerate(tokens.gene_ids[0])}
        rows.append(cache[hook][0, 1:])
        embedded.append(out.cell[0])
        for a, first in enumerate(toy.vocabulary.encode(panel)):
            for b, second in enumerate(toy.vocabulary.encode(panel)):
                if int(first) in at and int(second) in at:
                    count[a, b] += 1
                    for layer in range(LAYERS):
                        pattern = cache[f"blocks.{layer}.attn.hook_pattern"][0]
                        total[layer, :, a, b] += pattern[:, at[int(first)], at[int(second)]].numpy()
    found = pairs.result()
    assert np.array_equal(found.counts, count) and (count > 0).mean() > 0.9
    np.testing.assert_allclose(found.sums, total, rtol=1e-4, atol=1e-5)
    expected = torch.cat(rows).double().numpy()
    n, mean, covariance = moments.result(hook)
    assert n == len(expected)
    np.testing.assert_allclose(mean, expected.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(covariance, np.cov(expected.T), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(memory.result().values["hook_cell"], torch.stack(embedded).numpy(), rtol=1e-3, atol=1e-4)


PLACES = (
    "L0H1",
    "L1H2",
    ("L0H0", "L1H1"),
    "L0.attention",
    "L1.mlp",
    ("L0.mlp", "L1H0"),
    "L0.gene.GENE3",
    "L1.gene.GENE5",
)


@pytest.mark.parametrize("style", ["cls", "mean"])
@pytest.mark.parametrize("how", ["zero", "mean", "resample", "direction"])
def test_the_exact_sweep_equals_passes_with_hooks(cells, style, how):
    toy = make_toy(style)
    tokenizer = toy.tokenizer(cells)
    tokens, others = tokenizer.tokens(0, 5), tokenizer.tokens(5, 12)
    subspace = np.random.default_rng(0).normal(size=(2, WIDTH)) if how == "direction" else None
    ablations = [Ablation(places, how, subspace) for places in PLACES]
    ablations += [Ablation("L1H1", how, subspace, rotation=1)]
    reference = build_reference(toy, others, needed_hooks(ablations))
    intact = toy(tokens).cell
    for which, found in exact_sweep(toy, tokens, ablations, Edits(toy, tokens, ablations, reference)):
        with ablated(toy, [] if which is None else ablations[which], reference):
            expected = toy(tokens).cell
        assert torch.allclose(found.cell, expected, rtol=1e-3, atol=1e-4)
        assert which is None or not torch.allclose(expected, intact, atol=1e-4)


def test_a_study_is_prepared_and_judged(toy, cells):
    grid = all_heads(toy.config)
    settings = StudyConfig(cells=None, metrics=["cell_shift", "masked_error"], reference=6, batch_size=4)
    study = prepare(toy, cells, settings, grid)
    assert study.notes == {"masked_error": "the checkpoint has no expression decoder"}
    table = evaluate(study, grid, range(6))
    assert len(table) == 6 * (1 + LAYERS * HEADS)
    moved = table[table["ablation"] != "intact"]["cell_shift"]
    assert (moved > -1e-6).all() and moved.max() > 1e-3


def test_attribution_and_patching_take_it(toy, cells):
    direction = torch.randn(WIDTH, generator=torch.Generator().manual_seed(0))
    along = Metric("along", "1", 0, lambda run: run.output() @ direction, differentiable=True)
    study = prepare(toy, cells, StudyConfig(cells=None, metrics=[]), all_heads(toy.config, "zero"), extra=[along])
    assert np.isfinite(attribute(study, along, range(4), "zero")).all()
    tokenizer = toy.tokenizer(cells)
    table = activation_patching(toy, tokenizer.tokens(0, 6), tokenizer.tokens(6, 12), draws=20)
    assert len(table) == LAYERS * HEADS and np.isfinite(table["moved"]).all()


def test_operators_of_the_weights_are_those_of_its_own_parameters(toy):
    names, (layer, head) = genes()[:4], (1, 2)
    weights = {name: toy.block(layer).weight(name)[head].double() for name in ("W_Q", "b_Q", "W_K", "W_V", "W_O")}
    e = toy.embedding.weight[toy.vocabulary.encode(names)].double()
    expected = (e @ weights["W_Q"] + weights["b_Q"]) @ (e @ weights["W_K"]).T / (WIDTH // HEADS) ** 0.5
    np.testing.assert_allclose(weight_operators(toy, names, "qk").matrix(layer, head), expected, rtol=1e-4, atol=1e-5)
    expected = e @ weights["W_V"] @ weights["W_O"] @ e.T
    np.testing.assert_allclose(weight_operators(toy, names, "ov").matrix(layer, head), expected, rtol=1e-4, atol=1e-5)


def test_only_what_makes_scgpt_models_names_them():
    """A second model is a folder of its own and a line of the dispatcher; nobody else may know which models there are."""
    inside = "workbench/models/"
    makers = {
        "workbench/__init__.py",  # public names that are scGPT's alone
        "workbench/planted/checkpoint.py",
        "workbench/planted/circuits.py",
        "workbench/planted/dictionary.py",
        "workbench/planted/folder.py",
        "workbench/planted/gene_graph.py",
        "workbench/recipes/benchmark/benchmark.py",  # writes a model in memory, for workers to open
    }
    found = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "workbench").rglob("*.py")
        if any(word in path.read_text(encoding="utf-8") for word in ("HookedScGPT", "models.scgpt"))
    }
    assert {path for path in found if not path.startswith((inside, "workbench/recipes/pretrain"))} <= makers
    assert {path for path in found if path.startswith(inside) and "/scgpt/" not in path} == {"workbench/models/load.py"}
