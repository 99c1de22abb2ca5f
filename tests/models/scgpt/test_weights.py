"""Files of weights as people have them, and what is refused before a number is computed."""

from __future__ import annotations

import re
import shutil
import zipfile

import numpy as np
import pytest
import torch
from helpers import checkpoint_args, make_tokens, tiny_model, vocabulary_ids, write_checkpoint
from safetensors.torch import save_file

from workbench.errors import CheckpointError, VocabularyError
from workbench.models import load_model
from workbench.models.scgpt.checkpoint import from_upstream, load_checkpoint
from workbench.models.scgpt.layout import to_upstream
from workbench.models.vocabulary import Vocabulary

EMBEDDING, LINEAR = "encoder.embedding.weight", "transformer_encoder.layers.1.linear2.weight"


@pytest.fixture
def state():
    return to_upstream(tiny_model().state_dict())


def same(model):
    return torch.equal(model(make_tokens()).cell, tiny_model()(make_tokens()).cell)


@pytest.mark.parametrize("name", ["model.pt", "last.ckpt", "pytorch_model.bin", "model.safetensors", "model_e12.pth"])
def test_the_only_file_of_weights_is_read_whatever_its_name(tmp_path, state, name):
    folder = write_checkpoint(tmp_path, state)
    (folder / "best_model.pt").unlink()
    save_file(state, folder / name) if name.endswith("safetensors") else torch.save(state, folder / name)
    (folder / "notes.txt").write_text("")
    model = load_model(folder)
    assert same(model) and list(model.report.sha256) == [name, "vocab.json", "args.json"]


def test_of_several_files_the_named_one_is_read_or_none(tmp_path, state):
    folder = write_checkpoint(tmp_path, state)
    torch.save({}, folder / "model_e3.pt")
    assert same(load_model(folder))
    (folder / "best_model.pt").rename(folder / "model_e4.pt")
    with pytest.raises(CheckpointError, match=r"several files of weights \(model_e3.pt, model_e4.pt\).*rename the one"):
        load_model(folder)


FORMS = {
    "an epoch beside the tensors": lambda s: {
        **s,
        "epoch": 3,
        "loss": 0.5,
        "note": "x",
        "best": None,
        "history": [1, 2],
    },
    "Lightning": lambda s: {
        "epoch": 3,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": {**{f"net.{k}": v for k, v in s.items()}, "loss_fn.weight": torch.ones(3)},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(2)}}}],
        "hyper_parameters": {"lr": 1e-4},
    },
    "DeepSpeed": lambda s: {"module": {f"module.{k}": v for k, v in s.items()}, "optimizer": {}},
    "nested": lambda s: {"state_dict": {"model": s}, "args": {"lr": 0.1}},
    "a name of its own": lambda s: {"net": s, "optimizer": {"state": {0: torch.zeros(2)}}},
    "PEFT, merged": lambda s: {f"base_model.model.{k}": v for k, v in s.items()},
    "compiled inside": lambda s: {
        k.replace("transformer_encoder.", "transformer_encoder._orig_mod.").replace(
            "encoder.emb", "encoder._orig_mod.emb"
        ): v
        for k, v in s.items()
    },
    "FSDP": lambda s: {re.sub(r"(layers\.\d+\.)", r"\1_fsdp_wrapped_module.", f"module.{k}"): v for k, v in s.items()},
    "DDP of Lightning of a compiled model": lambda s: {
        "state_dict": {f"model.module._orig_mod.{k}": v for k, v in s.items()}
    },
    "half precision": lambda s: {k: v.half().float().to(torch.float64) for k, v in s.items()},
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_that_are_sure_are_read(tmp_path, state, form):
    model = load_checkpoint(write_checkpoint(tmp_path, FORMS[form](state)))
    assert same(model) or form == "half precision"
    assert set(model.report.loaded) == set(state)
    assert model.report.unexpected == (("loss_fn.weight",) if form == "Lightning" else ())


def lora(state):
    return {
        **{k.replace("linear1.", "linear1.base_layer."): v for k, v in state.items()},
        "transformer_encoder.layers.0.linear1.lora_A.default.weight": torch.zeros(4, 16),
        "transformer_encoder.layers.0.linear1.lora_B.default.weight": torch.zeros(24, 4),
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lora, r"tensors of adapters \(PEFT or LoRA.*merge_and_unload"),
        (lambda s: {f"base_model.model.{k}": v for k, v in lora(s).items()}, "adapters.*merge_and_unload"),
        (lambda s: {**s, "transformer_encoder.layers.0.self_attn.lora_A": torch.zeros(2)}, "adapters.*merge_and_unload"),
        (lambda s: {f"{who}.{k}": v for k, v in s.items() for who in ("student", "teacher")}, r"several models, .* 'student\.', 'teacher\.'"),
        (lambda s: {**s, **{f"teacher.{k}": v for k, v in s.items()}}, r"several models, .* '', 'teacher\.'"),
        (lambda s: {"model": s, "ema": s}, r"several models \(model, ema\)"),
        (lambda s: {"model": {"state_dict": s}, "swa": {"model": s}, "epoch": 2}, r"several models \(model, swa\)"),
        (lambda s: {**s, "ema": s}, r"several models \(ema and one beside\)"),
        (lambda s: {"net": s, "ema": s}, r"several models \(net, ema\)"),
        (lambda s: {**s, "pert_type_encoder.weight": torch.zeros(3, 16)}, "1 encoder tensors have no place.*pert_type_encoder.weight"),
        (lambda s: {**s, "mod_encoder.embedding.weight": torch.zeros(3, 16)}, "This is a multi-omic fine-tune"),
        (lambda s: {**s, "transformer_encoder.layers.0.adapter.weight": torch.zeros(3)}, "has no place|have no place"),
        (lambda s: {**s, "pos_embedding.weight": torch.zeros(3, 16)}, "have no place.*pos_embedding.weight"),
        (lambda s: {**s, "bn1.weight": torch.zeros(16)}, "have no place"),
        (lambda s: {**s, "encoder._orig_mod.embedding.weight": s[EMBEDDING]}, "several tensors of one name"),
    ],
)  # fmt: skip
def test_forms_that_are_not_sure_are_refused_with_a_lead(tmp_path, state, change, message):
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(write_checkpoint(tmp_path, change(state)))


def test_a_folder_of_adapters_alone_says_so(tmp_path, state):
    folder = write_checkpoint(tmp_path, state)
    (folder / "args.json").unlink()
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="lacks args.json .*merge them into the model first"):
        load_model(folder)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", [EMBEDDING, LINEAR, "cls_decoder.out_layer.bias"])
def test_numbers_that_are_none_are_refused_by_name(tmp_path, state, name, value):
    state[name].view(-1)[[0, 2]] = value
    with pytest.raises(
        CheckpointError, match=rf"{name} holds 2 numbers of {state[name].numel()} that are NaN or infinite"
    ):
        load_checkpoint(write_checkpoint(tmp_path, state))


def test_numbers_beyond_the_float_type_are_refused(tmp_path, state):
    state[LINEAR][0, 0] = 1e6
    folder = write_checkpoint(tmp_path, state)
    assert load_checkpoint(folder, dtype=torch.bfloat16).dtype == torch.bfloat16
    with pytest.raises(CheckpointError, match=f"{LINEAR} holds 1 numbers of .* as float16"):
        load_checkpoint(folder, dtype=torch.float16)
    state[LINEAR] = state[LINEAR].double() * 1e300
    with pytest.raises(CheckpointError, match=f"{LINEAR} holds .* NaN or infinite"):
        load_checkpoint(write_checkpoint(tmp_path, state))


def test_negative_variances_are_refused(tmp_path, state):
    more = {
        "bn.running_mean": torch.zeros(16),
        "bn.running_var": -torch.ones(16),
        "bn.num_batches_tracked": torch.tensor(3),
    }
    with pytest.raises(CheckpointError, match="running_var holds negative variances"):
        load_checkpoint(write_checkpoint(tmp_path, {**state, **more}))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda t: t.to(torch.complex64), "holds complex64 numbers"),
        (lambda t: t.to(torch.int8), "holds int8 numbers"),
        (lambda t: t > 0, "holds bool numbers"),
        (lambda t: t.to_sparse(), r"is sparse \(sparse_coo\)"),
        (lambda t: t.to_sparse_csr(), r"is sparse \(sparse_csr\)"),
        (lambda t: t.to("meta"), "has a shape but no numbers"),
        (lambda t: t[:1, :1].expand(10**9, 16), "claims 16,000,000,000 numbers, of which the file holds"),
    ],
    ids=["complex", "integer", "bool", "sparse", "sparse rows", "meta", "expanded"],
)
@pytest.mark.parametrize("name", [EMBEDDING, LINEAR])
def test_tensors_that_are_no_plain_numbers_are_refused(tmp_path, state, name, make, message):
    state[name] = make(state[name])
    with pytest.raises(CheckpointError, match=f"The weight {name} {message}.*dense floating-point"):
        load_checkpoint(write_checkpoint(tmp_path, state))


def test_a_flipped_bit_is_found_by_the_files_own_checksum(tiny_checkpoint, tmp_path):
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "copy")
    path = folder / "best_model.pt"
    raw = bytearray(path.read_bytes())
    weight = torch.load(path, weights_only=True)[EMBEDDING].numpy().tobytes()
    raw[raw.index(weight[:64]) + 5] ^= 1
    path.write_bytes(bytes(raw))
    assert isinstance(torch.load(path, weights_only=True), dict), "PyTorch does not look"
    with pytest.raises(CheckpointError, match="is corrupt .*checksum of its part .*data/.* [Ff]etch it again"):
        load_checkpoint(folder)


@pytest.mark.parametrize("sums", [True, False])
@pytest.mark.parametrize("legacy", [True, False])
def test_files_without_checksums_are_read(tmp_path, state, sums, legacy):
    folder = write_checkpoint(tmp_path, state)
    torch.serialization.set_crc32_options(sums)
    try:
        torch.save(state, folder / "best_model.pt", _use_new_zipfile_serialization=not legacy)
    finally:
        torch.serialization.set_crc32_options(True)
    assert zipfile.is_zipfile(folder / "best_model.pt") != legacy
    assert same(load_checkpoint(folder))


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.7, 0.95])
def test_truncated_weights_are_a_sentence(tmp_path, state, legacy, share):
    path = write_checkpoint(tmp_path, state) / "best_model.pt"
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(CheckpointError, match=r"is corrupt or no PyTorch file \(.*\).*etch it again") as caught:
        load_checkpoint(tmp_path)
    assert "Errno" not in str(caught.value)


def test_rows_and_entries_must_agree(tmp_path, state):
    ids = vocabulary_ids()
    fewer = {token: i for token, i in ids.items() if not token.startswith("GENE1")}
    with pytest.raises(
        VocabularyError, match="names 32 of the 43 rows of the gene embedding, and 11 of the others hold"
    ):
        load_checkpoint(write_checkpoint(tmp_path / "a", state, ids=fewer))
    state[EMBEDDING] = torch.cat([state[EMBEDDING], torch.randn(5, 16)])
    with pytest.raises(VocabularyError, match="names 43 of the 48 rows .*and 5 of the others .*Use the vocab.json"):
        load_checkpoint(write_checkpoint(tmp_path / "b", state))


def test_numbers_of_a_vocabulary_may_be_written_as_floats(tmp_path, state):
    ids = vocabulary_ids()
    model = load_checkpoint(write_checkpoint(tmp_path, state, ids={token: float(i) for token, i in ids.items()}))
    assert dict(model.vocabulary.ids) == ids and all(type(i) is int for i in model.vocabulary.ids.values())
    for bad in (True, 0.5, None):
        with pytest.raises(VocabularyError, match="no|not an object"):
            load_checkpoint(write_checkpoint(tmp_path, state, ids={**ids, "GENE1": bad}))


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"nlayers": 12}, r"says nlayers: 12, the weights 3; transformer_encoder.layers.3.\* is missing"),
        ({"nlayers": 2}, "says nlayers: 2, the weights 3"),
        ({"d_hid": 512}, "says d_hid: 512, the weights 24"),
        ({"nlayers": 10**5}, "says nlayers: 100000, the weights 3"),
        ({"embsize": 10**12, "nheads": 4}, "says embsize: 1000000000000, the weights 16"),
        ({"input_emb_style": "category"}, "value_encoder.embedding.weight is missing"),
        ({"DSBN": True}, r"says DSBN: True, but there is no tensor dsbn.\*"),
        ({"domain_spec_batchnorm": "batchnorm"}, r"no tensor bn.\*"),
        ({"use_batch_labels": True}, r"no tensor batch_encoder.\*"),
    ],
)
def test_a_contradiction_says_what_the_weights_look_like(tmp_path, state, said, message):
    looks = (
        "The weights look like 3 layers of width 16, feed-forward 24, continuous values, a gene embedding of 43 rows. "
        "Use the args.json"
    )
    with pytest.raises(CheckpointError, match=f"{message}.*{looks}"):
        load_checkpoint(write_checkpoint(tmp_path, state, checkpoint_args(**said)))


def test_scaling_with_a_value_encoder_is_refused(tmp_path, state):
    with pytest.raises(CheckpointError, match="6 encoder tensors have no place .*value_encoder"):
        load_checkpoint(write_checkpoint(tmp_path, state, checkpoint_args("scaling")))


def test_norms_that_args_json_denies_are_a_contradiction(tmp_path, state):
    norms = {f"dsbn.bns.{i}.{part}": torch.ones(16) for i in range(2) for part in ("running_mean", "running_var")}
    with pytest.raises(CheckpointError, match=r"says DSBN: false, but there are tensors dsbn.\*"):
        load_checkpoint(write_checkpoint(tmp_path, {**state, **norms}, checkpoint_args(DSBN=False)))


def test_a_pad_value_without_a_row_is_refused(tmp_path):
    state = to_upstream(tiny_model(value_style="category", n_value_bins=53).state_dict())
    args = checkpoint_args("category")
    assert load_checkpoint(write_checkpoint(tmp_path, state, args)).config.n_value_bins == 53
    with pytest.raises(CheckpointError, match=r"pad_value -2, which is no row of the value embedding \(0 to 52\)"):
        load_checkpoint(write_checkpoint(tmp_path, state, {**args, "pad_value": -2}))


def test_a_folder_that_is_not_there_is_said_as_that(tmp_path):
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(CheckpointError, match="There is no checkpoint folder .*best_model.pt"):
            load_checkpoint(path)
    with pytest.raises(VocabularyError, match="cannot be read .No such file"):
        Vocabulary.read(tmp_path / "vocab.json")


def test_a_path_of_the_weights_themselves_names_their_folder(tiny_checkpoint):
    with pytest.raises(CheckpointError, match=f"It is a file; its folder is '{tiny_checkpoint}'"):
        load_model(tiny_checkpoint / "best_model.pt")


def test_a_live_model_with_nan_is_refused(eager_upstream):
    from helpers import make_upstream

    theirs = make_upstream(eager_upstream)
    with torch.no_grad():
        theirs.encoder.embedding.weight[1, 1] = torch.nan
    with pytest.raises(CheckpointError, match="encoder.embedding.weight holds 1 numbers"):
        from_upstream(theirs, vocabulary_ids())
