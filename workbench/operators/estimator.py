"""Operator, adaptor and readout as one scikit-learn estimator: expression in, latent and labels out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from jaxtyping import Float
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from workbench.cells.anchors import make_anchors
from workbench.errors import EvaluationError, ShapeError
from workbench.operators.adaptor import LETAdaptor
from workbench.operators.algorithm import Algorithm, fold
from workbench.operators.calibration import inner_folds
from workbench.operators.convention import Convention
from workbench.operators.exporting import HeldOutEncoder, TrainingCells, export_readouts
from workbench.operators.readout import Endpoint
from workbench.operators.saved_operator import Operator

LABEL = "label"
# Share of an operator's genes that the cells must have, as in `Operator.apply`.
MIN_COVERAGE = 0.5

# Rows in memory, since pandas 3 keeps a table by columns, and a product then differs in its last bits.
_ACCEPTED: dict[str, Any] = {"accept_sparse": "csr", "dtype": [np.float64, np.float32], "order": "C"}


# Equality and representation stay those of scikit-learn, which reads the settings off the signature.
@dataclass(eq=False, repr=False)
class Extractor(ClassifierMixin, TransformerMixin, BaseEstimator):
    """A frozen linear operator, a LET adaptor on it, and a readout of labels.

    ``z = W (x F - b)`` with F frozen; all of it folds into one matrix and one offset without loss. `workbench run` does the
    same with folds, controls and a report; this is for a pipeline of one's own.

    Parameters
    ----------
    operator
        Feature map F. An `Operator`, or a table with a row for each gene, is aligned by name to the columns of the table that
        is fitted; of an array, gene by feature, the rows must be in the order of the columns. None for the expression itself.
    distances
        Ruler distances between labels, from 0 to 1, as a table whose rows and columns are the labels; None: every two
        labels are at distance 1.
    objective
        ``anchors`` (the anchor head), ``cells`` (the cell head) or ``hybrid`` (the cell head with the topology and compactness
        of the sweep's first strong setting).
    k
        Width of the latent, 1 or more.
    alpha, beta
        Weight of the reconstruction, and ruler units per radian, see `LETAdaptor`.
    parts, min_cells
        Anchors of each label (and donor), as in `make_anchors`.
    hidden
        Width of the readout's hidden layer; 0: linear.
    seed
        Seed of parts of anchors, cell heads, hidden layers, inner folds and thinned copies.
    thin
        Shares of counts, above 0 and under 1: the readout is fitted on the cells and on a copy of them for each, thinned to it, so that
        it holds on shallower cells. Only of log1p of counts per 10,000. `workbench run` takes 0.5 and 0.25.
    convention
        `Convention` that the operator has to be of, which is refused where it is of another; None: an `Operator`'s own. Of a
        table or an array nothing is known but what is said here.

    Attributes
    ----------
    classes_ : ndarray
        Labels that were fitted, sorted; columns of `predict_proba`.
    matrix_, offset_ : ndarray, shapes (gene, k) and (k,)
        Latent z = x @ matrix_ + offset_.
    readout_ : Readout
        Readout of the labels from the latent, its probabilities calibrated.
    reference_ : TrainingReference or None
        What the algorithm takes along of the training cells; None where no fold can be judged, or it was read from an older file.
    convention_ : Convention or None
        Convention of the operator; None where there is none, or nobody said. It goes into the card of the algorithm.
    genes_ : tuple of str
        Names of the columns, where they were given.
    n_features_in_ : int
        Number of genes that the cells must have.

    Examples
    --------
    >>> import numpy as np
    >>> from workbench.operators.estimator import Extractor
    >>> rng = np.random.default_rng(0)
    >>> labels = np.repeat(["B", "NK", "T"], 20)
    >>> cells = 3 * np.eye(3)[np.repeat([0, 1, 2], 20)] + 0.1 * rng.standard_normal((60, 3))
    >>> fitted = Extractor(k=2).fit(cells, labels)
    >>> fitted.transform(cells).shape, fitted.score(cells, labels)
    ((60, 2), 1.0)
    """

    operator: Any = None
    distances: Any = None
    objective: Any = "anchors"
    k: int = 10
    alpha: float = 0.1
    beta: float = 1 / np.pi
    parts: int = 6
    min_cells: int = 1
    hidden: int = 0
    seed: int = 0
    convention: Any = None
    thin: tuple[float, ...] = ()

    def fit(self, X: Any, y: Any, groups: Any = None, names: Any = None) -> Extractor:
        """Fit adaptor and readout; the operator stays as it is.

        Five more adaptors are fitted, each without a fifth of the donors or cells: on these the probabilities are calibrated.

        Parameters
        ----------
        X
            Log-normalised expression on the panel, shape (cell, gene), sparse or dense; a table's columns are the genes.
        y
            Label of each cell, two different ones or more.
        groups
            Donor of each cell, an array, list or column: no anchor mixes donors, and probabilities are calibrated across them.
        names
            Names of the cells; with them the order of the cells changes nothing.

        Raises
        ------
        EvaluationError
            If there is one label only, a label has no distance, or too few anchors can be made.
        ShapeError
            If the operator has another number of genes, or genes with names and the cells' have none; if labels or groups name
            the cells in another order than the table.
        GeneMatchError
            If fewer than half of the operator's named genes are among the columns.
        ArtifactError
            If the operator is of another convention than the one that was asked for.
        """
        self.convention_ = self.convention
        if isinstance(self.operator, Operator):
            if self.convention is not None:
                self.convention.check(self.operator.convention, "The operator")
            self.convention_ = self.operator.convention
        for what, given in (("labels", y), ("groups", groups), ("names", names)):
            _check_order(X, given, what)
        X, y = validate_data(self, X, y, **_ACCEPTED)
        check_classification_targets(y)
        self.classes_, place = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise EvaluationError(f"The labels hold one class only ({self.classes_[0]}); two are needed to fit.")
        columns = getattr(self, "feature_names_in_", None)
        self.genes_ = () if columns is None else tuple(str(name) for name in columns)
        expression = sp.csr_matrix(X)
        called = np.arange(len(y)).astype(str) if names is None else np.asarray(names).astype(str)
        groups = None if groups is None else np.asarray(groups).astype(str)
        for what, given in (("names", called), ("groups", groups)):
            if given is not None and len(given) != len(y):
                raise ShapeError(f"{len(given)} {what} were given for {len(y)} cells; give one for each.")
        operator = self._operator(expression.shape[1])

        if self.thin and expression.nnz and expression.data.min() < 0:
            raise EvaluationError(
                "Only log-normalised counts can be thinned, and some values are below 0; leave thin out."
            )

        def encoder(held: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            kept, donors = ~held, None if groups is None else groups[~held]
            return self._encoder(expression[kept], place[kept], operator, donors, called[kept])

        endpoint, fold_of = (
            Endpoint(LABEL, "classes", place, np.arange(len(place))),
            inner_folds(place, groups, called, self.seed),
        )
        inner = []
        for one in sorted(set(fold_of.tolist())):
            try:
                inner.append(HeldOutEncoder(*encoder(fold_of == one), fold_of == one))
            except EvaluationError:  # too few anchors without them
                continue
        self.matrix_, self.offset_ = encoder(np.zeros(len(place), dtype=bool))
        columns = self.genes_ or tuple(map(str, range(expression.shape[1])))
        cells = TrainingCells(expression, called, columns, [endpoint], tuple(self.thin), self.hidden, self.seed)
        readouts, self.reference_ = export_readouts(cells, self.matrix_, self.offset_, inner)
        self.readout_ = readouts[LABEL]
        return self

    def transform(self, X: Any) -> Float[np.ndarray, "cell k"]:
        """Latent of cells.

        Parameters
        ----------
        X
            As in `fit`.
        """
        check_is_fitted(self, "matrix_")
        return self._latent(validate_data(self, X, **_ACCEPTED, reset=False))

    def predict_proba(self, X: Any) -> Float[np.ndarray, "cell class"]:
        """Probability of each of `classes_`, all taken to be as frequent as each other.

        Parameters
        ----------
        X
            As in `fit`.
        """
        z = self.transform(X)  # first: it says so where nothing was fitted
        return self.readout_.probabilities(z)

    def predict(self, X: Any) -> np.ndarray:
        """Most probable label.

        Parameters
        ----------
        X
            As in `fit`.
        """
        chance = self.predict_proba(X)
        return self.classes_[chance.argmax(1)]

    def to_algorithm(self, genes: Sequence[str] = (), card: Mapping[str, Any] | None = None) -> Algorithm:
        """The small file's content: matrix, offset and readout.

        Parameters
        ----------
        genes
            Names of the columns of X, in their order, where it was no table.
        card
            Where it comes from, see `Algorithm.card`; nothing when None.

        Raises
        ------
        ShapeError
            If the genes are not named, each once, or the names are not those that were fitted, in their order.
        """
        check_is_fitted(self)
        genes = tuple(str(gene) for gene in genes)
        if genes and self.genes_ and genes != self.genes_:
            pairs = zip_longest(genes, self.genes_, fillvalue="no gene")
            column, (given, fitted) = next((i, pair) for i, pair in enumerate(pairs) if pair[0] != pair[1])
            raise ShapeError(
                f"The extractor was fitted on a table with genes as columns, and the names given are not these: column {column} is "
                f"'{fitted}' and was named '{given}'. Leave genes out: the file gets the names that were fitted."
            )
        named = genes or self.genes_
        if len(named) != self.n_features_in_ or len(set(named)) < len(named):
            raise ShapeError(
                f"{self.n_features_in_} genes need a name each; found {len(set(named))}. Fit on a table with genes as columns, "
                "or pass genes."
            )
        readout = replace(self.readout_, classes=tuple(str(name) for name in self.classes_))
        about = dict(card or {})
        if self.convention_ is not None:
            Convention.read(about.get("convention", self.convention_.told())).check(self.convention_, "The extractor")
            about["convention"] = self.convention_.told()
        reference = self.reference_
        if reference is not None:
            called = tuple(str(self.classes_[int(name)]) for name in reference.classes.names)
            reference = replace(reference, classes=replace(reference.classes, names=called))
        return Algorithm(named, self.matrix_, self.offset_, {LABEL: readout}, about, reference)

    def save_pretrained(
        self, folder: str | Path, genes: Sequence[str] = (), card: Mapping[str, Any] | None = None
    ) -> Path:
        """Write the algorithm; `workbench apply` and `from_pretrained` read it.

        Parameters
        ----------
        folder, genes, card
            As in `Algorithm.save_pretrained` and `to_algorithm`.

        Raises
        ------
        OutputError
            If the folder holds files of these names that are of no algorithm.
        """
        return self.to_algorithm(genes, card).save_pretrained(folder)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Extractor:
        """A fitted extractor from a file that `save_pretrained` wrote; labels come back as text.

        Parameters
        ----------
        folder
            Folder that `save_pretrained` wrote, or a run's with a readout named ``label``.

        Raises
        ------
        ArtifactError
            As `Algorithm.from_pretrained`; EvaluationError if the file holds no readout of labels.
        """
        known = Algorithm.from_pretrained(folder)
        if LABEL not in known.readouts:
            raise EvaluationError(
                f"The algorithm in '{folder}' has readouts {', '.join(known.readouts) or 'of nothing'}, not the one of an Extractor; "
                "use workbench.Algorithm.from_pretrained."
            )
        made = cls(k=known.matrix.shape[1])
        made.matrix_, made.offset_, made.readout_ = known.matrix, known.offset, known.readouts[LABEL]
        # Its classes are named already; from here on they are numbers, as after a fit.
        made.reference_ = known.reference
        if (reference := known.reference) is not None:
            numbers = tuple(str(made.readout_.classes.index(name)) for name in reference.classes.names)
            made.reference_ = replace(reference, classes=replace(reference.classes, names=numbers))
        told = known.card.get("convention")
        made.convention_ = None if told is None else Convention.read(told)
        made.classes_, made.genes_ = np.array(made.readout_.classes), known.genes
        made.n_features_in_ = len(known.genes)
        # A table with its genes in another order is then refused, as it is before saving.
        made.feature_names_in_ = np.array(known.genes, dtype=object)
        return made

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def _latent(self, X: Any) -> np.ndarray:
        return np.asarray(X @ self.matrix_) + self.offset_

    def _operator(self, n_genes: int) -> np.ndarray:
        if self.operator is None:
            return np.eye(n_genes)
        operator = self.operator
        if isinstance(operator, pd.DataFrame) and not pd.api.types.is_numeric_dtype(operator.index):
            operator = Operator(tuple(map(str, operator.index)), operator.to_numpy(), "", "", "")
        if isinstance(operator, Operator):
            if not self.genes_:
                raise ShapeError(
                    "The operator names its genes and the cells do not. Fit on a table with genes as columns (adata.to_df()). Or pass "
                    "the operator's matrix, its rows in the order of the columns."
                )
            operator, _ = operator.aligned(self.genes_, MIN_COVERAGE)
        operator = check_array(operator, dtype=[np.float64, np.float32])
        if len(operator) != n_genes:
            raise ShapeError(
                f"The operator reads {len(operator)} genes and the cells have {n_genes}. Pass the workbench.Operator itself, which is "
                "aligned by name to a table with genes as columns."
            )
        return operator

    def _between(self) -> np.ndarray:
        if self.distances is None:
            return 1.0 - np.eye(len(self.classes_))
        labels = list(self.classes_)
        absent = [label for label in labels if label not in self.distances.index or label not in self.distances.columns]
        if absent:
            raise EvaluationError(
                f"{len(absent)} of {len(labels)} labels have no ruler distance (first: {absent[0]}); give the table a row and a "
                "column for each."
            )
        return self.distances.loc[labels, labels].to_numpy(dtype=np.float64)

    def _encoder(
        self, x: sp.csr_matrix, place: np.ndarray, operator: np.ndarray, groups: np.ndarray | None, names: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        between = self._between()
        if self.objective == "anchors":
            obs = pd.DataFrame({"stage": place}, index=names)
            if groups is not None:
                obs["donor"] = groups
            anchors = make_anchors(x, obs, min_cells=self.min_cells, parts=self.parts, seed=self.seed)
            let = LETAdaptor(self.k, self.alpha, self.beta).fit(
                anchors.centroids @ operator, between[np.ix_(anchors.stage, anchors.stage)]
            )
            return fold(operator, let.encoder_, let.bias_)
        if self.objective not in ("cells", "hybrid"):
            raise EvaluationError(f"Unknown objective '{self.objective}'; known: anchors, cells, hybrid.")
        from workbench.operators.cell_adaptor import CellAdaptor, hybrid_sweep

        more = hybrid_sweep()[0]["parameters"] if self.objective == "hybrid" else {}
        fitted = CellAdaptor(k=self.k, beta=self.beta, alpha=self.alpha, seed=self.seed, **more).fit(
            x, place, between, operator=operator, groups=groups, names=names
        )
        return fitted.matrix_, fitted.offset_


def _check_order(table: Any, given: Any, what: str) -> None:
    """Refuse a column that names the same cells as the table in another order: scikit-learn goes by place alone."""
    if not isinstance(table, pd.DataFrame) or not isinstance(given, pd.Series) or given.index.equals(table.index):
        return
    if len(given) == len(table) and given.index.sort_values().equals(table.index.sort_values()):
        raise ShapeError(
            f"The {what} name the cells in another order than the table (first: '{given.index[0]}', and '{table.index[0]}' there); "
            f"pass {what}.loc[table.index]."
        )
