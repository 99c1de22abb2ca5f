"""The shape of a scGPT model, read from its ``args.json``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from workbench.errors import CheckpointError
from workbench.models.outputs import CELL_STYLES
from workbench.models.protocol import ModelShape

VALUE_STYLES = ("continuous", "category", "scaling")
_MOST_BINS = 2**16 - 1  # the tokeniser counts bins in 16 bits

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
    batch_names
        Names of the batches in the order of their rows, as ``batch_names`` of ``args.json`` gives them; empty where it does not.
    norm_domains
        Domains of the batch norm after the embedding (0: absent); `norm_affine` when it has weights.
    include_zeros
        Whether genes without expression are tokens too, as in the fine-tuning scripts that say ``include_zero_gene``; None
        where ``args.json`` does not say.
    mvc_style
        ``"inner product"``, ``"concat query"``, ``"sum query"`` or None when there is no MVC decoder.
    perturbation
        Whether it is a perturbation fine-tune (``TransformerGenerator``): every gene is a token with its log-normalised value
        and a flag, there is no ``<cls>``, and the expression decoder gives a factor and a summand for each value.
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
    batch_names: tuple[str, ...] = ()
    norm_domains: int = 0
    norm_affine: bool = False
    n_value_bins: int = 0
    include_zeros: bool | None = None
    mvc_style: str | None = "inner product"
    perturbation: bool = False
    has_expression: bool = True
    zero_probability: bool = False
    dropout: float = 0.0

    def __post_init__(self) -> None:
        # An int would make another fingerprint than the same number read from a file.
        object.__setattr__(self, "pad_value", float(self.pad_value))
        object.__setattr__(self, "mask_value", float(self.mask_value))
        if not 3 <= self.n_bins <= _MOST_BINS:
            raise CheckpointError(
                f"n_bins is {self.n_bins}, but 3 to {_MOST_BINS:,} can be used (scGPT has 51); correct args.json."
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
        if self.batch_names and len(set(self.batch_names)) != self.n_labels:
            raise CheckpointError(
                f"args.json gives {len(set(self.batch_names))} different batch_names, but the weights have {self.n_labels} batches; "
                "give one name for each, in the order of the rows."
            )

    @property
    def n_ctx(self) -> int:
        """Longest sequence, ``<cls>`` included, under transformer-lens's name."""
        return self.max_tokens

    @property
    def act_fn(self) -> str:
        """Activation of the MLPs, under transformer-lens's name."""
        return "relu"

    @property
    def cls_value(self) -> float:
        """Value of ``<cls>``: 0 as in scGPT's fine-tuning scripts, which say whether zeros are tokens, else the pad value."""
        return self.pad_value if self.include_zeros is None else 0.0

    @property
    def n_labels(self) -> int:
        """Number of batches that cells have to be labelled by; 0 where none are needed."""
        return max(self.n_batches, self.norm_domains if self.norm_domains > 1 else 0)

    def facts(self) -> dict[str, str]:
        """Input and decoders, for ``workbench inspect``."""
        zeros, labels = ", zeros included" if self.include_zeros else "", self.n_labels
        bins = "log-normalised, perturbation flags" if self.perturbation else f"{self.n_bins} bins{zeros}"
        cell = "none" if self.perturbation and self.cell_style == "cls" else self.cell_style
        return {
            "input": f"{self.value_style} values, {bins}, up to {self.max_tokens} tokens; cell embedding: {cell}"
            f"{f'; cells need a batch label of {labels}' if labels else ''}",
            "decoders": f"expression: {'yes' if self.has_expression else 'no'}, MVC: {self.mvc_style or 'no'}, "
            f"classes: {self.n_classes or 'no'}",
        }


def plain_args(args: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by name, taken out of the ``{"value": ...}`` that wandb puts around each.

    Parameters
    ----------
    args
        The parsed ``args.json``, of any content.
    """
    return {k: v["value"] if isinstance(v, Mapping) and "value" in v else v for k, v in args.items()}


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
    args = plain_args(args)
    found: dict[str, Any] = {}
    for field, names in _ALIASES.items():
        value = next((args[name] for name in names if name in args), None)
        number = _finite(value)
        if number is None or number <= 0 or number % 1:
            raise CheckpointError(
                f"args.json gives no positive whole number for '{field}' (looked for {', '.join(names)}; "
                f"found {value!r}). Add it as it was when the checkpoint was trained."
            )
        found[field] = int(number)
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
    zeros = args.get("include_zero_gene")
    if zeros not in (None, True, False, "all"):
        raise CheckpointError(
            f"args.json says include_zero_gene: {zeros!r}, where the tokens of a cell depend on other cells; only true, 'all' and "
            "false can be followed."
        )
    batches = args.get("batch_names", [])
    if not isinstance(batches, list):
        raise CheckpointError(
            f"args.json gives {batches!r} for 'batch_names', which should be a list of names; correct it."
        )
    return {
        "d_model": found["embsize"],
        "n_heads": found["nheads"],
        "n_layers": found["nlayers"],
        "d_mlp": found["d_hid"],
        "n_bins": _number(args, "n_bins", 51, least=1),
        "max_tokens": _number(args, "max_seq_len", 1200, least=2),
        "pad_token": str(args.get("pad_token", "<pad>")),
        "pad_value": _number(args, "pad_value", -2, whole=False),
        "mask_value": _number(args, "mask_value", -1, whole=False),
        "value_style": str(args.get("input_emb_style", "continuous")),
        "input_style": str(args.get("input_style", "binned")),
        "cell_style": str(args.get("cell_emb_style", "cls")),
        "n_layers_cls": _number(args, "n_layers_cls" if "n_layers_cls" in args else "nlayers_cls", 3, least=1),
        "dropout": _number(args, "dropout", 0.0, least=0, whole=False),
        "batch_names": tuple(str(name) for name in batches),
        "include_zeros": zeros if zeros is None else bool(zeros),
    }


def _finite(value: Any) -> float | None:
    """A number of a JSON file; None for whatever is none, truth values and NaN among them."""
    known = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**53
    return value if known and math.isfinite(value) else None


def _number(args: Mapping[str, Any], name: str, default: float, *, least: float = -math.inf, whole: bool = True) -> Any:
    number = _finite(args.get(name, default))
    if number is None or number < least or (whole and number % 1):
        kind = "whole number" if whole else "number"
        raise CheckpointError(
            f"args.json gives {args.get(name)!r} for '{name}', which should be a {kind}"
            f"{f' from {least}' if least > -math.inf else ''}; correct it."
        )
    return int(number) if whole else float(number)
