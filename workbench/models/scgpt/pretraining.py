"""Training a scGPT-format checkpoint by scGPT's own objective: masked expression values, from genes and from the cell.

A step is a function of (seed, step number) alone: an interrupted training resumes to the same weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from workbench.errors import ArtifactError
from workbench.files import digest, read_state, write_state
from workbench.models.scgpt.binning import hash_genes
from workbench.models.scgpt.config import ModelConfig
from workbench.models.scgpt.pretraining_data import TrainingData
from workbench.models.scgpt.tokenizer import tokenise_rows
from workbench.models.tokens import Tokens
from workbench.models.vocabulary import Vocabulary
from workbench.pretrain_settings import PretrainSettings
from workbench.seeds import generator, key

if TYPE_CHECKING:
    from workbench.models.scgpt.hooked import HookedScGPT

STATE, _SAVED = "training-state", "state.safetensors"
# Most held-out cells that a look during the training takes in.
_LOOKED_AT = 512


def model_config(settings: PretrainSettings, vocabulary: Vocabulary) -> ModelConfig:
    """Shape of the model to train.

    Parameters
    ----------
    settings, vocabulary
        Settings and tokens as `train` is given them.
    """
    return ModelConfig(
        n_tokens=len(vocabulary),
        d_model=settings.d_model,
        n_layers=settings.n_layers,
        n_heads=settings.n_heads,
        d_mlp=settings.d_mlp,
        n_bins=settings.n_bins,
        max_tokens=settings.max_tokens,
        dropout=settings.dropout,
    )


def draw_tokens(
    data: TrainingData, rows: np.ndarray, config: ModelConfig, n_genes: int, ratios: tuple[float, ...], seed: int
) -> tuple[Tokens, Tensor, Tensor]:
    """Tokens of some cells with freshly sampled genes, freshly broken ties and some values masked.

    Parameters
    ----------
    data, rows, config
        Cells and the model's shape.
    n_genes
        Genes per cell, at most.
    ratios
        Shares to mask; each cell gets one of them.
    seed
        Keys everything that is drawn.

    Returns
    -------
    tokens, target, masked
        Masked input, true bins, and where the mask is, (cell, gene) each.
    """
    ids, values, padding = tokenise_rows(
        data.matrix[rows],
        data.column_ids,
        hash_genes(data.column_ids),
        data.cell_ids[rows],
        config=config,
        vocabulary=data.vocabulary,
        max_tokens=n_genes + 1,
        seed=seed,
    )
    rng = generator(seed, "mask")
    ratio = rng.choice(np.array(ratios), size=(len(rows), 1))
    masked = (rng.random(ids.shape) < ratio) & ~padding
    masked[:, 0] = False
    shown = np.where(masked, np.float32(config.mask_value), values)
    tokens = Tokens(torch.from_numpy(ids), torch.from_numpy(shown), torch.from_numpy(padding))
    return tokens, torch.from_numpy(values), torch.from_numpy(masked)


def masked_error(model: HookedScGPT, tokens: Tokens, target: Tensor, masked: Tensor) -> tuple[Tensor, Tensor]:
    """Mean squared error at masked values, of the expression and of the MVC decoder.

    Parameters
    ----------
    model, tokens, target, masked
        The model, and a batch as `draw_tokens` makes it.
    """
    out = model(tokens, outputs=("expression", "mvc"))
    target, masked = target.to(model.device), masked.to(model.device)
    return ((out.expression - target)[masked] ** 2).mean(), ((out.mvc - target)[masked] ** 2).mean()


def train(
    data: TrainingData,
    settings: PretrainSettings,
    out: Path,
    progress: Callable[[int, dict[str, float]], None] | None = None,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> tuple[HookedScGPT, list[dict[str, float]]]:
    """Train a model, or go on where an interrupted training stopped.

    Parameters
    ----------
    data
        Cells to train on and cells held out, from `prepare`.
    settings
        Shape of the model, length and rate of the training.
    out
        Folder in which resumable states are saved, under ``training-state``; the last of them stays there.
    progress
        Called after every step with its number and the losses.
    device
        Where the model is trained, and where it is left.
    dtype
        Float type that products of matrices are computed in (autocast); ``bfloat16`` or single precision. Weights and sums are in
        single precision in any case.

    Returns
    -------
    model, curve
        Trained model in evaluation mode, and one row of losses per validation.

    Raises
    ------
    ArtifactError
        If the folder holds the state of another training.
    """
    from workbench.models.scgpt.hooked import HookedScGPT  # here, because it takes seconds

    config = model_config(settings, data.vocabulary)
    torch.manual_seed(key(settings.seed, "init") % 2**63)
    model = HookedScGPT(config, data.vocabulary)
    model.embed.gene.embedding.weight.data.uniform_(-0.1, 0.1)
    # Start at the mean bin instead of spending the first hundreds of steps on reaching it.
    model.get_parameter("decoder.fc.4.bias").data.fill_(settings.n_bins / 2)
    model = model.to(device)
    optimiser = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    identity = digest(settings.model_dump(exclude={"save_every"}), str(dtype), data.fingerprint())
    state = out / STATE
    start, curve = _resume(state, identity, model, optimiser)
    warm, total = settings.warmup, settings.steps
    for step in range(start, total):
        scale = min((step + 1) / max(warm, 1), 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / total)))
        for group in optimiser.param_groups:
            group["lr"] = settings.learning_rate * scale
        step_seed = key(settings.seed, "step", str(step))
        rows = data.train[generator(step_seed, "cells").permutation(len(data.train))[: settings.batch_size]]
        batch = draw_tokens(data, rows, config, settings.genes_per_cell, settings.mask_ratios, step_seed)
        torch.manual_seed(step_seed % 2**63)
        model.train()
        with torch.autocast(model.device.type, dtype, enabled=dtype != torch.float32):
            expression, mvc = masked_error(model, *batch)
        optimiser.zero_grad(set_to_none=True)
        (expression + mvc).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        row = {"step": step + 1, "train_expression": expression.item(), "train_mvc": mvc.item()}
        if (step + 1) % settings.validate_every == 0 or step + 1 == total:
            held = validate(model, data, settings)
            curve.append({**row, "held_out_expression": held[0], "held_out_mvc": held[1]})
        if progress is not None:
            progress(step + 1, curve[-1] if curve and curve[-1]["step"] == step + 1 else row)
        if (step + 1) % settings.save_every == 0 and step + 1 < total:
            _save(state, identity, step + 1, curve, model, optimiser)
    return model.requires_grad_(False).eval(), curve


def validate(model: HookedScGPT, data: TrainingData, settings: PretrainSettings) -> tuple[float, float]:
    """Masked error on held-out cells, the same cells, tokens and masks every time: all of them, or 512 drawn by the seed.

    Parameters
    ----------
    model, data, settings
        Model, cells and settings as `train` has them.
    """
    model.eval()
    errors, weights, looked_at = [], [], data.held_out
    if len(looked_at) > _LOOKED_AT:
        looked_at = np.sort(generator(settings.seed, "looked at").permutation(looked_at)[:_LOOKED_AT])
    with torch.no_grad():
        for at in range(0, len(looked_at), settings.batch_size):
            rows = looked_at[at : at + settings.batch_size]
            seed = key(settings.seed, "validation", str(at))
            batch = draw_tokens(data, rows, model.config, settings.genes_per_cell, settings.mask_ratios, seed)
            errors.append([float(e) for e in masked_error(model, *batch)])
            weights.append(float(batch[2].sum()))
    mean = np.average(errors, axis=0, weights=weights)
    return float(mean[0]), float(mean[1])


def save_trained(model: HookedScGPT, settings: PretrainSettings, out: Path) -> None:
    """Write the checkpoint of a trained model.

    Parameters
    ----------
    model
        The trained model, with its configuration and vocabulary.
    settings
        How it was trained; some of it goes into ``args.json``.
    out
        Folder of the checkpoint; its files are replaced.
    """
    from workbench.models.scgpt.checkpoint import save_checkpoint

    save_checkpoint(model, out, {"mask_ratio": list(settings.mask_ratios), "seed": settings.seed, "task": "pretrain"})


def _save(
    state: Path,
    identity: str,
    step: int,
    curve: list[dict[str, float]],
    model: HookedScGPT,
    optimiser: torch.optim.AdamW,
) -> None:
    arrays = {f"model/{name}": value.cpu().numpy() for name, value in model.state_dict().items()}
    for i, moments in optimiser.state_dict()["state"].items():
        arrays |= {f"adam/{i}/{name}": moments[name].cpu().numpy() for name in ("exp_avg", "exp_avg_sq")}
    write_state(state / _SAVED, arrays, {"identity": identity, "step": step, "curve": curve})


def _resume(
    state: Path, identity: str, model: HookedScGPT, optimiser: torch.optim.AdamW
) -> tuple[int, list[dict[str, float]]]:
    if (found := read_state(state / _SAVED)) is None:
        return 0, []
    arrays, saved = found
    if saved["identity"] != identity:
        raise ArtifactError(
            f"'{state}' is the state of a training with other settings or other cells. Choose another output folder, "
            "or remove it to start afresh."
        )
    step = int(saved["step"])
    model.load_state_dict({k[6:]: torch.from_numpy(v) for k, v in arrays.items() if k.startswith("model/")})
    moments = {
        i: {
            "step": torch.tensor(float(step)),
            **{name: torch.from_numpy(arrays[f"adam/{i}/{name}"]) for name in ("exp_avg", "exp_avg_sq")},
        }
        for i in range(len(list(model.parameters())))
        if f"adam/{i}/exp_avg" in arrays
    }
    optimiser.load_state_dict({"state": moments, "param_groups": optimiser.state_dict()["param_groups"]})
    return step, saved["curve"]
