"""What an algorithm says of cells, how far these lie from its training cells, and whether it is fit for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp
from anndata import AnnData
from jaxtyping import Bool, Float, Int
from numba import njit
from tqdm import tqdm

from workbench.cells.expression import expression_blocks, match_panel, scale_of
from workbench.cells.thinning import library_sizes
from workbench.operators.readout_weights import Readout, cooled, most_probable
from workbench.operators.reference import LOSS, TrainingReference
from workbench.operators.shift import Shift, find_shift
from workbench.seeds import order_of

if TYPE_CHECKING:
    from workbench.operators.algorithm import Algorithm

UNASSIGNED = "unassigned"
# A label is given where it is more likely right than wrong.
LEAST_PROBABILITY = 0.5
# Cells that the displacement is found from, at most; and share of cells out of range at which a file is another one.
_SAMPLE, _MOST_OUTSIDE = 5_000, 0.2
# Least coverage where an algorithm does not know its own, because it has no reference.
LEAST_COVERAGE = 0.5
_ONE_CLASS, _FEW = 0.8, 50


@dataclass(frozen=True)
class Fitness:
    """How the cells of a file lie beside those of training.

    Attributes
    ----------
    coverage
        Share of the algorithm's genes that the cells measure.
    detected
        Genes that the cells express on the panel, of those that are to be expected from training. NaN without a reference, as all
        that follows.
    library_size, training_library_size
        Median library size of the cells and of training, read off the smallest values.
    shift
        Displacement in the latent, see `find_shift`; None without a reference.
    before, spread
        Mean of each latent coordinate before anything was taken off, in standard deviations of training from its mean; and its
        standard deviation over that of training.
    outside
        Share of cells that are farther from every class than 99 % of held-out training cells.
    probability
        Mean probability of the most probable class of the first endpoint.
    accuracy, whole
        Balanced accuracy on held-out training cells with as few genes or counts as here, and with all of them.
    agreement, other_agreement, usual_agreement
        Share of the cells that logistic regression on expression gives the algorithm's class; the same with the displacement left where it
        was taken off, and the other way round; and of held-out training cells. Of 5,000 cells at most.
    aligned
        Whether the displacement was taken off.
    reasons
        Why the algorithm is not fit for this file, each a sentence; empty where it is.
    notices
        What else is to be known, each a sentence.
    """

    coverage: float
    detected: float = float("nan")
    library_size: float = float("nan")
    training_library_size: float = float("nan")
    shift: Shift | None = None
    before: tuple[float, ...] = ()
    spread: tuple[float, ...] = ()
    outside: float = float("nan")
    probability: float = float("nan")
    accuracy: float = float("nan")
    whole: float = float("nan")
    agreement: float = float("nan")
    other_agreement: float = float("nan")
    usual_agreement: float = float("nan")
    aligned: bool = False
    reasons: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()

    @property
    def fit(self) -> bool:
        """Whether nothing speaks against it. False where nothing is known of the training cells, too."""
        return self.shift is not None and not self.reasons


@dataclass(frozen=True)
class Predictions:
    """What an algorithm says of cells, one row each in their order.

    Attributes
    ----------
    latent
        Latent, over that of training where it was aligned; NaN in cells that express none of the genes.
    probabilities
        By readout of classes: probability of each class; NaN as above.
    classes
        By readout of classes: names of the columns.
    numbers
        By readout of a number: the number; NaN as above.
    expressed
        Share of the algorithm's genes that a cell expresses.
    distance
        Distance from the nearest class of training cells, in standard deviations inside classes; None without a reference.
    in_range
        Whether that is as near as 99 % of held-out training cells are; None without a reference.
    asked
        By endpoint of two classes: whether the most probable class of the cell is one that the endpoint is asked of. Empty without a
        reference.
    fitness
        How the cells as a whole lie beside those of training.
    values
        What the values were found or said to be, and what was done about it.
    plain
        By endpoint, that which the reference judges: class that logistic regression on expression gives each cell, as numbers of `classes`;
        -1 in cells that express none of the genes. Empty without such a control.
    """

    latent: Float[np.ndarray, "cell k"]
    probabilities: Mapping[str, Float[np.ndarray, "cell class"]]
    classes: Mapping[str, tuple[str, ...]]
    numbers: Mapping[str, Float[np.ndarray, " cell"]]
    expressed: Float[np.ndarray, " cell"]
    distance: Float[np.ndarray, " cell"] | None
    in_range: Bool[np.ndarray, " cell"] | None
    asked: Mapping[str, Bool[np.ndarray, " cell"]]
    fitness: Fitness = field(repr=False)
    values: str = ""
    plain: Mapping[str, Int[np.ndarray, " cell"]] = field(default_factory=dict)

    def labels(self, readout: str, least: float = LEAST_PROBABILITY) -> np.ndarray:
        """Most probable class of each cell, as numbers of `classes`; -1 where none is given.

        None is given to a cell that is out of range, that no class is probable enough of, or that the endpoint is not asked of: a B cell is
        neither CD4 nor CD8.

        Parameters
        ----------
        readout
            Name of a readout of classes.
        least
            Smallest probability that a label is given for.
        """
        chance = self.probabilities[readout]
        best = np.where(np.isnan(chance[:, 0]), -1, chance.argmax(1))
        sure = chance.max(1) >= least  # not where there is no probability
        for given in (self.in_range, self.asked.get(readout)):
            sure = sure if given is None else sure & given
        return np.where(sure, best, -1)


def predict(
    algorithm: Algorithm,
    cells: AnnData,
    *,
    min_coverage: float | None = None,
    align: bool | None = None,
    block: int = 512,
    bar: tqdm | None = None,
) -> Predictions:
    """Latent, probabilities and numbers of cells, and how far they lie from training.

    Genes that the cells lack are filled in from those that they have. The displacement of all cells from those of training is taken off where
    the control that goes along does not speak against it, so that what is said of a cell depends on the others; `Algorithm.transform` never does
    that.

    Parameters
    ----------
    algorithm
        Algorithm, with a reference or without.
    cells
        Cells as `workbench.load` gives them; read row by row.
    min_coverage
        Smallest share of the algorithm's genes that must be measured; the algorithm's own limit when None.
    align
        Take the displacement off; False leaves what lies elsewhere there, and out of range. When None it is taken off where logistic
        regression on expression, to which nothing is done, agrees with at least as many labels then as without.
    block
        Cells that are read and encoded at a time; memory grows with it.
    bar
        Progress bar that goes on by cells; none by default.

    Raises
    ------
    GeneMatchError
        If fewer genes are measured.
    CellsError
        If values are impossible, or their scale cannot be known.
    """
    reference, genes, n = algorithm.reference, algorithm.genes, cells.shape[0]
    match = match_panel(cells, genes, algorithm.least_coverage if min_coverage is None else min_coverage)
    measured = np.isin(np.array(genes), list(match.genes))
    matrix, offset = algorithm.given(measured)
    k, plain = matrix.shape[1], np.full(n, -1)
    if (control := None if reference is None else reference.plain) is not None:
        assert reference is not None
        weights, bias = reference.expression.folded(control.weights, control.offset, measured)
        # One pass over the values for both.
        matrix, offset = np.hstack([matrix, weights]), np.concatenate([offset, bias])
    latent, expressed, sizes = np.empty((n, k)), np.zeros(n), np.full(n, np.nan)
    scale = scale_of(cells)
    for first, x, _ in expression_blocks(cells, match, genes, size=block, scale=scale):
        rows = slice(first, first + x.shape[0])
        both = encoded(x, matrix, offset)
        latent[rows] = both[:, :k]
        if control is not None:
            plain[rows] = np.where(np.isnan(both[:, k]), -1, most_probable(both[:, k:]))
        expressed[rows], sizes[rows] = np.diff(x.indptr) / len(genes), library_sizes(x)
        if bar is not None:
            bar.update(x.shape[0])
    full = expressed > 0
    coverage, distance, in_range = float(measured.mean()), None, None
    fitness, readouts = Fitness(coverage), dict(algorithm.readouts)
    if reference is not None and full.any():
        expected = reference.detected[measured].sum() / len(genes)
        detected = float(expressed[full].mean() / max(expected, 1e-12))
        level = reference.level(coverage, detected)
        readouts = {
            name: cooled(one, level.heat.get(name, 1.0)) if one.classes else one for name, one in readouts.items()
        }
        raw, chosen = latent[full], np.arange(int(full.sum()))
        if len(raw) > _SAMPLE:
            chosen = np.sort(order_of(0, cells.obs_names[full].tolist(), "shift")[:_SAMPLE])
        shift = find_shift(raw[chosen], reference.classes)
        agreements = None
        if control is not None and (judged := readouts.get(reference.endpoint)) is not None:
            agreements = [
                float((most_probable(judged.output(raw[chosen] - by)) == plain[full][chosen]).mean())
                for by in (0, shift.offset)
            ]
        if align is None:
            align = agreements is None or agreements[1] >= agreements[0]
        if align:
            latent[full] = raw - shift.offset
        distance = np.full(n, np.nan)
        distance[full] = reference.classes.distances(latent[full])
        in_range = np.where(full, distance <= reference.farthest, False)
        spread = np.maximum(reference.spread, 1e-12)
        fitness = Fitness(
            coverage,
            detected,
            float(np.nanmedian(sizes)),
            reference.library_size,
            shift,
            tuple(((raw.mean(0) - reference.mean) / spread).tolist()),
            tuple((raw.std(0) / spread).tolist()),
            float(1 - in_range[full].mean()),
            float("nan"),
            level.accuracy,
            reference.levels[0].accuracy,
            *(
                (np.nan, np.nan, np.nan)
                if agreements is None
                else (agreements[align], agreements[not align], reference.levels[0].agreement)
            ),
            align,
        )
    probabilities, numbers = _read(readouts, latent, full, block)
    if reference is not None and fitness.shift is not None:
        fitness = _judged(fitness, reference, probabilities, full)
    else:
        fitness = _unknown(fitness)
    classes = {name: class_names(name, readouts[name]) for name in probabilities}
    asked = {} if reference is None else _asked(reference, readouts, probabilities)
    by_plain = {} if reference is None or control is None else {reference.endpoint: plain}
    found = latent, probabilities, classes, numbers, expressed, distance, in_range, asked
    return Predictions(*found, fitness, scale.said, by_plain)


def encoded(
    x: sp.csr_matrix, matrix: Float[np.ndarray, "gene k"], offset: Float[np.ndarray, " k"]
) -> Float[np.ndarray, "cell k"]:
    """Latent of expression that is aligned to a panel; NaN for cells that express none of its genes.

    Parameters
    ----------
    x
        Cells by panel genes, log-normalised.
    matrix, offset
        Latent z = x @ matrix + offset.
    """
    z = _product(x.indptr, x.indices, x.data, np.ascontiguousarray(matrix, dtype=np.float64)) + offset
    z[np.diff(x.indptr) == 0] = np.nan
    return z


@njit(cache=True, nogil=True)
def _product(indptr, indices, data, matrix):
    """Sparse rows times a matrix, in double precision without a copy of the values."""
    n, k = len(indptr) - 1, matrix.shape[1]
    out = np.zeros((n, k))
    for row in range(n):
        z = out[row]
        for at in range(indptr[row], indptr[row + 1]):
            value, weights = np.float64(data[at]), matrix[indices[at]]
            for j in range(k):
                z[j] += value * weights[j]
    return out


def class_names(name: str, readout: Readout) -> tuple[str, ...]:
    """Classes of a readout; yes and no of "A against B" are A and B.

    Parameters
    ----------
    name
        Name of the readout, that of its endpoint.
    readout
        Readout with two classes or more.
    """
    yes, against, no = name.partition(" against ")
    return (no, yes) if against and readout.classes == ("False", "True") else readout.classes


def _read(
    readouts: Mapping[str, Readout], latent: np.ndarray, full: np.ndarray, block: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Probabilities and numbers by readout, some cells at a time; NaN where a cell expresses nothing."""
    n = len(latent)
    probabilities = {
        name: np.full((n, len(one.classes)), np.nan, np.float32) for name, one in readouts.items() if one.classes
    }
    numbers = {name: np.full(n, np.nan, np.float32) for name, one in readouts.items() if not one.classes}
    rows = np.flatnonzero(full)
    for start in range(0, len(rows), block):
        part = rows[start : start + block]
        z = latent[part]
        for name, readout in readouts.items():
            if readout.classes:
                probabilities[name][part] = readout.probabilities(z)
            else:
                numbers[name][part] = readout.predict(z)
    return probabilities, numbers


def _asked(
    reference: TrainingReference, readouts: Mapping[str, Readout], probabilities: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    if reference.endpoint not in probabilities:
        return {}
    likeliest = np.array(readouts[reference.endpoint].classes)[probabilities[reference.endpoint].argmax(1)]
    return {name: np.isin(likeliest, of) for name, of in reference.asked.items() if name in probabilities}


def _judged(
    fitness: Fitness,
    reference: TrainingReference,
    probabilities: Mapping[str, np.ndarray],
    full: np.ndarray,
) -> Fitness:
    """The fitness with its reasons, each of which was set before any file was looked at: limits are those of held-out training cells."""
    whole, reasons, notices, shift = reference.levels[0], list[str](), list[str](), fitness.shift
    assert shift is not None
    level = reference.level(fitness.coverage, np.inf)
    if fitness.coverage < reference.least_coverage - 1e-9:
        reasons.append(
            f"{fitness.coverage:.0%} of the genes are measured: on held-out training cells with under {reference.least_coverage:.0%} more than "
            f"{LOSS} of the accuracy is lost ({whole.accuracy:.2f} with all, {level.accuracy:.2f} with {level.share:.0%})."
        )
    if fitness.agreement < reference.least_agreement:
        reasons.append(
            f"Logistic regression on the expression of the same training cells gives {fitness.agreement:.0%} of the cells the algorithm's "
            f"{reference.endpoint} (of held-out training cells {fitness.usual_agreement:.0%}): of the others one of the two is wrong."
        )
    if shift.n_cells >= _FEW and shift.size >= level.permuted:
        reasons.append(
            f"The cells are displaced by {shift.size:.1f} standard deviations, as training cells are after their genes were permuted "
            f"({level.permuted:.1f} or more): their values have another scale, or they are no such cells."
        )
    if fitness.outside > _MOST_OUTSIDE:
        reasons.append(
            f"{fitness.outside:.0%} of the cells are out of the range of training (1 % of held-out training cells are): other cells, or values on "
            "another scale."
        )
    probability = float("nan")
    if reference.endpoint in probabilities:
        probability = float(probabilities[reference.endpoint][full].max(1).mean())
        likeliest = int(np.argmax(shift.shares))
        if shift.shares[likeliest] > _ONE_CLASS:
            notices.append(
                f"Nearly all cells look like one class ({reference.classes.names[likeliest]}): with one class alone, a displacement can be taken "
                "for a difference between classes, and the other way round."
            )
    if fitness.agreement < fitness.other_agreement and fitness.aligned:
        notices.append(
            f"With the displacement left as it is, logistic regression on expression would give {fitness.other_agreement:.0%} of the cells the "
            f"algorithm's {reference.endpoint}, and {fitness.agreement:.0%} with it taken off."
        )
    if shift.n_cells < _FEW and fitness.aligned:
        notices.append(f"{shift.n_cells} cells are few to find a displacement from; it is drawn towards none.")
    return replace(fitness, probability=probability, reasons=tuple(reasons), notices=tuple(notices))


def _unknown(fitness: Fitness) -> Fitness:
    said = "The algorithm knows nothing of its training cells: genes that are absent count as not expressed, and whether these cells are like those"
    return replace(fitness, notices=(f"{said} of training cannot be said. Export it again.",))
