"""``workbench pretrain``: train, compare with baselines on held-out cells, and write the model card."""

from __future__ import annotations

import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError
from tqdm import tqdm

from workbench.engine.config import load_cells
from workbench.errors import ConfigError, unknown_name
from workbench.files import write_text
from workbench.models.scgpt.baselines import choose_ridge, gene_mean, linear_regression, nearest_cells
from workbench.models.scgpt.binning import hash_genes
from workbench.models.scgpt.hooked import HookedScGPT
from workbench.models.scgpt.pretraining import PretrainSettings, TrainingData, finish, model_config, prepare, train
from workbench.models.scgpt.tokenizer import tokenise_rows
from workbench.models.scgpt.tokens import Tokens
from workbench.seeds import generator, key
from workbench.settings import PretrainConfig

_RIDGES = (10.0, 30.0, 100.0, 300.0, 1000.0)


def pretrain(config: PretrainConfig, out: Path) -> Path:
    """Train a checkpoint and write it with its card.

    Parameters
    ----------
    config
        What to train on, and how.
    out
        Checkpoint folder; an interrupted training in it goes on.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    ConfigError
        If a key of ``settings`` is unknown or its value has the wrong type.
    OutputError
        If the folder cannot be written; said before training.
    """
    known = {f.name for f in fields(PretrainSettings)}
    for name in config.settings:
        if name not in known:
            raise ConfigError(unknown_name("key", f"settings.{name}", [f"settings.{k}" for k in sorted(known)]))
    try:
        settings = TypeAdapter(PretrainSettings).validate_python(config.settings)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in ("settings", *first["loc"]))
        raise ConfigError(f"Key '{where}' is {first['input']!r}: {first['msg'].lower()}.") from error
    # Said now, not after an hour of training.
    write_text(out / ".writable", "").unlink()
    adata = load_cells(config.data)
    data = prepare(adata, settings)
    began = time.perf_counter()
    with tqdm(total=settings.steps, unit="step", desc="pretrain") as bar:

        def show(step: int, row: dict[str, float]) -> None:
            bar.update(step - bar.n)
            bar.set_postfix({k: f"{v:.1f}" for k, v in row.items() if k != "step"})

        model, curve = train(data, settings, out, show)
    evaluation = evaluate(model, data, settings)
    report = {
        "source": adata.uns["workbench"]["source"],
        "note": config.note,
        "n_train": len(data.train),
        "n_held_out": len(data.held_out),
        "n_genes": len(data.vocabulary.genes),
        "n_parameters": sum(p.numel() for p in model.parameters()),
        "seconds_of_last_session": round(time.perf_counter() - began, 1),
        "evaluation": evaluation,
        "curve": curve,
    }
    finish(model, settings, data, report, out)
    write_text(out / "README.md", model_card(settings, report))
    return out


def evaluate(model: HookedScGPT, data: TrainingData, settings: PretrainSettings) -> list[dict[str, Any]]:
    """Masked-value error on held-out cells beside baselines, one row per mask ratio and predictor.

    All predictors see the same visible bins and are scored on the same masked ones. The spread is over cells: the
    intervals are bootstraps (2,000 draws of cells) of the mean over cells of each cell's mean squared error, and of its
    paired reduction against the gene mean.

    Parameters
    ----------
    model, data, settings
        As in `pretraining.train`.

    Returns
    -------
    list of dict
        ``mask_ratio``, ``predictor``, ``mse``, ``low``, ``high``, ``gain`` (share of the gene mean's error that is
        saved), ``gain_low``, ``gain_high``, ``n_cells``, ``n_values``.
    """
    training, held = _bins(data, data.train, settings), _bins(data, data.held_out, settings)
    rows: list[dict[str, Any]] = []
    for ratio in settings.mask_ratios:
        masks = [
            (generator(settings.seed, "evaluation", side, str(ratio)).random(bins.shape) < ratio) & (bins > 0)
            for side, bins in (("train", training), ("held-out", held))
        ]
        mask = masks[1]
        visible = np.where(mask, 0, held)
        ridge = choose_ridge(training, masks[0], _RIDGES)
        expression, mvc = _predict(model, data, visible, mask)
        predictors = {
            "expression decoder": expression,
            "MVC decoder": mvc,
            "gene mean": np.broadcast_to(gene_mean(training), held.shape),
            f"linear regression on the other genes (ridge {ridge:g})": linear_regression(
                training, visible, mask, ridge
            ),
            "100 nearest training cells": nearest_cells(training, visible, 100),
            "best possible (ties only)": _tie_means(data, settings),
        }
        errors = {
            name: np.where(mask, (predicted - held) ** 2, 0).sum(1) / np.maximum(mask.sum(1), 1)
            for name, predicted in predictors.items()
        }
        draws = generator(settings.seed, "bootstrap", str(ratio)).integers(0, len(held), (2000, len(held)))
        reference = errors["gene mean"][draws].mean(1)
        for name, squared in errors.items():
            means = squared[draws].mean(1)
            low, high = np.quantile(means, [0.025, 0.975])
            gain_low, gain_high = np.quantile(1 - means / reference, [0.025, 0.975])
            rows.append(
                {
                    "mask_ratio": ratio,
                    "predictor": name,
                    "mse": float(squared.mean()),
                    "low": float(low),
                    "high": float(high),
                    "gain": float(1 - squared.mean() / errors["gene mean"].mean()),
                    "gain_low": float(gain_low),
                    "gain_high": float(gain_high),
                    "n_cells": len(held),
                    "n_values": int(mask.sum()),
                }
            )
    return rows


def _bins(data: TrainingData, rows: np.ndarray, settings: PretrainSettings, draw: str = "evaluation") -> np.ndarray:
    """Dense bins (cell, gene of the vocabulary) of some cells, all genes, ties broken once."""
    ids, values, padding = tokenise_rows(
        data.matrix[rows],
        data.column_ids,
        hash_genes(data.column_ids),
        data.cell_ids[rows],
        config=model_config(settings, data.vocabulary),
        vocabulary=data.vocabulary,
        max_tokens=len(data.vocabulary) + 1,
        seed=key(settings.seed, draw),
    )
    bins = np.zeros((len(rows), len(data.vocabulary)))
    cell, position = np.nonzero(~padding)
    bins[cell, ids[cell, position]] = values[cell, position]
    return bins[:, 3:]


def _tie_means(data: TrainingData, settings: PretrainSettings) -> np.ndarray:
    """Mean bin over 200 ways of breaking ties: what a predictor that knew the true value could say at best."""
    draws = [_bins(data, data.held_out, settings, f"ties {i}") for i in range(200)]
    return np.mean(draws, axis=0)


def _predict(
    model: HookedScGPT, data: TrainingData, visible: np.ndarray, mask: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Both decoders' predictions at masked genes, as dense (cell, gene) arrays."""
    out = [np.zeros_like(visible), np.zeros_like(visible)]
    config = model.config
    with torch.no_grad():
        for i in range(len(visible)):
            genes = np.flatnonzero((visible[i] > 0) | mask[i])
            values = np.where(mask[i, genes], config.mask_value, visible[i, genes])
            ids = torch.from_numpy(np.concatenate([[data.vocabulary.cls_id], genes + 3]))[None]
            shown = torch.from_numpy(np.concatenate([[config.pad_value], values]).astype(np.float32))[None]
            predicted = model(
                Tokens(ids, shown, torch.zeros_like(ids, dtype=torch.bool)), outputs=("expression", "mvc")
            )
            out[0][i, genes] = predicted.expression[0, 1:].numpy()
            out[1][i, genes] = predicted.mvc[0, 1:].numpy()
    return out[0], out[1]


def model_card(settings: PretrainSettings, report: dict[str, Any]) -> str:
    """Markdown card of a trained checkpoint.

    Parameters
    ----------
    settings, report
        As written to ``training.json``.
    """
    rows = [
        f"| {r['mask_ratio']} | {r['predictor']} | {r['mse']:.1f} | {r['low']:.1f} to {r['high']:.1f} | {r['gain']:+.1%} | "
        f"{r['gain_low']:+.1%} to {r['gain_high']:+.1%} |"
        for r in report["evaluation"]
    ]
    curve = report["curve"]
    step = max(1, len(curve) // 12)
    shown = sorted({*range(step - 1, len(curve), step), len(curve) - 1})
    losses = [
        f"| {c['step']} | {c['train_expression']:.1f} | {c['train_mvc']:.1f} | {c['held_out_expression']:.1f} | "
        f"{c['held_out_mvc']:.1f} |"
        for c in (curve[i] for i in shown)
    ]
    first = report["evaluation"][0]
    return "\n".join(
        [
            "# A mini scGPT checkpoint",
            "",
            "Made by `workbench pretrain`; the file `training.json` holds every setting, the whole loss curve and the names",
            "of the held-out cells. It is small and trained on few cells: a stand-in with scGPT's format and arithmetic for",
            "tests, demos and teaching. It says nothing about what the released scGPT models encode.",
            "",
            f"- Data: {report['source']}. {report['n_train']} cells trained on, {report['n_held_out']} held out by a hash of "
            "the cell name.",
            f"- Model: {settings.n_layers} layers x {settings.n_heads} heads, width {settings.d_model}, "
            f"{report['n_parameters']:,} parameters, {report['n_genes']} genes.",
            f"- Objective: squared error of masked bins from the expression and the MVC decoder, mask ratios "
            f"{', '.join(map(str, settings.mask_ratios))}, {settings.genes_per_cell} genes per cell sampled afresh at each "
            f"of {settings.steps} steps of {settings.batch_size} cells, seed {settings.seed}.",
            "",
            *([f"Note: {report['note']}", ""] if report["note"] else []),
            "## Masked-value error on held-out cells",
            "",
            f"Mean over {first['n_cells']} held-out cells of the squared error in bins (1 to {settings.n_bins - 1}), with 95 % "
            "bootstrap intervals over cells;",
            "all predictors see the same visible genes.",
            "",
            "| mask ratio | predictor | mean squared error | 95 % interval | less than the gene mean | 95 % interval, paired |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
            '"Best possible" knows the true value and is left with scGPT\'s random breaking of ties between bins.',
            "",
            "## Loss curve (squared error in bins)",
            "",
            "| step | train expression | train MVC | held-out expression | held-out MVC |",
            "|---|---|---|---|---|",
            *losses,
            "",
        ]
    )
