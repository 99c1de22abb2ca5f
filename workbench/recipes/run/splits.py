"""What the stages that take a run's operator apart share: splits, and the head that is taken apart."""

from __future__ import annotations

from functools import lru_cache
from itertools import combinations
from pathlib import Path
from typing import TypeVar

import numpy as np

from workbench.engine.stages import key_of
from workbench.errors import EvaluationError, unknown_name
from workbench.operators.operator import Head, head_name
from workbench.recipes.run.chain import Chain
from workbench.seeds import generator
from workbench.settings import RunConfig

Section = TypeVar("Section")


def chain_of(config: str, out: str) -> Chain:
    """Data of a run, in the process that needs them; read once for as long as its cells and operators are the same.

    Parameters
    ----------
    config
        `RunConfig` as JSON, paths absolute.
    out
        Folder of the run.
    """
    return _chain(config, out, tuple(key_of(Path(out), name) for name in ("cells", "operators")))


@lru_cache(maxsize=1)
def _chain(config: str, out: str, keys: tuple[str, ...]) -> Chain:
    return Chain(RunConfig.model_validate_json(config), Path(out))


def fold_pairs(chain: Chain, n: int) -> list[tuple[int, ...]]:
    """Pairs of folds to leave out together, in an order drawn by the seed: repeated splits, whole donors where there are any.

    Parameters
    ----------
    chain
        The run.
    n
        At most so many.
    """
    folds = sorted(set(chain.fold.tolist()))
    if len(folds) < 4:
        return [(one,) for one in folds]
    pairs = list(combinations(folds, 2))
    order = generator(chain.config.seed, "fold pairs").permutation(len(pairs))
    return [pairs[i] for i in order[:n]]


def head_of(chain: Chain, name: str | None, folds: tuple[int, ...] = ()) -> Head:
    """The head that is taken apart: the named one, or the best of a screen of the anchors outside some folds.

    Parameters
    ----------
    chain
        The run.
    name
        ``L2H5``, or None.
    folds
        To leave out.

    Raises
    ------
    EvaluationError
        If the name is none of a head, or no head can be scored.
    """
    heads = {head_name(*head): head for head in np.ndindex(*chain.operators.shape)}
    if name is not None:
        if name not in heads:
            raise EvaluationError(unknown_name("head", name, heads))
        return heads[name]
    scores = {head: value for head, value in chain.scores(chain.operators, folds).items() if np.isfinite(value)}
    if not scores:
        raise EvaluationError("No head can be scored on held-out anchors, so none can be chosen; name one as 'head'.")
    return max(scores, key=lambda head: (scores[head], tuple(-part for part in head)))


def required(section: Section | None, name: str) -> Section:
    """A section of the configuration that a stage cannot do without.

    Parameters
    ----------
    section, name
        The section, and its key.

    Raises
    ------
    EvaluationError
        If it is absent.
    """
    if section is None:
        raise EvaluationError(f"The configuration has no section '{name}'; add one, it may be empty: {{}}.")
    return section
