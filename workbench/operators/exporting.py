"""Readouts for export, and the reference that goes with them: how they hold with fewer genes and counts, on held-out cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp
from jaxtyping import Bool, Float, Shaped
from tqdm import tqdm

from workbench.cells.thinning import SHARES, library_sizes, thinned, with_thinned
from workbench.errors import EvaluationError
from workbench.operators.calibration import exported, fit_readout, fitted_temperature
from workbench.operators.cross_validation import AT_ONCE
from workbench.operators.expression_model import ExpressionModel
from workbench.operators.readout import Endpoint, probe, sampled
from workbench.operators.readout_weights import Readout, most_probable, softmax
from workbench.operators.reference import COUNTS, GENES, Level, TrainingReference
from workbench.operators.shift import LatentClasses, find_shift
from workbench.seeds import order_of
from workbench.threads import threaded

# Shares of genes and counts that are tried; draws of genes at each share, and orders in which those are permuted.
GENE_SHARES, COUNT_SHARES, DRAWS, PERMUTED = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3), (0.5, 0.25, 0.1), 3, 4
# Cells of a fold, from which on its displacement says something.
_ENOUGH = 50
# Cells that the control on plain expression is fitted on, at most: they are held dense.
MOST_PLAIN = 10_000


@dataclass(frozen=True)
class HeldOutEncoder:
    """A folded linear latent that was made without some cells.

    Attributes
    ----------
    matrix, offset
        Latent z = x @ matrix + offset.
    held
        Whether each training cell had no part in it.
    """

    matrix: Float[np.ndarray, "gene k"]
    offset: Float[np.ndarray, " k"]
    held: Bool[np.ndarray, " cell"]


@dataclass(frozen=True)
class TrainingCells:
    """What readouts for export are fitted on.

    Attributes
    ----------
    x
        Log-normalised expression, cell by gene.
    names, genes
        Names of cells and genes, on which draws depend, so that no order does.
    endpoints
        Endpoints to read, of which the first of classes is the one that levels judge.
    shares
        Shares of counts of the thinned copies that readouts are fitted on beside the cells; empty where values are no
        expression.
    hidden, seed
        As in `fit_readout`.
    """

    x: sp.csr_matrix
    names: Shaped[np.ndarray, " cell"]
    genes: Sequence[str]
    endpoints: Sequence[Endpoint]
    shares: tuple[float, ...] = SHARES
    hidden: int = 0
    seed: int = 0

    def take(self, rows: Bool[np.ndarray, " cell"]) -> TrainingCells:
        """Some of the cells.

        Parameters
        ----------
        rows
            Whether each cell is among them.
        """
        place = np.cumsum(rows) - 1
        inside = [
            replace(one, target=one.target[rows], cells=place[one.cells[rows[one.cells]]]) for one in self.endpoints
        ]
        return replace(self, x=self.x[rows], names=self.names[rows], endpoints=inside)

    def copies(self) -> tuple[sp.csr_matrix, list[Endpoint]]:
        """Cells and their thinned copies, one below the other, with the endpoints of all; copies that express nothing count for none."""
        every = with_thinned(self.x, self.names, self.genes, self.seed, self.shares)
        n, many = self.x.shape[0], 1 + len(self.shares)
        full = np.diff(every.indptr) > 0
        full[:n] = True
        found = []
        for one in self.endpoints:
            cells = np.concatenate([one.cells + n * i for i in range(many)])
            found.append(replace(one, target=np.tile(one.target, many), cells=cells[full[cells]]))
        return every, found


@dataclass(frozen=True)
class _Inner:
    """What was fitted without a fold, and what is asked of it."""

    expression: ExpressionModel
    classes: LatentClasses
    detected: Float[np.ndarray, " gene"]
    readouts: dict[str, Readout]
    plain: Readout
    encoder: HeldOutEncoder
    held: TrainingCells


def export_readouts(
    cells: TrainingCells,
    matrix: Float[np.ndarray, "gene k"],
    offset: Float[np.ndarray, " k"],
    inner: Sequence[HeldOutEncoder],
    bar: tqdm | None = None,
) -> tuple[dict[str, Readout], TrainingReference | None]:
    """Readouts of a folded latent, fitted on cells and thinned copies of them, and the reference to say how far they hold.

    Parameters
    ----------
    cells
        Training cells and what is to be read from them.
    matrix, offset
        Latent of all of them.
    inner
        Latents that were each made without some cells: on these probabilities are calibrated, and levels judged.
    bar
        Progress bar that goes on by one for the readouts, for each of `inner`, and for the levels; none by default.

    Returns
    -------
    readouts, reference
        By endpoint; and the reference, None where no endpoint of classes can be judged.

    Raises
    ------
    EvaluationError
        If an endpoint has one class only.
    """
    every, endpoints = cells.copies()
    many = 1 + len(cells.shares)
    z = np.asarray(every @ matrix) + offset
    latents = [(np.asarray(every @ one.matrix) + one.offset, np.tile(one.held, many)) for one in inner]
    options = {"hidden": cells.hidden, "seed": cells.seed}
    readouts = {one.name: fit_readout(z, one, latents, **options) for one in endpoints}
    if bar is not None:
        bar.update()

    def without(encoder: HeldOutEncoder) -> _Inner | None:
        found = _fitted_without(cells, encoder)
        if bar is not None:
            bar.update()
        return found

    judged = next((one for one in endpoints if one.kind == "classes"), None)
    # Each holds expression twice, as it is and standardised, in double precision.
    most = max(1, AT_ONCE // (16 * min(max(len(cells.names), 1), MOST_PLAIN) * max(cells.x.shape[1], 1)))
    folds = [found for found in threaded(without, inner, most) if found is not None] if judged else []
    if judged is None or not folds:
        return readouts, None
    whole = z[: cells.x.shape[0]]
    farthest = np.quantile(np.concatenate([_distances(fold) for fold in folds]), 0.99)
    levels = [_level(folds, judged.name, GENES, share) for share in GENE_SHARES]
    if cells.shares:
        levels += [_level(folds, judged.name, COUNTS, share) for share in COUNT_SHARES]
    first = levels[0].heat
    heat = [{name: value / first[name] for name, value in level.heat.items() if name in first} for level in levels]
    if bar is not None:
        bar.update()
    return readouts, TrainingReference(
        ExpressionModel.fit(every),
        LatentClasses.fit(z[judged.cells], judged.target[judged.cells]),
        _detected(cells.x),
        whole.mean(0),
        whole.std(0),
        float(np.nanmedian(library_sizes(cells.x))) if cells.shares else np.nan,
        float(farthest),
        judged.name,
        tuple(replace(level, heat=at) for level, at in zip(levels, heat, strict=True)),
        {
            one.name: tuple(np.unique(judged.target[np.intersect1d(one.cells, judged.cells)].astype(str)).tolist())
            for one in cells.endpoints
            if one.kind == "binary"
        },
        plain_readout(cells, judged.name),
    )


def _fitted_without(cells: TrainingCells, encoder: HeldOutEncoder) -> _Inner | None:
    """All that is exported, fitted without the held cells; None where a class is on one side only."""
    inside, held = cells.take(~encoder.held), cells.take(encoder.held)
    every, endpoints = inside.copies()
    z = np.asarray(every @ encoder.matrix) + encoder.offset
    readouts = {}
    for one in endpoints:
        if one.kind == "depth":
            continue
        try:
            readouts[one.name] = fit_readout(z, one, hidden=cells.hidden, seed=cells.seed)
        except EvaluationError:  # one class only without these cells
            continue
    judged = next((one for one in endpoints if one.kind == "classes"), None)
    if judged is None or judged.name not in readouts or not held.x.shape[0]:
        return None
    classes = LatentClasses.fit(z[judged.cells], judged.target[judged.cells])
    plain = plain_readout(inside, judged.name)
    return _Inner(ExpressionModel.fit(every), classes, _detected(inside.x), readouts, plain, encoder, held)


def plain_readout(cells: TrainingCells, name: str) -> Readout:
    """Logistic regression of an endpoint on expression itself, the same that readouts of the latent are, without thinned copies.

    Parameters
    ----------
    cells
        Training cells, of which 10,000 at most are fitted on, drawn in the shares of their classes.
    name
        Name of an endpoint of classes.
    """
    endpoint = next(one for one in cells.endpoints if one.name == name)
    place = np.argsort(np.argsort(cells.names, kind="stable"))
    rows = np.sort(sampled(endpoint.target, np.sort(endpoint.cells), place, cells.seed, MOST_PLAIN))
    return exported(probe("classes").fit(cells.x[rows].toarray(), endpoint.target[rows]), "classes")


def _detected(x: sp.csr_matrix) -> Float[np.ndarray, " gene"]:
    return np.asarray((x > 0).mean(0), dtype=np.float64).ravel()


def _distances(fold: _Inner) -> Float[np.ndarray, " cell"]:
    every, _ = fold.held.copies()
    z = np.asarray(every[np.diff(every.indptr) > 0] @ fold.encoder.matrix) + fold.encoder.offset
    return fold.classes.distances(z)


def _level(folds: Sequence[_Inner], judged: str, kind: str, share: float) -> Level:
    """How the readouts of all folds do on their held-out cells with a share of genes or counts."""
    logits: dict[str, list[np.ndarray]] = {}
    truth: dict[str, list[np.ndarray]] = {}
    accuracy, detected, shifts, permuted = list[float](), list[float](), list[float](), list[float]()
    of_plain, agreed = list[float](), list[np.ndarray]()
    for fold in folds:
        for draw in range(1 if kind == COUNTS or share == 1 else DRAWS):
            x, measured = _taken(fold.held, kind, share, draw)
            matrix, offset = fold.expression.folded(fold.encoder.matrix, fold.encoder.offset, measured)
            weights, bias = fold.expression.folded(fold.plain.weights, fold.plain.offset, measured)
            full = np.diff(x.indptr) > 0
            z = np.asarray(x @ matrix) + offset
            detected.append(np.diff(x.indptr).mean() / max(fold.detected[measured].sum(), 1e-12))
            if full.sum() >= _ENOUGH:
                shifts.append(find_shift(z[full], fold.classes).size)
                for i in range(PERMUTED if kind == GENES else 0):
                    order = _permuted(fold.held, measured, f"{draw} {i}")
                    strange = np.asarray(x[:, order] @ matrix)[full] + offset
                    permuted.append(find_shift(strange, fold.classes).size)
            for one in fold.held.endpoints:
                if (readout := fold.readouts.get(one.name)) is None:
                    continue
                rows = one.cells[full[one.cells]]
                # A class that was not seen in training has no probability that could be right.
                rows = rows[np.isin(one.target[rows].astype(str), readout.classes)]
                right = np.array([readout.classes.index(str(value)) for value in one.target[rows].tolist()], dtype=int)
                if one.name == judged and len(rows):
                    accuracy.append(_recall(right, readout.output(z[rows])))
                    plain = np.asarray(x[rows] @ weights) + bias
                    of_plain.append(_recall(right, plain))
                    agreed.append(most_probable(plain) == most_probable(readout.output(z[rows])))
                # Of few cells none may be left of an endpoint.
                if len(rows) and len(readout.classes) == len(_classes(folds, one.name)):
                    logits.setdefault(one.name, []).append(readout.output(z[rows]))
                    truth.setdefault(one.name, []).append(right)
    heat = {name: fitted_temperature(np.concatenate(logits[name]), np.concatenate(truth[name])) for name in logits}
    probability = np.nan
    if judged in logits:
        probability = float(softmax(np.concatenate(logits[judged]) / heat[judged]).max(1).mean())
    return Level(
        kind,
        share,
        float(np.mean(detected)),
        float(np.mean(accuracy)) if accuracy else np.nan,
        float(np.std(accuracy, ddof=1)) if len(accuracy) > 1 else np.nan,
        probability,
        heat,
        float(np.max(shifts)) if shifts else np.nan,
        float(np.quantile(permuted, 0.05)) if permuted else np.nan,
        float(np.mean(of_plain)) if of_plain else np.nan,
        float(np.concatenate(agreed).mean()) if agreed else np.nan,
    )


def _taken(held: TrainingCells, kind: str, share: float, draw: int) -> tuple[sp.csr_matrix, Bool[np.ndarray, " gene"]]:
    """Held-out cells with fewer genes or counts, and which genes are measured."""
    measured, x = np.ones(len(held.genes), dtype=bool), held.x.astype(np.float64)
    if kind == COUNTS:
        x = thinned(held.x, share, held.names, held.genes, held.seed + 1)  # not the draw of the training copies
    elif share < 1:
        kept = order_of(held.seed, held.genes, "measured", str(draw))[: max(1, round(share * len(held.genes)))]
        measured[:] = False
        measured[kept] = True
        x = sp.csr_matrix(x.multiply(measured[None, :]))
        x.eliminate_zeros()
    return x, measured


def _permuted(held: TrainingCells, measured: Bool[np.ndarray, " gene"], draw: str) -> np.ndarray:
    """Order of columns in which the measured genes change places, by their names."""
    genes, there = np.asarray(held.genes), np.flatnonzero(measured)
    order = np.arange(len(genes))
    # Sorted by name on the one side, mixed on the other: the order of the panel changes nothing.
    mixed = there[order_of(held.seed, genes[there], "permuted genes", draw)]
    order[there[np.argsort(genes[there], kind="stable")]] = mixed
    return order


def _classes(folds: Sequence[_Inner], name: str) -> set[str]:
    return {label for fold in folds if name in fold.readouts for label in fold.readouts[name].classes}


def _recall(truth: np.ndarray, logits: np.ndarray) -> float:
    """Balanced accuracy: mean over the classes that are there of the share that is recognised."""
    said = most_probable(logits)
    return float(np.mean([(said[truth == one] == one).mean() for one in np.unique(truth)]))
