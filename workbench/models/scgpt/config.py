"""The shape of a scGPT model, read from its ``args.json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from workbench.errors import CheckpointError
from workbench.models.protocol import ModelShape

VALUE_STYLES = ("continuous", "category", "scaling")
CELL_STYLES = ("cls", "avg-pool", "w-pool")

# scGPT's pretraining, fine-tuning and wandb configurations name the same thing differently.
_ALIASES = {
    "embsize": ("embsize", "layer_size", "d_model"),
    "nheads": ("nheads", "nhead"),
    "nlayers": ("nlayers",),
    "d_hid": ("d_hid", "layer_size", "embsize"),
}


@dataclass(frozen=True)
class ModelConfig(ModelShape):
    """Everything that decides the shape and the arithmetic of a scGPT model.

    Attributes
    ----------
    n_tokens
        Rows of the gene embedding (vocabulary size).
    d_model, n_layers, n_heads, d_mlp
        Width, depth, heads per layer and feed-forward width; ``d_head = d_model / n_heads``.
    n_bins
        Number of expression bins the checkpoint was trained on (0 is "not expressed").
    max_tokens
        Longest token sequence, ``<cls>`` included.
    pad_token, pad_value, mask_value
        Padding symbol, its value (also the value of ``<cls>``), and the value of a masked gene.
    value_style
        How a value enters: ``continuous``, ``category`` or ``scaling``.
    input_style
        What values the checkpoint was trained on; only ``binned`` can be tokenised.
    cell_style
        How the cell embedding is made: ``cls``, ``avg-pool`` or ``w-pool``.
    n_classes, n_layers_cls
        Outputs and depth of the classification decoder (0 classes: absent).
    n_batches
        Rows of the batch-label encoder (0: absent).
    norm_domains
        Domains of the batch norm after the embedding (0: absent); `norm_affine` when it has weights.
    mvc_style
        ``"inner product"``, ``"concat query"``, ``"sum query"`` or None when there is no MVC decoder.
    has_expression
        Whether the expression decoder is there.
    zero_probability
        Whether the decoders also predict the probability of a zero.
    dropout
        Share of activations dropped, in training only.
    """

    n_bins: int = 51
    max_tokens: int = 1200
    pad_token: str = "<pad>"
    pad_value: float = -2.0
    value_style: str = "continuous"
    input_style: str = "binned"
    n_classes: int = 0
    n_layers_cls: int = 3
    n_batches: int = 0
    norm_domains: int = 0
    norm_affine: bool = False
    n_value_bins: int = 0
    mvc_style: str | None = "inner product"
    has_expression: bool = True
    zero_probability: bool = False
    dropout: float = 0.0

    def __post_init__(self) -> None:
        # An int would make another fingerprint than the same number read from a file.
        object.__setattr__(self, "pad_value", float(self.pad_value))
        object.__setattr__(self, "mask_value", float(self.mask_value))
        if self.n_bins < 3:
            raise CheckpointError(
                f"n_bins is {self.n_bins}, but at least 3 are needed (scGPT uses 51); correct args.json."
            )
        if self.d_model % self.n_heads:
            raise CheckpointError(
                f"The width {self.d_model} is not a multiple of the {self.n_heads} heads; check embsize and nheads."
            )
        if self.value_style not in VALUE_STYLES:
            raise CheckpointError(
                f"input_emb_style is '{self.value_style}', but scGPT knows {', '.join(VALUE_STYLES)}; correct args.json."
            )
        if self.cell_style not in CELL_STYLES:
            raise CheckpointError(
                f"cell_emb_style is '{self.cell_style}', but scGPT knows {', '.join(CELL_STYLES)}; correct args.json."
            )

    def facts(self) -> dict[str, str]:
        """Input and decoders, for ``workbench inspect``."""
        return {
            "input": f"{self.value_style} values, {self.n_bins} bins, up to {self.max_tokens} tokens; cell embedding: "
            f"{self.cell_style}",
            "decoders": f"expression: {'yes' if self.has_expression else 'no'}, MVC: {self.mvc_style or 'no'}, "
            f"classes: {self.n_classes or 'no'}",
        }


def shape_from_args(args: Mapping[str, Any]) -> dict[str, Any]:
    """Read from ``args.json`` what the tensors cannot tell.

    Parameters
    ----------
    args
        The parsed ``args.json``; unknown keys are left alone.

    Returns
    -------
    dict
        Keyword arguments for `ModelConfig`.

    Raises
    ------
    CheckpointError
        If a needed key is missing, or the file asks for something that is not supported.
    """
    found: dict[str, Any] = {}
    for field, names in _ALIASES.items():
        value = next((args[name] for name in names if name in args), None)
        if not isinstance(value, int) or value <= 0:
            raise CheckpointError(
                f"args.json gives no positive whole number for '{field}' (looked for {', '.join(names)}; "
                f"found {value!r}); add it as it was when the checkpoint was trained."
            )
        found[field] = value
    if args.get("pre_norm"):
        raise CheckpointError(
            "args.json says pre_norm: true; only scGPT's post-norm layers are supported. "
            "No released scGPT checkpoint uses pre_norm."
        )
    if args.get("fast_transformer_backend") == "linear":
        raise CheckpointError(
            "args.json says fast_transformer_backend: linear, which has no softmax attention to look at; "
            "use a checkpoint trained with flash or plain attention."
        )
    return {
        "d_model": found["embsize"],
        "n_heads": found["nheads"],
        "n_layers": found["nlayers"],
        "d_mlp": found["d_hid"],
        "n_bins": _number(args, "n_bins", int, 51),
        "max_tokens": _number(args, "max_seq_len", int, 1200),
        "pad_token": str(args.get("pad_token", "<pad>")),
        "pad_value": _number(args, "pad_value", float, -2),
        "mask_value": _number(args, "mask_value", float, -1),
        "value_style": str(args.get("input_emb_style", "continuous")),
        "input_style": str(args.get("input_style", "binned")),
        "cell_style": str(args.get("cell_emb_style", "cls")),
        "n_layers_cls": _number(args, "n_layers_cls" if "n_layers_cls" in args else "nlayers_cls", int, 3),
        "dropout": _number(args, "dropout", float, 0.0),
    }


def _number(args: Mapping[str, Any], name: str, kind: type, default: Any) -> Any:
    value = args.get(name, default)
    try:
        return kind(value)
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"args.json gives {value!r} for '{name}', which should be a number; correct it."
        ) from error
