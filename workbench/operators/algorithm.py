"""The exported algorithm: one matrix, one offset and linear readouts, applied without torch and without the model.

The feature map is linear in x, and so is the adaptor: f(x) = x F and z = W (f(x) - b) fold into z = x M + c with
M = F W^T (gene by k) and c = -W b, without loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from anndata import AnnData
from jaxtyping import Bool, Float

from workbench.cells.expression import expression_blocks, match_panel
from workbench.errors import ShapeError
from workbench.files import write_text
from workbench.operators.artifact import read_artifact, write_artifact
from workbench.operators.card import model_card
from workbench.operators.predict import LEAST_COVERAGE, Predictions, encoded, predict
from workbench.operators.readout_weights import ARRAYS, Readout
from workbench.operators.reference import TrainingReference

CARD, WEIGHTS, README = "config.json", "weights.safetensors", "README.md"


@dataclass(frozen=True)
class Algorithm:
    """What a user takes home.

    Attributes
    ----------
    genes
        The panel, in the order of the rows of `matrix`.
    matrix, offset
        Latent z = x @ matrix + offset, x the log-normalised expression of the panel.
    readouts
        Fitted readout of each endpoint, by the endpoint's name; may be empty.
    card
        Where it comes from: data, checkpoint, settings, evidence. JSON-ready.
    reference
        What it knows of its training cells: by it genes that a file lacks are filled in, and cells that are not like them
        noticed. None: absent genes count as not expressed, and nothing is noticed.

    Examples
    --------
    >>> import numpy as np
    >>> import pandas as pd
    >>> import workbench
    >>> from anndata import AnnData
    >>> from workbench.operators.algorithm import Algorithm
    >>> known = Algorithm(("CD3D", "MS4A1"), np.eye(2), np.zeros(2), {}, {"data": "made up"})
    >>> cells = AnnData(np.array([[3.0, 1.0]]), var=pd.DataFrame(index=["CD3D", "MS4A1"]))
    >>> cells = workbench.load(cells, values="counts")  # two genes do not show what they are
    >>> known.transform(cells).round(2)  # log(1 + 7500) and log(1 + 2500)
    array([[8.92, 7.82]])
    """

    genes: tuple[str, ...]
    matrix: Float[np.ndarray, "gene k"]
    offset: Float[np.ndarray, " k"]
    readouts: Mapping[str, Readout]
    card: Mapping[str, Any]
    reference: TrainingReference | None = None

    def __post_init__(self) -> None:
        check_rows(self.genes, self.matrix)

    @property
    def least_coverage(self) -> float:
        """Share of the genes that cells have to measure: the least with which the readouts held on held-out training cells."""
        return LEAST_COVERAGE if self.reference is None else self.reference.least_coverage

    def given(self, measured: Bool[np.ndarray, " gene"]) -> tuple[Float[np.ndarray, "gene k"], Float[np.ndarray, " k"]]:
        """Matrix and offset for cells that measure some of the genes: the others are what is to be expected from these.

        Parameters
        ----------
        measured
            Whether each gene is measured. Without a reference, the others count as not expressed.
        """
        if self.reference is None:
            return self.matrix, self.offset
        return self.reference.expression.folded(self.matrix, self.offset, measured)

    def transform(self, cells: AnnData, min_coverage: float | None = None) -> Float[np.ndarray, "cell k"]:
        """Latent of cells, each by itself; genes are matched by name as `match_genes` does, and absent ones filled in, see `given`.

        Values are brought to log1p of counts per 10,000 first, see `workbench.cells.scale.find_scale`. A cell that expresses none
        of the genes has NaN. `predict` brings the cells over those of training as well.

        Parameters
        ----------
        cells
            Cells with gene symbols as ``var_names``, as `workbench.load` gives them where the scale of the values has to be said;
            read row by row.
        min_coverage
            Smallest share of the panel that must be measured; `least_coverage` when None.

        Raises
        ------
        GeneMatchError
            If fewer panel genes are measured.
        CellsError
            If values are negative, NaN or infinite, or their scale cannot be known.
        """
        z = np.empty((cells.shape[0], self.matrix.shape[1]))
        match = match_panel(cells, self.genes, self.least_coverage if min_coverage is None else min_coverage)
        matrix, offset = self.given(np.isin(np.array(self.genes), list(match.genes)))
        for start, block, _ in expression_blocks(cells, match, self.genes):
            z[start : start + block.shape[0]] = encoded(block, matrix, offset)
        return z

    def predict(self, cells: AnnData, min_coverage: float | None = None, *, align: bool | None = None) -> Predictions:
        """What the algorithm says of cells, how far they lie from training, and whether it is fit for them.

        Parameters
        ----------
        cells, min_coverage
            As in `transform`.
        align
            Take off the displacement that all cells have from those of training; when None where the control that goes along does not
            speak against it, see `workbench.operators.predict.predict`.

        Raises
        ------
        GeneMatchError
            If fewer panel genes are measured.
        CellsError
            As `transform`.
        """
        return predict(self, cells, min_coverage=min_coverage, align=align)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write ``weights.safetensors``, ``config.json`` and, for people, a model card in ``README.md``.

        Parameters
        ----------
        folder
            Made if it is not there; an algorithm in it is replaced.

        Raises
        ------
        OutputError
            If it holds files of these names that are of no algorithm.
        """
        folder = Path(folder).expanduser()
        arrays = {"matrix": self.matrix, "offset": self.offset}
        for name, readout in self.readouts.items():
            arrays |= {f"readout/{name}/{part}": array for part, array in readout.arrays().items()}
        classes = {name: {"classes": list(readout.classes)} for name, readout in self.readouts.items()}
        about = {"genes": list(self.genes), "k": self.matrix.shape[1], "readouts": classes, "card": dict(self.card)}
        if self.reference is not None:
            arrays |= self.reference.arrays()
            about["reference"] = self.reference.told()
        write_artifact(folder / CARD, folder / WEIGHTS, about, arrays, (README,))
        write_text(
            folder / README, model_card(self.card, self.genes, self.matrix.shape[1], self.readouts, self.reference)
        )
        return folder

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Algorithm:
        """Read what `save_pretrained` wrote.

        Parameters
        ----------
        folder
            Folder with ``weights.safetensors`` and ``config.json``; the README is not read.

        Raises
        ------
        ArtifactError
            If a file is missing, truncated, changed, of another format, or the weights are not those of the card.
        """
        folder = Path(folder).expanduser()
        card, arrays = read_artifact(folder / CARD, folder / WEIGHTS, "is no algorithm")
        readouts = {}
        for name, entry in card["readouts"].items():
            parts = {part: arrays[at] for part in ARRAYS if (at := f"readout/{name}/{part}") in arrays}
            readouts[name] = Readout(classes=tuple(entry["classes"]), **parts)
        told = card.get("reference")
        reference = None if told is None else TrainingReference.read(told, arrays)
        return cls(tuple(card["genes"]), arrays["matrix"], arrays["offset"], readouts, card["card"], reference)


def check_rows(genes: Sequence[str], matrix: np.ndarray) -> None:
    """Refuse names that are not those of the rows of a matrix: as many, each once.

    Parameters
    ----------
    genes
        Names of the genes, in the order of the rows.
    matrix
        Matrix with a row for each gene.

    Raises
    ------
    ShapeError
        If they are more or fewer, or a gene is named twice.
    """
    if len(set(genes)) < len(genes) or len(genes) != len(matrix):
        raise ShapeError(
            f"{len(matrix)} rows need the name of a gene each; found {len(genes)}, {len(set(genes))} different."
        )


def fold(
    feature_map: Float[np.ndarray, "gene feature"],
    encoder: Float[np.ndarray, "k feature"],
    bias: Float[np.ndarray, " feature"],
) -> tuple[Float[np.ndarray, "gene k"], Float[np.ndarray, " k"]]:
    """Fold a linear feature map and an adaptor into one matrix and one offset.

    z = W (x F - b) = x (F W^T) - W b, whatever x is: nothing is lost, and the feature map need not be kept.

    Parameters
    ----------
    feature_map
        Matrix F of f(x) = x F, panel genes by features.
    encoder, bias
        W and b of a fitted adaptor (`LETAdaptor.encoder_`, `LETAdaptor.bias_`).

    Returns
    -------
    matrix, offset
        M = F W^T and c = -W b, float64.

    Examples
    --------
    >>> import numpy as np
    >>> from workbench.operators.algorithm import fold
    >>> matrix, offset = fold(np.array([[1.0, 2.0], [0.0, 1.0]]), np.array([[1.0, 1.0]]), np.array([0.5, 0.0]))
    >>> matrix.tolist(), offset.tolist()
    ([[3.0], [1.0]], [-0.5])
    """
    return np.asarray(feature_map, dtype=np.float64) @ encoder.T, -(encoder @ bias)
