"""What an exported algorithm knows of its training cells, so that it can say whether other cells are like them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from workbench.operators.expression_model import ExpressionModel
from workbench.operators.readout_weights import Readout
from workbench.operators.shift import LatentClasses

GENES, COUNTS = "share of genes", "share of counts"
# Accuracy that may be lost before a file is no longer served: on held-out training cells with as few genes, and against plain expression.
LOSS = 0.05
LEVEL_COLUMNS = (
    "kind",
    "share",
    "detected",
    "accuracy",
    "sd",
    "probability",
    "shift",
    "permuted",
    "plain_accuracy",
    "agreement",
)
_PREFIX, _PLAIN = "reference/", "plain/"


@dataclass(frozen=True)
class Level:
    """How the readouts did on training cells that they were not fitted on, with some of the genes or counts taken away.

    Attributes
    ----------
    kind
        What was taken away: ``share of genes`` or ``share of counts``.
    share
        Share that was left, above 0 and up to 1.
    detected
        Genes that the cells express, of those that are to be expected on the genes left (mean over cells).
    accuracy, sd
        Balanced accuracy of the first endpoint of classes: mean and spread over folds and draws.
    probability
        Mean probability of the most probable class, calibrated at this level.
    heat
        By endpoint: temperature by which the readout's logits are divided at this level, beside that of the whole cells.
    shift
        Largest displacement of the held-out cells, in standard deviations inside classes.
    permuted
        Displacement that 5 % of draws of the same cells with genes permuted do not reach: what files look like that have nothing
        to do with training. NaN where it was not drawn.
    plain_accuracy
        As `accuracy`, of logistic regression on expression, see `TrainingReference.plain`. NaN where none goes along.
    agreement
        Share of the cells that logistic regression on their expression gives the same class. NaN as above.
    """

    kind: str
    share: float
    detected: float
    accuracy: float
    sd: float
    probability: float
    heat: Mapping[str, float]
    shift: float
    permuted: float
    plain_accuracy: float = float("nan")
    agreement: float = float("nan")


@dataclass(frozen=True)
class TrainingReference:
    """Training cells, as far as an algorithm takes them along: no cell of them can be told from it.

    Attributes
    ----------
    expression
        Means and components of their expression, by which genes that a file lacks are filled in.
    classes
        Where their classes lie in the latent.
    detected
        Share of the training cells that express each gene.
    mean, spread
        Mean and standard deviation of each latent coordinate.
    library_size
        Median library size of the training cells; NaN where values are no expression.
    farthest
        Distance from the nearest class that 1 % of held-out training cells exceed, see `LatentClasses.distances`.
    endpoint
        Endpoint of classes that the levels judge.
    levels
        How the readouts did with fewer genes and counts; the first is that of whole cells.
    asked
        By endpoint of two classes: the classes of `endpoint` whose cells it was fitted on, and is asked of.
    plain
        Logistic regression of `endpoint` on the expression of the same cells: the control that goes along. None in an algorithm of an
        earlier version.
    """

    expression: ExpressionModel
    classes: LatentClasses
    detected: Float[np.ndarray, " gene"]
    mean: Float[np.ndarray, " k"]
    spread: Float[np.ndarray, " k"]
    library_size: float
    farthest: float
    endpoint: str
    levels: tuple[Level, ...]
    asked: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    plain: Readout | None = None

    @property
    def least_coverage(self) -> float:
        """Smallest share of the genes at which, and at all larger ones, no more than `LOSS` was lost."""
        whole = found = self.levels[0]
        for level in sorted((one for one in self.levels if one.kind == GENES), key=lambda one: -one.share):
            if level.accuracy < whole.accuracy - LOSS:
                break
            found = level
        return found.share

    @property
    def least_agreement(self) -> float:
        """Smallest share of cells that `plain` has to give the algorithm's class; NaN without it.

        Of the cells on which two classifiers agree neither is right more often. So an algorithm can lose no more accuracy than the share of
        cells on which they do not, and where that grew by no more than `LOSS` over held-out training cells, hardly more than `LOSS`.
        """
        return self.levels[0].agreement - LOSS

    def level(self, coverage: float, detected: float) -> Level:
        """Level that a file is at: of the shares of genes and of counts that are at most as large as its own, the worse one.

        Parameters
        ----------
        coverage
            Share of the algorithm's genes that the file measures.
        detected
            Genes that its cells express, of those that are to be expected on the measured ones.
        """
        by_genes = self._below(GENES, lambda level: level.share, coverage)
        by_counts = self._below(COUNTS, lambda level: level.detected, detected)
        return min(by_genes, by_counts, key=lambda level: level.accuracy)

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays by name, for a file."""
        own = {"detected": self.detected, "mean": self.mean, "spread": self.spread}
        parts = {**{f"expression/{name}": array for name, array in self.expression.arrays().items()}, **own}
        if self.plain is not None:
            parts |= {_PLAIN + name: array for name, array in self.plain.arrays().items()}
        return {_PREFIX + name: array for name, array in {**parts, **self.classes.arrays()}.items()}

    def told(self) -> dict[str, Any]:
        """What is no array, JSON-ready."""
        return {
            "classes": list(self.classes.names),
            "library_size": _plain(self.library_size),
            "farthest": self.farthest,
            "endpoint": self.endpoint,
            "asked": {name: list(of) for name, of in self.asked.items()},
            "plain": None if self.plain is None else list(self.plain.classes),
            "levels": [
                {name: _plain(value) if isinstance(value, float) else value for name, value in asdict(level).items()}
                for level in self.levels
            ],
        }

    @classmethod
    def read(cls, told: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> TrainingReference:
        """From what `told` and `arrays` gave.

        Parameters
        ----------
        told
            What is no array, as the card holds it.
        arrays
            Arrays of a file by name; others among them are left alone.
        """
        own = {name.removeprefix(_PREFIX): array for name, array in arrays.items() if name.startswith(_PREFIX)}
        expression = ExpressionModel(*(own[f"expression/{name}"] for name in ("mean", "loadings", "noise")))
        classes = LatentClasses(tuple(told["classes"]), own["class_means"], own["within"])
        levels = tuple(_level(level) for level in told["levels"])
        library_size = np.nan if told["library_size"] is None else told["library_size"]
        known = own["detected"], own["mean"], own["spread"], library_size, told["farthest"], told["endpoint"]
        asked = {name: tuple(of) for name, of in told["asked"].items()}
        plain = None
        if told.get("plain") is not None:
            plain = Readout(own[f"{_PLAIN}weights"], own[f"{_PLAIN}offset"], tuple(told["plain"]))
        return cls(expression, classes, *known, levels, asked, plain)

    def _below(self, kind: str, size: Callable[[Level], float], least: float) -> Level:
        found = sorted((one for one in self.levels if one.kind == kind), key=size) or [self.levels[0]]
        if size(self.levels[0]) <= least + 1e-9:
            return self.levels[0]
        return next((one for one in reversed(found) if size(one) <= least + 1e-9), found[0])


def levels_table(levels: Sequence[Level]) -> list[dict[str, Any]]:
    """Levels as rows of a table, without the temperatures.

    Parameters
    ----------
    levels
        Levels of a reference, in their order.
    """
    return [{name: getattr(level, name) for name in LEVEL_COLUMNS} for level in levels]


def _level(told: Mapping[str, Any]) -> Level:
    numbers: dict[str, Any] = {name: np.nan if value is None else value for name, value in told.items()}
    return Level(**numbers)


def _plain(value: float) -> float | None:
    # JSON has no NaN.
    return None if np.isnan(value) else float(value)
