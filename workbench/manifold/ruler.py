"""The ruler: distances between developmental stages, from curated biology only."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jaxtyping import Float
from scipy.sparse.csgraph import shortest_path

from workbench.errors import EvaluationError, near_matches, unknown_name


@dataclass(frozen=True)
class Ruler:
    """A stage graph and the distances it implies.

    Attributes
    ----------
    name
        Of the graph.
    stages
        Stage names, in the order of the file.
    branches
        Branch of each stage.
    distances
        Shortest path between stages along the graph, direction ignored, divided by the longest of them.
    depths
        Steps from the root.
    labels
        Normalised label -> stage.
    literature
        Stage -> source of the step that leads to it.
    """

    name: str
    stages: tuple[str, ...]
    branches: tuple[str, ...]
    distances: Float[np.ndarray, "stage stage"]
    depths: Float[np.ndarray, " stage"]
    labels: Mapping[str, str]
    literature: Mapping[str, str]

    def place(self, labels: Iterable[str], extra: Mapping[str, str] | None = None) -> tuple[np.ndarray, list[str]]:
        """Stage of each label.

        Parameters
        ----------
        labels
            Cell type labels.
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
        """Near matches of an unknown label.

        Parameters
        ----------
        label
            The label.
        """
        return near_matches(normalise_label(label), self.labels) or "nothing near is known"


def normalise_label(label: str) -> str:
    """Label without case, punctuation and white space; a plus sign counts.

    Parameters
    ----------
    label
        Any text.
    """
    return re.sub(r"[^a-z0-9+]", "", label.lower())


def load_ruler(name: str | Path) -> Ruler:
    """Load a ruler that ships, or a YAML file of the same form.

    Parameters
    ----------
    name
        ``"hematopoiesis"``, or a path.

    Raises
    ------
    EvaluationError
        If it does not exist, a stage comes from an unknown one, two stages claim one label, or the graph is not
        connected or goes in a circle.
    """
    folder = resources.files("workbench.manifold") / "rulers"
    shipped = {item.name.removesuffix(".yaml"): item for item in folder.iterdir() if item.name.endswith(".yaml")}
    file = shipped.get(str(name), Path(name))
    if not file.is_file():
        raise EvaluationError(f"{unknown_name('ruler', str(name), shipped)} No file of that name exists either.")
    try:
        raw = yaml.safe_load(file.read_text(encoding="utf-8"))
        return build_ruler(raw["name"], raw["stages"], raw.get("literature", {}))
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise EvaluationError(f"The ruler '{name}' is no stage graph ({error!r}); see hematopoiesis.yaml.") from error


def build_ruler(name: str, stages: Mapping[str, Mapping[str, Any]], literature: Mapping[str, str]) -> Ruler:
    """Ruler of a stage graph.

    Parameters
    ----------
    name
        Of the graph.
    stages
        By name: ``from`` (list of stages), ``branch``, ``source`` and ``labels``.
    literature
        Source key -> reference.
    """
    names = tuple(stages)
    if len(names) < 2:
        raise EvaluationError(f"The stage graph '{name}' has {len(names)} stage(s); at least two are needed.")
    number = {stage: i for i, stage in enumerate(names)}
    adjacency = np.zeros((len(names), len(names)))
    labels: dict[str, str] = {}
    for stage, entry in stages.items():
        for parent in entry["from"]:
            if parent not in number:
                raise EvaluationError(
                    f"Stage '{stage}' comes from an unknown one: {unknown_name('stage', parent, names)}"
                )
            adjacency[number[parent], number[stage]] = 1
        for label in (stage, *entry.get("labels", ())):
            if labels.setdefault(normalise_label(label), stage) != stage:
                raise EvaluationError(
                    f"Label '{label}' is claimed by the stages '{labels[normalise_label(label)]}' and '{stage}'."
                )
    paths = shortest_path(adjacency, directed=False, unweighted=True)
    if not np.isfinite(paths).all():
        alone = [names[i] for i in np.flatnonzero(~np.isfinite(paths[0]))]
        raise EvaluationError(f"The stage graph '{name}' is not connected: {', '.join(alone[:4])} cannot be reached.")
    roots = [i for i, stage in enumerate(names) if not stages[stage]["from"]]
    down = shortest_path(adjacency, directed=True, unweighted=True)[roots].min(0, initial=np.inf)
    if not np.isfinite(down).all():
        circle = [names[i] for i in np.flatnonzero(~np.isfinite(down))]
        raise EvaluationError(
            f"The stage graph '{name}' goes in a circle: {', '.join(circle[:4])} come from no stage with an empty `from`."
        )
    return Ruler(
        name=name,
        stages=names,
        branches=tuple(str(stages[stage]["branch"]) for stage in names),
        distances=paths / paths.max(),
        depths=down,
        labels=labels,
        literature={s: str(literature.get(stages[s].get("source", ""), stages[s].get("source", ""))) for s in names},
    )
