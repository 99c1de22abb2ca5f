"""Read a scGPT checkpoint folder, or a live upstream model, into a `HookedScGPT`; write one back."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from workbench.errors import CheckpointError, OutputError, VocabularyError
from workbench.models.load import LoadReport
from workbench.models.scgpt.config import ModelConfig, shape_from_args
from workbench.models.scgpt.hooked import HookedScGPT
from workbench.models.scgpt.layout import (
    DECODERS,
    IGNORED,
    shape_from_state,
    to_hooked,
    to_plain,
    to_upstream,
    unwrap,
    upstream_name,
)
from workbench.models.vocabulary import Vocabulary

# What PyTorch's restricted unpickler says about objects that are no tensors, as against bytes that are no pickle.
_CODE = ("GLOBAL ", "unrecognized function", "Can only create new object", "Can only build")

ARGS, VOCAB, WEIGHTS = FILES = "args.json", "vocab.json", "best_model.pt"

# Published releases, by the sha256 of their weights file.
RELEASES = {
    "6cb5d451ab5c4b33eb673adbe4fddc61d2389df1b89b7651a9fe2e557572b922": "scGPT whole-human",
}


def load_checkpoint(
    path: str | Path, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> HookedScGPT:
    """Read a scGPT checkpoint folder; `load_model` calls it once the files are there.

    Parameters
    ----------
    path
        Folder that holds all of `FILES`.
    device, dtype
        Where the weights go, and their float type.

    Returns
    -------
    HookedScGPT
        In evaluation mode, without gradients; ``model.report`` says what was read and what was not.

    Raises
    ------
    CheckpointError
        If a file is corrupt, holds code, or an encoder tensor is missing or has the wrong shape.
    VocabularyError
        If the vocabulary lacks ``<pad>`` or does not fit the embedding.
    """
    folder = Path(path)
    args = _read_args(folder / ARGS)
    vocabulary = Vocabulary.read(folder / VOCAB)
    hashes = {name: sha256(folder / name) for name in (WEIGHTS, VOCAB, ARGS)}
    raw = _read_weights(folder / WEIGHTS)
    return _build(raw, shape_from_args(args), vocabulary, str(folder), hashes).to(device=device, dtype=dtype)


def from_upstream(
    model: Any, vocabulary: Vocabulary | Mapping[str, int] | None = None, args: Mapping[str, Any] | None = None
) -> HookedScGPT:
    """Hooked copy of a live ``scgpt`` `TransformerModel`; the live model is left as it is.

    Parameters
    ----------
    model
        Live upstream model, in training or evaluation mode.
    vocabulary
        Its tokens; without it genes are called ``token_17`` and cells cannot be tokenised.
    args
        Settings that the live model does not keep, as in ``args.json`` (``n_bins``, ``pad_value``, ``mask_value``,
        ``max_seq_len``); scGPT's defaults where absent.

    Returns
    -------
    HookedScGPT
        On the live model's device.
    """
    if not hasattr(model, "transformer_encoder") or not hasattr(model, "encoder"):
        raise CheckpointError(
            f"from_upstream takes scgpt's TransformerModel, not a {type(model).__name__}; "
            "for a checkpoint folder use load_model(path)."
        )
    layer = model.transformer_encoder.layers[0]
    described = {
        "embsize": model.d_model,
        "nheads": layer.self_attn.num_heads,
        "nlayers": len(model.transformer_encoder.layers),
        "d_hid": layer.linear1.out_features,
        "input_emb_style": model.input_emb_style,
        "cell_emb_style": model.cell_emb_style,
        "pre_norm": getattr(model, "norm_scheme", "post") == "pre",
        **(args or {}),
    }
    state = {name: value.detach().clone() for name, value in model.state_dict().items()}
    weight = state["encoder.embedding.weight"]
    if vocabulary is None:
        pad = model.encoder.embedding.padding_idx
        vocabulary = Vocabulary({"<pad>" if i == pad else f"token_{i}": i for i in range(weight.shape[0])})
    elif not isinstance(vocabulary, Vocabulary):
        vocabulary = Vocabulary(dict(vocabulary))
    return _build(state, shape_from_args(described), vocabulary, "live model", {}).to(weight.device)


def save_checkpoint(model: HookedScGPT, path: str | Path, args: Mapping[str, Any] | None = None) -> Path:
    """Write a scGPT checkpoint folder that upstream and `load_model` can read.

    Parameters
    ----------
    model
        A model without batch norms.
    path
        Folder; made if it is not there.
    args
        More entries for ``args.json``, for example how it was trained.

    Returns
    -------
    Path
        The folder.
    """
    if model.config.norm_domains:
        raise CheckpointError("Checkpoints with a batch norm after the embedding can be read, not written.")
    folder = Path(path)
    config = model.config
    described = {
        **(args or {}),
        "embsize": config.d_model,
        "nheads": config.n_heads,
        "nlayers": config.n_layers,
        "d_hid": config.d_mlp,
        "n_layers_cls": config.n_layers_cls,
        "n_bins": config.n_bins,
        "max_seq_len": config.max_tokens,
        "pad_token": config.pad_token,
        "pad_value": int(config.pad_value),
        "mask_value": int(config.mask_value),
        "input_style": config.input_style,
        "input_emb_style": config.value_style,
        "cell_emb_style": config.cell_style,
        "dropout": config.dropout,
        "MVC": config.mvc_style is not None,
        "fast_transformer": False,
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ARGS).write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
        (folder / VOCAB).write_text(json.dumps(dict(model.vocabulary.ids), indent=0) + "\n", encoding="utf-8")
        torch.save({k: v.detach().cpu().clone() for k, v in to_upstream(model.state_dict()).items()}, folder / WEIGHTS)
    except OSError as error:
        raise OutputError(
            f"The checkpoint cannot be written to '{folder}' ({error}); choose another folder."
        ) from error
    return folder


def sha256(path: Path) -> str:
    """Hex digest of a file.

    Parameters
    ----------
    path
        File that is there; read in blocks.
    """
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _read_args(path: Path) -> dict[str, Any]:
    try:
        args = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"'{path}' cannot be read as JSON ({error}); fetch the file again.") from error
    if not isinstance(args, dict):
        raise CheckpointError(f"'{path}' holds a {type(args).__name__}, not an object of settings.")
    return args


def _read_weights(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # PyTorch puts a paragraph of advice before what went wrong.
        detail = str(error).rpartition("WeightsUnpickler error: ")[2].partition("\n")[0][:160] or type(error).__name__
        if any(sign in detail for sign in _CODE):
            raise CheckpointError(
                f"'{path}' holds pickled Python objects beside tensors, which could run code when read, so it was refused "
                f"({detail}). Save model.state_dict() alone."
            ) from error
        raise CheckpointError(f"'{path}' is corrupt or no PyTorch file ({detail}); fetch it again.") from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise CheckpointError(f"'{path}' is corrupt or no PyTorch file ({first}); fetch it again.") from error


def _build(
    raw: object, described: dict[str, Any], vocabulary: Vocabulary, source: str, hashes: Mapping[str, str]
) -> HookedScGPT:
    state, wrapper, prefix = unwrap(raw)
    ignored = tuple(name for name in state if name.startswith(IGNORED))
    plain, layout = to_plain({name: value for name, value in state.items() if name not in ignored})
    # Without a usable gene embedding the comparison below says so.
    shape = {"n_tokens": len(vocabulary), **described, **shape_from_state(plain)}
    _check_vocabulary(plain, vocabulary, shape["pad_token"])
    tensors, origin = to_hooked(plain)
    config = ModelConfig(**shape)
    with torch.device("meta"):
        model = HookedScGPT(config, vocabulary)
    missing, mismatched = _compare(model.state_dict(), tensors, origin)
    encoder = [text for name, text in {**missing, **mismatched}.items() if not name.startswith(DECODERS)]
    encoder += [
        f"{origin[name]} has no place" for name in tensors if name.startswith("blocks.") and not _fits(name, config)
    ]
    if encoder:
        raise CheckpointError(
            f"{len(encoder)} encoder tensors of '{source}' do not fit args.json ({config.n_layers} layers x "
            f"{config.n_heads} heads, width {config.d_model}): {'; '.join(encoder[:4])}"
            f"{'; ...' if len(encoder) > 4 else ''}. Use the args.json that came with the weights."
        )
    broken = {name.split(".")[0] for name in (*missing, *mismatched)}
    if broken:
        # A decoder that is not whole is left out (and reported), so that it cannot answer with random numbers.
        off: dict[str, dict[str, Any]] = {
            "decoder": {"has_expression": False},
            "mvc_decoder": {"mvc_style": None},
            "cls_decoder": {"n_classes": 0},
        }
        for part in broken:
            shape |= off[part]
        with torch.device("meta"):
            model = HookedScGPT(ModelConfig(**shape), vocabulary)
    wanted = model.state_dict()
    model.load_state_dict({name: tensors[name] for name in wanted}, assign=True)
    model.report = LoadReport(
        source=source,
        layout=layout,
        wrapper=wrapper,
        prefix=prefix,
        loaded=tuple(upstream_name(name) if name.startswith("embed.norm.") else origin[name] for name in wanted),
        missing=(
            *missing.values(),
            *(f"{part}* is absent" for part in DECODERS if not any(name.startswith(part) for name in plain)),
        ),
        unexpected=tuple(origin[name] for name in tensors if name not in wanted and name.split(".")[0] not in broken),
        ignored=ignored,
        mismatched=tuple(mismatched.values()),
        sha256=dict(hashes),
        release=RELEASES.get(hashes.get(WEIGHTS, "")),
        n_parameters=sum(tensor.numel() for tensor in wanted.values()),
    )
    return model.requires_grad_(False).eval()


def _check_vocabulary(plain: Mapping[str, Tensor], vocabulary: Vocabulary, pad_token: str) -> None:
    if pad_token not in vocabulary:
        raise VocabularyError(f"args.json names '{pad_token}' as pad_token, but vocab.json does not hold it.")
    weight = plain.get("encoder.embedding.weight")
    highest = max(vocabulary.ids.values())
    if weight is not None and weight.ndim == 2 and highest >= weight.shape[0]:
        raise VocabularyError(
            f"vocab.json goes up to id {highest}, but the gene embedding has {weight.shape[0]} rows; "
            "vocabulary and weights are from different checkpoints."
        )


def _fits(name: str, config: ModelConfig) -> bool:
    """Whether a tensor's layer exists; layers that args.json does not count would be dropped in silence."""
    return int(name.split(".")[1]) < config.n_layers


def _compare(
    wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor], origin: Mapping[str, str]
) -> tuple[dict[str, str], dict[str, str]]:
    missing = {name: f"{upstream_name(name)} is missing" for name in wanted if name not in tensors}
    mismatched = {
        name: f"{origin[name]} is {tuple(tensors[name].shape)}, expected {tuple(value.shape)}"
        for name, value in wanted.items()
        if name in tensors and tensors[name].shape != value.shape
    }
    return missing, mismatched
