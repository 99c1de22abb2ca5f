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
from workbench.errors import ArtifactError, GeneMatchError
from workbench.files import digest, read_arrays, read_json, write_arrays, write_json, write_text
from workbench.operators.card import model_card
from workbench.operators.readout_weights import Readout

CARD, WEIGHTS, README = "config.json", "weights.safetensors", "README.md"
_FORMAT = 1


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
        By endpoint.
    card
        Where it comes from: data, checkpoint, settings, evidence.
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
        write_arrays(folder / WEIGHTS, arrays)
        card = {
            "format": _FORMAT,
            "genes": list(self.genes),
            "k": self.matrix.shape[1],
            "readouts": {name: {"classes": list(r.classes)} for name, r in self.readouts.items()},
            "card": dict(self.card),
        }
        write_json(folder / CARD, {**card, "content": _content(arrays, card)})
        described = {name: (readout.classes, readout.n_parameters) for name, readout in self.readouts.items()}
        write_text(folder / README, model_card(self.card, self.genes, self.matrix.shape[1], described))
        return folder

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Algorithm:
        """Read what `save_pretrained` wrote.

        Parameters
        ----------
        folder
            The folder.

        Raises
        ------
        ArtifactError
            If a file is missing, truncated, changed, of another format, or the weights are not those of the card.
        """
        folder = Path(folder)
        card = read_json(folder / CARD)
        arrays, _ = read_arrays(folder / WEIGHTS)
        if not isinstance(card, dict) or card.get("format") != _FORMAT:
            raise ArtifactError(f"'{folder / CARD}' is no algorithm of format {_FORMAT}; export it again.")
        if card.pop("content", None) != _content(arrays, card):
            raise ArtifactError(
                f"The weights in '{folder}' are not those that its card describes: a file was changed or swapped; "
                "export it again."
            )
        readouts = {
            name: Readout(
                arrays[f"readout/{name}/weights"],
                arrays[f"readout/{name}/offset"],
                tuple(entry["classes"]),
                arrays.get(f"readout/{name}/hidden_weights"),
                arrays.get(f"readout/{name}/hidden_offset"),
            )
            for name, entry in card["readouts"].items()
        }
        return cls(tuple(card["genes"]), arrays["matrix"], arrays["offset"], readouts, card["card"])


def panel_expression(cells: AnnData, genes: tuple[str, ...], min_coverage: float = 0.0) -> sp.csr_matrix:
    """Log-normalised expression on a panel, sparse.

    Parameters
    ----------
    cells, genes, min_coverage
        As in `panel_blocks`.

    Returns
    -------
    csr_matrix, shape (cell, gene)
        float32.
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
        The panel.
    min_coverage
        Smallest share of the panel that must be measured.
    size
        Cells per block.

    Yields
    ------
    start, block
        Number of the first cell, and (cell, gene) in float32, columns of a row in any order.
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
    cells, genes
        As in `panel_blocks`.
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

    Parameters
    ----------
    feature_map, encoder, bias
        F, W and b.

    Returns
    -------
    matrix, offset
        M = F W^T and c = -W b.
    """
    return np.asarray(feature_map, dtype=np.float64) @ encoder.T, -(encoder @ bias)


def _content(arrays: Mapping[str, np.ndarray], card: Mapping[str, Any]) -> str:
    return digest(card, *(part for name in sorted(arrays) for part in (name, arrays[name])))
