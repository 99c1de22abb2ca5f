"""``workbench apply``: an exported algorithm on a file of any number of cells, read and written in blocks, without torch."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from tqdm import tqdm

from workbench.cells.datasets import CellMapping, cells_of
from workbench.cells.expression import match_panel
from workbench.cells.formats import open_tables, plain_text
from workbench.errors import CellsError, OutputError
from workbench.files import atomically, digest
from workbench.operators.algorithm import CARD, Algorithm
from workbench.operators.fitness import Fitness
from workbench.operators.predict import UNASSIGNED, Predictions, predict

LATENT = "X_workbench"
_PREFIX = "workbench_"
_EXPRESSED = f"{_PREFIX}genes_expressed"
_BY_EXPRESSION = "_by_expression"


@dataclass(frozen=True)
class Applied:
    """What `apply_file` did.

    Attributes
    ----------
    out
        The new h5ad that was written.
    n_cells
        Cells in it, which are those of the input.
    values
        What the values were found or said to be, and what was done about it.
    genes
        How many of the algorithm's genes the cells measure, and by which other names.
    unlabelled
        Cells that express none of the algorithm's genes: their labels, probabilities and latents are missing.
    labels
        By readout of classes, number of cells by label, most frequent first, those without one under ``unassigned``.
    fitness
        How the cells lie beside those of training, and why the algorithm is not fit for them, where it is not.
    seconds
        Time that the whole took, reading and writing included.
    """

    out: Path
    n_cells: int
    values: str
    genes: str
    unlabelled: int
    labels: Mapping[str, Mapping[str, int]]
    fitness: Fitness
    seconds: float

    @property
    def coverage(self) -> float:
        """Share of the algorithm's genes that the cells measure."""
        return self.fitness.coverage


def apply_file(
    algorithm: str | Path,
    cells: str | Path,
    out: str | Path | None = None,
    *,
    mapping: CellMapping | None = None,
    min_coverage: float | None = None,
    align: bool | None = None,
    block: int = 512,
    progress: bool = True,
) -> Applied:
    """Apply an algorithm to an h5ad and write a new h5ad without its matrix.

    Memory does not grow with the matrix; the columns of ``obs``, which are copied, latents and probabilities are held whole.

    Parameters
    ----------
    algorithm
        Folder of the algorithm, as `Algorithm.save_pretrained` wrote it.
    cells
        File of any kind that `datasets.load` reads: counts, normalised or log-normalised values with gene symbols.
    out
        New file; beside `cells`, with ``.workbench.h5ad`` at the end, when None.
    mapping
        Where values and gene symbols are and what the values are, as in `datasets.load`.
    min_coverage
        Smallest share of the algorithm's genes that must be measured, above 0; when None the least with which the readouts held on
        held-out training cells.
    align
        Take off the displacement that all cells of the file have from those of training; then what is said of a cell depends on the others.
        When None, where the control that goes along does not speak against it (`Predictions`).
    block
        Cells that are read and encoded at a time; memory grows with it.
    progress
        Show a progress bar of cells on stderr.

    Returns
    -------
    Applied
        The file has ``obsm["X_workbench"]`` (latent), ``obsm["workbench_NAME"]`` (probabilities; classes in
        ``uns["workbench"]``) and, in ``obs``, all columns of the input and ``workbench_NAME``,
        ``workbench_NAME_probability`` for each readout, ``workbench_NAME_by_expression`` (the label that logistic regression on expression
        gives, see `TrainingReference.plain`) for the first one of classes, ``workbench_pseudotime`` for a depth,
        ``workbench_genes_expressed`` (share of the algorithm's genes that a cell expresses), ``workbench_distance`` and
        ``workbench_in_range`` (see `Predictions`). A label is ``unassigned`` where the cell is out of range or no class has a
        probability of `LEAST_PROBABILITY`. A cell that expresses none of the genes has no label and NaN for the numbers.

    Raises
    ------
    ArtifactError
        If the algorithm was changed or truncated.
    CellsError
        If the file cannot be read, or holds impossible values or values whose scale cannot be known.
    GeneMatchError
        If too few of the genes are measured.
    OutputError
        If the new file exists already, or is there at the end.
    """
    start = time.perf_counter()
    source = Path(cells).expanduser()
    if source.is_dir():  # "." has no name
        source = Path(os.path.abspath(source))
    stem = source.name.removesuffix(".gz").rsplit(".", 1)[0]
    if min_coverage is not None and not 0 < min_coverage <= 1:
        raise CellsError(
            f"The smallest coverage is {min_coverage}; --min-coverage takes a share of the genes above 0, and 1 at most."
        )
    target = Path(out).expanduser() if out is not None else source.with_name(f"{stem}.workbench.h5ad")
    if target.exists():
        raise OutputError(f"'{target}' exists already and is not overwritten; choose another with --out, or remove it.")
    known = Algorithm.from_pretrained(algorithm)
    if not source.exists():
        raise CellsError(f"There is no file '{source}'; give the path of an h5ad.")
    mapping = mapping or CellMapping()
    tables = open_tables(source, mapping.layer, backed=True)
    data = cells_of(tables, mapping, str(source))
    n = data.shape[0]
    with tqdm(total=n, unit="cell", disable=not progress, desc="apply") as bar:
        found = predict(known, data, min_coverage=min_coverage, align=align, block=block, bar=bar)
    match = match_panel(data, known.genes)
    measured = f"{len(match.genes)} of the algorithm's {len(known.genes)} are measured"
    genes = "; ".join(part for part in (tables.says.get("source"), measured, match.changes, *match.hints) if part)
    unlabelled = int((found.expressed == 0).sum())
    columns = _columns(found)
    if taken := [name for name in columns if name in tables.obs]:
        said = f"obs of the input has {', '.join(taken)}, in whose place stands what this algorithm says."
        found = replace(found, fitness=replace(found.fitness, notices=(*found.fitness.notices, said)))
    labels = {name: _counted(columns[_PREFIX + column_of(name)]) for name in found.probabilities}
    told = {"values": found.values, "genes_matched": genes, "unlabelled": unlabelled, **_told(found)}

    def write(part: Path) -> None:
        from anndata.io import write_elem

        with h5py.File(part, "w") as handle:
            of = {_PREFIX + column_of(name): array for name, array in found.probabilities.items()}
            write_elem(handle, "obsm", {LATENT: found.latent.astype(np.float32), **of})
            write_elem(handle, "obs", plain_text(tables.obs).assign(**columns))
            write_elem(handle, "var", pd.DataFrame(index=pd.Index([], dtype=str)))
            classes = {column_of(name): np.array(names) for name, names in found.classes.items()}
            about = {**told, **_origin(algorithm, known), "source": data.uns["workbench"]["source"], "classes": classes}
            write_elem(handle, "uns", {"workbench": about})
            handle.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})

    atomically(target, write, new=True)
    return Applied(target, n, found.values, genes, unlabelled, labels, found.fitness, time.perf_counter() - start)


def _columns(found: Predictions) -> dict[str, Any]:
    """Columns of ``obs``: labels, their probabilities, numbers, and how a cell lies."""
    columns: dict[str, Any] = {}
    bare = found.expressed == 0
    for name, chance in found.probabilities.items():
        column, numbers = _PREFIX + column_of(name), found.labels(name)
        kinds = pd.Index([*found.classes[name], UNASSIGNED])
        codes = np.where(bare, -1, np.where(numbers < 0, len(kinds) - 1, numbers)).astype(int)
        columns[column] = pd.Categorical.from_codes(codes, kinds)
        columns[f"{column}_probability"] = chance.max(1)
        if name in found.plain:
            columns[f"{column}{_BY_EXPRESSION}"] = pd.Categorical.from_codes(found.plain[name], kinds[:-1])
    for name, values in found.numbers.items():
        columns[_PREFIX + column_of(name)] = values
    columns[_EXPRESSED] = found.expressed.astype(np.float32)
    if found.distance is not None:
        columns[f"{_PREFIX}distance"] = found.distance.astype(np.float32)
        columns[f"{_PREFIX}in_range"] = found.in_range
    return columns


def _counted(labels: pd.Categorical) -> dict[str, int]:
    counts = pd.Series(labels).value_counts()
    return {str(name): int(count) for name, count in counts[counts > 0].items()}


def _told(found: Predictions) -> dict[str, Any]:
    """What `uns` says of the file as a whole."""
    fitness = found.fitness
    told: dict[str, Any] = {"coverage": fitness.coverage, "fit": fitness.fit, "notices": list(fitness.notices)}
    if (shift := fitness.shift) is None:
        return told
    numbers = (
        "detected", "library_size", "training_library_size", "outside", "probability", "accuracy", "whole", "agreement", "other_agreement", "usual_agreement",
    )  # fmt: skip
    return {
        **told,
        **{name: getattr(fitness, name) for name in numbers},
        "aligned": fitness.aligned,
        "shift": shift.offset,
        "shift_size": shift.size,
        "latent_mean": np.array(fitness.before),
        "latent_spread": np.array(fitness.spread),
        "reasons": list(fitness.reasons),
    }


def summary(done: Applied) -> str:
    """What `apply_file` did, for people: values, genes, how the cells lie, what they are, and whether to believe it.

    Parameters
    ----------
    done
        What it gave back, labels and fitness among it.
    """
    fitness, shift = done.fitness, done.fitness.shift
    lines = [f"Values: {done.values}", f"Genes: {done.genes}"]
    if shift is not None:
        worst = int(np.argmax(np.abs(fitness.before)))
        library = (
            f"median library size {fitness.library_size:,.0f} (training {fitness.training_library_size:,.0f}), "
            if fitness.training_library_size == fitness.training_library_size
            else ""
        )
        lines.append(
            f"Beside training: {library}{fitness.detected:.2f} of the genes expressed that are to be expected; latent axis {worst + 1} is off most, by "
            f"{fitness.before[worst]:+.1f} standard deviations, its spread {fitness.spread[worst]:.2f} of training's; displaced by {shift.size:.1f} "
            f"standard deviations inside classes, which {'was' if fitness.aligned else 'was not'} taken off; {fitness.outside:.1%} out of range"
        )
        lines.append(
            f"Expected: balanced accuracy {fitness.accuracy:.2f} on held-out training cells with as few genes and counts ({fitness.whole:.2f} with all); "
            f"mean probability of the labels {fitness.probability:.2f}"
        )
        if not np.isnan(fitness.agreement):
            lines.append(
                f"Beside plain expression: logistic regression on the same training cells gives {fitness.agreement:.0%} of the cells the same label "
                f"({fitness.usual_agreement:.0%} of held-out training cells; {fitness.other_agreement:.0%} with the displacement "
                f"{'left as it is' if fitness.aligned else 'taken off'})"
            )
    for name, counts in done.labels.items():
        total = max(sum(counts.values()), 1)
        shown = ", ".join(f"{label} {count / total:.0%}" for label, count in counts.items())
        lines.append(f"{name}: {shown}")
    bare = f"; {done.unlabelled} cells express none of them and have no label" if done.unlabelled else ""
    lines.append(
        f"{done.n_cells} cells, {done.coverage:.0%} of the genes measured{bare}, {done.seconds:.1f} s: {done.out}"
    )
    lines += [f"Note: {notice}" for notice in fitness.notices]
    lines += [f"Not fit for this file: {reason}" for reason in fitness.reasons]
    return "\n".join(lines)


def column_of(readout: str) -> str:
    """Column name of a readout; the depth along the ruler is called pseudotime, which is what users look for.

    Parameters
    ----------
    readout
        Name of the readout, that of its endpoint.

    Examples
    --------
    >>> from workbench.operators.apply import column_of
    >>> column_of("CD4 against CD8"), column_of("depth")
    ('CD4_against_CD8', 'pseudotime')
    """
    return "pseudotime" if readout == "depth" else readout.replace(" ", "_").replace("/", "_")


def _origin(folder: str | Path, algorithm: Algorithm) -> dict[str, Any]:
    from workbench import __version__

    known = {
        "algorithm": str(folder),
        "algorithm_hash": digest((Path(folder).expanduser() / CARD).read_text(encoding="utf-8")),
    }
    return {**known, "n_genes": len(algorithm.genes), "version": __version__}
