"""What args.json may say."""

from __future__ import annotations

import pytest
from helpers import checkpoint_args

from workbench.errors import CheckpointError
from workbench.models.scgpt.config import ModelConfig, shape_from_args

# args.json of the whole-human release, as the public notes give it.
WHOLE_HUMAN = {
    "embsize": 512,
    "nlayers": 12,
    "nheads": 8,
    "d_hid": 512,
    "dropout": 0.2,
    "n_layers_cls": 3,
    "n_bins": 51,
    "max_seq_len": 1200,
    "pad_token": "<pad>",
    "pad_value": -2,
    "mask_value": -1,
    "input_style": "binned",
    "input_emb_style": "continuous",
    "fast_transformer": True,
    "MVC": True,
    "USE_GENERATIVE_TRAINING": True,
}


def test_the_whole_human_release():
    config = ModelConfig(n_tokens=60697, **shape_from_args(WHOLE_HUMAN))
    assert (config.d_model, config.n_layers, config.n_heads, config.d_mlp, config.d_head) == (512, 12, 8, 512, 64)
    assert (config.n_bins, config.max_tokens, config.pad_value, config.mask_value) == (51, 1200, -2, -1)
    assert (config.value_style, config.input_style, config.cell_style) == ("continuous", "binned", "cls")


def test_fine_tuning_configurations_name_the_same_things_otherwise():
    found = shape_from_args({"layer_size": 64, "nhead": 4, "nlayers": 2, "nlayers_cls": 5})
    assert (found["d_model"], found["d_mlp"], found["n_heads"], found["n_layers_cls"]) == (64, 64, 4, 5)
    assert found["n_bins"] == 51 and found["max_tokens"] == 1200 and found["pad_value"] == -2


@pytest.mark.parametrize("field", ["embsize", "nheads", "nlayers"])
@pytest.mark.parametrize("value", [None, 0, -3, "16", 2.5, True, float("nan"), float("inf"), 1e300, [4]])
def test_sizes_must_be_positive_whole_numbers(field, value):
    with pytest.raises(CheckpointError, match=f"no positive whole number for '{field}'"):
        shape_from_args({**checkpoint_args(), field: value})


@pytest.mark.parametrize("field", ["n_bins", "max_seq_len", "pad_value", "mask_value", "n_layers_cls", "dropout"])
@pytest.mark.parametrize("value", ["many", None, [1], True, float("nan"), float("inf")])
def test_other_numbers_must_be_numbers(field, value):
    with pytest.raises(CheckpointError, match=f"'{field}'"):
        shape_from_args({**checkpoint_args(), field: value})


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"pre_norm": True}, "pre_norm: true; only scGPT's post-norm"),
        ({"fast_transformer_backend": "linear"}, "no softmax attention"),
    ],
)
def test_what_is_not_supported_is_said(setting, message):
    with pytest.raises(CheckpointError, match=message):
        shape_from_args({**checkpoint_args(), **setting})


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"nheads": 3}, "width 16 is not a multiple of the 3 heads"),
        ({"input_emb_style": "binned"}, "input_emb_style is 'binned', but scGPT knows continuous, category, scaling"),
        ({"cell_emb_style": "mean"}, "cell_emb_style is 'mean', but scGPT knows cls, avg-pool, w-pool"),
    ],
)
def test_what_scgpt_does_not_know_is_said(setting, message):
    with pytest.raises(CheckpointError, match=message):
        ModelConfig(n_tokens=43, **shape_from_args({**checkpoint_args(), **setting}))


def test_whole_numbers_may_be_written_as_floats():
    found = shape_from_args(
        {"embsize": 16.0, "nheads": 4.0, "nlayers": 3.0, "d_hid": 24.0, "n_bins": 51.0, "max_seq_len": 1200.0}
    )
    assert found == shape_from_args({"embsize": 16, "nheads": 4, "nlayers": 3, "d_hid": 24})
    assert all(type(found[name]) is int for name in ("d_model", "n_heads", "n_layers", "d_mlp", "n_bins", "max_tokens"))


def test_what_wandb_keeps_of_a_run_is_read():
    logged = {"layer_size": 64, "nhead": 4, "nlayers": 2, "n_bins": 31, "dropout": 0.2}
    wrapped = {
        **{name: {"desc": None, "value": value} for name, value in logged.items()},
        "_wandb": {"value": {"t": 1}},
    }
    assert shape_from_args(wrapped) == shape_from_args(logged)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"n_bins": 10**12}, "n_bins is 1000000000000, but 3 to 65,535"),
        ({"nheads": 10**12}, "not a multiple of the 1000000000000 heads"),
    ],
)
def test_absurd_sizes_are_refused(setting, message):
    with pytest.raises(CheckpointError, match=message):
        ModelConfig(n_tokens=43, **shape_from_args({**checkpoint_args(), **setting}))


@pytest.mark.parametrize(
    "setting", [{"n_bins": 20.5}, {"max_seq_len": 1}, {"max_seq_len": -5}, {"n_layers_cls": 0}, {"dropout": -1}]
)
def test_numbers_out_of_range_are_refused(setting):
    with pytest.raises(CheckpointError, match=f"'{next(iter(setting))}', which should be a"):
        shape_from_args({**checkpoint_args(), **setting})
