"""Dictionaries of several hooks, trained in one pass over the cells at a time; killed and called again, to the same weights.

A step is SAELens's own (Adam, its schedule, its loss for dead features), see `workbench.dictionaries.stepping`; here is what feeds it. Activations are never all on the disk:
`Feed` streams them. Between rounds of the feed the state is saved, as often as was asked for, and whatever is computed after a save
is the same when it is computed again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from anndata import AnnData
from tqdm import tqdm

from workbench.dictionaries.dictionary import Dictionary, Origin, vocabulary_hash
from workbench.dictionaries.feeding import Feed, Reader, Rows, balancing
from workbench.dictionaries.saelens import finished, make_trainer, restore_trainer, sae_lens, trainer_state
from workbench.dictionaries.settings import DictionaryConfig
from workbench.dictionaries.stepping import Steps
from workbench.errors import ArtifactError, HookError, ShapeError
from workbench.files import digest, read_state, write_state
from workbench.models import CellModel
from workbench.models.load import as_model
from workbench.seeds import key

STATE = "dictionaries-state.safetensors"
_ALL_STEPS, _DEALT = "all steps were done", ", on activations that were dealt anew within genes"


def train_dictionaries(
    model: CellModel | str | Path,
    cells: AnnData,
    hooks: str | Sequence[str],
    config: DictionaryConfig | None = None,
    *,
    targets: Mapping[str, str] | None = None,
    seed: int = 0,
    folder: str | Path | None = None,
    save_every: float = 60.0,
    min_gene_share: float | None = None,
    shuffled: bool = False,
    progress: bool = True,
) -> dict[str, Dictionary]:
    """Train a dictionary of each hook, all of them on the same passes over the cells.

    Parameters
    ----------
    model
        Model in evaluation mode, without hooks of its own; never changed.
    cells
        Cells as `workbench.load` returns them, those that are held out left out by `split_cells`.
    hooks
        Names or wildcards of hooks that have a row per gene; or ``hook_cell``, by itself.
    config
        What is trained and for how long; `DictionaryConfig` as it is when None.
    targets
        For transcoders: the hook that each hook is decoded to.
    seed
        The one seed of everything that is drawn.
    folder
        Where the state is kept between rounds; the same call goes on there. Nothing is kept when None.
    save_every
        Seconds between saves, at least. It has no part in the result.
    min_gene_share
        Smallest share of the cells' genes that must be in the vocabulary, as in `CellModel.tokenizer`.
    shuffled
        A control: coordinates of activations are dealt anew among the rows of each gene, so that nothing but the gene is left to be learnt.
        The dictionaries say so in their ``reason``.
    progress
        Show steps, the time left and the error on stderr.

    Returns
    -------
    dict
        Dictionary by full name of the hook.

    Raises
    ------
    HookError
        If a hook does not exist or has no rows, or an activation is not finite.
    ShapeError
        If there are fewer features than numbers of an activation, or fewer activations than features.
    CellsError
        If the buffer cannot hold a few cells.
    ArtifactError
        If the folder holds the state of another training.
    ConfigError
        If SAELens is not installed.
    """
    config = config or DictionaryConfig()
    sae_lens()
    model = as_model(model)
    names = model.resolve_hooks(hooks)
    to = {model.resolve_hooks(one)[0]: model.resolve_hooks(other)[0] for one, other in (targets or {}).items()}
    if unknown := sorted(set(to) - set(names)):
        raise HookError(f"A target is given for '{unknown[0]}', which is not among the hooks; name it there, too.")
    tokenizer = model.tokenizer(cells, seed=seed, min_gene_share=min_gene_share)
    reader = Reader(model, tokenizer, list(dict.fromkeys((*names, *to.values()))), config.cells_at_once)
    keep, n_rows = None, int(reader.n_rows.sum())
    if reader.of_cells and (config.balance or config.share < 1):
        raise HookError(
            f"Rows of '{names[0]}' are cells, of which none is left out; leave balance and share as they are."
        )
    if config.balance:
        keep, n_rows = balancing(tokenizer, model.config.n_tokens)
    if config.share < 1:
        keep = config.share * (np.ones(model.config.n_tokens) if keep is None else keep)
        n_rows = round(config.share * n_rows)
    for name in names:
        _check_width(name, config.width, reader.width(name), n_rows)
    steps = max(1, round(config.epochs * n_rows / config.rows))
    trainers = {
        name: make_trainer(
            config,
            reader.width(name),
            reader.width(to[name]) if name in to else None,
            steps,
            key(seed, "dictionary", name),
            str(model.device),
        )
        for name in names
    }
    feed = Feed(reader, config.rows, config.buffer, seed, keep, shuffled)
    checkpoint = model.fingerprint()
    identity = ""
    if folder is not None:
        folder = Path(folder).expanduser()
        # All values are read for it, so only where there is a state that it tells from others.
        settings = config.model_dump(exclude={"cells_at_once"})
        identity = digest(
            settings, checkpoint, tokenizer.fingerprint(), list(names), sorted(to.items()), seed, shuffled
        )
    scales = _resume(folder, identity, trainers, feed)
    steps_of_all = Steps(list(trainers.values()), config, model.device)
    done = next(iter(trainers.values())).n_training_steps
    saved = time.monotonic()
    with tqdm(total=steps, initial=done, unit="step", desc="dictionaries", disable=not progress) as bar:
        rounds = feed.rounds()
        while done < steps:
            batches = next(rounds)
            if not scales and batches:
                scales = _begin(trainers, batches, to)
            for batch in batches[: steps - done]:
                error = _step(steps_of_all, batch, list(trainers), to, scales)
                done += 1
                bar.update()
            if batches:
                bar.set_postfix_str(f"error {float(error):.3g}", refresh=False)
            if folder is not None and done < steps and time.monotonic() - saved >= save_every:
                _save(folder, identity, trainers, feed, scales)
                saved = time.monotonic()
    if folder is not None:
        _save(folder, identity, trainers, feed, scales)
    found = {}
    for name, trainer in trainers.items():
        target = to.get(name, name)
        origin = Origin(
            hook=name,
            target=target,
            checkpoint=checkpoint,
            vocabulary=vocabulary_hash(model),
            inner=reader.shapes[name].inner,
            scale=scales[name],
            seed=seed,
            steps=done,
            reason=_ALL_STEPS + (_DEALT if shuffled else ""),
            trained_as=config.architecture,
        )
        scale_out = scales[target] if name in to else None
        found[name] = Dictionary(**finished(trainer, config, scales[name], scale_out), origin=origin)
    return found


def _begin(trainers: Mapping[str, Any], batches: Sequence[Rows], to: Mapping[str, str]) -> dict[str, float]:
    """From the first round: what makes the mean norm of activations the root of their width, and their mean as each first bias.

    Activations of cells, and those behind a LayerNorm, have a mean that is far larger than what tells them apart.
    """
    scales = {}
    for hook in batches[0].values:
        x = torch.cat([batch.values[hook] for batch in batches])
        norm = float(x.norm(dim=1).double().mean())
        if norm == 0:
            raise HookError(
                f"All activations at '{hook}' are zero, and nothing can be learnt of them; name another hook."
            )
        scales[hook] = x.shape[1] ** 0.5 / norm
        for name, trainer in trainers.items():
            if to.get(name, name) == hook:
                trainer.sae.b_dec.data.copy_(x.mean(0) * scales[hook])
    return scales


def _step(
    steps: Steps, batch: Rows, hooks: Sequence[str], to: Mapping[str, str], scales: Mapping[str, float]
) -> torch.Tensor:
    """One step of every dictionary; the mean error per number of an activation, whose mean square is about 1."""
    found = steps.take(
        [
            (
                batch.values[hook],
                scales[hook],
                *((batch.values[to[hook]], scales[to[hook]]) if hook in to else (None, 0.0)),
            )
            for hook in hooks
        ]
    )
    widths = [batch.values[to.get(hook, hook)].shape[1] for hook in hooks]
    return torch.stack([error / width for error, width in zip(found, widths, strict=True)]).mean()


def _save(folder: Path, identity: str, trainers: Mapping[str, Any], feed: Feed, scales: Mapping[str, float]) -> None:
    arrays, about = feed.state()
    arrays = {f"feed/{name}": array for name, array in arrays.items()}
    more: dict[str, Any] = {}
    for number, (name, trainer) in enumerate(trainers.items()):
        own, more[name] = trainer_state(trainer)
        arrays |= {f"{number}/{part}": array for part, array in own.items()}
    write_state(folder / STATE, arrays, {"identity": identity, "feed": about, "trainers": more, "scales": dict(scales)})


def _resume(folder: Path | None, identity: str, trainers: Mapping[str, Any], feed: Feed) -> dict[str, float]:
    if folder is None or (found := read_state(folder / STATE)) is None:
        return {}
    arrays, about = found
    if about["identity"] != identity:
        raise ArtifactError(
            f"'{folder}' holds the state of a training of other cells, hooks, settings or another model. Choose another folder, or remove it to "
            "start afresh."
        )

    def part(prefix: str) -> dict[str, np.ndarray]:
        return {name[len(prefix) :]: array for name, array in arrays.items() if name.startswith(prefix)}

    feed.restore(part("feed/"), about["feed"])
    for number, (name, trainer) in enumerate(trainers.items()):
        restore_trainer(trainer, part(f"{number}/"), about["trainers"][name])
    return {hook: float(scale) for hook, scale in about["scales"].items()}


def _check_width(name: str, width: int, d: int, n_rows: int) -> None:
    """Refuse a dictionary that is narrower than what it is of, or wider than there are activations."""
    if width < d:
        raise ShapeError(
            f"{width} features are fewer than the {d} numbers of an activation at '{name}'; set width to {d} or more."
        )
    if n_rows < width:
        raise ShapeError(
            f"The cells give {n_rows} activations at '{name}', fewer than {width} features; take more cells or a lower width."
        )
