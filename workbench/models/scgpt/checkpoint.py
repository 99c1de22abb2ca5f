"""Read a scGPT checkpoint folder, or a live upstream model, into a `HookedScGPT`; write one back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from workbench.errors import CheckpointError, OutputError, VocabularyError
from workbench.models.load import LoadReport
from workbench.models.scgpt.config import ModelConfig, plain_args, shape_from_args
from workbench.models.scgpt.hooked import HookedScGPT
from workbench.models.scgpt.layout import (
    DECODERS,
    IGNORED,
    check_parts,
    looks_of_state,
    shape_from_state,
    sizes_of_state,
    to_hooked,
    to_plain,
    to_upstream,
    unwrap,
    upstream_name,
)
from workbench.models.scgpt.weights import WEIGHTS, check_numbers, check_tensors, read_weights, weights_file
from workbench.models.vocabulary import Vocabulary, read_json_file

ARGS, VOCAB = FILES = "args.json", "vocab.json"

# Published releases, by the sha256 of their weights file.
RELEASES = {
    "6cb5d451ab5c4b33eb673adbe4fddc61d2389df1b89b7651a9fe2e557572b922": "scGPT whole-human",
}


# What args.json may say, the tensors that go with it, and the values that say that they are there.
_CLAIMS = (
    (("domain_spec_batchnorm", "DSBN"), "dsbn.", (True, "dsbn")),
    (("domain_spec_batchnorm",), "bn.", ("batchnorm",)),
    (("use_batch_labels",), "batch_encoder.", (True,)),
)


def load_checkpoint(
    path: str | Path, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> HookedScGPT:
    """Read a scGPT checkpoint folder; `load_model` calls it once the files are there.

    Parameters
    ----------
    path
        Folder that holds `FILES` and one file of weights (see `weights_file`).
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
    if not folder.is_dir() or (weights := weights_file(folder)) is None:
        raise CheckpointError(f"There is no checkpoint folder '{folder}' with {', '.join(FILES)} and {WEIGHTS}.")
    args = _read_args(folder / ARGS)
    shape_from_args(args)
    vocabulary = Vocabulary.read(folder / VOCAB)
    hashes = {file.name: sha256(file) for file in (weights, folder / VOCAB, folder / ARGS)}
    model = _build(read_weights(weights), args, vocabulary, str(folder), hashes).to(device=device, dtype=dtype)
    check_numbers(model)
    return model


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
    style = getattr(model, "input_emb_style", "continuous")  # a TransformerGenerator has this one alone
    described = {
        "embsize": model.d_model,
        "nheads": layer.self_attn.num_heads,
        "nlayers": len(model.transformer_encoder.layers),
        "d_hid": layer.linear1.out_features,
        "input_emb_style": style,
        "cell_emb_style": model.cell_emb_style,
        "pre_norm": getattr(model, "norm_scheme", "post") == "pre",
        **({"pad_value": model.value_encoder.embedding.padding_idx} if style == "category" else {}),
        **(args or {}),
    }
    state = {name: value.detach().clone() for name, value in model.state_dict().items()}
    weight = state["encoder.embedding.weight"]
    if vocabulary is None:
        pad = model.encoder.embedding.padding_idx
        vocabulary = Vocabulary({"<pad>" if i == pad else f"token_{i}": i for i in range(weight.shape[0])})
    elif not isinstance(vocabulary, Vocabulary):
        vocabulary = Vocabulary(dict(vocabulary))
    copy = _build(state, described, vocabulary, "live model", {}).to(weight.device)
    check_numbers(copy)
    return copy


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
        **({} if config.include_zeros is None else {"include_zero_gene": config.include_zeros}),
        **({"batch_names": list(config.batch_names)} if config.batch_names else {}),
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
    args = read_json_file(path, CheckpointError)
    if not isinstance(args, dict):
        raise CheckpointError(f"'{path}' holds a {type(args).__name__}, not an object of settings.")
    return args


def _build(
    raw: object, args: Mapping[str, Any], vocabulary: Vocabulary, source: str, hashes: Mapping[str, str]
) -> HookedScGPT:
    described = shape_from_args(args)
    state, wrapper, prefix = unwrap(raw)
    ignored = tuple(name for name in state if name.startswith(IGNORED))
    plain, layout = to_plain({name: value for name, value in state.items() if name not in ignored})
    check_tensors(plain)
    _check_claims(args, described, plain, source)
    # Without a usable gene embedding the comparison below says so.
    shape = {"n_tokens": len(vocabulary), **described, **shape_from_state(plain)}
    config = ModelConfig(**shape)
    _check_vocabulary(plain, vocabulary, config)
    tensors, origin = to_hooked(plain)
    with torch.device("meta"):
        model = HookedScGPT(config, vocabulary)
    missing, mismatched = _compare(model.state_dict(), tensors, origin)
    encoder = [text for name, text in {**missing, **mismatched}.items() if not name.startswith(DECODERS)]
    encoder += [
        f"{origin[name]} has no place" for name in tensors if name.startswith("blocks.") and not _fits(name, config)
    ]
    if encoder:
        listed = f"{'; '.join(encoder[:4])}{'; ...' if len(encoder) > 4 else ''}"
        raise CheckpointError(_misfit(described, plain, source, listed, f"{len(encoder)} encoder tensors"))
    broken = {name.split(".")[0] for name in (*missing, *mismatched)}
    unexpected = tuple(
        origin[name] for name in tensors if name not in model.state_dict() and name.split(".")[0] not in broken
    )
    check_parts(unexpected)
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
        unexpected=unexpected,
        ignored=ignored,
        mismatched=tuple(mismatched.values()),
        sha256=dict(hashes),
        release=RELEASES.get(hashes.get(WEIGHTS, "")),
        n_parameters=sum(tensor.numel() for tensor in wanted.values()),
    )
    return model.requires_grad_(False).eval()


def _misfit(described: Mapping[str, Any], plain: Mapping[str, Tensor], source: str, found: str, what: str) -> str:
    return (
        f"{what} of '{source}' do not fit args.json ({described['n_layers']} layers x {described['n_heads']} heads, width "
        f"{described['d_model']}): {found}. The weights look like {looks_of_state(plain)}. Use the args.json that came with the weights, "
        "or correct these entries."
    )


def _check_claims(
    args: Mapping[str, Any], described: Mapping[str, Any], plain: Mapping[str, Tensor], source: str
) -> None:
    """Compare what args.json says with what the tensors show, before anything of that size is built."""
    wrong = []
    keys = {"n_layers": "nlayers", "d_model": "embsize", "d_mlp": "d_hid"}
    for field, size in sizes_of_state(plain).items():
        if described[field] != size:
            wrong.append(f"args.json says {keys[field]}: {described[field]}, the weights {size}")
            if field == "n_layers" and described[field] > size:
                wrong.append(f"transformer_encoder.layers.{size}.* is missing")
    said = plain_args(args)
    for name in ("decoder_activation", "decoder_adaptive_bias", "n_input_bins"):
        if "pert_encoder.weight" in plain and said.get(name):
            raise CheckpointError(
                f"args.json says {name}: {said[name]}, and perturbation fine-tunes can be read only without it, as scGPT's script trains "
                "them; no other arithmetic is known to be right."
            )
    for names, part, values in _CLAIMS:
        for name in names:
            there = any(key.startswith(part) for key in plain)
            if said.get(name) in values and not there:
                wrong.append(f"args.json says {name}: {said[name]}, but there is no tensor {part}*")
            elif said.get(name) is False and there:
                wrong.append(f"args.json says {name}: false, but there are tensors {part}*")
    if wrong:
        raise CheckpointError(_misfit(described, plain, source, "; ".join(wrong), "The encoder tensors"))


def _check_vocabulary(plain: Mapping[str, Tensor], vocabulary: Vocabulary, config: ModelConfig) -> None:
    if config.pad_token not in vocabulary:
        raise VocabularyError(f"args.json names '{config.pad_token}' as pad_token, but vocab.json does not hold it.")
    weight = plain.get("encoder.embedding.weight")
    highest = max(vocabulary.ids.values())
    if weight is not None and weight.ndim == 2:
        if highest >= len(weight):
            raise VocabularyError(
                f"vocab.json goes up to id {highest}, but the gene embedding has {len(weight)} rows; "
                "vocabulary and weights are from different checkpoints."
            )
        unnamed = torch.ones(len(weight), dtype=torch.bool)
        unnamed[list(vocabulary.ids.values())] = False
        # Rows of zeros fill an embedding up; rows with numbers were trained, as genes that the vocabulary should name.
        if trained := int((weight[unnamed] != 0).any(1).sum()):
            raise VocabularyError(
                f"vocab.json names {len(vocabulary):,} of the {len(weight):,} rows of the gene embedding, and {trained:,} of the others "
                "hold numbers: vocabulary and weights are from different checkpoints. Use the vocab.json that came with the weights."
            )
    value = plain.get("value_encoder.embedding.weight")
    if config.value_style == "category" and value is not None and not 0 <= config.pad_value < len(value):
        raise CheckpointError(
            f"args.json says pad_value {config.pad_value:g}, which is no row of the value embedding (0 to {len(value) - 1}); correct it."
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
