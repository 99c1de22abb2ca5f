"""What the methods make of expression, fitted on a training side: the adaptor on any matrix, frozen embeddings, baselines."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float
from scipy.stats import rankdata
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.feature_selection import f_classif

from workbench.cells.anchors import Anchors, make_anchors
from workbench.cells.placed import PlacedCells
from workbench.evidence.holdout import head_scores, random_splits
from workbench.evidence.protocol import NotRunError, Training
from workbench.evidence.readouts import Encoder, fitted_on
from workbench.factors.compaction import FOLDED, REFERENCE, variants
from workbench.files import digest
from workbench.operators.adaptor import LETAdaptor
from workbench.operators.algorithm import fold
from workbench.operators.cell_adaptor import fit_cell_head
from workbench.operators.controls import control
from workbench.operators.operator import Head, best_head, feature_map, head_name, screen_weights
from workbench.seeds import generator, key

if TYPE_CHECKING:
    from workbench.recipes.benchmark.config import BenchmarkConfig

RANKS, WIDTH = (64, 16), 10
RANK_GENES, RANK_WIDTH = 1000, 50
SPARSE = {"n_factors": 16, "n_read": 60, "n_write": 60}
_HOLDOUTS = 8

Matrix = Callable[[Training], np.ndarray]


def raw(train: Training) -> Encoder:
    """Expression itself.

    Parameters
    ----------
    train
        Training side; nothing is fitted on it.
    """
    return Encoder(dense, 0)


def dense(cells: PlacedCells) -> Float[np.ndarray, "cell gene"]:
    """Expression of the panel as an array in double precision.

    Parameters
    ----------
    cells
        Cells on any panel, labelled or not.
    """
    return np.asarray(cells.expression.todense(), dtype=np.float64)


def principal(train: Training) -> Encoder:
    """Principal components of the training side.

    Parameters
    ----------
    train
        Training side whose expression is centred and taken apart.
    """
    x = train.cells.expression.astype(np.float64)
    # By the covariance of the genes: exact, of sparse values too, and the order of the cells decides nothing.
    pca = PCA(min(WIDTH, *x.shape), svd_solver="covariance_eigh").fit(x)
    return Encoder(
        lambda cells: pca.transform(cells.expression.astype(np.float64)), pca.components_.size + pca.mean_.size
    )


def singular(train: Training) -> Encoder:
    """Leading right singular vectors of the training side, not centred.

    Parameters
    ----------
    train
        Training side whose expression is taken apart.
    """
    wide = train.cells.expression.astype(np.float64)
    # ARPACK runs to the last digits: its random start decides nothing.
    seed = key(train.seed, "svd") % 2**32
    svd = TruncatedSVD(min(WIDTH, min(wide.shape) - 1), algorithm="arpack", random_state=seed).fit(wide)
    return Encoder(lambda cells: svd.transform(cells.expression.astype(np.float64)), svd.components_.size)


def ranked(train: Training) -> Encoder:
    """Principal components of ranks inside each cell, of the genes whose ranks differ most between stages.

    Ranks stay as they are under any monotone scale of the values. The recipe is that of a preprint of 2026 (arXiv:2602.16696); how many
    genes and components are taken is ours.

    Parameters
    ----------
    train
        Training side whose stages choose the genes, by the F of an analysis of variance.
    """
    train = fitted_on(train)  # ranks of all genes are never sparse
    ranks = _ranks(train.cells)
    varies = np.flatnonzero(np.ptp(ranks, axis=0) > 0)
    f, _ = f_classif(ranks[:, varies], train.cells.stage)
    # A gene without any variance inside the stages comes first; equal ones in the order of the panel.
    genes = np.sort(varies[np.argsort(-np.nan_to_num(f, nan=0.0, posinf=np.inf), kind="stable")[:RANK_GENES]])
    pca = PCA(min(RANK_WIDTH, len(ranks) - 1, len(genes)), svd_solver="covariance_eigh").fit(ranks[:, genes])
    n_parameters = len(genes) + pca.components_.size + pca.mean_.size
    return Encoder(lambda cells: pca.transform(_ranks(cells)[:, genes]), n_parameters)


def _ranks(cells: PlacedCells) -> Float[np.ndarray, "cell gene"]:
    """Ranks of a cell's genes, from 0 to 1; equal values share their mean."""
    ranks: np.ndarray = rankdata(dense(cells), axis=1)
    return ranks / ranks.shape[1]


def embedded(name: str, train: Training) -> Encoder:
    """A frozen embedding, of scGPT or the user's own.

    Parameters
    ----------
    name
        Name of the embedding, such as ``cls``, ``average`` or ``average 0``, or `own_name` of an entry of ``obsm``.
    train
        Training side whose cells carry it; nothing is fitted.

    Raises
    ------
    NotRunError
        If the campaign has no such embedding, or the cells that it is asked for come without.
    """
    if name not in train.cells.embeddings:
        raise NotRunError(f"the campaign has no embedding '{name}'")

    def encode(cells: PlacedCells) -> np.ndarray:
        if name not in cells.embeddings:
            raise NotRunError(f"the data of this cohort name no embedding '{name}' (data.embeddings)")
        return cells.embeddings[name].astype(np.float64)

    return Encoder(encode, 0)


def own_name(key: str) -> str:
    """Name of a user's embedding among those of cells, apart from scGPT's own.

    Parameters
    ----------
    key
        Entry of ``obsm`` that it was read from.
    """
    return f"obsm/{key}"


def anchors_of(config: BenchmarkConfig, train: Training, values: sp.csr_matrix | None = None) -> Anchors:
    """Anchors of the training side.

    Parameters
    ----------
    config
        Configuration with ``anchors`` and ``seed``.
    train
        Training side whose cells are averaged.
    values
        What is averaged, cell by any width; their expression when None.
    """
    given = train.cells.expression if values is None else values
    return make_anchors(given, train.cells.obs, **config.anchors.model_dump(), seed=config.seed)


def let(config: BenchmarkConfig, make: Matrix, train: Training) -> Encoder:
    """LET on a feature map, fitted to anchors and folded with the map.

    Parameters
    ----------
    config
        Configuration with ``adaptor``, ``anchors`` and ``seed``.
    make
        From the training side to the feature map, gene by feature.
    train
        Training side with operators where the feature map is made of them.
    """
    matrix, anchors = make(train), anchors_of(config, train)
    head = LETAdaptor(**config.adaptor.parameters()).fit(
        anchors.centroids @ matrix, train.cells.distances(anchors), anchors.weights
    )
    encode, offset = fold(matrix, head.encoder_, head.bias_)
    return _folded(encode, offset, head.encoder_.size + head.bias_.size)


def _folded(encode: np.ndarray, offset: np.ndarray, n_parameters: int) -> Encoder:
    return Encoder(lambda cells: np.asarray(cells.expression @ encode) + offset, n_parameters)


def let_on_stream(config: BenchmarkConfig, name: str, train: Training) -> Encoder:
    """LET on a frozen embedding: anchors are means of embeddings, as means of expression are.

    Parameters
    ----------
    config
        Configuration as `let` takes it.
    name
        Name of the embedding, as `embedded` takes it.
    train
        Training side whose cells carry the embedding.
    """
    frozen = embedded(name, train)
    anchors = anchors_of(config, train, sp.csr_matrix(frozen.encode(train.cells)))
    head = LETAdaptor(**config.adaptor.parameters()).fit(
        anchors.centroids, train.cells.distances(anchors), anchors.weights
    )
    return Encoder(lambda cells: head.transform(frozen.encode(cells)), head.encoder_.size + head.bias_.size)


def cell_head(config: BenchmarkConfig, more: dict[str, Any], train: Training) -> Encoder:
    """The adaptor trained on cells instead of anchors.

    Parameters
    ----------
    config
        Configuration with ``adaptor``, ``cell_heads`` and ``seed``.
    more
        Further arguments of `CellAdaptor`, such as the weights of a hybrid head.
    train
        Training side with operators of every head.
    """
    head = fit_cell_head(train.cells, mapped(config, train), config, more)
    return _folded(head.matrix_, head.offset_, head.n_parameters_)


def mapped(config: BenchmarkConfig, train: Training) -> np.ndarray:
    """The configured feature map of the training side's operators.

    Parameters
    ----------
    config
        Configuration with ``adaptor``, which names the feature map.
    train
        Training side with operators; for ``topk`` its anchors screen the heads.

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
    config
        Configuration as `mapped` takes it.
    train
        Training side with operators of the untrained model.
    """
    return mapped(config, replace(train, operators=train.untrained))


def controlled(config: BenchmarkConfig, name: str, train: Training) -> np.ndarray:
    """Feature map of a control.

    Parameters
    ----------
    config
        Configuration as `mapped` takes it.
    name
        Name of the control, one of `CONTROLS`.
    train
        Training side with operators, whose place the control takes.
    """
    return control(name, mapped(config, train), train.cells.expression, config.seed)


def compact(config: BenchmarkConfig, name: str, train: Training) -> Encoder:
    """LET on a compact form of the head that a screen of the training anchors puts first.

    Parameters
    ----------
    config
        Configuration as `let` takes it.
    name
        Name of the form, as `variants` gives it.
    train
        Training side with operators of every head.

    Raises
    ------
    NotRunError
        If there are no operators, or the form cannot be made of this head.
    EvaluationError
        If no head can be scored.
    """
    (scores, took), new = _screened(config, train)
    assert train.operators is not None
    best = best_head(scores)
    own = train.operators.head(*best)
    made = variants(
        own, own, train.cells.genes, ranks=RANKS, alternatives=False, width=config.adaptor.k, seed=config.seed, **SPARSE
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
    cells = train.cells
    own = digest(settings, cells.names.tolist(), list(cells.genes), cells.stage, x.data, x.indices, mean)
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
        Training side as it is; donors and expression stay with their cells.
    """
    cells = train.cells
    order = generator(train.seed, "benchmark labels permuted").permutation(len(cells))
    # Every cell takes the label, and the targets, of another one.
    place = np.argsort(order)
    labels = {name: cells.obs[name].to_numpy()[order] for name in ("stage", "cell_type") if name in cells.obs}
    endpoints = [replace(one, target=one.target[order], cells=np.sort(place[one.cells])) for one in train.endpoints]
    return replace(train, cells=replace(cells, obs=cells.obs.assign(**labels)), endpoints=tuple(endpoints))
