"""What an algorithm says of cells, read in blocks."""

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
from workbench.operators.fitness import Fitness, beside_training, judged, unknown
from workbench.operators.readout_weights import Readout, cooled, most_probable
from workbench.operators.reference import TrainingReference

if TYPE_CHECKING:
    from workbench.operators.algorithm import Algorithm

UNASSIGNED = "unassigned"
# A label is given where it is more likely right than wrong.
LEAST_PROBABILITY = 0.5
# Least coverage where an algorithm does not know its own, because it has no reference.
LEAST_COVERAGE = 0.5


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

    Genes that the cells lack are filled in from those that they have. The displacement of all cells from those of training is taken off unless
    the control that goes along speaks against it, so that what is said of a cell depends on the others; `Algorithm.transform` never does
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
        Take the displacement off; False leaves what lies elsewhere there, and out of range. When None it is taken off unless logistic
        regression on expression, to which nothing is done, agrees with surely more labels without (by two standard errors).
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
        names, distance = cells.obs_names.to_numpy()[full], np.full(n, np.nan)
        fitness, latent[full], distance[full] = beside_training(
            reference, latent[full], names, plain[full], readouts.get(reference.endpoint), align
        )
        in_range = np.where(full, distance <= reference.farthest, False)
        fitness = replace(
            fitness,
            coverage=coverage,
            detected=detected,
            library_size=float(np.nanmedian(sizes)),
            accuracy=level.accuracy,
        )
    probabilities, numbers = _read(readouts, latent, full, block)
    if reference is not None and fitness.shift is not None:
        if (of := probabilities.get(reference.endpoint)) is not None:
            fitness = replace(fitness, probability=float(of[full].max(1).mean()))
        fitness = judged(fitness, reference)
    else:
        fitness = unknown(fitness)
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
