"""Whose causes ``workbench dictionary`` asks for: hooks, pairs of hooks, features, and what of it cannot be."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

from workbench.ablation.build import choose_cells
from workbench.dictionaries.alike import feature_usage
from workbench.dictionaries.dictionary import Dictionary
from workbench.errors import CellsError, ConfigError, HookError
from workbench.recipes.dictionary.config import FeatureSweepConfig
from workbench.recipes.dictionary.context import DictionaryContext
from workbench.seeds import generator
from workbench.tools.common import column, rows_of
from workbench.tools.steer import FEWEST


def asked_of(context: DictionaryContext) -> FeatureSweepConfig:
    """What is asked of causes.

    Parameters
    ----------
    context
        Run that was asked for it.
    """
    assert context.config.sweep is not None
    return context.config.sweep


def swept_hooks(context: DictionaryContext) -> tuple[str, ...]:
    """Hooks whose features are asked for, in the order in which the model computes them.

    Parameters
    ----------
    context
        Run that was asked for causes.
    """
    asked = asked_of(context).hooks
    return context.hooks if asked is None else context.model.resolve_hooks(asked)


def target_of(context: DictionaryContext, hook: str) -> str:
    """Hook that the dictionary of a hook writes to: itself, but for a transcoder.

    Parameters
    ----------
    context
        Run whose configuration may name targets of transcoders.
    hook
        Full name of a hook.
    """
    resolve = context.model.resolve_hooks
    targets = {resolve(one)[0]: resolve(other)[0] for one, other in context.config.targets.items()}
    return targets.get(hook, hook)


def pairs_of_hooks(context: DictionaryContext) -> list[tuple[str, str]]:
    """Hooks and the one behind each of them, where the model computes it later than what the first dictionary writes.

    Parameters
    ----------
    context
        Run that was asked for causes.
    """
    hooks, order = swept_hooks(context), list(context.model.hook_dict)
    pairs = zip(hooks, hooks[1:], strict=False)
    return [(one, other) for one, other in pairs if order.index(target_of(context, one)) < order.index(other)]


def check_sweep(context: DictionaryContext) -> None:
    """Refuse what cannot be asked of causes, before any work.

    Parameters
    ----------
    context
        Run that was asked for causes, of which nothing was done.

    Raises
    ------
    HookError
        If a hook has no dictionary or is in no block, or a feature does not exist.
    ConfigError
        If cells are to be steered and have no cell type.
    CellsError
        If a label has too few held-out cells.
    """
    asked, width = asked_of(context), context.config.dictionary.width
    for hook in swept_hooks(context):
        if hook not in context.hooks:
            raise HookError(f"Features of '{hook}' are to be swept, which is not among the hooks; name it there, too.")
        if not target_of(context, hook).startswith("blocks."):
            raise HookError(f"'{hook}' is in no block of the model, where features have effects; set sweep to null.")
    if isinstance(asked.features, dict):
        named = {context.model.resolve_hooks(hook)[0]: numbers for hook, numbers in asked.features.items()}
        if set(named) != set(swept_hooks(context)) or not all(named.values()):
            raise HookError(
                f"sweep.features names features of {', '.join(named) or 'no hook'}, and those of {', '.join(swept_hooks(context))} are swept; name some of "
                "each, or a number of features that are drawn."
            )
        if wrong := [k for numbers in named.values() for k in numbers if k >= width]:
            raise HookError(f"Dictionaries have features 0 to {width - 1}, but {wrong[0]} is to be swept.")
    if asked.steering and not context.column("cell_type"):
        raise ConfigError("Cells are to be steered between cell types, but data.cell_type is not given.")
    for one in asked.steering:
        if one.source == one.target:
            raise ConfigError(f"Cells of '{one.target}' are to be steered to themselves; give two labels.")
        cells = context.held_cells
        for label in (one.target, one.source):
            n = len(rows_of(column(cells, "cell_type"), label, cells.obs_names, None, 0))
            if n < FEWEST:
                raise CellsError(
                    f"{n} held-out cells are of '{label}'; steering needs {FEWEST}, some to make a direction and others to judge it."
                )


def chosen_features(context: DictionaryContext, hook: str, dictionary: Dictionary) -> list[int]:
    """Features that are tested: those that were named, or some drawn by the seed among those that fire.

    Parameters
    ----------
    context
        Run that was asked for causes.
    hook, dictionary
        Full name of a hook, and the dictionary of it.
    """
    asked, model, seed = asked_of(context), context.model, context.config.seed
    if isinstance(asked.features, dict):
        return list(next(n for name, n in asked.features.items() if model.resolve_hooks(name)[0] == hook))
    firing = firing_features(context, dictionary)
    return sorted(generator(seed, "swept features", hook).permutation(firing)[: asked.features].tolist())


def firing_features(context: DictionaryContext, dictionary: Dictionary) -> Int[np.ndarray, " feature"]:
    """Features that fire somewhere in the held-out cells that causes are asked of, in ascending order.

    Parameters
    ----------
    context
        Run that was asked for causes.
    dictionary
        Dictionary of one of its hooks.
    """
    asked, model, seed = asked_of(context), context.model, context.config.seed
    cells = choose_cells(context.held_cells, asked.n_cells, seed)
    tokens = model.tokenizer(cells, seed=seed, min_gene_share=context.config.data.min_gene_share).tokens()
    return np.flatnonzero(feature_usage(model, dictionary, tokens)["rate"] > 0)
