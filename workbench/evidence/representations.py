"""What the methods make of expression, fitted on a training side: the adaptor on any matrix, frozen embeddings, baselines."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from jaxtyping import Float
from sklearn.decomposition import PCA, TruncatedSVD

from workbench.cells.anchors import Anchors, make_anchors
from workbench.errors import EvaluationError
from workbench.evidence.holdout import head_scores, random_splits
from workbench.evidence.protocol import Cells, NotRunError, Training
from workbench.evidence.readouts import Encoder
from workbench.factors.compaction import FOLDED, REFERENCE, variants
from workbench.files import digest
from workbench.operators.adaptor import LETAdaptor
from workbench.operators.algorithm import fold
from workbench.operators.cell_adaptor import CellAdaptor
from workbench.operators.controls import control
from workbench.operators.operator import Head, feature_map, head_name, screen_weights
from workbench.recipes.benchmark.config import BenchmarkConfig
from workbench.seeds import generator, key

RANKS, WIDTH = (64, 16), 10
SPARSE = {"n_factors": 16, "n_read": 60, "n_write": 60}
_HOLDOUTS = 8

Matrix = Callable[[Training], np.ndarray]


def raw(train: Training) -> Encoder:
    """Expression itself.

    Parameters
    ----------
    train
        The training side.
    """
    return Encoder(dense, 0)


def dense(cells: Cells) -> Float[np.ndarray, "cell gene"]:
    """Expression of the panel as an array.

    Parameters
    ----------
    cells
        Any.
    """
    return np.asarray(cells.expression.todense(), dtype=np.float64)


def principal(train: Training) -> Encoder:
    """Principal components of the training side.

    Parameters
    ----------
    train
        The training side.
    """
    x = dense(train.cells)
    pca = PCA(min(WIDTH, *x.shape), random_state=key(train.seed, "pca") % 2**32).fit(x)
    return Encoder(lambda cells: pca.transform(dense(cells)), pca.components_.size + pca.mean_.size)


def singular(train: Training) -> Encoder:
    """Leading right singular vectors of the training side, not centred.

    Parameters
    ----------
    train
        The training side.
    """
    wide = train.cells.expression.astype(np.float64)
    svd = TruncatedSVD(min(WIDTH, min(wide.shape) - 1), random_state=key(train.seed, "svd") % 2**32).fit(wide)
    return Encoder(lambda cells: svd.transform(cells.expression.astype(np.float64)), svd.components_.size)


def embedded(name: str, train: Training) -> Encoder:
    """A frozen embedding of scGPT.

    Parameters
    ----------
    name
        Of the embedding.
    train
        The training side.

    Raises
    ------
    NotRunError
        If the campaign has no such embedding.
    """
    if name not in train.cells.embeddings:
        raise NotRunError(f"the campaign has no embedding '{name}'")
    return Encoder(lambda cells: cells.embeddings[name].astype(np.float64), 0)


def anchors_of(config: BenchmarkConfig, train: Training) -> Anchors:
    """Anchors of the training side.

    Parameters
    ----------
    config
        With ``anchors`` and ``seed``.
    train
        The training side.
    """
    columns = {"stage": train.stage, "donor": train.donor, "tissue": train.tissue, "cell_type": train.cell_type}
    obs = pd.DataFrame({k: v for k, v in columns.items() if v is not None}, index=train.cells.names)
    settings = config.anchors
    return make_anchors(
        train.cells.expression,
        obs,
        min_cells=settings.min_cells,
        parts=settings.parts,
        weights=settings.weights,
        seed=config.seed,
    )


def let(config: BenchmarkConfig, make: Matrix, train: Training) -> Encoder:
    """LET on a feature map, fitted to anchors and folded with the map.

    Parameters
    ----------
    config
        Widths and weights of the adaptor, anchors.
    make
        From the training side to the feature map.
    train
        The training side.
    """
    matrix, anchors = make(train), anchors_of(config, train)
    head = LETAdaptor(**config.adaptor.parameters()).fit(
        anchors.centroids @ matrix, train.ruler.distances[np.ix_(anchors.stage, anchors.stage)], anchors.weights
    )
    encode, offset = fold(matrix, head.encoder_, head.bias_)
    return _folded(encode, offset, head.encoder_.size + head.bias_.size)


def _folded(encode: np.ndarray, offset: np.ndarray, n_parameters: int) -> Encoder:
    return Encoder(lambda cells: np.asarray(cells.expression @ encode) + offset, n_parameters)


def let_on_stream(config: BenchmarkConfig, name: str, train: Training) -> Encoder:
    """LET on a frozen embedding: anchors are means of embeddings, as means of expression are.

    Parameters
    ----------
    config, train
        As in `let`.
    name
        Of the embedding.
    """
    frozen = embedded(name, train)
    x = frozen.encode(train.cells)
    wide = replace(train, cells=replace(train.cells, expression=sp.csr_matrix(x)))
    anchors = anchors_of(config, wide)
    head = LETAdaptor(**config.adaptor.parameters()).fit(
        anchors.centroids, train.ruler.distances[np.ix_(anchors.stage, anchors.stage)], anchors.weights
    )
    return Encoder(lambda cells: head.transform(frozen.encode(cells)), head.encoder_.size + head.bias_.size)


def cell_head(config: BenchmarkConfig, more: dict[str, Any], train: Training) -> Encoder:
    """The adaptor trained on cells instead of anchors.

    Parameters
    ----------
    config, train
        As in `let`.
    more
        Further arguments of `CellAdaptor`.
    """
    settings = config.cell_heads.model_dump(exclude={"hybrid"})
    width = config.adaptor
    # A stage of which there is one cell only has no pair within it.
    kept = np.flatnonzero(np.bincount(train.stage)[train.stage] > 1)
    head = CellAdaptor(k=width.k, beta=width.beta, seed=config.seed, **settings, **more).fit(
        train.cells.expression[kept],
        train.stage[kept],
        train.ruler.distances,
        operator=mapped(config, train).astype(np.float64),
        groups=None if train.donor is None else train.donor[kept],
        names=train.cells.names[kept],
    )
    return _folded(head.matrix_, head.offset_, head.n_parameters_)


def mapped(config: BenchmarkConfig, train: Training) -> np.ndarray:
    """The configured feature map of the training side's operators.

    Parameters
    ----------
    config, train
        The campaign, and the training side.

    Raises
    ------
    NotRunError
        If there are no operators.
    """
    if train.operators is None:
        raise NotRunError("the campaign has no operators")
    weights = None
    if config.adaptor.feature_map == "topk":
        weights = screen_weights(_screened(config, train)[0][0], config.adaptor.top)
    return feature_map(train.operators, config.adaptor.feature_map_spec(weights)).astype(np.float32)


def untrained_map(config: BenchmarkConfig, train: Training) -> np.ndarray:
    """The same of a model that was never trained.

    Parameters
    ----------
    config, train
        As in `mapped`.
    """
    return mapped(config, replace(train, operators=train.untrained))


def controlled(config: BenchmarkConfig, name: str, train: Training) -> np.ndarray:
    """Feature map of a control.

    Parameters
    ----------
    config, train
        As in `mapped`.
    name
        One of `CONTROLS`.
    """
    return control(name, mapped(config, train), train.cells.expression, config.seed)


def compact(config: BenchmarkConfig, name: str, train: Training) -> Encoder:
    """LET on a compact form of the head that a screen of the training anchors puts first.

    Parameters
    ----------
    config, train
        As in `let`.
    name
        Of the form, as `variants` names it.

    Raises
    ------
    NotRunError
        If there are no operators, or the form cannot be made of this head.
    EvaluationError
        If no head can be scored.
    """
    (scores, took), new = _screened(config, train)
    scores = {head: value for head, value in scores.items() if np.isfinite(value)}
    if not scores or train.operators is None:
        raise EvaluationError("no head can be scored on held-out anchors, so none can be chosen")
    best = max(scores, key=lambda head: (scores[head], tuple(-part for part in head)))
    own = train.operators.head(*best)
    made = variants(
        own,
        own,
        train.cells.genes,
        ranks=RANKS,
        alternatives=False,
        width=config.adaptor.k,
        seed=config.seed,
        **SPARSE,
    )
    found = next(one for one in made if one.name == name and one.name not in (REFERENCE, FOLDED))
    if found.matrix is None:
        raise NotRunError(f"{head_name(*best)}: {found.note}")
    matrix = found.matrix
    return replace(let(config, lambda _: matrix, train), remembered_seconds=0.0 if new else took)


Screen = tuple[dict[Head, float], float]
# The last screen only: methods of a split follow each other.
_SCREEN: dict[str, Screen] = {}


def _screened(config: BenchmarkConfig, train: Training) -> tuple[Screen, bool]:
    """Score of every head alone on held-out training anchors, what it took, and whether it was made now."""
    if train.operators is None:
        raise NotRunError("the campaign has no operators")
    settings = config.model_dump_json(include={"anchors", "adaptor", "seed", "checkpoint", "operator"})
    x = train.cells.expression
    # The mean stands for the operators: another checkpoint may lie at the same path.
    mean = train.operators.mean(range(train.operators.shape[0]))
    own = digest(settings, train.cells.names.tolist(), list(train.cells.genes), train.stage, x.data, x.indices, mean)
    if own in _SCREEN:
        return _SCREEN[own], False
    began = time.perf_counter()
    anchors = anchors_of(config, train)
    scores = head_scores(
        train.operators,
        anchors.centroids,
        anchors.stage,
        train.ruler.distances,
        list(random_splits(len(anchors), _HOLDOUTS, config.seed)),
        LETAdaptor(**config.adaptor.parameters()),
    )
    _SCREEN.clear()
    _SCREEN[own] = scores, time.perf_counter() - began
    return _SCREEN[own], True


def permuted(train: Training) -> Training:
    """The training side with its labels permuted, in everything that is fitted.

    Parameters
    ----------
    train
        The training side.
    """
    order = generator(train.seed, "benchmark labels permuted").permutation(len(train.stage))
    # Every cell takes the label, and the targets, of another one.
    place = np.argsort(order)
    endpoints = []
    for one in train.endpoints:
        cells = np.sort(place[one.cells])
        endpoints.append(replace(one, target=one.target[order], cells=cells))
    kind = None if train.cell_type is None else train.cell_type[order]
    return replace(train, stage=train.stage[order], cell_type=kind, endpoints=tuple(endpoints))
