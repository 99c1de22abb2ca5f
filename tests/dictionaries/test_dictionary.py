"""A dictionary computes what SAELens computes, comes back from the disk, and says whose it is."""

from __future__ import annotations

import json

import pytest
import torch
from fixtures_dictionaries import HOOK, NEXT, random_dictionary
from helpers import tiny_model
from safetensors.torch import load_file, save_file

from workbench.dictionaries import Dictionary
from workbench.dictionaries.dictionary import KNOWN
from workbench.errors import ArtifactError, HookError, OutputError


def activations(model, n=50, seed=1):
    return torch.randn(4, n, model.config.d_model, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("architecture", KNOWN)
def test_ours_load_in_saelens_and_compute_the_same(sae_lens, model, architecture, tmp_path):
    ours = random_dictionary(model, architecture=architecture)
    theirs = sae_lens.SAE.load_from_disk(ours.save_pretrained(tmp_path / "ours"))
    x = activations(model)
    assert theirs.cfg.metadata.hook_name == HOOK
    assert torch.allclose(theirs.encode(x), ours.encode(x), atol=1e-5)
    assert torch.allclose(theirs(x), ours(x), atol=1e-5)


@pytest.mark.parametrize("kind", ["TopK", "JumpReLU", "Standard"])
def test_theirs_load_in_ours(sae_lens, model, kind, tmp_path):
    d = model.config.d_model
    config = getattr(sae_lens, f"{kind}TrainingSAEConfig")(d_in=d, d_sae=24, **({"k": 3} if kind == "TopK" else {}))
    config.metadata.hook_name = HOOK
    theirs = getattr(sae_lens, f"{kind}TrainingSAE")(config)
    with torch.no_grad():
        for value in theirs.parameters():
            value.add_(0.3 * torch.rand(value.shape))
    x = activations(model)
    theirs.save_model(tmp_path / "whole")
    theirs.save_inference_model(tmp_path / "short")
    want = theirs(x)
    for name in ("whole", "short"):
        ours = Dictionary.from_pretrained(tmp_path / name)
        assert ours.hook == HOOK and ours.origin.checkpoint == ""
        assert torch.allclose(ours(x), want, atol=1e-4)
    ours.check(model)  # of no known checkpoint: only the hook is held against it


def test_heads_are_flattened_and_given_back(sae_lens, model, tmp_path):
    hook = "blocks.0.attn.hook_z"
    ours = random_dictionary(model, hook, inner=(4, 4))
    x = activations(model).unflatten(-1, (4, 4))
    assert ours.encode(x).shape == (4, 50, 24) and ours(x).shape == x.shape
    theirs = sae_lens.SAE.load_from_disk(ours.save_pretrained(tmp_path / "z"))
    assert torch.allclose(theirs(x), ours(x), atol=1e-5)


def test_there_and_back(model, tmp_path):
    ours = random_dictionary(model, architecture="jumprelu")
    again = Dictionary.from_pretrained(ours.save_pretrained(tmp_path / "d"))
    assert again.origin == ours.origin and repr(again) == repr(ours)
    assert all(torch.equal(again.weights[name], value) for name, value in ours.weights.items())
    ours.save_pretrained(tmp_path / "d")  # its own may be written over
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "cfg.json").write_text("{}")
    with pytest.raises(OutputError, match="did not make"):
        ours.save_pretrained(tmp_path / "other")


def test_another_hook_or_checkpoint_is_refused_by_name(model):
    ours = random_dictionary(model)
    ours.check(model, HOOK)
    with pytest.raises(HookError, match=f"of '{HOOK}', but is asked for at '{NEXT}'"):
        ours.check(model, NEXT)
    other = tiny_model(seed=9)
    with pytest.raises(
        HookError, match=rf"checkpoint {model.fingerprint()[:8]}, but this model has {other.fingerprint()[:8]}"
    ):
        ours.check(other)


def edited(folder, **changes):
    config = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps({**config, **changes}))
    return folder


def test_damaged_or_unknown_files_are_refused(model, tmp_path):
    ours = random_dictionary(model)

    def fresh(name):
        return ours.save_pretrained(tmp_path / name)

    with pytest.raises(ArtifactError, match="Unknown architecture of a dictionary 'gated'"):
        Dictionary.from_pretrained(edited(fresh("a"), architecture="gated"))
    with pytest.raises(ArtifactError, match="k has to be from 1 to 24"):
        Dictionary.from_pretrained(edited(fresh("b"), k=25))
    with pytest.raises(ArtifactError, match="another size"):
        Dictionary.from_pretrained(edited(fresh("c"), d_sae=25))
    with pytest.raises(ArtifactError, match="layer_norm"):
        Dictionary.from_pretrained(edited(fresh("d"), normalize_activations="layer_norm"))
    with pytest.raises(HookError, match=f"of '{HOOK}', but is asked for as one of '{NEXT}'"):
        Dictionary.from_pretrained(fresh("e"), hook=NEXT)
    with pytest.raises(HookError, match="pass hook="):
        Dictionary.from_pretrained(edited(fresh("f"), metadata={}))
    assert Dictionary.from_pretrained(tmp_path / "f", hook=NEXT).hook == NEXT
    with pytest.raises(ArtifactError, match="heads"):
        Dictionary.from_pretrained(
            edited(fresh("z"), metadata={}, reshape_activations="hook_z"), hook="blocks.0.attn.hook_z"
        )
    weights = load_file(fresh("g") / "sae_weights.safetensors")
    del weights["b_enc"]
    save_file(weights, tmp_path / "g" / "sae_weights.safetensors")
    with pytest.raises(ArtifactError, match="lacks b_enc"):
        Dictionary.from_pretrained(tmp_path / "g")
