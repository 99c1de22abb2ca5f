"""Read a scGPT checkpoint folder, or a live upstream model, into a `HookedScGPT`; write one back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from workbench import __version__
from workbench.errors import CheckpointError, OutputError
from workbench.files import keep_others
from workbench.models.scgpt.layout import to_upstream
from workbench.models.scgpt.reading import ARGS, VOCAB, read_checkpoint, read_state
from workbench.models.scgpt.weights import WEIGHTS
from workbench.models.vocabulary import Vocabulary

if TYPE_CHECKING:
    from workbench.models.scgpt.hooked import HookedScGPT

_OURS = "workbench"  # entry of args.json by which a checkpoint of ours is known


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
    return read_checkpoint(path).model(device, dtype)


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
    return read_state(state, described, vocabulary, "live model", {}).model(weight.device, weight.dtype)


def save_checkpoint(model: HookedScGPT, path: str | Path, args: Mapping[str, Any] | None = None) -> Path:
    """Write a scGPT checkpoint folder that upstream and `load_model` can read.

    Parameters
    ----------
    model
        A model without batch norms.
    path
        Folder; made if it is not there, and a checkpoint in it that this function wrote is replaced.
    args
        More entries for ``args.json``, for example how it was trained.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    CheckpointError
        If the model has a batch norm after the embedding.
    OutputError
        If the folder cannot be written, or holds a checkpoint of other origin.
    """
    if model.config.norm_domains:
        raise CheckpointError("Checkpoints with a batch norm after the embedding can be read, not written.")
    folder = Path(path).expanduser()
    keep_others(folder, (ARGS, VOCAB, WEIGHTS), folder / ARGS, _OURS)
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
        _OURS: __version__,
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
