"""How far the cells of a file lie from training cells in a latent, with the mixture of cell types told apart from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Shaped

# Weight of "no shift", in cells; and the share of cells that is held to be spread evenly over the classes.
_STILL, _EVEN = 25.0, 0.1
_STEPS, _SMALL = 500, 1e-6
_ROWS = 1024


@dataclass(frozen=True)
class LatentClasses:
    """Where the classes of training cells lie in the latent.

    Attributes
    ----------
    names
        Names of the classes, sorted as text.
    means
        Mean latent of each class, class by k.
    within
        Covariance inside classes, pooled, k by k.
    """

    names: tuple[str, ...]
    means: Float[np.ndarray, "class k"]
    within: Float[np.ndarray, "k k"]

    @classmethod
    def fit(cls, z: Float[np.ndarray, "cell k"], labels: Shaped[np.ndarray, " cell"]) -> LatentClasses:
        """Means and the covariance inside classes of training cells.

        Parameters
        ----------
        z
            Latent of the cells, one row each, finite.
        labels
            Class of each of these cells, of any type.
        """
        names, number = np.unique(labels.astype(str), return_inverse=True)
        means = np.stack([z[number == i].mean(0) for i in range(len(names))])
        apart = z - means[number]
        within = apart.T @ apart / len(z)
        # A coordinate that no class varies along would make any distance infinite.
        within += 1e-3 * max(float(np.trace(within)), 1e-12) / len(within) * np.eye(len(within))
        return cls(tuple(names.tolist()), means, within)

    def whitening(self) -> Float[np.ndarray, "k k"]:
        """Matrix after which the covariance inside classes is the identity."""
        return np.linalg.cholesky(np.linalg.inv(self.within))

    def distances(self, z: Float[np.ndarray, "cell k"]) -> Float[np.ndarray, " cell"]:
        """Distance of each cell from the nearest class mean, in standard deviations inside classes (Mahalanobis).

        Parameters
        ----------
        z
            Latent of cells, one row each.
        """
        white = self.whitening()
        means, found = self.means @ white, np.empty(len(z))
        for start in range(0, len(z), _ROWS):  # so many that their distances from all classes stay in cache
            rows = slice(start, start + _ROWS)
            found[rows] = np.sqrt(_squares(z[rows] @ white, means).min(1))
        return found

    def arrays(self) -> Mapping[str, np.ndarray]:
        """All arrays by name."""
        return {"class_means": self.means, "within": self.within}


@dataclass(frozen=True)
class Shift:
    """A common displacement of all cells of a file from those of training.

    Attributes
    ----------
    offset
        Displacement of each coordinate: taken off a latent, it brings the cells over those of training.
    size
        Its length in standard deviations inside classes.
    shares
        Share of the file's cells in each class, as the same fit estimates it.
    n_cells
        Number of cells that it was found from.
    """

    offset: Float[np.ndarray, " k"]
    size: float
    shares: Float[np.ndarray, " class"]
    n_cells: int


def find_shift(z: Float[np.ndarray, "cell k"], classes: LatentClasses) -> Shift:
    """Displacement of cells whose classes are not known, by expectation and maximisation.

    The cells are held to be the training classes, in shares that are free, all displaced by one offset: a file with other shares
    of cell types is not displaced by that. The offset starts at 0, and 25 cells' worth of "no displacement" are added, so that few
    cells move little.

    Parameters
    ----------
    z
        Latent of the cells, finite. Without any cell there is no shift.
    classes
        Classes of the training cells.

    Examples
    --------
    >>> import numpy as np
    >>> from workbench.operators.shift import LatentClasses, find_shift
    >>> rng = np.random.default_rng(0)
    >>> labels = np.repeat(["B", "T"], 500)
    >>> z = np.where(labels == "B", 0.0, 8.0)[:, None] + rng.standard_normal((1000, 1))
    >>> known = LatentClasses.fit(z, labels)
    >>> found = find_shift(z[:600] + 1.5, known)  # five B to one T, displaced
    >>> bool(abs(found.offset[0] - 1.5) < 0.2), found.shares.round(1).tolist()
    (True, [0.8, 0.2])
    """
    white, n, k = classes.whitening(), len(z), z.shape[1]
    at, means = z @ white, classes.means @ white
    offset, shares, spread = np.zeros(k), np.full(len(means), 1 / len(means)), 1.0
    squares = _squares(at, means)
    chance = np.empty_like(squares)
    for _ in range(_STEPS if n else 0):
        # In place: this is what takes long.
        chance = np.multiply(squares, -1 / (2 * spread), out=chance)
        chance += np.log(shares)
        chance -= chance.max(1, keepdims=True)
        np.exp(chance, out=chance)
        chance /= chance.sum(1, keepdims=True)
        weight = chance.sum(0)
        moved = (at.sum(0) - weight @ means) / (n + _STILL)
        shares = (weight + _EVEN * n / len(means)) / (n * (1 + _EVEN))
        squares = _squares(at, means + moved, squares)
        # Cells may scatter more than those of training, and are not held to scatter less.
        spread = max(1.0, float(np.vdot(chance, squares)) / (n * k))
        step, offset = float(np.abs(moved - offset).max()), moved
        if step < _SMALL:
            break
    return Shift(offset @ np.linalg.inv(white), float(np.linalg.norm(offset)), shares, n)


def _squares(
    a: Float[np.ndarray, "cell k"], b: Float[np.ndarray, "class k"], out: Float[np.ndarray, "cell class"] | None = None
) -> Float[np.ndarray, "cell class"]:
    squares = np.matmul(a, -2 * b.T, out=out)
    squares += (a**2).sum(1)[:, None]
    squares += (b**2).sum(1)
    return np.maximum(squares, 0.0, out=squares)
