"""From the key layouts that scGPT checkpoints come in to one, and on to the hooked model's own names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from workbench.errors import CheckpointError

WRAPPERS = ("model_state_dict", "state_dict", "model")
PREFIXES = ("module.", "model.", "_orig_mod.")
# Parts of training that inference does not use; reported, never silently dropped.
IGNORED = ("flag_encoder.", "grad_reverse_discriminator.", "criterion", "creterion", "sim.")
DECODERS = ("decoder.", "mvc_decoder.", "cls_decoder.")

_RENAMES = (
    (r"^encoder\.", "embed.gene."),
    (r"^value_encoder\.", "embed.value."),
    (r"^transformer_encoder\.layers\.(\d+)\.self_attn\.in_proj_(weight|bias)$", r"blocks.\1.attn.qkv.\2"),
    (r"^transformer_encoder\.layers\.(\d+)\.self_attn\.out_proj\.", r"blocks.\1.attn.out."),
    (r"^transformer_encoder\.layers\.(\d+)\.(linear\d)\.", r"blocks.\1.mlp.\2."),
    (r"^transformer_encoder\.layers\.(\d+)\.(norm\d)\.", r"blocks.\1.\2."),
)
_BACK = (
    (r"^embed\.norm\.", "batch norm "),
    (r"^embed\.gene\.", "encoder."),
    (r"^embed\.value\.", "value_encoder."),
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
    wrapper = ""
    if isinstance(raw, Mapping):
        for name in WRAPPERS:
            if isinstance(raw.get(name), Mapping):
                raw, wrapper = raw[name], name
                break
    if not isinstance(raw, Mapping) or not raw or not all(isinstance(k, str) for k in raw):
        raise CheckpointError(
            f"The weights file holds a {type(raw).__name__}, not a state dict of named tensors; save model.state_dict()."
        )
    bad = [name for name, value in raw.items() if not isinstance(value, Tensor)]
    if bad:
        raise CheckpointError(
            f"The weights file holds {len(bad)} entries that are no tensors (first: '{bad[0]}'); "
            f"save model.state_dict(), or wrap it under one of {', '.join(WRAPPERS)}."
        )
    state = dict(raw)
    peeled = ""
    while prefix := next((p for p in PREFIXES if all(name.startswith(p) for name in state)), ""):
        state, peeled = {name[len(prefix) :]: value for name, value in state.items()}, peeled + prefix
    return state, wrapper, peeled


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
    found["has_expression"] = "decoder.fc.0.weight" in state
    found["zero_probability"] = "decoder.zero_logit.0.weight" in state
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
