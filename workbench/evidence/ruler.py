"""The ruler: distances between developmental stages, from curated biology only.

A ruler is a stage graph (YAML, see ``rulers/hematopoiesis.yaml``) or a matrix of distances (CSV).
"""

from __future__ import annotations

import csv
import difflib
import io
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jaxtyping import Float
from scipy.sparse.csgraph import connected_components, shortest_path

from workbench.errors import EvaluationError, near_matches, unknown_name
from workbench.evidence.contrasts import Contrast, check_keys, listed, read_colors, read_contrasts, read_lineages
from workbench.files import digest
from workbench.yaml_once import read_yaml

Edge = tuple[int, int, float]  # parent, child, length

_GREEK = str.maketrans({"α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta"})
_DROPPED = re.compile("((?<=[a-z0-9])(?:[-\u2010-\u2015](?![a-z0-9])|\u2212))|[^a-z0-9+]")
_BRACKETS = re.compile("\\s*[([]\\s*([-+\u2010-\u2015\u2212])\\s*[])]")
_ONTOLOGY_ID = re.compile(r"[A-Za-z]+[:_][0-9]+")
_STAGE_KEYS, _MORE_KEYS = ("from", "branch", "source", "ontology", "labels"), ("endpoints", "lineages", "colors")


@dataclass(frozen=True)
class Ruler:
    """Stages and the distances between them.

    Attributes
    ----------
    name
        Name of the graph, or of the matrix file.
    stages
        Stage names, in the order of the file.
    branches
        Branch of each stage, in the order of the stages.
    distances
        Shortest path between stages along the graph, direction ignored, divided by the longest of them; or a matrix
        of one's own, divided by its largest value.
    depths
        Length of the shortest path from a root, in steps; of a matrix see `read_matrix`.
    labels
        Normalised label or ontology id -> stage.
    literature
        Stage -> source of the step that leads to it.
    edges
        Parent, child (stage numbers) and length of each step; empty for a matrix.
    ontology
        Stage -> its ontology ids, where it has any.
    endpoints
        Binary endpoints that are asked of a latent, beside stage, branch and depth.
    lineages
        Branches that trajectories follow where a configuration names none.
    colors
        Branch -> ``#RRGGBB`` in every figure; figures find colours for the other branches.
    """

    name: str
    stages: tuple[str, ...]
    branches: tuple[str, ...]
    distances: Float[np.ndarray, "stage stage"]
    depths: Float[np.ndarray, " stage"]
    labels: Mapping[str, str]
    literature: Mapping[str, str]
    edges: tuple[Edge, ...] = ()
    ontology: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    endpoints: tuple[Contrast, ...] = ()
    lineages: tuple[str, ...] = ()
    colors: Mapping[str, str] = field(default_factory=dict)

    def fingerprint(self) -> str:
        """Hash of everything that numbers depend on, the same on every machine.

        Colours are left out, and so are the lineages, which are a choice of what to look at.

        Returns
        -------
        str
            32 hex digits.
        """
        apart = ("distances", "depths", "endpoints", "lineages", "colors")
        parts: dict[str, Any] = {one.name: getattr(self, one.name) for one in fields(self) if one.name not in apart}
        parts["endpoints"] = [asdict(one) for one in self.endpoints]
        return digest(parts, self.distances, self.depths)

    def place(self, labels: Iterable[str], extra: Mapping[str, str] | None = None) -> tuple[np.ndarray, list[str]]:
        """Stage of each label.

        Parameters
        ----------
        labels
            Cell type labels: names of stages, synonyms, or ontology ids (``CL:0000624``, ``CL_0000624``).
        extra
            More labels and their stages; they go before the file's own.

        Returns
        -------
        stages, unknown
            Stage number of each label (-1 where unknown), and the unknown labels, each once.

        Raises
        ------
        EvaluationError
            If `extra` names a stage that does not exist.
        """
        known = dict(self.labels)
        for label, stage in (extra or {}).items():
            if stage not in self.stages:
                raise EvaluationError(
                    f"Label '{label}' is mapped to a stage: {unknown_name('stage', stage, self.stages)}"
                )
            known[normalise_label(label)] = stage
        number = {stage: i for i, stage in enumerate(self.stages)}
        labels = list(labels)
        placed = np.array([number.get(known.get(normalise_label(str(label)), ""), -1) for label in labels], dtype=int)
        unknown = sorted({str(label) for label, i in zip(labels, placed, strict=True) if i < 0})
        return placed, unknown

    def hint(self, label: str) -> str:
        """Stages whose names are near to an unknown label.

        Parameters
        ----------
        label
            A label that the ruler does not know.
        """
        if _ONTOLOGY_ID.fullmatch(label.strip()):
            return "no stage has this ontology id"  # ids with near numbers are other cells
        if "-" in normalise_label(label):
            return "a minus says that they lack a marker; name their stage under `stages`"
        # Stricter than for keys of a configuration: a label that means nothing is nearer to some cell type than one thinks.
        near = difflib.get_close_matches(normalise_label(label), self.labels, n=3, cutoff=0.7)
        stages = dict.fromkeys(self.labels[name] for name in near)
        return f"did you mean {' or '.join(map(repr, stages))}?" if stages else "nothing near is known"


def normalise_label(label: str) -> str:
    """Label without case, accents, punctuation, white space and the s of a plural; plus and minus signs count.

    A hyphen behind a marker is a minus (``CD4- T``, ``CD4-/CD8-``, ``CD4(-) T``), but not before a letter or digit (``CD8-T``, ``B-cell``).

    Parameters
    ----------
    label
        Any text. Of the address of an ontology term the id is left.
    """
    plain = _BRACKETS.sub(r"\1 ", unicodedata.normalize("NFKD", label.strip()).lower().translate(_GREEK))
    singular = re.sub(r"^https?://.*/(?=[a-z]+_[0-9]+$)|(?<=[a-z]{2})s(?![a-z0-9])", "", plain)
    return _DROPPED.sub(lambda found: "-" if found[1] else "", singular)


def load_ruler(name: str | Path) -> Ruler:
    """Load a ruler that ships, or one's own.

    Parameters
    ----------
    name
        ``"hematopoiesis"``, or a path: a matrix where it ends in ``.csv`` or ``.tsv`` (see `read_matrix`), otherwise a
        stage graph in YAML.

    Raises
    ------
    EvaluationError
        If it does not exist, has a key that means nothing or a name that it does not define, two stages claim one label, the
        graph is not connected or goes in a circle, a colour is none, or the matrix is none of distances.
    """
    folder = resources.files("workbench.evidence") / "rulers"
    shipped = {item.name.removesuffix(".yaml"): item for item in folder.iterdir() if item.name.endswith(".yaml")}
    file = shipped.get(str(name), Path(name))
    if not file.is_file():
        raise EvaluationError(f"{unknown_name('ruler', str(name), shipped)} No file of that name exists either.")
    if file.name.lower().endswith((".csv", ".tsv")):
        return read_matrix(Path(name))
    try:
        raw = read_yaml(file.read_text(encoding="utf-8"))
        title, stages = raw["name"], raw["stages"]
        check_keys(f"The ruler '{name}'", raw, ("name", "stages", "literature", *_MORE_KEYS))
        more = {key: raw[key] for key in _MORE_KEYS if raw.get(key) is not None}
        return build_ruler(title, stages, raw.get("literature", {}), **more)
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise EvaluationError(f"The ruler '{name}' is no stage graph ({error!r}); see hematopoiesis.yaml.") from error


def build_ruler(
    name: str,
    stages: Mapping[str, Mapping[str, Any]],
    literature: Mapping[str, str],
    *,
    endpoints: Mapping[str, Any] | None = None,
    lineages: Sequence[str] = (),
    colors: Mapping[str, str] | None = None,
) -> Ruler:
    """Ruler of a stage graph.

    Parameters
    ----------
    name
        Name of the graph, for messages and tables.
    stages
        By name: ``from`` (list of stages, or stage -> length of that step, 1 by default), ``branch``, ``source`` (one or
        several), ``ontology`` (ids) and ``labels``.
    literature
        Source key -> reference; a source without an entry stands for itself.
    endpoints, lineages, colors
        As `read_contrasts`, `read_lineages` and `read_colors` take them; none by default.

    Raises
    ------
    EvaluationError
        As `load_ruler`.
    """
    names = tuple(stages)
    if len(names) < 2:
        raise EvaluationError(f"The stage graph '{name}' has {len(names)} stage(s); at least two are needed.")
    number = {stage: i for i, stage in enumerate(names)}
    edges: list[Edge] = []
    for stage, entry in stages.items():
        check_keys(f"Stage '{stage}'", entry, _STAGE_KEYS)
        parents = entry["from"] if isinstance(entry["from"], Mapping) else dict.fromkeys(listed(entry["from"]), 1)
        for parent, length in parents.items():
            if parent not in number:
                raise EvaluationError(
                    f"Stage '{stage}' comes from an unknown one: {unknown_name('stage', parent, names)}"
                )
            if isinstance(length, bool) or not isinstance(length, int | float) or not 0 < length < np.inf:
                raise EvaluationError(
                    f"The step from '{parent}' to '{stage}' has the length {length!r}; give a number above zero."
                )
            edges.append((number[parent], number[stage], float(length)))
    ontology = {stage: tuple(listed(entry.get("ontology", ()))) for stage, entry in stages.items()}
    for stage, ids in ontology.items():
        for identifier in ids:
            if not _ONTOLOGY_ID.fullmatch(str(identifier)):
                raise EvaluationError(f"Stage '{stage}' has the ontology id '{identifier}'; write it as CL:0000037.")
    synonyms = {s: (*ontology[s], *listed(stages[s].get("labels", ()))) for s in names}
    sources = {s: listed(stages[s].get("source", ())) for s in names}
    paths, depths = path_lengths(name, names, edges)
    branches = tuple(str(stages[stage]["branch"]) for stage in names)
    return Ruler(
        name=name,
        stages=names,
        branches=branches,
        distances=paths / paths.max(),
        depths=depths,
        labels=_labels(names, synonyms),
        literature={s: "; ".join(str(literature.get(key, key)) for key in sources[s]) for s in names},
        edges=tuple(edges),
        ontology={s: ids for s, ids in ontology.items() if ids},
        endpoints=read_contrasts(endpoints or {}, names, branches),
        lineages=read_lineages(lineages, branches),
        colors=read_colors(colors or {}, branches),
    )


def path_lengths(
    name: str, stages: Sequence[str], edges: Sequence[Edge]
) -> tuple[Float[np.ndarray, "stage stage"], Float[np.ndarray, " stage"]]:
    """Shortest paths between stages, direction ignored, and from the roots, along it.

    Parameters
    ----------
    name, stages, edges
        Of the graph. A root is a stage that no step leads to.

    Returns
    -------
    paths, depths
        In the unit of the lengths.

    Raises
    ------
    EvaluationError
        If the graph is not connected or goes in a circle.
    """
    steps = np.zeros((len(stages), len(stages)))
    for parent, child, length in edges:
        steps[parent, child] = length

    def listed(wrong: np.ndarray) -> str:
        return ", ".join(stages[i] for i in np.flatnonzero(wrong)[:4].tolist())

    paths = shortest_path(steps, directed=False)
    alone = ~np.isfinite(paths[0])
    if alone.any():
        raise EvaluationError(f"The stage graph '{name}' is not connected: {listed(alone)} cannot be reached.")
    roots = np.flatnonzero(~steps.any(0))
    depths = shortest_path(steps, directed=True)[roots].min(0, initial=np.inf)
    circle = ~np.isfinite(depths)
    if circle.any():
        raise EvaluationError(
            f"The stage graph '{name}' goes in a circle: {listed(circle)} come from no stage with an empty `from`."
        )
    group = connected_components(steps, connection="strong")[1]
    circle = (np.bincount(group)[group] > 1) | (np.diag(steps) > 0)
    if circle.any():
        raise EvaluationError(f"The stage graph '{name}' goes in a circle: {listed(circle)} come from themselves.")
    return paths, depths


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
        labels=_labels(names, {}),
        literature=dict.fromkeys(names, f"the matrix {path.name}"),
    )


def _labels(stages: Sequence[str], synonyms: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Normalised label -> stage; a label of two stages is an error."""
    labels: dict[str, str] = {}
    for stage in stages:
        for label in (stage, *synonyms.get(stage, ())):
            if (taken := labels.setdefault(normalise_label(label), stage)) != stage:
                raise EvaluationError(f"Label '{label}' is claimed by the stages '{taken}' and '{stage}'.")
    return labels
