"""Key layouts: names in, names out."""

from __future__ import annotations

import pytest
import torch
from helpers import LAYOUTS, in_layout, tiny_model

from workbench.errors import CheckpointError
from workbench.models.scgpt.layout import shape_from_state, to_hooked, to_plain, to_upstream, unwrap, upstream_name


@pytest.fixture(scope="module")
def state():
    return to_upstream(tiny_model().state_dict())


def test_upstream_names_are_these(state):
    layer = "transformer_encoder.layers.2."
    assert {name for name in state if name.startswith(layer)} == {
        layer + part
        for part in (
            "self_attn.in_proj_weight",
            "self_attn.in_proj_bias",
            "self_attn.out_proj.weight",
            "self_attn.out_proj.bias",
            *(f"{module}.{kind}" for module in ("linear1", "linear2", "norm1", "norm2") for kind in ("weight", "bias")),
        )
    }
    assert {"encoder.embedding.weight", "encoder.enc_norm.weight", "value_encoder.linear1.weight"} <= set(state)
    assert {"decoder.fc.4.bias", "mvc_decoder.W.weight", "cls_decoder.out_layer.weight"} <= set(state)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_becomes_plain(state, layout):
    plain, found = to_plain(in_layout(state, layout))
    assert found == layout and set(plain) == set(state)
    assert all(plain[name] is state[name] for name in state)


def test_the_wrapper_layout_with_a_plain_output_projection(state):
    renamed = {k.replace("self_attn.in_proj_", "self_attn._impl.Wqkv."): v for k, v in state.items()}
    plain, found = to_plain(renamed)
    assert found == "_impl.Wqkv" and set(plain) == set(state)


def test_there_and_back_again(state):
    renamed, origin = to_hooked(state)
    assert set(renamed) == set(tiny_model().state_dict())
    assert origin == {name: upstream_name(name) for name in renamed}
    back = to_upstream(renamed)
    assert set(back) == set(state) and all(back[name] is state[name] for name in state)


@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"n_classes": 0},
        {"n_layers_cls": 1},
        {"n_layers_cls": 4, "n_classes": 2},
        {"mvc_style": None},
        {"mvc_style": "concat query"},
        {"mvc_style": "sum query"},
        {"mvc_style": "sum query", "d_model": 64},
        {"mvc_style": "concat query", "d_model": 64},
        {"zero_probability": True},
        {"has_expression": False},
        {"n_batches": 4},
        {"value_style": "category", "n_value_bins": 53},
    ],
)
def test_the_shape_is_read_from_the_tensors(shape):
    model = tiny_model(**shape)
    found = shape_from_state(to_upstream(model.state_dict()))
    assert {name: getattr(model.config, name) for name in found} == found
    assert {name: found[name] for name in shape if name in found} == {k: v for k, v in shape.items() if k in found}
    assert found["n_tokens"] == 43


@pytest.mark.parametrize("affine", [True, False])
def test_domain_norms_are_stacked_by_domain(affine):
    parts = ("running_mean", "running_var", *(("weight", "bias") if affine else ()))
    state = {f"dsbn.bns.{i}.{part}": torch.full((4,), float(i)) for i in (2, 10, 0, 1, *range(3, 10)) for part in parts}
    state["dsbn.bns.0.num_batches_tracked"] = torch.tensor(3)
    found = shape_from_state(state)
    assert (found["norm_domains"], found["norm_affine"]) == (11, affine)
    renamed, _ = to_hooked(state)
    assert set(renamed) == {f"embed.norm.{part}" for part in parts}
    assert renamed["embed.norm.running_var"].tolist() == [[float(i)] * 4 for i in range(11)]


def test_unwrap_prefers_nothing_over_guessing():
    tensors = {"a": torch.zeros(1), "module.b": torch.zeros(1)}
    assert unwrap(tensors) == (tensors, "", "")
    with pytest.raises(CheckpointError, match="NoneType"):
        unwrap(None)
