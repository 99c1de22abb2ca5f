"""``workbench dictionary`` as a recipe: train, judge, name, and pages to browse."""

from __future__ import annotations

from functools import partial

from workbench.dictionaries.feeding import Reader
from workbench.dictionaries.pretrained import CONFIG_FILE, WEIGHTS_FILE
from workbench.dictionaries.saelens import sae_lens
from workbench.engine.plan import Expected, Load
from workbench.engine.recipe import Recipe
from workbench.engine.stages import Stage
from workbench.errors import CellsError, ConfigError, HookError, ShapeError
from workbench.explorer.dictionary import page_files
from workbench.factors.gene_sets import load_gene_sets, usable_terms
from workbench.files import digest, hash_file
from workbench.recipes.dictionary.config import UNTRAINED, FeatureSweepConfig
from workbench.recipes.dictionary.context import FOLDER, MODEL, TRAIN, DictionaryContext, PlannedTraining
from workbench.recipes.dictionary.judge import JUDGED, MATCHED, judge_stage, stability_stage
from workbench.recipes.dictionary.name import NAMED, name_stage
from workbench.recipes.dictionary.pages import FEATURES, pages_stage
from workbench.recipes.dictionary.sections import report
from workbench.recipes.dictionary.sweep import EDGES, EFFECTS, ESTIMATES, STAGES, STEERING, SWEPT, inputs_of
from workbench.recipes.dictionary.swept import check_sweep, pairs_of_hooks, swept_hooks, target_of
from workbench.recipes.dictionary.timing import BASIS, seconds_of_steps
from workbench.recipes.dictionary.train import train_stage
from workbench.recipes.loads import seconds_per_cell
from workbench.tools.gene_inputs import read_edges

_FEW = 8
# What the parts of the command do; each also does what comes before it.
PARTS = TRAINS, JUDGES, NAMES, SWEEPS, PAGES = ("train", "judge", "name", "sweep", "page")


def stages(context: DictionaryContext) -> list[Stage]:
    """Stages of a run; what can be refused is refused here.

    Parameters
    ----------
    context
        Configuration, cells and model, of which nothing was done.

    Returns
    -------
    list of Stage
        ``train``, one for each other seed and each control, ``judge``, ``stability`` with two seeds or more, ``name`` where names are asked
        for, ``feature_effects``, ``feature_attribution``, ``feature_circuits`` and ``feature_steering`` where causes are, and ``pages``.

    Raises
    ------
    ConfigError
        If SAELens is not installed, or gene sets cannot be read.
    HookError
        If a hook or target does not exist, has no rows, or has no genes where names are asked for.
    ShapeError
        If there are fewer features than numbers of an activation.
    CellsError
        If a cell expresses none of the model's genes, or none is left to train or to judge on.
    EvaluationError
        If no gene set is left on the panel.
    """
    sae_lens()
    _check(context)
    config, passed, seed = context.config, context.passed, context.config.seed
    weights, shape = context.model.fingerprint(), str(vars(context.model.config))
    settings = config.dictionary.model_dump(mode="json", exclude={"cells_at_once"})
    listed = []

    def given(one: PlannedTraining) -> dict[str, object]:
        random = {"shape": shape, "weights": seed, "dtype": config.dtype}
        of = random if one.source == UNTRAINED else {"weights": weights}
        # The tokeniser may draw genes of long cells by the seed of the training.
        return {**passed, **of, "dictionary": settings, "seed": one.seed}

    for one in context.trainings:
        files = tuple(f"{FOLDER}/{hook}/{file}" for hook in context.hooks for file in (CONFIG_FILE, WEIGHTS_FILE))
        work = partial(train_stage, context, one)
        listed.append(Stage(one.stage, work, given(one), files=files if one.stage == TRAIN else (), part=TRAINS))
    every = tuple(one.stage for one in context.trainings)
    judged = {**config.judge.model_dump(mode="json"), "seed": seed, "donor": context.labels("donor")}
    listed.append(Stage("judge", partial(judge_stage, context), judged, every, JUDGED, part=JUDGES))
    own = tuple(one.stage for one in context.trainings if one.source == MODEL)
    before: tuple[str, ...] = ("judge",)
    if len(own) > 1:
        listed.append(Stage("stability", partial(stability_stage, context), {"seed": seed}, own, MATCHED, part=JUDGES))
        before = (*before, "stability")
    labels = {name: context.labels(name) for name in ("cell_type", "donor")}
    if config.names is not None:
        sets = load_gene_sets(config.names.sets)
        asked = {
            **config.names.model_dump(mode="json", exclude={"sets", "network"}),
            "n_cells": config.judge.n_cells,
            "seed": seed,
        }
        network = None if config.names.network is None else hash_file(config.names.network)
        asked |= {"sets": digest(sets.name, sets.sets, sets.sources), "network": network, **labels}
        named = (TRAIN, *(one.stage for one in context.trainings if one.source == UNTRAINED))
        listed.append(Stage("name", partial(name_stage, context), asked, named, NAMED, part=NAMES))
        before = (*before, "name")
    if config.sweep is not None:
        for name, (asks, _) in STAGES.items():
            if (name == EDGES and not pairs_of_hooks(context)) or (name == STEERING and not config.sweep.steering):
                continue
            after = (TRAIN, EFFECTS) if name == STEERING else (TRAIN,)
            given_to = inputs_of(context, name)
            listed.append(Stage(name, partial(asks, context), given_to, after, SWEPT[name], part=SWEEPS))
    drawn = {"seed": seed, "hooks": list(context.hooks)}
    files = tuple(f"{FOLDER}/{hook}/{file}" for hook in context.hooks for file in page_files(config.dictionary.width))
    pages = partial(pages_stage, context)
    # Pages show effects where they were asked for; by themselves they do not wait for hours of ablation.
    own = (TRAIN, *before)
    listed.append(Stage("pages", pages, drawn, own, (FEATURES,), files=files, part=PAGES, beside=(EFFECTS,)))
    return listed


def _check(context: DictionaryContext) -> None:
    """Refuse what cannot be, before any work."""
    config, model = context.config, context.model
    for one, other in config.targets.items():
        if model.resolve_hooks(one)[0] not in context.hooks:
            raise HookError(f"A target is given for '{one}', which is not among the hooks; name it there, too.")
        model.resolve_hooks(other)
    for name, split in (("train on", context.split.train), ("judge on", context.split.test)):
        if len(split) < 2:
            raise CellsError(
                f"{len(split)} of {len(context.cells)} cells are left to {name}; give more cells or donors, or other held_out.folds."
            )
    tokenizer = model.tokenizer(context.cells, seed=config.seed, min_gene_share=config.data.min_gene_share)
    reader = _reader(context)
    if reader.of_cells and config.names is not None:
        raise HookError(
            f"Rows of '{context.hooks[0]}' are cells, which have no gene to name a feature by; set names to null, or take hooks with a row per gene."
        )
    for hook in context.hooks:
        if config.dictionary.width < reader.width(hook):
            raise ShapeError(
                f"{config.dictionary.width} features are fewer than the {reader.width(hook)} numbers of an activation at '{hook}'; set "
                f"dictionary.width to {reader.width(hook)} or more."
            )
    if config.sweep is not None:
        check_sweep(context)
    if config.names is not None:
        usable_terms(load_gene_sets(config.names.sets), tokenizer.match.genes)
        if config.names.network is not None:
            read_edges(config.names.network, tokenizer.match.genes)
    if config.dictionary.architecture != "batchtopk" and config.targets:
        raise ConfigError(
            "A transcoder is trained as batchtopk; set dictionary.architecture to that, or take targets out."
        )


def _reader(context: DictionaryContext) -> Reader:
    """Reader of all hooks, and of those that transcoders are decoded to."""
    config, model = context.config, context.model
    tokenizer = model.tokenizer(context.cells, seed=config.seed, min_gene_share=config.data.min_gene_share)
    targets = [target_of(context, hook) for hook in context.hooks]
    return Reader(model, tokenizer, list(dict.fromkeys((*context.hooks, *targets))), config.dictionary.cells_at_once)


def expects(context: DictionaryContext) -> Expected:
    """What a run has to do: passes of each training, and the dictionaries that are judged, matched and named.

    Parameters
    ----------
    context
        Configuration, cells and model, of which nothing was done.
    """
    config, n, hooks = context.config, len(context.split.train), len(context.hooks)
    tokenizer = context.model.tokenizer(context.cells, seed=config.seed, min_gene_share=config.data.min_gene_share)
    tokens = tokenizer.tokens(0, min(_FEW, len(context.cells)))
    passes = max(1, round(config.dictionary.epochs * n))
    d = context.model.config.d_model
    wide, kept = config.dictionary.width, 4 * hooks * (2 * config.dictionary.width * d)
    memory = 4 * hooks * d * config.dictionary.buffer + 4 * kept
    rows = float(tokenizer.lengths().sum() - len(tokenizer)) * n / len(context.cells)
    steps = max(1, round(config.dictionary.share * config.dictionary.epochs * rows / config.dictionary.rows))
    targets = {hook: to for hook in context.hooks if (to := target_of(context, hook)) != hook}
    each = seconds_of_steps(config.dictionary, _reader(context), targets, context.device)
    per_cell = seconds_per_cell(context.model, tokens)
    seconds = per_cell * passes + each * steps
    train = Load(n, passes, memory=memory, disk=kept, seconds=seconds, basis=BASIS)
    looked = min(config.judge.n_cells, len(context.split.test))
    found = {one.stage: train for one in context.trainings}
    found["judge"] = Load(looked, tasks=hooks * len(context.trainings))
    own = sum(one.source == MODEL for one in context.trainings)
    if own > 1:
        found["stability"] = Load(tasks=hooks * (own - 1))
    if config.names is not None:
        found["name"] = Load(looked, tasks=hooks * (1 + (UNTRAINED in config.controls)))
    if config.sweep is not None:
        found |= _swept(context, config.sweep, per_cell)
    said = f"About {steps:,} steps of each of {len(context.trainings)} x {hooks} dictionaries with {wide:,} features; a step of all {hooks} takes about {each:.2g} s beside the passes."
    return Expected(found, said)


def _swept(context: DictionaryContext, asked: FeatureSweepConfig, seconds: float) -> dict[str, Load]:
    """What the stages of causes have to do at most; time is that of the passes alone."""
    hooks, n = len(swept_hooks(context)), min(asked.n_cells, len(context.split.test))
    each = asked.features if isinstance(asked.features, int) else max(map(len, asked.features.values()))
    changed = min(context.config.dictionary.width, each * (1 + asked.alike))

    def load(passes: int, **more: int) -> Load:
        return Load(n, passes, seconds=passes * seconds, basis="at most: passes alone", **more)

    pairs = len(pairs_of_hooks(context))
    doses = sum(1 + len(one.doses) * (1 + one.draws) for one in asked.steering)
    return {
        EFFECTS: load(hooks * n * (2 + changed)),
        ESTIMATES: load(hooks * n * (4 + asked.check)),
        EDGES: load(pairs * n * (3 + asked.check + 2 * asked.targets), tasks=pairs),
        STEERING: load(hooks * (1 + each) * n * doses),
    }


RECIPE = Recipe("dictionary", DictionaryContext, stages, report, files=(FOLDER,), expects=expects)
