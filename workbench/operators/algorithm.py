"""The exported algorithm: one matrix, one offset and linear readouts, applied with NumPy alone.

The feature map is linear in x, and so is the adaptor: f(x) = x F and z = W (f(x) - b) fold into z = x M + c with
M = F W^T (gene by k) and c = -W b, without loss.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from anndata import AnnData
from jaxtyping import Float

from workbench.cells.matrix import COUNTS, check_block, describe_values, log_normalise, row_blocks
from workbench.errors import GeneMatchError
from workbench.files import write_text
from workbench.operators.artifact import read_artifact, write_artifact
from workbench.operators.card import model_card
from workbench.operators.readout_weights import ARRAYS, Readout

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

    Examples
    --------
    >>> import numpy as np
    >>> import pandas as pd
    >>> from anndata import AnnData
    >>> from workbench.operators.algorithm import Algorithm
    >>> known = Algorithm(("CD3D", "MS4A1"), np.eye(2), np.zeros(2), {}, {"data": "made up"})
    >>> cells = AnnData(np.array([[3.0, 1.0]]), var=pd.DataFrame(index=["CD3D", "MS4A1"]))
    >>> known.transform(cells).round(2)  # log(1 + 7500) and log(1 + 2500)
    array([[8.92, 7.82]])
    """

    genes: tuple[str, ...]
    matrix: Float[np.ndarray, "gene k"]
    offset: Float[np.ndarray, " k"]
    readouts: Mapping[str, Readout]
    card: Mapping[str, Any]

    def transform(self, cells: AnnData, min_coverage: float = 0.5) -> Float[np.ndarray, "cell k"]:
        """Latent of cells; genes are matched by name as `match_genes` does, absent ones count as not expressed.

        Counts are normalised to 10,000 per cell over all measured genes and logged; logged values are taken as they
        are.

        Parameters
        ----------
        cells
            Cells with gene symbols as ``var_names``; read row by row.
        min_coverage
            Smallest share of the panel that must be measured.

        Raises
        ------
        GeneMatchError
            If fewer panel genes are measured.
        CellsError
            If values are negative, NaN or infinite, or a cell expresses nothing.
        """
        z = np.empty((cells.shape[0], self.matrix.shape[1]))
        for start, block in panel_blocks(cells, self.genes, min_coverage):
            z[start : start + block.shape[0]] = self.encode_panel(block)
        return z

    def encode_panel(self, x: sp.csr_matrix) -> Float[np.ndarray, "cell k"]:
        """Latent of expression that is already aligned to the panel.

        Parameters
        ----------
        x
            Cells by panel genes, log-normalised.
        """
        return np.asarray(x.astype(np.float64) @ self.matrix) + self.offset

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write ``weights.safetensors``, ``config.json`` and, for people, a model card in ``README.md``.

        Parameters
        ----------
        folder
            Made if it is not there.
        """
        folder = Path(folder)
        arrays = {"matrix": self.matrix, "offset": self.offset}
        for name, readout in self.readouts.items():
            arrays |= {f"readout/{name}/{part}": array for part, array in readout.arrays().items()}
        classes = {name: {"classes": list(readout.classes)} for name, readout in self.readouts.items()}
        about = {"genes": list(self.genes), "k": self.matrix.shape[1], "readouts": classes, "card": dict(self.card)}
        write_artifact(folder / CARD, folder / WEIGHTS, about, arrays)
        write_text(folder / README, model_card(self.card, self.genes, self.matrix.shape[1], self.readouts))
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
        card, arrays = read_artifact(Path(folder) / CARD, Path(folder) / WEIGHTS, "is no algorithm")
        readouts = {}
        for name, entry in card["readouts"].items():
            parts = {part: arrays[at] for part in ARRAYS if (at := f"readout/{name}/{part}") in arrays}
            readouts[name] = Readout(classes=tuple(entry["classes"]), **parts)
        return cls(tuple(card["genes"]), arrays["matrix"], arrays["offset"], readouts, card["card"])


def panel_expression(cells: AnnData, genes: tuple[str, ...], min_coverage: float = 0.0) -> sp.csr_matrix:
    """Log-normalised expression on a panel, sparse.

    Parameters
    ----------
    cells
        Cells as in `panel_blocks`; all of them end up in memory.
    genes, min_coverage
        Panel, and the smallest share of it that must be measured, as in `panel_blocks`.

    Returns
    -------
    csr_matrix, shape (cell, gene)
        float32, columns of a row in order.
    """
    out = sp.vstack([block for _, block in panel_blocks(cells, genes, min_coverage)], format="csr")
    out.sort_indices()
    return out


def panel_blocks(
    cells: AnnData, genes: tuple[str, ...], min_coverage: float = 0.0, size: int = 2048
) -> Iterator[tuple[int, sp.csr_matrix]]:
    """Log-normalised expression on a panel, some cells at a time.

    Parameters
    ----------
    cells
        Cells with gene symbols as ``var_names``; the first of repeated names counts, and another case where none fits.
    genes
        Panel: names of the columns wanted, in order, each once.
    min_coverage
        Smallest share of the panel that must be measured; one gene at least is needed at 0.
    size
        Cells per block, 1 or more: memory grows with it.

    Yields
    ------
    start, block
        Number of the first cell, and (cell, gene) in float32, columns of a row in any order.

    Raises
    ------
    GeneMatchError
        If fewer panel genes are measured.
    CellsError
        If values are negative, NaN or infinite, or a cell expresses nothing.
    """
    column = _columns(cells, genes)
    found = np.unique(column[column >= 0])
    if len(found) < max(1, min_coverage * len(genes)):
        absent = [gene for i, gene in enumerate(genes) if i not in set(found.tolist())]
        raise GeneMatchError(
            f"The cells measure {len(found)} of the {len(genes)} panel genes, under the stated share of {min_coverage:.0%} "
            f"(absent: {', '.join(absent[:3])}, ...); check that var_names are gene symbols."
        )
    kind = describe_values(cells.X).kind
    for start, block in row_blocks(cells.X, size):
        check_block(block, cells.obs_names[start : start + block.shape[0]])
        # Totals are over all genes; only the panel's values need a logarithm.
        totals = np.asarray(block.sum(1, dtype=np.float64)).ravel() if kind == COUNTS else None
        to = column[block.indices]
        keep = to >= 0
        indptr = np.concatenate([[0], np.cumsum(keep)])[block.indptr]
        part = sp.csr_matrix((block.data[keep], to[keep], indptr), shape=(block.shape[0], len(genes)))
        yield start, log_normalise(part, kind, totals=totals)


def coverage(cells: AnnData, genes: tuple[str, ...]) -> float:
    """Share of a panel that cells measure.

    Parameters
    ----------
    cells
        Cells as in `panel_blocks`, of which only ``var_names`` are read.
    genes
        Panel of gene symbols, one or more, each once.
    """
    column = _columns(cells, genes)
    return len(np.unique(column[column >= 0])) / len(genes)


def _columns(cells: AnnData, genes: tuple[str, ...]) -> np.ndarray:
    """Place in the panel of each measured gene, -1 for none."""
    place = {gene: i for i, gene in enumerate(genes)}
    names = cells.var_names.astype(str)
    exact = {name for name in names if name in place}
    recased: dict[str, list[str]] = {}
    for gene in place.keys() - exact:
        recased.setdefault(gene.upper(), []).append(gene)
    column = np.full(cells.shape[1], -1, dtype=np.int64)
    seen: set[str] = set()
    for i, name in enumerate(names):
        fits = [name] if name in exact else recased.get(name.upper(), [])
        if len(fits) == 1 and fits[0] not in seen:
            column[i] = place[fits[0]]
            seen.add(fits[0])
    return column


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
