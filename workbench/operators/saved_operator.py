"""One linear feature map as a file of its own: it knows its genes, its kind and its checkpoint, and aligns itself to cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from anndata import AnnData
from jaxtyping import Float

from workbench.cells.expression import expression_on, match_panel
from workbench.errors import EvaluationError, GeneMatchError
from workbench.operators.algorithm import check_rows
from workbench.operators.artifact import read_artifact, write_artifact
from workbench.operators.convention import Convention

CARD, WEIGHTS = "operator.json", "operator.safetensors"


@dataclass(frozen=True)
class Operator:
    """A linear feature map f(x) = x F.

    Attributes
    ----------
    genes
        Rows of `matrix`, in order.
    matrix
        F, panel genes by features: a cell's expression times it is what the feature map says of the cell.
    kind
        Kind of operator that it is made of: ``attention``, ``qk`` or ``ov``.
    feature_map
        What it is made of: ``L2H5``, ``drift``, ``top 5 heads``.
    checkpoint
        Hash of the weights that it comes from (`CellModel.fingerprint`).
    convention
        Under which convention it was averaged over cells; the default for operators of weights.
    means
        Mean log-normalised expression of the genes in the cells that it was made from: what cells that lack a gene are held to
        express. None: nothing.

    Examples
    --------
    >>> import numpy as np
    >>> from workbench.operators.saved_operator import Operator
    >>> operator = Operator(("CD3D", "MS4A1"), np.array([[1.0, 2.0], [3.0, 4.0]]), "qk", "L0H1", "a1b2c3")
    >>> operator.aligned(["MS4A1", "GATA1", "CD3D"])
    (array([[3., 4.],
           [0., 0.],
           [1., 2.]]), 1.0)
    """

    genes: tuple[str, ...]
    matrix: Float[np.ndarray, "gene feature"]
    kind: str
    feature_map: str
    checkpoint: str
    convention: Convention = Convention()
    means: Float[np.ndarray, " gene"] | None = None

    def __post_init__(self) -> None:
        check_rows(self.genes, self.matrix)

    def aligned(
        self, genes: Sequence[str], min_coverage: float = 0.0
    ) -> tuple[Float[np.ndarray, "column feature"], float]:
        """The rows in another gene order: x of those genes times it is f(x), with absent genes not expressed.

        Parameters
        ----------
        genes
            Columns of the expression; genes that the operator does not know get a row of zeros.
        min_coverage
            Smallest share of the operator's genes that must be among them.

        Returns
        -------
        matrix, coverage
            Aligned rows, and the share of the operator's genes that were found.

        Raises
        ------
        GeneMatchError
            If fewer are found, or a gene is named twice.
        """
        names = [str(gene) for gene in genes]
        place = {gene: i for i, gene in enumerate(self.genes)}
        known = [gene for gene in names if gene in place]
        if len(set(known)) < len(known):
            twice = next(gene for i, gene in enumerate(known) if gene in known[:i])
            raise GeneMatchError(f"The gene '{twice}' is named more than once; keep one column of it.")
        share = len(known) / len(self.genes)
        if not known or share < min_coverage:
            absent = [gene for gene in self.genes if gene not in set(names)]
            raise GeneMatchError(
                f"{len(known)} of the operator's {len(self.genes)} genes are there, under the stated share of {min_coverage:.0%} "
                f"(absent: {', '.join(absent[:3])}, ...). Check that both are gene symbols."
            )
        out = np.zeros((len(names), self.matrix.shape[1]), dtype=self.matrix.dtype)
        out[[gene in place for gene in names]] = self.matrix[[place[gene] for gene in known]]
        return out, share

    def apply(self, cells: AnnData, min_coverage: float = 0.5) -> tuple[Float[np.ndarray, "cell feature"], float]:
        """Features of cells, matched by gene name and normalised as the algorithm does it, and the coverage.

        Genes that the cells lack count with their means, where the operator has any, else as not expressed.

        Parameters
        ----------
        cells
            Cells with gene symbols as ``var_names``, counts or log-normalised.
        min_coverage
            Smallest share of the operator's genes that must be measured.

        Raises
        ------
        GeneMatchError
            If fewer are measured.
        """
        match = match_panel(cells, self.genes, min_coverage)
        features = np.asarray(expression_on(cells, match, self.genes)[0] @ self.matrix)
        absent = ~np.isin(np.array(self.genes), list(match.genes))
        if self.means is not None and absent.any():
            features = features + self.means[absent] @ self.matrix[absent]
        return features, float(1 - absent.mean())

    def check(self, checkpoint: str, convention: Convention | None = None) -> None:
        """Make sure that the operator comes from a checkpoint, and is of a convention.

        Parameters
        ----------
        checkpoint
            `CellModel.fingerprint` of the one that is expected.
        convention
            Convention that is expected; any when None.

        Raises
        ------
        EvaluationError
            If it comes from another checkpoint.
        ArtifactError
            If it is of another convention.
        """
        if convention is not None:
            convention.check(self.convention, "The operator")
        if checkpoint != self.checkpoint:
            raise EvaluationError(
                f"The operator was made from a checkpoint with hash {self.checkpoint[:12]}, not from {checkpoint[:12]}; export it "
                "again from the checkpoint at hand."
            )

    def save(self, folder: str | Path) -> Path:
        """Write ``operator.safetensors`` and ``operator.json``.

        Parameters
        ----------
        folder
            Made if it is not there; an operator in it is replaced.

        Raises
        ------
        OutputError
            If it holds files of these names that are of no operator.
        """
        folder = Path(folder).expanduser()
        about = {key: getattr(self, key) for key in ("kind", "feature_map", "checkpoint")}
        about["convention"] = self.convention.told()
        arrays = {"matrix": self.matrix, **({} if self.means is None else {"means": self.means})}
        write_artifact(folder / CARD, folder / WEIGHTS, {"genes": list(self.genes), **about}, arrays)
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Operator:
        """Read what `save` wrote.

        Parameters
        ----------
        folder
            Folder with ``operator.safetensors`` and ``operator.json``.

        Raises
        ------
        ArtifactError
            If a file is missing, truncated, changed or of another format.
        """
        folder = Path(folder).expanduser()
        card, arrays = read_artifact(folder / CARD, folder / WEIGHTS, "holds no operator")
        means = arrays.pop("means", None)
        (matrix,) = arrays.values()
        convention = Convention.read(card.get("convention"))
        return cls(
            tuple(card["genes"]), matrix, card["kind"], card["feature_map"], card["checkpoint"], convention, means
        )
