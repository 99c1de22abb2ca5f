"""Reading and writing checkpoint folders, and refusing what is no checkpoint."""

from __future__ import annotations

import json
import pickle
import shutil

import numpy as np
import pytest
import torch
from helpers import (
    LAYOUTS,
    N_LAYERS,
    checkpoint_args,
    in_layout,
    make_tokens,
    tiny_model,
    vocabulary_ids,
    write_checkpoint,
)

from workbench.errors import CheckpointError, OutputError, ShapeError, VocabularyError
from workbench.models.scgpt import reading
from workbench.models.scgpt.checkpoint import from_upstream, load_checkpoint, save_checkpoint
from workbench.models.scgpt.layout import to_upstream
from workbench.models.scgpt.reading import sha256

WEIGHTS = "best_model.pt"


@pytest.fixture
def state():
    """Tensors of a tiny model under upstream's names."""
    return to_upstream(tiny_model().state_dict())


@pytest.fixture
def folder(tiny_checkpoint, tmp_path):
    """A copy of the tiny checkpoint, to break."""
    return shutil.copytree(tiny_checkpoint, tmp_path / "copy")


def edit_json(path, change):
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def test_what_is_written_is_what_is_read(tmp_path):
    model = tiny_model()
    read = load_checkpoint(save_checkpoint(model, tmp_path / "new" / "folder", {"seed": 7}))
    assert read.config == model.config and dict(read.vocabulary.ids) == dict(model.vocabulary.ids)
    assert all(torch.equal(value, read.state_dict()[name]) for name, value in model.state_dict().items())
    assert json.loads((tmp_path / "new" / "folder" / "args.json").read_text())["seed"] == 7
    assert not read.training and not any(p.requires_grad for p in read.parameters())


def test_the_report_says_what_was_read(tiny_checkpoint):
    report = load_checkpoint(tiny_checkpoint).report
    stored = torch.load(tiny_checkpoint / WEIGHTS, weights_only=True)
    assert set(report.loaded) == set(stored)
    assert report.n_parameters == sum(value.numel() for value in stored.values())
    assert (report.layout, report.wrapper, report.prefix, report.release) == ("in_proj_", "", "", None)
    assert report.missing == report.unexpected == report.ignored == report.mismatched == ()
    assert report.sha256 == {name: sha256(tiny_checkpoint / name) for name in ("args.json", "vocab.json", WEIGHTS)}
    assert json.loads(json.dumps(report.to_dict()))["source"] == str(tiny_checkpoint)


def test_a_known_release_is_recognised_by_its_hash(tiny_checkpoint, monkeypatch):
    monkeypatch.setitem(reading.RELEASES, sha256(tiny_checkpoint / WEIGHTS), "a release")
    assert load_checkpoint(tiny_checkpoint).report.release == "a release"


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_weights_come_in_the_type_asked_for(tiny_checkpoint, dtype):
    model = load_checkpoint(tiny_checkpoint, dtype=dtype, device="cpu")
    assert {value.dtype for value in model.state_dict().values()} == {dtype}
    assert model(make_tokens().to(model.device, model.dtype)).cell.dtype == dtype


@pytest.mark.parametrize("wrapper", ["", "model_state_dict", "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module.", "model.", "_orig_mod.", "module._orig_mod."])
def test_wrappers_and_prefixes_are_peeled_off_and_reported(tmp_path, state, wrapper, prefix):
    weights = {prefix + name: value for name, value in state.items()}
    if wrapper:
        weights = {wrapper: weights, "epoch": 3}
    model = load_checkpoint(write_checkpoint(tmp_path, weights))
    assert (model.report.wrapper, model.report.prefix) == (wrapper, prefix)
    assert set(model.report.loaded) == set(state)
    assert torch.equal(model(make_tokens()).cell, tiny_model()(make_tokens()).cell)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_model(tmp_path, state, layout):
    model = load_checkpoint(write_checkpoint(tmp_path, in_layout(state, layout)))
    assert model.report.layout == layout
    assert torch.equal(model(make_tokens()).cell, tiny_model()(make_tokens()).cell)


def test_training_only_tensors_are_ignored_and_unknown_ones_reported(tmp_path, state):
    more = {"flag_encoder.weight": torch.zeros(2, 16), "grad_reverse_discriminator.out_layer.bias": torch.zeros(3)}
    unknown = {"novel_part.weight": torch.zeros(3)}
    report = load_checkpoint(write_checkpoint(tmp_path, {**state, **more, **unknown})).report
    assert set(report.ignored) == set(more)
    assert set(report.unexpected) == set(unknown)
    assert not set(report.loaded) & {*more, *unknown}


def test_more_layers_than_args_json_counts_are_an_error(tmp_path, state):
    state["transformer_encoder.layers.7.norm1.weight"] = torch.zeros(16)
    with pytest.raises(CheckpointError, match=r"layers\.7\.norm1\.weight has no place"):
        load_checkpoint(write_checkpoint(tmp_path, state))


@pytest.mark.parametrize(
    ("tensor", "output"),
    [
        ("decoder.fc.0.weight", "expression"),
        ("decoder.fc.2.weight", "expression"),
        ("mvc_decoder.gene2query.bias", "mvc"),
        ("mvc_decoder.W.weight", "mvc"),
        ("cls_decoder._decoder.0.bias", "classes"),
        ("cls_decoder.out_layer.weight", "classes"),
    ],
)
@pytest.mark.parametrize("how", ["missing", "mismatched"])
def test_a_broken_decoder_is_left_out_and_reported(tmp_path, state, tensor, output, how):
    whole = tiny_model()
    if how == "missing":
        del state[tensor]
    else:
        state[tensor] = torch.zeros(7, 7)
    model = load_checkpoint(write_checkpoint(tmp_path, state))
    report = model.report
    rest = {name for name in state if name.split(".")[0] == tensor.split(".")[0]}
    said = " ".join((*report.missing, *report.mismatched, *report.unexpected))
    assert tensor in said or (how == "missing" and rest <= set(report.unexpected))
    if how == "mismatched":
        assert f"{tensor} is (7, 7), expected" in " ".join(report.mismatched)
    assert not set(report.loaded) & rest
    with pytest.raises(ShapeError, match=f"no decoder for '{output}'"):
        model(make_tokens(), outputs=(output,))
    for other in {"cell", "expression", "mvc", "classes"} - {output}:
        a, b = (getattr(m(make_tokens(), outputs=(other,)), other) for m in (model, whole))
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    "tensor",
    [
        "encoder.embedding.weight",
        "encoder.enc_norm.bias",
        "value_encoder.linear2.weight",
        "transformer_encoder.layers.1.self_attn.in_proj_weight",
        "transformer_encoder.layers.2.self_attn.out_proj.bias",
        "transformer_encoder.layers.0.linear1.weight",
        "transformer_encoder.layers.1.norm2.bias",
    ],
)
def test_a_missing_or_mismatched_encoder_tensor_is_named(tmp_path, state, tensor):
    value = state.pop(tensor)
    with pytest.raises(CheckpointError, match=f"1 encoder tensors .*{tensor} is missing"):
        load_checkpoint(write_checkpoint(tmp_path / "missing", state, checkpoint_args()))
    state[tensor] = torch.zeros(len(value), 99)
    with pytest.raises(CheckpointError, match=rf"{tensor} is \({len(value)}, 99\), expected"):
        load_checkpoint(write_checkpoint(tmp_path / "mismatched", state, checkpoint_args()))


def test_an_args_json_of_another_model_is_refused(tmp_path, state):
    with pytest.raises(CheckpointError, match=r"encoder tensors .*\(3 layers x 4 heads, width 20\).*Use the args.json"):
        load_checkpoint(write_checkpoint(tmp_path / "width", state, checkpoint_args(embsize=20)))
    with pytest.raises(CheckpointError, match=rf"layers\.{N_LAYERS}\..* is missing"):
        load_checkpoint(write_checkpoint(tmp_path / "depth", state, checkpoint_args(nlayers=N_LAYERS + 1)))
    with pytest.raises(CheckpointError, match="value_encoder.embedding.weight is missing"):
        load_checkpoint(write_checkpoint(tmp_path / "style", state, checkpoint_args("category")))


@pytest.mark.parametrize("n_domains", [1, 3])
def test_batch_norms_of_unequal_width_are_refused(tmp_path, state, n_domains):
    for i in range(n_domains):
        name = "bn" if n_domains == 1 else f"dsbn.bns.{i}"
        for part in ("running_mean", "running_var"):
            state[f"{name}.{part}"] = torch.ones(16 if i else 11)
    with pytest.raises(CheckpointError, match="running_(mean|var)"):
        load_checkpoint(write_checkpoint(tmp_path, state))


@pytest.mark.parametrize(
    "tensor",
    [
        "encoder.embedding.weight",
        "mvc_decoder.gene2query.weight",
        "cls_decoder.out_layer.weight",
        "decoder.fc.0.weight",
        "transformer_encoder.layers.0.self_attn.in_proj_weight",
    ],
)
def test_a_tensor_without_axes_is_a_mismatch(tmp_path, state, tensor):
    state[tensor] = torch.tensor(1.0)
    try:
        report = load_checkpoint(write_checkpoint(tmp_path, state)).report
    except (CheckpointError, VocabularyError) as error:
        assert tensor in str(error) or "embedding" in str(error)
    else:
        assert tensor in " ".join((*report.mismatched, *report.unexpected))


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"embsize": 16', b"\xff\xfe\x00", b"[16, 3]", b"null", b"<html></html>"]
)
def test_corrupt_json_is_refused_by_file(folder, content):
    (folder / "args.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"args\.json' (cannot be read|holds a)"):
        load_checkpoint(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"[1]", b'{"<pad>": "0"}', b'{"<pad>": -1}', b"null"])
def test_a_corrupt_vocabulary_is_refused_by_file(folder, content):
    (folder / "vocab.json").write_bytes(content)
    with pytest.raises(VocabularyError, match=r"vocab\.json' (cannot be read|is not an object)"):
        load_checkpoint(folder)


def weights_cut_at(share):
    return lambda whole: whole[: int(len(whole) * share)]


CORRUPT = {
    "empty": lambda whole: b"",
    "one byte": lambda whole: b"P",
    "text": lambda whole: b"version https://git-lfs.github.com/spec/v1\noid sha256:6cb5\n",
    "html": lambda whole: b"<!DOCTYPE html><html>Google Drive - Virus scan warning</html>",
    "zeros": lambda whole: bytes(4096),
    "cut at 1%": weights_cut_at(0.01),
    "cut in half": weights_cut_at(0.5),
    "cut at 99%": weights_cut_at(0.99),
    "a hole": lambda whole: whole[:2000] + bytes(4000) + whole[6000:],
    **{
        f"noise {seed}": lambda whole, seed=seed: np.random.default_rng(seed).integers(0, 256, 2000, np.uint8).tobytes()
        for seed in range(20)
    },
    **{f"byte {first}": lambda whole, first=first: bytes([first]) * 50 for first in range(0, 256, 5)},
}


@pytest.mark.parametrize("how", CORRUPT)
def test_corrupt_weights_are_refused_by_file(folder, how):
    (folder / WEIGHTS).write_bytes(CORRUPT[how]((folder / WEIGHTS).read_bytes()))
    with pytest.raises(
        CheckpointError, match=r"best_model\.pt' is corrupt or no PyTorch file .*[Ff]etch it again"
    ) as caught:
        load_checkpoint(folder)
    assert "\n" not in str(caught.value)


class Evil:
    """Pickles as a call that makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("form", ["zip", "legacy", "old pickle", "plain pickle", "inside a state dict"])
def test_a_malicious_pickle_is_refused_and_not_run(folder, state, tmp_path, form):
    victim = tmp_path / "made-by-the-pickle"
    path = folder / WEIGHTS
    if form.endswith("pickle"):
        path.write_bytes(pickle.dumps({"encoder.embedding.weight": Evil(victim)}, 2 if form == "old pickle" else 5))
    else:
        evil = {**state, "evil": Evil(victim)} if form == "inside a state dict" else Evil(victim)
        torch.save(evil, path, _use_new_zipfile_serialization=form != "legacy")
    # A pickle of today's protocol is no PyTorch file to begin with.
    said = "is corrupt or no PyTorch file" if form == "plain pickle" else "could run code when read, so it was refused"
    with pytest.raises(CheckpointError, match=said):
        load_checkpoint(folder)
    assert not victim.exists()


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1, 2], "holds a list, not a state dict"),
        ({}, "holds a dict, not a state dict"),
        ({1: torch.zeros(2)}, "not a state dict of named tensors"),
        ({"epoch": 3, "encoder.embedding.weight": torch.zeros(2, 2)}, "found none among 1 tensors"),
        ({"model_state_dict": {"lr": 0.1}}, "1 entries that are no tensors .first: 'lr'"),
        ({"encoder.embedding.weight": torch.zeros(2, 2)}, "found none among 1 tensors"),
    ],
)
def test_weights_that_are_no_state_dict(folder, weights, message):
    torch.save(weights, folder / WEIGHTS)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(folder)


def test_mixed_layouts_are_refused(tmp_path, state):
    mixed = {**in_layout(state, "Wqkv"), **{k: v for k, v in state.items() if "layers.0" in k}}
    with pytest.raises(CheckpointError, match="Wqkv and in_proj_ mixed"):
        load_checkpoint(write_checkpoint(tmp_path, mixed))


def test_vocabularies_that_do_not_fit(tmp_path, state):
    ids = vocabulary_ids()
    without = {token: i for token, i in ids.items() if token != "<pad>"}
    beyond = {**ids, "GENE0": 43}
    twice = {**ids, "GENE0": 1}
    with pytest.raises(VocabularyError, match="no '<pad>'"):
        load_checkpoint(write_checkpoint(tmp_path / "a", state, ids=without))
    with pytest.raises(VocabularyError, match="up to id 43, but the gene embedding has 43 rows"):
        load_checkpoint(write_checkpoint(tmp_path / "b", state, ids=beyond))
    with pytest.raises(VocabularyError, match="43 tokens only 42 different ids"):
        load_checkpoint(write_checkpoint(tmp_path / "c", state, ids=twice))
    with pytest.raises(VocabularyError, match=r"names '\[PAD\]' as pad_token"):
        load_checkpoint(write_checkpoint(tmp_path / "d", state, checkpoint_args(pad_token="[PAD]")))


def test_a_padded_embedding_may_have_more_rows_than_the_vocabulary(tmp_path, state):
    state["encoder.embedding.weight"] = torch.cat([state["encoder.embedding.weight"], torch.zeros(5, 16)])
    model = load_checkpoint(write_checkpoint(tmp_path, state))
    assert model.config.n_tokens == 48
    assert torch.equal(model(make_tokens()).cell, tiny_model()(make_tokens()).cell)


def test_from_upstream_refuses_other_objects():
    with pytest.raises(CheckpointError, match="takes scgpt's TransformerModel, not a Linear.*load_model"):
        from_upstream(torch.nn.Linear(2, 2))


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written to .*file/folder"):
        save_checkpoint(tiny_model(), tmp_path / "file" / "folder")


def test_batch_norms_are_read_not_written(tmp_path):
    with pytest.raises(CheckpointError, match="can be read, not written"):
        save_checkpoint(tiny_model(norm_domains=2), tmp_path)
