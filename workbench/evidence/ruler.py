"""The ruler: distances between developmental stages, or between genes, from curated biology only.

A ruler is a stage graph (YAML, see ``rulers/hematopoiesis.yaml``), a matrix of distances (CSV), or a graph of genes (see `gene_ruler`).
"""

from __future__ import annotations

import difflib
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

from workbench.errors import EvaluationError, unknown_name
from workbench.evidence.contrasts import Contrast, check_keys, listed, read_colors, read_contrasts, read_lineages
from workbench.files import digest
from workbench.yaml_once import read_yaml

Edge = tuple[int, int, float]  # parent, child, length

_GREEK = str.maketrans({"α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta"})
_DROPPED = re.compile("((?<=[a-z0-9])(?:[-\u2010-\u2015](?![a-z0-9])|\u2212))|[^a-z0-9+]")
_BRACKETS = re.compile("\\s*[([]\\s*([-+\u2010-\u2015\u2212])\\s*[])]")
_ONTOLOGY_ID = re.compile(r"[A-Za-z]+[:_][0-9]+")
# What a ruler lies over.
CELLS, GENES = "cells", "genes"
# A pair of who sends and who receives: the genes of either, several where it is a complex.
Signal = tuple[tuple[str, ...], tuple[str, ...]]
_STAGE_KEYS, _MORE_KEYS = (
    ("from", "branch", "source", "ontology", "labels"),
    ("endpoints", "lineages", "colors", "phases"),
)


@dataclass(frozen=True)
class Ruler:
    """Stages, or genes, and the distances between them.

    Attributes
    ----------
    name
        Name of the graph, or of the matrix file.
    stages
        Stage names, in the order of the file; of a graph of genes their symbols.
    branches
        Branch of each stage, in the order of the stages; of a gene the group that it is held out with.
    distances
        Shortest path between stages along the graph, direction ignored, divided by the longest of them; or a matrix
        of one's own, divided by its largest value.
    depths
        Length of the shortest path from a root, in steps; of a matrix see `read_matrix`; of genes 0.
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
    over
        ``cells``, whose labels are stages, or ``genes``.
    about
        Where a graph of genes is from, and what was done with it, in sentences.
    phases
        Genes of the phases ``S`` and ``G2M`` that cells are scored by where their labels are no stages; empty: labels alone place cells.
    signals
        Senders and receivers of a graph of genes, complexes whole; empty where it is of no communication.
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
    over: str = CELLS
    about: str = ""
    phases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    signals: tuple[Signal, ...] = ()

    @property
    def slug(self) -> str:
        """Its name as files, stages and figures have it: letters, digits, ``_`` and ``-``."""
        return re.sub(r"[^A-Za-z0-9_-]+", "_", self.name)

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
            If `extra` names a stage that does not exist, or the ruler lies over genes.
        """
        if self.over == GENES:
            raise EvaluationError(
                f"The ruler '{self.name}' lies over {len(self.stages)} genes, and cells have no place on it. Name a ruler over cells, such as "
                "hematopoiesis, or measure this one by workbench manifold."
            )
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
        Name of one that ships, such as ``"hematopoiesis"``, or a path. A table (``.csv``, ``.tsv``) with a column ``source`` is an edge list of
        genes (see `read_edge_list`), and any other a matrix (see `read_matrix`). YAML is a graph of genes where it says ``over: genes``
        (see `gene_ruler_of`), otherwise a stage graph.

    Raises
    ------
    EvaluationError
        If it does not exist, has a key that means nothing or a name that it does not define, two stages claim one label, the
        graph is not connected or goes in a circle, a colour is none, or the matrix is none of distances.
    ConfigError
        If a graph of genes needs a package that is not installed.
    """
    # They make rulers, and so import this module.
    from workbench.evidence.gene_ruler import gene_ruler_of, is_edge_list, read_edge_list
    from workbench.evidence.ruler_matrix import read_matrix

    folder = resources.files("workbench.evidence") / "rulers"
    shipped = {item.name.removesuffix(".yaml"): item for item in folder.iterdir() if item.name.endswith(".yaml")}
    file = shipped.get(str(name), Path(name))
    if not file.is_file():
        raise EvaluationError(f"{unknown_name('ruler', str(name), shipped)} No file of that name exists either.")
    if file.name.lower().endswith((".csv", ".tsv")):
        return (read_edge_list if is_edge_list(Path(name)) else read_matrix)(Path(name))
    try:
        raw = read_yaml(file.read_text(encoding="utf-8"))
        if "over" in raw:
            return gene_ruler_of(raw, f"The ruler '{name}'", Path(name).parent)
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
    phases: Mapping[str, Sequence[str]] | None = None,
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
    phases
        Genes of ``S`` and of ``G2M``, by which cells are scored; ``G1`` has to be a stage as well. None by default.

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
        labels=label_map(names, synonyms),
        literature={s: "; ".join(str(literature.get(key, key)) for key in sources[s]) for s in names},
        edges=tuple(edges),
        ontology={s: ids for s, ids in ontology.items() if ids},
        endpoints=read_contrasts(endpoints or {}, names, branches),
        lineages=read_lineages(lineages, branches),
        colors=read_colors(colors or {}, branches),
        phases=_read_phases(phases or {}, names),
    )


def _read_phases(phases: Mapping[str, Sequence[str]], stages: Sequence[str]) -> dict[str, tuple[str, ...]]:
    if phases and (set(phases) != {"S", "G2M"} or not {"G1", "S", "G2M"} <= set(stages)):
        raise EvaluationError(
            f"`phases` names genes of {', '.join(map(str, phases))} for the stages {', '.join(stages)}; it takes genes of S and of G2M, and G1, S and "
            "G2M as stages."
        )
    return {phase: tuple(map(str, genes)) for phase, genes in phases.items()}


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


def label_map(stages: Sequence[str], synonyms: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Normalised label -> stage.

    Parameters
    ----------
    stages
        Names of the stages, which are labels themselves.
    synonyms
        Other labels of a stage, by its name.

    Raises
    ------
    EvaluationError
        If two stages claim one label.
    """
    labels: dict[str, str] = {}
    for stage in stages:
        for label in (stage, *synonyms.get(stage, ())):
            if (taken := labels.setdefault(normalise_label(label), stage)) != stage:
                raise EvaluationError(f"Label '{label}' is claimed by the stages '{taken}' and '{stage}'.")
    return labels
