"""Builders that tests share: tiny models, tokens, checkpoints in every key layout, tiny cells, and the oracle."""

from __future__ import annotations

import importlib
import importlib.util
import json
import logging
import os
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from pydantic import BaseModel

from workbench.models.scgpt.config import ModelConfig
from workbench.models.scgpt.hooked import HookedScGPT
from workbench.models.tokens import Tokens
from workbench.models.vocabulary import Vocabulary

LAYOUTS = ("in_proj_", "Wqkv", "_impl.Wqkv")
STYLES = ("continuous", "category", "scaling")
N_GENES, D_MODEL, N_HEADS, N_LAYERS, D_MLP, N_BINS = 40, 16, 4, 3, 24, 51


def genes(n: int = N_GENES) -> list[str]:
    return [f"GENE{i}" for i in range(n)]


def vocabulary_ids(n: int = N_GENES) -> dict[str, int]:
    """Genes first and specials last, as in the released vocabularies: ``<pad>`` is not id 0."""
    return {name: i for i, name in enumerate((*genes(n), "<pad>", "<cls>", "<eoc>"))}


def randomise(module: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Random parameters and running statistics, LayerNorms included, so that none of them is a no-op."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in module.named_parameters():
            is_scale = re.search(r"norm\d?\.weight$|bns?\.(\d+\.)?weight$", name) is not None
            value.copy_(0.25 * torch.randn(value.shape, generator=rng) + float(is_scale))
        for name, value in module.named_buffers():
            if name.endswith("running_var"):
                value.copy_(0.5 + torch.rand(value.shape, generator=rng))
            elif name.endswith("running_mean"):
                value.copy_(0.5 * torch.randn(value.shape, generator=rng))
    return module


def tiny_model(seed: int = 0, **shape) -> HookedScGPT:
    """Random hooked model, in evaluation mode and without gradients, made without upstream."""
    config = {
        "d_model": D_MODEL,
        "n_layers": N_LAYERS,
        "n_heads": N_HEADS,
        "d_mlp": D_MLP,
        "n_bins": N_BINS,
        "max_tokens": 30,
        "n_classes": 5,
        **shape,
    }
    vocabulary = Vocabulary(vocabulary_ids())
    model = HookedScGPT(ModelConfig(n_tokens=len(vocabulary), **config), vocabulary)
    return randomise(model, seed).requires_grad_(False).eval()


def make_tokens(
    n_cells: int = 5, length: int = 12, *, padded: bool = True, style: str = "continuous", labels=None, seed: int = 0
) -> Tokens:
    """Random cells over `vocabulary_ids`; with `padded`, cell i has 2 i positions of padding."""
    rng = np.random.default_rng(seed)
    ids = vocabulary_ids()
    pad_value = 52 if style == "category" else -2
    gene_ids = np.stack([rng.permutation(N_GENES)[:length] for _ in range(n_cells)])
    values = rng.integers(1, N_BINS, (n_cells, length)).astype(np.float32)
    padding = np.zeros((n_cells, length), dtype=bool)
    if padded:
        for i in range(1, n_cells):
            padding[i, length - 2 * i :] = True
    gene_ids[:, 0], values[:, 0] = ids["<cls>"], pad_value
    gene_ids[padding], values[padding] = ids["<pad>"], pad_value
    batch = None if labels is None else torch.as_tensor(labels, dtype=torch.long)
    names = tuple(f"cell{i}" for i in range(n_cells))
    return Tokens(torch.from_numpy(gene_ids).long(), torch.from_numpy(values), torch.from_numpy(padding), names, batch)


def in_layout(state: dict[str, torch.Tensor], layout: str) -> dict[str, torch.Tensor]:
    """State dict in plain PyTorch's layout, renamed as flash-attention training or its newer wrapper names it."""
    renamed = {}
    for key, value in state.items():
        if layout != "in_proj_":
            key = re.sub(r"self_attn\.in_proj_(weight|bias)$", r"self_attn.Wqkv.\1", key)
        if layout == "_impl.Wqkv":
            key = key.replace("self_attn.", "self_attn._impl.")
        renamed[key] = value
    return renamed


def checkpoint_args(style: str = "continuous", **more) -> dict:
    """``args.json`` of a tiny checkpoint, with the names of scGPT's pretraining script."""
    return {
        "embsize": D_MODEL,
        "nlayers": N_LAYERS,
        "nheads": N_HEADS,
        "d_hid": D_MLP,
        "n_bins": N_BINS,
        "max_seq_len": 30,
        "pad_token": "<pad>",
        "pad_value": 52 if style == "category" else -2,
        "mask_value": 51 if style == "category" else -1,
        "input_style": "binned",
        "input_emb_style": style,
        **more,
    }


def write_checkpoint(folder: Path, weights: object, args: dict | None = None, ids: dict | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "args.json").write_text(json.dumps(checkpoint_args() if args is None else args))
    (folder / "vocab.json").write_text(json.dumps(vocabulary_ids() if ids is None else ids))
    torch.save(weights, folder / "best_model.pt")
    return folder


def make_upstream(transformer, style: str = "continuous", seed: int = 0, **options):
    """Tiny random upstream model in evaluation mode, over `vocabulary_ids`."""
    ids = vocabulary_ids()
    options = {
        "n_cls": 5,
        "do_mvc": True,
        "dropout": 0.1,
        "pad_value": 52 if style == "category" else -2,
        "n_input_bins": N_BINS + 2,
        "input_emb_style": style,
        **options,
    }
    return randomise(transformer(len(ids), D_MODEL, N_HEADS, D_MLP, N_LAYERS, vocab=ids, **options), seed).eval()


def upstream_activations(model, tokens: Tokens) -> dict[str, torch.Tensor]:
    """Everything that upstream computes on tokens, by the hooked model's names."""
    found: dict[str, torch.Tensor] = {}
    layers = model.transformer_encoder.layers
    style = model.mvc_decoder.arch_style if hasattr(model, "mvc_decoder") else ""

    def keep(name, pick=lambda output: output):
        return lambda module, args, output: found.__setitem__(name, pick(output).detach().clone())

    handles = [
        layers[0].register_forward_pre_hook(lambda m, args: found.__setitem__("blocks.0.hook_resid_pre", args[0]))
    ]
    for i, layer in enumerate(layers):
        handles += [
            layer.self_attn.register_forward_hook(keep(f"blocks.{i}.hook_attn_out", lambda output: output[0])),
            layer.norm1.register_forward_hook(keep(f"blocks.{i}.hook_resid_mid")),
            layer.linear1.register_forward_hook(keep(f"blocks.{i}.mlp.hook_post", torch.relu)),
            layer.linear2.register_forward_hook(keep(f"blocks.{i}.hook_mlp_out")),
            layer.register_forward_hook(keep(f"blocks.{i}.hook_resid_post")),
        ]
    try:
        with torch.no_grad():
            out = model(
                tokens.gene_ids,
                tokens.values,
                tokens.padding,
                batch_labels=tokens.batch_labels,
                CLS=True,
                MVC="inner product" in style,
            )
            if style.endswith("query"):
                # Upstream's forward stumbles over the plain tensor that these styles return; the decoder itself works.
                out["mvc_output"] = model.mvc_decoder(out["cell_emb"], model.cur_gene_token_embs)
            stream = found["blocks.0.hook_resid_pre"]
            for i, layer in enumerate(layers):
                _, found[f"blocks.{i}.attn.hook_pattern"] = layer.self_attn(
                    stream, stream, stream, tokens.padding, need_weights=True, average_attn_weights=False
                )
                stream = found[f"blocks.{i}.hook_resid_post"]
    finally:
        for handle in handles:
            handle.remove()
    names = {
        "cell_emb": "cell",
        "mlm_output": "expression",
        "mlm_zero_probs": "expression_zero",
        "mvc_output": "mvc",
        "mvc_zero_probs": "mvc_zero",
        "cls_output": "classes",
    }
    return {**found, **{ours: out[theirs] for theirs, ours in names.items() if theirs in out}}


def greatest_difference(a: torch.Tensor, b: torch.Tensor, padding: torch.Tensor) -> float:
    """Largest absolute difference, padding left out where there is a gene axis."""
    assert a.shape == b.shape, (a.shape, b.shape)
    if a.ndim == 4:  # cell, head, query, key
        a, b = a.transpose(1, 2), b.transpose(1, 2)
    if a.shape[:2] == padding.shape:
        a, b = a[~padding], b[~padding]
    return float((a - b).abs().max())


def tiny_cells(
    n_cells: int = 20, n_genes: int = N_GENES, *, kind: str = "counts", seed: int = 0, share: float = 0.6
) -> ad.AnnData:
    """Random sparse cells over `genes`, which say what their values are; every cell expresses several genes."""
    rng = np.random.default_rng(seed)
    matrix = (rng.geometric(0.3, (n_cells, n_genes)) * (rng.random((n_cells, n_genes)) < share)).astype(np.float32)
    matrix[np.arange(n_cells), np.arange(n_cells) % n_genes] += 1
    if kind != "counts":
        matrix = (matrix / matrix.sum(1, keepdims=True) * 1e4).astype(np.float32)
    if kind == "log-normalised":
        matrix = np.log1p(matrix)
    obs = pd.DataFrame(
        {"cell_type": pd.Categorical(np.where(np.arange(n_cells) % 2, "T", "B"))},
        index=[f"cell{i}" for i in range(n_cells)],
    )
    cells = ad.AnnData(sp.csr_matrix(matrix), obs=obs, var=pd.DataFrame(index=genes(n_genes)))
    # So few genes do not show what they add up to.
    said = {"counts": "counts", "normalised": "cp10k", "log-normalised": "log1p:10000"}
    cells.uns["workbench"] = {"values": said[kind]}
    return cells


def leaves(kind: type[BaseModel], above: str = "") -> Iterator[str]:
    """Names of all fields of a configuration that hold no section; sections by name or in a list count as one."""
    for name, field in kind.model_fields.items():
        if inner := _section(field.annotation):
            yield from leaves(inner, f"{above}{name}.")
        else:
            yield f"{above}{name}"


def _section(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for one in get_args(annotation) if (found := _section(one))), None)


def by_gene(tokens: Tokens) -> dict[str, dict[int, float]]:
    """Value of each gene id per cell name, whatever the order; ``<cls>`` and padding left out."""
    return {
        cell: {int(g): float(v) for g, v, p in zip(ids[1:], values[1:], padding[1:], strict=True) if not p}
        for cell, ids, values, padding in zip(
            tokens.cell_ids, tokens.gene_ids, tokens.values, tokens.padding, strict=True
        )
    }


def require_upstream(module: str) -> types.ModuleType:
    """A module of the installed ``scgpt``, imported without its ``__init__``, which needs the abandoned torchtext.

    Where scgpt is not installed the test is skipped with the reason, and fails where CI is set.
    """
    if "scgpt" not in sys.modules:
        spec = importlib.util.find_spec("scgpt")
        if spec is None or not spec.submodule_search_locations:
            reason = "scgpt 0.2.4, the oracle, is not installed: pip install --no-deps scgpt==0.2.4"
            if os.environ.get("CI"):
                pytest.fail(reason)
            pytest.skip(reason)
        root = Path(spec.submodule_search_locations[0])
        for name, folder in (("scgpt", root), ("scgpt.model", root / "model")):
            stub = types.ModuleType(name)
            stub.__path__ = [str(folder)]
            stub.logger = logging.getLogger("scgpt")
            sys.modules[name] = stub
    # scgpt.preprocess imports scanpy for functions that no test calls; importing it takes seconds.
    stubs = {name: types.ModuleType(name) for name in ("scanpy", "scanpy.get") if name not in sys.modules}
    for stub in stubs.values():
        stub._get_obs_rep = stub._set_obs_rep = None
    sys.modules.update(stubs)
    try:
        return importlib.import_module(f"scgpt.{module}")
    finally:
        for name in stubs:
            del sys.modules[name]


def require_sae_lens() -> types.ModuleType:
    """The installed ``sae_lens``; a skip with the reason where it is not, and a failure where CI is set."""
    if importlib.util.find_spec("sae_lens") is None:
        reason = "sae-lens, which trains dictionaries, is not installed: pip install sae-lens"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return importlib.import_module("sae_lens")


def load_script(name: str) -> types.ModuleType:
    """A file of experiments/ as a module."""
    path = Path(__file__).resolve().parents[1] / "experiments" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # a dataclass asks for the module that it stands in
    spec.loader.exec_module(module)
    return module
