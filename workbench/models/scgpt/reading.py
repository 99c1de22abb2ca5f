"""What a scGPT checkpoint folder holds, compared with the model that it describes; nothing here needs transformer-lens."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from workbench.errors import CheckpointError, VocabularyError
from workbench.models.load import Contents, LoadReport
from workbench.models.places import HookPlace
from workbench.models.scgpt.config import ModelConfig, plain_args, shape_from_args
from workbench.models.scgpt.input_keys import input_keys
from workbench.models.scgpt.layout import (
    DECODERS,
    IGNORED,
    check_parts,
    looks_of_state,
    shape_from_state,
    sizes_of_state,
    to_hooked,
    to_plain,
    unwrap,
    upstream_name,
)
from workbench.models.scgpt.parts import make_parts
from workbench.models.scgpt.weights import WEIGHTS, check_numbers, check_tensors, read_weights, weights_file
from workbench.models.vocabulary import Vocabulary, read_json_file

if TYPE_CHECKING:
    from workbench.models.scgpt.hooked import HookedScGPT

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


class ScGPTContents(Contents):
    """A scGPT checkpoint that was read and is no model yet."""

    config: ModelConfig
    architecture = "scGPT"

    def model(self, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> HookedScGPT:
        """See `Contents.model`."""
        # Here, because it imports transformer-lens, which takes longer than all that comes before.
        from workbench.models.scgpt.hooked import HookedScGPT

        with torch.device("meta"):
            model = HookedScGPT(self.config, self.vocabulary, self.report)
        model.load_state_dict(self.tensors, assign=True)
        model = model.requires_grad_(False).eval().to(device=device, dtype=dtype)
        check_numbers(model.state_dict())
        return model


def read_checkpoint(path: str | Path) -> ScGPTContents:
    """Read a scGPT checkpoint folder.

    Parameters
    ----------
    path
        Folder that holds `FILES` and one file of weights (see `weights_file`).

    Raises
    ------
    CheckpointError
        If a file is corrupt, holds code, or an encoder tensor is missing or has the wrong shape.
    VocabularyError
        If the vocabulary lacks ``<pad>`` or does not fit the embedding.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir() or (weights := weights_file(folder)) is None:
        raise CheckpointError(f"There is no checkpoint folder '{folder}' with {', '.join(FILES)} and {WEIGHTS}.")
    args = _read_args(folder / ARGS)
    shape_from_args(args)
    vocabulary = Vocabulary.read(folder / VOCAB)
    hashes = {file.name: sha256(file) for file in (weights, folder / VOCAB, folder / ARGS)}
    return read_state(read_weights(weights), args, vocabulary, str(folder), hashes)


def sha256(path: Path) -> str:
    """Hex digest of a file.

    Parameters
    ----------
    path
        File that is there; read in blocks.
    """
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def read_state(
    raw: object, args: Mapping[str, Any], vocabulary: Vocabulary, source: str, hashes: Mapping[str, str]
) -> ScGPTContents:
    """Compare tensors with what they are said to be.

    Parameters
    ----------
    raw
        What a weights file holds, or the state dict of a live model.
    args
        What ``args.json`` says, as it was parsed.
    vocabulary
        Tokens of the rows of the gene embedding.
    source, hashes
        For the report: where they come from, and hashes of the files.

    Raises
    ------
    CheckpointError, VocabularyError
        As `read_checkpoint` does.
    """
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
    model = _skeleton(config, vocabulary)
    expected = model.state_dict()
    missing, mismatched = _compare(expected, tensors, origin)
    encoder = [text for name, text in {**missing, **mismatched}.items() if not name.startswith(DECODERS)]
    encoder += [
        f"{origin[name]} has no place" for name in tensors if name.startswith("blocks.") and not _fits(name, config)
    ]
    if encoder:
        listed = f"{'; '.join(encoder[:4])}{'; ...' if len(encoder) > 4 else ''}"
        raise CheckpointError(_misfit(described, plain, source, listed, f"{len(encoder)} encoder tensors"))
    broken = {name.split(".")[0] for name in (*missing, *mismatched)}
    unexpected = tuple(origin[name] for name in tensors if name not in expected and name.split(".")[0] not in broken)
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
        config = ModelConfig(**shape)
        model = _skeleton(config, vocabulary)
    wanted = {name: tensors[name] for name in model.state_dict()}
    check_numbers(wanted)
    report = LoadReport(
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
        input=input_keys(args, config),
    )
    n_hooks = sum(isinstance(part, HookPlace) for part in model.modules())
    return ScGPTContents(config, vocabulary, report, wanted, n_hooks)


def _skeleton(config: ModelConfig, vocabulary: Vocabulary) -> nn.Module:
    """The parts of the model, without numbers."""
    with torch.device("meta"):
        parts = make_parts(config, vocabulary.ids[config.pad_token])
    return nn.ModuleDict({name: part for name, part in parts.items() if part is not None})


def _read_args(path: Path) -> dict[str, Any]:
    args = read_json_file(path, CheckpointError)
    if not isinstance(args, dict):
        raise CheckpointError(f"'{path}' holds a {type(args).__name__}, not an object of settings.")
    return args


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
                "them. No other arithmetic is known to be right."
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
