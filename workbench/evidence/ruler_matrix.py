"""A ruler from a matrix of distances: what is no such matrix is refused."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np

from workbench.errors import EvaluationError, near_matches
from workbench.evidence.ruler import Ruler, label_map


def read_matrix(path: Path) -> Ruler:
    """Ruler of a matrix of distances.

    Parameters
    ----------
    path
        CSV (or tab-separated, ``.tsv``): stages in the header and in the first column, distances between them. Columns
        called ``branch`` and ``depth`` may stand among them; without them each stage is its own branch, and its depth
        is its distance from the first stage, so put the earliest first.

    Returns
    -------
    Ruler
        Called as the file. It has no edges. Triangles may be broken: dissimilarities are no metric as a rule.

    Raises
    ------
    EvaluationError
        If rows and columns differ, a value is no finite number, a distance is negative, the two of a pair differ, a
        stage is away from itself, or all distances are zero.
    """

    def refuse(said: str) -> EvaluationError:
        return EvaluationError(f"The ruler '{path}' is no matrix of distances: {said}")

    try:
        text = path.read_text(encoding="utf-8-sig")
        raw = list(csv.reader(io.StringIO(text), delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise refuse(f"it cannot be read ({error}).") from error
    rows = [[cell.strip() for cell in row] for row in raw if any(cell.strip() for cell in row)]
    header, names = (rows[0][1:], tuple(row[0] for row in rows[1:])) if rows else ([], ())
    if len(names) < 2:
        raise refuse(f"it has {len(names)} stage(s); at least two are needed.")
    extra = {c for c in ("branch", "depth") if c in header and c not in names}
    columns = [c for c in header if c not in extra]
    for where, found in (("first column", names), ("header", columns)):
        doubled = sorted({stage for stage in found if found.count(stage) > 1 or not stage})
        if doubled:
            raise refuse(f"its {where} has {', '.join(map(repr, doubled[:4]))} more than once, or empty.")
    if set(columns) != set(names):
        one = next(stage for stage in (*names, *columns) if (stage in names) != (stage in columns))
        hint = near_matches(one, columns if one in names else names) or "rows and columns need the same stages."
        raise refuse(f"'{one}' is a {'row' if one in names else 'column'} only; {hint}")
    if uneven := [row[0] for row in rows[1:] if len(row) != len(header) + 1]:
        raise refuse(f"the row '{uneven[0]}' has another number of values than the header.")
    table = {row[0]: dict(zip(header, row[1:], strict=True)) for row in rows[1:]}

    def value(row: str, column: str) -> float:
        try:
            found = float(table[row][column])
        except ValueError:
            found = np.nan
        if not np.isfinite(found):
            raise refuse(f"row '{row}', column '{column}' holds '{table[row][column]}', which is no finite number.")
        return found

    matrix = np.array([[value(a, b) for b in names] for a in names])
    for wrong, said in (
        (matrix < 0, "is {0:g}, which is negative"),
        (np.eye(len(names), dtype=bool) & (matrix != 0), "is {0:g}; a stage is at distance zero from itself"),
        (~np.isclose(matrix, matrix.T, rtol=1e-6, atol=0), "is {0:g} one way and {1:g} the other"),
    ):
        if wrong.any():
            a, b = np.argwhere(wrong)[0]
            raise refuse(f"from '{names[a]}' to '{names[b]}' it {said.format(matrix[a, b], matrix[b, a])}.")
    if not matrix.any():
        raise refuse("every distance is zero.")
    matrix = (matrix + matrix.T) / 2
    return Ruler(
        name=path.stem,
        stages=names,
        branches=tuple(table[stage]["branch"] if "branch" in extra else stage for stage in names),
        distances=matrix / matrix.max(),
        depths=np.array([value(stage, "depth") for stage in names]) if "depth" in extra else matrix[0],
        labels=label_map(names, {}),
        literature=dict.fromkeys(names, f"the matrix {path.name}"),
    )
