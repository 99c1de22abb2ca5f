"""From the key layouts that scGPT checkpoints come in to one, and on to the hooked model's own names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from workbench.errors import CheckpointError

WRAPPERS = ("model_state_dict", "state_dict", "model", "module")
# Parts of training that inference does not use; reported, never silently dropped.
IGNORED = ("flag_encoder.", "grad_reverse_discriminator.", "criterion", "creterion", "sim.")
DECODERS = ("decoder.", "mvc_decoder.", "cls_decoder.")
PARTS = (
    "pert_encoder.",
    "encoder.",
    "value_encoder.",
    "batch_encoder.",
    "transformer_encoder.",
    "dsbn.",
    "bn.",
    *DECODERS,
)
_DEPTH = 4  # dictionaries inside one another

# What torch.compile, FSDP and activation checkpointing put into names.
_COMPILED = re.compile(r"(?:(?<=\.)|^)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_CORE = re.compile(r"^(.*\.)?(?:encoder\.embedding\.weight|transformer_encoder\.layers\.0\.norm1\.weight)$")
_ADAPTERS = re.compile(r"(?:^|\.)(?:lora_\w+|base_layer|modules_to_save|ia3_l|prompt_embeddings)(?:\.|$)")
# By their names these feed the blocks: without them every number would be another.
_FEEDS = re.compile(r"enc(?:od|_|$)|emb|norm|bn|(?:^|_)pos|token|transformer", re.IGNORECASE)
_KINDS = {"mod_encoder.": "a multi-omic fine-tune, whose tokens have a kind of molecule each"}

_RENAMES = (
    (r"^encoder\.", "embed.gene."),
    (r"^value_encoder\.", "embed.value."),
    (r"^pert_encoder\.", "embed.flag."),
    (r"^transformer_encoder\.layers\.(\d+)\.self_attn\.in_proj_(weight|bias)$", r"blocks.\1.attn.qkv.\2"),
    (r"^transformer_encoder\.layers\.(\d+)\.self_attn\.out_proj\.", r"blocks.\1.attn.out."),
    (r"^transformer_encoder\.layers\.(\d+)\.(linear\d)\.", r"blocks.\1.mlp.\2."),
    (r"^transformer_encoder\.layers\.(\d+)\.(norm\d)\.", r"blocks.\1.\2."),
)
_BACK = (
    (r"^embed\.norm\.", "batch norm "),
    (r"^embed\.gene\.", "encoder."),
    (r"^embed\.value\.", "value_encoder."),
    (r"^embed\.flag\.", "pert_encoder."),
    (r"^blocks\.(\d+)\.attn\.qkv\.(weight|bias)$", r"transformer_encoder.layers.\1.self_attn.in_proj_\2"),
    (r"^blocks\.(\d+)\.attn\.out\.", r"transformer_encoder.layers.\1.self_attn.out_proj."),
    (r"^blocks\.(\d+)\.mlp\.(linear\d)\.", r"transformer_encoder.layers.\1.\2."),
    (r"^blocks\.(\d+)\.(norm\d)\.", r"transformer_encoder.layers.\1.\2."),
)


def unwrap(raw: object) -> tuple[dict[str, Tensor], str, str]:
    """State dict of tensors inside whatever a checkpoint file holds.

    Parameters
    ----------
    raw
        What `torch.load` returned, whatever its type.

    Returns
    -------
    state, wrapper, prefix
        Tensors by name, the key they were under, the prefix that was peeled off.
    """
    wrappers: list[str] = []
    while len(wrappers) < _DEPTH and isinstance(raw, Mapping):
        inner = [name for name, value in raw.items() if _holds_core(value)]
        if len(inner) + _holds_core(raw, 1) > 1:
            raise CheckpointError(
                f"The weights file holds several models ({', '.join(map(str, inner))}{' and one beside' * (len(inner) == 1)}); save the state dict of one of them alone."
            )
        inner = inner or [name for name in WRAPPERS if isinstance(raw.get(name), Mapping)]
        if not inner:
            break
        raw = raw[inner[0]]
        wrappers.append(inner[0])
    if not isinstance(raw, Mapping) or not raw or not all(isinstance(k, str) for k in raw):
        raise CheckpointError(
            f"The weights file holds a {type(raw).__name__}, not a state dict of named tensors; save model.state_dict()."
        )
    # Entries such as the epoch may stand beside the tensors.
    state = {name: value for name, value in raw.items() if isinstance(value, Tensor)}
    if not state:
        raise CheckpointError(
            f"The weights file holds {len(raw)} entries that are no tensors (first: '{next(iter(raw))}'); "
            f"save model.state_dict(), or wrap it under one of {', '.join(WRAPPERS)}."
        )
    if adapters := [name for name in state if _ADAPTERS.search(name)]:
        raise CheckpointError(
            f"The weights hold {len(adapters)} tensors of adapters (PEFT or LoRA; first: '{adapters[0]}'), which change the model by a "
            "factor that is not among the weights. Merge them first: model = peft_model.merge_and_unload(), then save "
            "model.state_dict()."
        )
    prefix = _prefix(state)
    plain = {_COMPILED.sub("", name.removeprefix(prefix)): value for name, value in state.items()}
    if len(plain) < len(state):
        raise CheckpointError(
            f"The weights hold several tensors of one name once '{prefix}' is taken off; save model.state_dict() alone."
        )
    return plain, ".".join(wrappers), prefix


def _holds_core(value: Any, depth: int = _DEPTH) -> bool:
    """Whether a dictionary, or one inside it, holds the weights of a model."""
    return isinstance(value, Mapping) and any(
        isinstance(name, str) and bool(_CORE.match(_COMPILED.sub("", name)))
        if isinstance(inner, Tensor)
        else depth > 1 and _holds_core(inner, depth - 1)
        for name, inner in value.items()
    )


def _prefix(state: Mapping[str, Tensor]) -> str:
    """What stands before the names of the model's tensors; other tensors, such as a loss's, may lie beside them."""
    prefixes = set()
    for name in state:
        if _CORE.match(_COMPILED.sub("", name)):
            prefixes.add(name.rpartition("transformer_encoder" if "transformer_encoder" in name else "encoder")[0])
    if len(prefixes) > 1:
        named = ", ".join(f"'{prefix}'" for prefix in sorted(prefixes))
        raise CheckpointError(
            f"The weights hold several models, whose tensors begin with {named}; save the state dict of one of them alone."
        )
    return prefixes.pop() if prefixes else ""


def sizes_of_state(state: Mapping[str, Tensor]) -> dict[str, int]:
    """Sizes of the encoder that tensors show; those that cannot be told are absent.

    Parameters
    ----------
    state
        Tensors in the plain layout.

    Returns
    -------
    dict
        ``n_layers``, ``d_model``, ``d_mlp`` as in `ModelConfig`.
    """
    found = {}
    layers = {int(m[1]) for name in state if (m := re.match(r"transformer_encoder\.layers\.(\d+)\.", name))}
    if layers:
        found["n_layers"] = next(i for i in range(len(layers) + 1) if i not in layers)
    for field, name in (("d_model", "norm1"), ("d_mlp", "linear1")):
        weight = state.get(f"transformer_encoder.layers.0.{name}.weight")
        if weight is not None and weight.ndim:
            found[field] = weight.shape[0]
    return found


def looks_of_state(state: Mapping[str, Tensor]) -> str:
    """What a model looks like by its tensors, as part of a sentence.

    Parameters
    ----------
    state
        Tensors in the plain layout.
    """
    sizes, rows = sizes_of_state(state), state.get("encoder.embedding.weight")
    style = "category" if "value_encoder.embedding.weight" in state else "scaling"
    style = "continuous" if "value_encoder.linear1.weight" in state else style
    genes = f", a gene embedding of {rows.shape[0]:,} rows" if rows is not None and rows.ndim == 2 else ""
    return (
        f"{sizes.get('n_layers', 'unknown')} layers of width {sizes.get('d_model', 'unknown')}, feed-forward "
        f"{sizes.get('d_mlp', 'unknown')}, {style} values{genes}"
    )


def check_parts(left: Iterable[str]) -> None:
    """Refuse tensors that feed the blocks and that no part of the model takes.

    Parameters
    ----------
    left
        Upstream names of the tensors that no part takes.

    Raises
    ------
    CheckpointError
        If one of them feeds the blocks; kinds of models that are known are named.
    """
    feeds = [name for name in left if "decoder" not in (part := name.split(".")[0]) and _FEEDS.search(part)]
    if feeds:
        kind = next((said for part, said in _KINDS.items() if feeds[0].startswith(part)), "")
        raise CheckpointError(
            f"{len(feeds)} encoder tensors have no place in the model that args.json describes (first: {feeds[0]}): without them every "
            f"number would be another. {f'This is {kind}; it' if kind else 'The checkpoint'} cannot be read."
        )


def to_plain(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """Rename every attention layout to plain PyTorch's ``in_proj_``.

    Parameters
    ----------
    state
        Tensors by upstream name, in any of the known layouts.

    Returns
    -------
    state, layout
        The same tensors renamed, and the layout that was found.

    Raises
    ------
    CheckpointError
        If no layout or more than one is found.
    """
    patterns = {
        "_impl.Wqkv": r"self_attn\._impl\.Wqkv\.(weight|bias)$",
        "Wqkv": r"self_attn\.Wqkv\.(weight|bias)$",
        "in_proj_": r"self_attn\.in_proj_(weight|bias)$",
    }
    seen = [name for name, pattern in patterns.items() if any(re.search(pattern, key) for key in state)]
    if len(seen) != 1:
        found = f"{' and '.join(seen)} mixed" if seen else f"none among {len(state)} tensors"
        raise CheckpointError(
            f"The attention weights should come in one of the layouts {', '.join(patterns)}; found {found}. "
            "Is this a scGPT checkpoint with softmax attention?"
        )
    plain: dict[str, Tensor] = {}
    for key, value in state.items():
        key = re.sub(r"self_attn\._impl\.", "self_attn.", key)
        key = re.sub(r"self_attn\.Wqkv\.(weight|bias)$", r"self_attn.in_proj_\1", key)
        plain[key] = value
    return plain, seen[0]


def shape_from_state(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Read from the tensors what they can tell: decoders, batches and norms that are there.

    Parameters
    ----------
    state
        Tensors in the plain layout.

    Returns
    -------
    dict
        Keyword arguments for `ModelConfig`.
    """
    found: dict[str, Any] = {}
    rows = {name: value.shape[0] for name, value in state.items() if value.ndim == 2}
    for field, name in (("n_tokens", "encoder"), ("n_batches", "batch_encoder"), ("n_value_bins", "value_encoder")):
        if f"{name}.embedding.weight" in rows:
            found[field] = rows[f"{name}.embedding.weight"]
    domains = {int(m.group(1)) for key in state if (m := re.match(r"dsbn\.bns\.(\d+)\.", key))}
    if domains:
        found["norm_domains"] = max(domains) + 1
        found["norm_affine"] = "dsbn.bns.0.weight" in state
    elif "bn.running_mean" in state:
        found["norm_domains"], found["norm_affine"] = 1, "bn.weight" in state
    found["perturbation"] = "pert_encoder.weight" in state
    decoder = "decoder.coeff_decoder" if found["perturbation"] else "decoder"
    found["has_expression"] = f"{decoder}.fc.0.weight" in state
    found["zero_probability"] = f"{decoder}.zero_logit.0.weight" in state
    found["mvc_style"] = _mvc_style(state)
    found["n_classes"] = rows.get("cls_decoder.out_layer.weight", 0)
    if found["n_classes"]:
        found["n_layers_cls"] = 1 + sum(bool(re.match(r"cls_decoder\._decoder\.\d+\.weight$", k)) for k in state) // 2
    return found


def _mvc_style(state: Mapping[str, Tensor]) -> str | None:
    if "mvc_decoder.W.weight" in state:
        return "inner product"
    first, query = state.get("mvc_decoder.fc1.weight"), state.get("mvc_decoder.gene2query.weight")
    if first is not None and query is not None and first.ndim == query.ndim == 2:
        width = query.shape[1]
        return "concat query" if query.shape[0] != width or first.shape[1] != width else "sum query"
    return None


def _stack_norms(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Stack the domain batch norms into `DomainNorm`'s tensors, one row per domain."""
    rows: dict[str, dict[int, Tensor]] = {}
    rest: dict[str, Tensor] = {}
    for key, value in state.items():
        match = re.match(r"(?:dsbn\.bns\.(\d+)|bn)\.(running_mean|running_var|weight|bias|num_batches_tracked)$", key)
        if match is None:
            rest[key] = value
        elif match.group(2) != "num_batches_tracked":
            rows.setdefault(match.group(2), {})[int(match.group(1) or 0)] = value
    for name, parts in rows.items():
        shapes = {tuple(part.shape) for part in parts.values()}
        if len(shapes) > 1:
            raise CheckpointError(
                f"The batch norms of the domains should be of one width, but their {name} has the shapes "
                f"{', '.join(map(str, sorted(shapes)))}; the checkpoint is damaged."
            )
        rest[f"embed.norm.{name}"] = torch.stack([parts[i] for i in sorted(parts)])
    return rest


def to_hooked(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Rename plain upstream tensors to the hooked model's parameters.

    Parameters
    ----------
    state
        Tensors in the plain layout.

    Returns
    -------
    renamed, origin
        Tensors by the hooked model's name, and the upstream name of each.
    """
    renamed: dict[str, Tensor] = {}
    origin: dict[str, str] = {}
    for key, value in _stack_norms(dict(state)).items():
        name = key
        for pattern, target in _RENAMES:
            name = re.sub(pattern, target, name)
        renamed[name], origin[name] = value, key
    return renamed, origin


def upstream_name(name: str) -> str:
    """Upstream's name of one of the hooked model's parameters.

    Parameters
    ----------
    name
        Name as in the state dict of a `HookedScGPT`.
    """
    for pattern, target in _BACK:
        name = re.sub(pattern, target, name)
    return name


def to_upstream(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the hooked model's parameters to upstream's plain layout; the inverse of `to_hooked`.

    Parameters
    ----------
    state
        ``HookedScGPT.state_dict()`` of a model without batch norms.
    """
    return {upstream_name(name): value for name, value in state.items()}
