"""Cell head and hybrid head: the LET encoder trained on single cells instead of anchors (method: arXiv:2603.10261).

The features f(x) = x F are linear in a cell's expression and F is frozen, so nothing is ever done in them: the encoder is
trained in the coordinates that the training cells' features span, exactly, and folded with F at every step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from jaxtyping import Float, Int, Shaped
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_array, check_is_fitted

from workbench.cells.anchors import make_anchors
from workbench.cells.placed import PlacedCells
from workbench.errors import ConfigError, EvaluationError, ShapeError
from workbench.operators.adaptor import RANK, LETAdaptor
from workbench.operators.algorithm import fold
from workbench.operators.cell_sampling import check_cells, dealt, in_pairs
from workbench.operators.readout_weights import Readout
from workbench.seeds import generator
from workbench.threads import one_thread

STRONG_TOPOLOGY = (0.04, 0.08, 0.12, 0.18)
STRONG_COMPACTNESS = 0.015
CONSERVATIVE_TOPOLOGY = (0.005, 0.01, 0.02, 0.03)
TERMS = ("stage", "local", "reconstruction", "classification", "topology", "compactness")
_DESCENT = ("epochs", "learning_rate", "patience", "progress")

_PARTS = 6
_NEAR_AXES = 50
_NEIGHBOURS = 10
_BLOCK = 1024


# Equality and representation stay those of scikit-learn, which reads the settings off the signature.
@dataclass(eq=False, repr=False)
class CellAdaptor(TransformerMixin, BaseEstimator):
    """Linear latent z = W (f - b) trained on cells, with f(x) = x F and F frozen.

    Minimises by Adam, over W (k by features), b and a linear stage classifier on z, the weighted sum of six terms (each
    defined in `workbench.operators.cell_losses`): LET's stress over pairs of cells; distances between neighbours; the
    reconstruction of f; the cross-entropy of the classifier; and, for the hybrid head, the stress of the stage means and
    the spread within stages. Every stage weighs the same in every term, however many cells it has. Training starts from
    the anchor head on centroids of the training cells.

    Parameters
    ----------
    k
        Width of the latent, at most the rank of the features.
    beta
        Ruler units per radian, as in `LETAdaptor`.
    alpha
        Weight of the reconstruction in the anchor head that training starts from.
    stage, local, reconstruction, classification
        Weights of the cell head's terms.
    topology, compactness
        Weights of what the hybrid head adds; see `hybrid_sweep`.
    epochs
        Passes over the training cells, at most.
    batch_size
        Cells per step, at most (one more where a cell would be left alone); batches of an epoch are of equal size.
    per_stage
        Cells drawn per stage, at most.
    learning_rate
        Step of Adam, above 0; larger is quicker and less steady.
    patience
        Stop after so many epochs without a lower objective on an inner holdout of at least 12 % of the cells drawn, and
        keep the best epoch. None: train on all of them for all epochs, and keep the last.
    seed
        For which cells are drawn, held out and put together in batches.
    progress
        Show a progress bar of epochs on stderr.

    Attributes
    ----------
    encoder_ : ndarray, shape (k, feature)
        W: one row per coordinate of the latent.
    bias_ : ndarray, shape (feature,)
        b: the features that are mapped to 0.
    scale_ : float
        Total standard deviation of the training cells' features, by which they are divided before anything else; it is
        folded into `encoder_`.
    matrix_, offset_ : ndarray, shapes (gene, k) and (k,)
        Latent z = x @ matrix_ + offset_: F, W and b folded.
    classes_ : ndarray, shape (stage,)
        Stage numbers that were trained on.
    classifier_ : Readout
        The stage classifier on z; its classes are stage numbers as text.
    history_ : DataFrame
        Per epoch: ``epoch``, each term (mean over batches, before its weight), and ``holdout``, the weighted objective on
        the inner holdout (NaN without one).
    n_epochs_, best_epoch_ : int
        Epochs trained, and the one whose weights were kept.
    n_cells_, n_held_out_ : int
        Cells trained on, and in the inner holdout.
    held_out_groups_ : tuple of str
        Groups in the inner holdout; empty where it is of cells.
    n_parameters_ : int
        Numbers that were trained: of W and b in the coordinates that the cells span, and of the classifier.

    Notes
    -----
    A cell's part in the training depends on its name and the seed, or on its content where there are no names, never on
    its place: cells in another order give the same fit. Neighbours are looked for within a batch, along the 50 leading
    principal axes of the features.

    Examples
    --------
    >>> import numpy as np
    >>> from workbench.operators.cell_adaptor import CellAdaptor
    >>> stage = np.repeat([0, 1, 2], 20)
    >>> cells = 3 * np.eye(3)[stage] + 0.1 * np.random.default_rng(0).standard_normal((60, 3))
    >>> on_ruler = np.abs(np.subtract.outer([0, 1, 2], [0, 1, 2])) / 2
    >>> fitted = CellAdaptor(k=2, epochs=5, patience=None).fit(cells, stage, on_ruler)
    >>> fitted.transform(cells).shape, fitted.history_["epoch"].tolist()
    ((60, 2), [1, 2, 3, 4, 5])
    """

    k: int = 10
    beta: float = 1 / np.pi
    alpha: float = 0.1
    stage: float = 1.0
    local: float = 0.1
    reconstruction: float = 0.08
    classification: float = 0.4
    topology: float = 0.0
    compactness: float = 0.0
    epochs: int = 120
    batch_size: int = 896
    per_stage: int = 500
    learning_rate: float = 0.01
    patience: int | None = 20
    seed: int = 0
    progress: bool = False

    def fit(
        self,
        X: Any,
        stage: Int[np.ndarray, " cell"],
        distances: Float[np.ndarray, "stage stage"],
        operator: Float[np.ndarray, "gene feature"] | None = None,
        groups: Shaped[np.ndarray, " cell"] | None = None,
        names: Shaped[np.ndarray, " cell"] | None = None,
    ) -> CellAdaptor:
        """Fit to cells.

        Parameters
        ----------
        X
            Log-normalised expression on the panel, shape (cell, gene), sparse or dense; made dense a batch at a time.
        stage
            Stage number of each cell; negative where unknown, and such cells are left out.
        distances
            Ruler distances between stages, from 0 to 1; negative where unknown, and such pairs are left out.
        operator
            The frozen feature map F; None where the features are the expression itself. It is read only.
        groups
            Donors, for example: the inner holdout is then of whole groups, if some of them hold at most a third of the
            cells and leave two of each stage.
        names
            Cell names, each once: with them the order of the cells means nothing.

        Raises
        ------
        EvaluationError
            If there is one stage only, one with a single cell or one that the distances do not have; names repeat; too few
            cells are left for the inner holdout; or `k` is greater than the rank of the features.
        ShapeError
            If the arrays do not fit together.
        ConfigError
            If a setting makes no sense.
        """
        self._check_settings()
        X = sp.csr_matrix(check_array(X, accept_sparse="csr", dtype=[np.float64, np.float32]))
        check_cells(X, stage, distances, operator, groups, names)
        operator = np.eye(X.shape[1]) if operator is None else np.asarray(operator, dtype=np.float64)
        drawn, held, self.held_out_groups_ = dealt(X, stage, groups, names, self.per_stage, self.patience, self.seed)
        x = X[drawn].astype(np.float64)
        x.sum_duplicates()
        self.classes_, place = np.unique(stage[drawn], return_inverse=True)
        self.n_cells_, self.n_held_out_ = int((~held).sum()), int(held.sum())
        self.n_features_in_ = X.shape[1]
        between = distances[np.ix_(self.classes_, self.classes_)].astype(np.float64)
        np.fill_diagonal(between, 0)
        with one_thread():
            self._train(x, place, held, between, operator)
        return self

    def transform(self, X: Any) -> Float[np.ndarray, "cell k"]:
        """Latent of expression; sparse expression stays sparse.

        Parameters
        ----------
        X
            Log-normalised expression on the panel, shape (cell, gene).
        """
        check_is_fitted(self)
        X = check_array(X, accept_sparse="csr", dtype=np.float64)
        if X.shape[1] != self.n_features_in_:
            raise ShapeError(
                f"The adaptor was fitted on {self.n_features_in_} genes, and these cells have {X.shape[1]}."
            )
        return np.asarray(X @ self.matrix_) + self.offset_

    def _check_settings(self) -> None:
        least = {"k": 1, "epochs": 1, "batch_size": 2, "per_stage": 2, "patience": 1}
        for name, low in least.items():
            value = getattr(self, name)
            if value is not None and value < low:
                raise ConfigError(f"{name} is {value}; it must be at least {low}.")
        for name in TERMS:
            if not (share := getattr(self, name)) >= 0:
                raise ConfigError(f"The weight of the term '{name}' is {share}; it must not be below zero.")

    def _train(
        self, x: sp.csr_matrix, place: np.ndarray, held: np.ndarray, distances: np.ndarray, operator: np.ndarray
    ) -> None:
        import torch

        from workbench.operators.cell_losses import Batch, Space, Weights, descend

        train, inner = np.flatnonzero(~held), np.flatnonzero(held)
        weight = 1 / np.bincount(place[train])[place]
        space = _coordinates(x[train], weight[train] / weight[train].sum(), operator)
        if self.k > space.rank:
            raise EvaluationError(
                f"A latent of width {self.k} was asked for, and the features of the {len(train)} training cells have rank "
                f"{space.rank}; lower k."
            )
        encoder, bias = self._start(x[train], place[train], distances, space)
        square, near, z_square = np.empty(len(place)), np.empty((len(place), min(_NEAR_AXES, space.rank))), 0.0
        for at in range(0, len(place), _BLOCK):
            rows = slice(at, at + _BLOCK)
            y = x[rows] @ space.basis - space.centre
            square[rows], near[rows] = (y**2).sum(1), y[:, : near.shape[1]]
            z_square += float((((y - bias) @ encoder.T)[~held[rows]] ** 2).sum())
        # So that the classifier reads coordinates of mean square 1, whatever the scale of the latent.
        gain = float(np.sqrt(len(train) * self.k / max(z_square, np.finfo(float).tiny)))

        def tensor(values: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(np.ascontiguousarray(values))

        def batch(rows: np.ndarray) -> Batch:
            share = weight[rows] / weight[rows].sum()
            return Batch(*(tensor(v) for v in (x[rows].toarray(), square[rows], near[rows], place[rows], share)))

        def batches(epoch: int) -> Iterator[Batch]:
            order = train[generator(self.seed, "cell head", "epoch", str(epoch)).permutation(len(train))]
            # A lone cell has no neighbour and no pair: it joins another batch.
            return map(batch, np.array_split(order, min(-(-len(train) // self.batch_size), len(train) // 2)))

        classifier = np.zeros((self.k, len(distances)))
        basis, centre, between = map(tensor, (space.basis, space.centre, distances))
        frozen = Space(basis, centre, between, self.beta, gain, _NEIGHBOURS)
        start = Weights(*map(tensor, (encoder, bias, classifier, classifier[0])))
        shares, options = ({name: getattr(self, name) for name in names} for names in (TERMS, _DESCENT))
        with _one_thread():
            found = descend(start, frozen, batches, batch(inner) if len(inner) else None, shares, **options)
        trained = [part.numpy() for part in found.weights]
        if not found.best_epoch or not all(np.isfinite(part).all() for part in trained):
            raise EvaluationError(
                f"The descent came to no finite numbers; lower learning_rate, now {self.learning_rate}."
            )
        encoder, bias, classifier, offset = trained
        self.history_, self.best_epoch_ = pd.DataFrame(found.history), found.best_epoch
        self.n_epochs_, self.n_parameters_ = len(found.history), sum(part.size for part in trained)
        self.scale_ = space.scale
        self.encoder_ = encoder @ space.axes / space.scale
        self.bias_ = space.mean + space.scale * (bias @ space.axes)
        self.matrix_, self.offset_ = fold(operator, self.encoder_, self.bias_)
        self.classifier_ = Readout(gain * classifier, offset, tuple(str(stage) for stage in self.classes_))

    def _start(
        self, x: sp.csr_matrix, place: np.ndarray, distances: np.ndarray, space: _Coordinates
    ) -> tuple[np.ndarray, np.ndarray]:
        """The anchor head on centroids of the training cells, enough of them to span the latent."""
        obs = pd.DataFrame({"stage": place}, index=np.arange(len(place)).astype(str))
        parts = max(_PARTS, 2 + self.k // len(distances))
        anchors = make_anchors(x, obs, min_cells=1, parts=parts, weights="stage", seed=self.seed)
        between = distances[np.ix_(anchors.stage, anchors.stage)]
        # LET knows no unknown distances; the start alone takes a typical one for them.
        between = np.where(between < 0, distances[distances > 0].mean(), between)
        head = LETAdaptor(self.k, self.alpha, self.beta)
        head.fit(anchors.centroids @ space.basis - space.centre, between, anchors.weights)
        return head.encoder_ * head.scale_, head.bias_


@dataclass(frozen=True)
class _Coordinates:
    """Principal axes of the training cells' features: y = (f - mean) axes^T / scale = x basis - centre.

    The gradient of W and b never leaves their span, as in `LETAdaptor`.
    """

    axes: Float[np.ndarray, "coordinate feature"]
    mean: Float[np.ndarray, " feature"]
    scale: float
    basis: Float[np.ndarray, "gene coordinate"]
    centre: Float[np.ndarray, " coordinate"]

    @property
    def rank(self) -> int:
        return len(self.axes)


def fit_cell_head(
    cells: PlacedCells, operator: Float[np.ndarray, "gene feature"], config: Any, more: Mapping[str, Any]
) -> CellAdaptor:
    """Fit a head to cells with the settings of a command.

    Parameters
    ----------
    cells
        Cells on a ruler; those without a place are left out, and so is a stage of which there is one cell only.
    operator
        Feature map that the head acts on.
    config
        Configuration with ``adaptor``, ``cell_heads`` and ``seed``.
    more
        Further arguments of `CellAdaptor`, such as the weights of a hybrid head.
    """
    assert cells.ruler is not None
    kept = cells.take(in_pairs(cells.stage))
    return configured(config, more).fit(
        kept.expression, kept.stage, cells.ruler.distances, operator, kept.donor, kept.names
    )


def configured(config: Any, more: Mapping[str, Any]) -> CellAdaptor:
    """A head that is not fitted yet, with the settings of a command.

    Parameters
    ----------
    config, more
        As in `fit_cell_head`.
    """
    settings = config.cell_heads.model_dump(exclude={"hybrid"})
    return CellAdaptor(k=config.adaptor.k, beta=config.adaptor.beta, seed=config.seed, **settings, **more)


def hybrid_sweep() -> list[dict[str, Any]]:
    """The paper's two sweeps of the hybrid head: ``name``, and ``parameters`` for `CellAdaptor`."""
    sweeps = (("strong", STRONG_TOPOLOGY, STRONG_COMPACTNESS), ("conservative", CONSERVATIVE_TOPOLOGY, 0.0))
    return [
        {"name": f"hybrid, {kind} {topology}", "parameters": {"topology": topology, "compactness": compactness}}
        for kind, values, compactness in sweeps
        for topology in values
    ]


def _coordinates(x: sp.csr_matrix, share: np.ndarray, frozen: np.ndarray) -> _Coordinates:
    # By the covariance of genes, so that nothing of the size of cells by features is ever made.
    mean = share @ x
    covariance = (x.T @ sp.diags(share) @ x).toarray() - np.outer(mean, mean)
    variances, directions = np.linalg.eigh(covariance)
    kept = variances > RANK**2 * max(variances[-1], 0)
    root = (directions[:, kept] * np.sqrt(variances[kept])).T  # root^T root = covariance
    sd, axes = np.linalg.svd(root @ frozen, full_matrices=False)[1:]
    rank = int((sd > RANK * sd.max(initial=0)).sum())
    scale = float(np.sqrt((sd**2).sum())) if rank else 1.0
    basis = frozen @ axes[:rank].T / scale
    return _Coordinates(axes[:rank], mean @ frozen, scale, basis, mean @ basis)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Torch on one thread, and the caller's number of them afterwards."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
