"""Operators from weights: beside loops over the raw parameters, and beside what the model itself computes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import genes, make_tokens, tiny_model

from workbench.errors import EvaluationError, ShapeError
from workbench.models import load_model
from workbench.operators.weight_operators import weight_operators

PANEL = [genes()[i] for i in (7, 2, 11, 5, 0)]


@pytest.fixture(scope="module")
def model():
    return tiny_model(seed=3)


def embedding(model, names):
    """Gene embeddings after the LayerNorm, written out."""
    gene = model.embed.gene
    raw = gene.embedding.weight[torch.as_tensor(model.vocabulary.encode(names))].double()
    centred = raw - raw.mean(-1, keepdim=True)
    unit = centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + gene.enc_norm.eps)
    return (unit * gene.enc_norm.weight.double() + gene.enc_norm.bias.double()).detach().numpy()


@pytest.mark.parametrize("kind", ["qk", "ov"])
def test_the_closed_form_from_the_raw_parameters(model, kind):
    e, d = embedding(model, PANEL), model.config.d_model
    found = weight_operators(model, PANEL, kind)
    size = d // model.config.n_heads
    for layer in range(model.config.n_layers):
        attn = model.block(layer).attn
        weight, bias = (p.detach().double().numpy() for p in (attn.qkv.weight, attn.qkv.bias))
        out = attn.out.weight.detach().double().numpy()
        assert np.abs(bias).max() > 0.01
        for head in range(model.config.n_heads):
            rows = slice(head * size, (head + 1) * size)
            expected = np.zeros((5, 5))
            for i in range(5):
                for j in range(5):
                    if kind == "qk":
                        query = weight[:d][rows] @ e[i] + bias[:d][rows]
                        expected[i, j] = query @ (weight[d : 2 * d][rows] @ e[j]) / np.sqrt(size)
                    else:
                        expected[i, j] = (out[:, rows] @ (weight[2 * d :][rows] @ e[i])) @ e[j]
            np.testing.assert_allclose(found.matrix(layer, head), expected, rtol=1e-4, atol=1e-5)
    assert found.left.dtype == found.right.dtype == np.float32 and found.genes == tuple(PANEL)


def test_qk_is_the_models_own_score_up_to_what_the_softmax_takes_out(model):
    """First layer, values silenced: scores differ from the operator by one number per query."""
    tokens = make_tokens(2, padded=False)
    scores = {}
    hooks = [
        ("embed.hook_value", lambda value, hook: torch.zeros_like(value)),
        ("blocks.0.attn.hook_scores", lambda value, hook: scores.update(x=value.detach())),
    ]
    model.run_with_hooks(tokens, fwd_hooks=hooks)
    names = model.vocabulary.decode(tokens.gene_ids[0, 1:].tolist())  # all but <cls>
    for head in range(model.config.n_heads):
        operator = weight_operators(model, names, "qk").matrix(0, head)
        own = scores["x"][0, head][1:, 1:].numpy()
        difference = own - operator
        np.testing.assert_allclose(difference - difference.mean(1, keepdims=True), 0, atol=1e-4)
        turned = own - operator.T
        assert np.abs(turned - turned.mean(1, keepdims=True)).max() > 1e-2, "query and key are not exchanged"


def test_ov_is_what_a_head_writes_for_a_source_gene(model):
    names, e = genes()[:6], embedding(model, genes()[:6])
    attn = model.block(1).attn
    with torch.no_grad():
        x = torch.as_tensor(e).float()[:, None]  # each gene a cell of its own: it can attend to itself only
        written = []
        attn.hook_result.add_hook(lambda value, hook: written.append(value.detach()[:, 0]))
        attn.project(attn.mix(x, None))
        attn.hook_result.remove_hooks("fwd")
    for head in range(model.config.n_heads):
        operator = weight_operators(model, names, "ov").matrix(1, head)
        along = written[0][:, head].double().numpy() @ e.T
        difference = along - operator
        np.testing.assert_allclose(difference - difference.mean(0), 0, atol=1e-3)


@pytest.mark.parametrize("kind", ["qk", "ov"])
def test_factors_matrix_and_product_agree(model, kind):
    found, x = weight_operators(model, PANEL, kind), np.random.default_rng(0).random((4, 5))
    dense = found.dense()
    for layer, head in np.ndindex(*dense.shape[:2]):
        matrix = found.matrix(layer, head)
        np.testing.assert_allclose(dense[layer, head], matrix, rtol=1e-6)
        np.testing.assert_allclose(found.apply(x, layer, head), x @ matrix, rtol=1e-4, atol=1e-5)
    many = weight_operators(model, genes(), kind).matrix(0, 0)
    assert np.linalg.matrix_rank(many, tol=1e-4 * np.linalg.norm(many)) <= model.config.d_head


def test_the_order_of_genes_is_the_order_of_both_axes(model):
    order = np.array([3, 0, 4, 1, 2])
    one = weight_operators(model, PANEL, "ov").matrix(0, 1)
    other = weight_operators(model, [PANEL[i] for i in order], "ov").matrix(0, 1)
    np.testing.assert_allclose(other, one[np.ix_(order, order)], rtol=1e-6)


def test_half_precision_and_the_shipped_checkpoint(model):
    shipped = load_model("artifacts/scgpt-blood-mini")
    names = shipped.vocabulary.genes[:20]
    found = weight_operators(shipped, names, "qk")
    assert (
        found.left.shape[:3] == (shipped.config.n_layers, shipped.config.n_heads, 20)
        and np.isfinite(found.dense()).all()
    )
    half = load_model("artifacts/scgpt-blood-mini", dtype=torch.bfloat16)
    np.testing.assert_allclose(
        weight_operators(half, names, "qk").dense(), found.dense(), atol=0.05 * np.abs(found.dense()).max()
    )


def test_what_cannot_be_made_is_said(model):
    with pytest.raises(EvaluationError, match="did you mean 'qk'"):
        weight_operators(model, PANEL, "kq")
    with pytest.raises(EvaluationError, match="nknown gene"):
        weight_operators(model, ["NOSUCH"], "qk")
    with pytest.raises(EvaluationError, match=f"found {PANEL[0]}"):
        weight_operators(model, [*PANEL, PANEL[0]], "qk")
    with pytest.raises(EvaluationError, match="found none"):
        weight_operators(model, [], "qk")
    with pytest.raises(ShapeError, match="There is no head 9"):
        weight_operators(model, PANEL, "qk").matrix(0, 9)
