"""Dictionaries on the disk, in SAELens's format: ours load there, and SAELens's load here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch

from workbench.dictionaries.dictionary import KNOWN, TOPK, Dictionary, Origin
from workbench.errors import ArtifactError, HookError, unknown_name
from workbench.files import keep_others, read_arrays, read_json, write_arrays, write_json

WEIGHTS_FILE, CONFIG_FILE = "sae_weights.safetensors", "cfg.json"
_OURS = "workbench"
# Version of the format: SAELens takes files that name none for those of its old one.
_FORMAT = "6.54.12"


def write_dictionary(dictionary: Dictionary, folder: Path) -> Path:
    """See `Dictionary.save_pretrained`.

    Parameters
    ----------
    dictionary, folder
        What is written, and where the two files go.
    """
    keep_others(folder, (WEIGHTS_FILE, CONFIG_FILE), folder / CONFIG_FILE, "architecture", "d_sae")
    weights = {name: value.float().cpu().numpy() for name, value in dictionary.weights.items()}
    write_json(folder / CONFIG_FILE, _config(dictionary))  # first: weights without it would be taken for a stranger's
    write_arrays(folder / WEIGHTS_FILE, weights)
    return folder


def read_dictionary(folder: Path, hook: str | None = None) -> Dictionary:
    """See `Dictionary.from_pretrained`.

    Parameters
    ----------
    folder, hook
        Where the two files are, and the hook where they do not say it.
    """
    config = read_json(folder / CONFIG_FILE)
    if not isinstance(config, dict) or not {"architecture", "d_in", "d_sae"} <= set(config):
        raise ArtifactError(
            f"'{folder / CONFIG_FILE}' is no configuration of a dictionary; it lacks architecture, d_in or d_sae."
        )
    if config["architecture"] not in KNOWN:
        raise ArtifactError(
            f"'{folder}': {unknown_name('architecture of a dictionary', str(config['architecture']), KNOWN)}"
        )
    if config.get("normalize_activations", "none") not in ("none", None):
        raise ArtifactError(
            f"'{folder}' normalises activations by '{config['normalize_activations']}' at run time; fold that into its weights, as "
            "SAELens does at the end of a training."
        )
    origin = _origin(config, folder, hook)
    if config.get("reshape_activations") == "hook_z" and len(origin.inner) != 2:
        raise ArtifactError(
            f"'{folder}' is of activations of several heads, and does not say of how many; train it anew with train_dictionaries."
        )
    arrays, _ = read_arrays(folder / WEIGHTS_FILE)
    weights = {name: torch.from_numpy(array).float() for name, array in arrays.items()}
    if config.get("rescale_acts_by_decoder_norm"):
        # Features in units of their decoder's length: the same as a decoder of length 1.
        norm = weights["W_dec"].norm(dim=1)
        weights["W_enc"], weights["b_enc"] = weights["W_enc"] * norm, weights["b_enc"] * norm
        weights["W_dec"] = weights["W_dec"] / norm[:, None]
    centred = bool(config.get("apply_b_dec_to_input", True))
    made = Dictionary(config["architecture"], weights, origin, k=int(config.get("k", 0)), centred=centred)
    if (made.W_enc.shape[0], made.width) != (config["d_in"], config["d_sae"]):
        raise ArtifactError(f"'{folder}' has weights of another size than its {CONFIG_FILE} says; save it again.")
    return made


def _config(dictionary: Dictionary) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "sae_lens_version": _FORMAT,
        "model_name": dictionary.origin.checkpoint,
        "hook_name": dictionary.hook,
        "hook_head_index": None,
        "model_from_pretrained_kwargs": {},
        _OURS: asdict(dictionary.origin),
    }
    config: dict[str, Any] = {
        "architecture": dictionary.architecture,
        "d_in": dictionary.W_enc.shape[0],
        "d_sae": dictionary.width,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": dictionary.centred and not dictionary.transcodes,
        "normalize_activations": "none",
        "reshape_activations": "hook_z" if len(dictionary.origin.inner) == 2 and not dictionary.transcodes else "none",
        "metadata": metadata,
    }
    if dictionary.architecture == TOPK:
        config |= {"k": dictionary.k, "rescale_acts_by_decoder_norm": False}
    if dictionary.transcodes:
        config |= {"d_out": dictionary.W_dec.shape[1]}
        metadata["hook_name_out"] = dictionary.origin.target
    return config


def _origin(config: Mapping[str, Any], folder: Path, hook: str | None) -> Origin:
    metadata = config.get("metadata") or {}
    known = {field.name for field in fields(Origin)}
    ours = {name: value for name, value in (metadata.get(_OURS) or {}).items() if name in known}
    said = ours.get("hook") or metadata.get("hook_name") or config.get("hook_name")
    if not (said or hook):
        raise HookError(f"'{folder}' does not say of which hook it is a dictionary; pass hook=.")
    if said and hook and said != hook:
        raise HookError(f"'{folder}' is a dictionary of '{said}', but is asked for as one of '{hook}'.")
    own = str(said or hook)
    target = ours.get("target") or metadata.get("hook_name_out") or own
    return Origin(**{**ours, "hook": own, "target": target, "inner": tuple(ours.get("inner", ()))})
