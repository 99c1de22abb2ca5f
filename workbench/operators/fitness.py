"""How the cells of a file lie beside the training cells of an algorithm, and whether it is fit for them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int, Shaped

from workbench.operators.readout_weights import Readout, most_probable
from workbench.operators.reference import LOSS, TrainingReference
from workbench.operators.shift import Shift, find_shift
from workbench.seeds import order_of

# Cells that the displacement is found from, at most; and share of cells out of range at which a file is another one.
_SAMPLE, _MOST_OUTSIDE = 5_000, 0.2
_ONE_CLASS, _FEW = 0.8, 50
# Standard errors by which the control has to agree with more labels before the displacement is left as it is.
_SURE = 2.0


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


def beside_training(
    reference: TrainingReference,
    latent: Float[np.ndarray, "cell k"],
    names: Shaped[np.ndarray, " cell"],
    plain: Int[np.ndarray, " cell"],
    readout: Readout | None,
    align: bool | None,
) -> tuple[Fitness, Float[np.ndarray, "cell k"], Float[np.ndarray, " cell"]]:
    """How cells lie beside those of training, and whether their displacement is taken off.

    Parameters
    ----------
    reference
        What the algorithm knows of its training cells.
    latent, names
        Latent of cells that express some of the genes, one row each, and their names, by which some are drawn where there are many.
    plain
        Class that the control gives each, as a number; without effect where none goes along.
    readout
        Readout of the endpoint that the control is of; None without one.
    align
        As in `workbench.operators.predict.predict`.

    Returns
    -------
    fitness, latent, distance
        What is known of the file from its latent, the latent as it is read, and the distance of each cell from the nearest class.
    """
    chosen = np.arange(len(latent))
    if len(latent) > _SAMPLE:
        chosen = np.sort(order_of(0, names.tolist(), "shift")[:_SAMPLE])
    shift = find_shift(latent[chosen], reference.classes)
    left = off = usual = float("nan")
    aligned = align is not False
    if reference.plain is not None and readout is not None:
        same = [most_probable(readout.output(latent[chosen] - by)) == plain[chosen] for by in (0.0, shift.offset)]
        left, off = (float(one.mean()) for one in same)
        usual = reference.levels[0].agreement
        if align is None:
            # Of the cells on which the control agrees with one of both alone, as many would be of either by chance.
            more, fewer = ((one & ~other).sum() for one, other in (same, same[::-1]))
            aligned = bool(more - fewer <= _SURE * np.sqrt(more + fewer))
    spread = np.maximum(reference.spread, 1e-12)
    placed = latent - shift.offset if aligned else latent
    distance = reference.classes.distances(placed)
    fitness = Fitness(
        float("nan"),
        training_library_size=reference.library_size,
        shift=shift,
        before=tuple(((latent.mean(0) - reference.mean) / spread).tolist()),
        spread=tuple((latent.std(0) / spread).tolist()),
        outside=float((distance > reference.farthest).mean()),
        whole=reference.levels[0].accuracy,
        agreement=off if aligned else left,
        other_agreement=left if aligned else off,
        usual_agreement=usual,
        aligned=aligned,
    )
    return fitness, placed, distance


def judged(fitness: Fitness, reference: TrainingReference) -> Fitness:
    """The fitness with its reasons and notices; all limits are those of held-out training cells.

    Parameters
    ----------
    fitness
        How the cells of a file lie, its displacement among it.
    reference
        What the algorithm knows of its training cells.
    """
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
            f"{reference.endpoint} (of held-out training cells {fitness.usual_agreement:.0%}); of the others one of the two is right at most."
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
    if not np.isnan(fitness.probability):
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
    if reference.plain is None:
        notices.append(
            "No control on plain expression goes along, so what it costs on such cells cannot be said. Export the algorithm again."
        )
    if shift.n_cells < _FEW and fitness.aligned:
        notices.append(f"{shift.n_cells} cells are few to find a displacement from; it is drawn towards none.")
    return replace(fitness, reasons=tuple(reasons), notices=tuple(notices))


def unknown(fitness: Fitness) -> Fitness:
    """The fitness of an algorithm that knows nothing of its training cells, which is said.

    Parameters
    ----------
    fitness
        What is known of the file without a reference.
    """
    said = "The algorithm knows nothing of its training cells: genes that are absent count as not expressed, and whether these cells are like those"
    return replace(fitness, notices=(f"{said} of training cannot be said. Export it again.",))
