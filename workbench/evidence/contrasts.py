"""What a ruler file says beside its graph: binary endpoints, the lineages to follow, and colours of branches."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workbench.errors import EvaluationError, unknown_name

# Stage and branch, in tables and figures, of cells whose label the ruler does not know.
OFF_RULER = "not on the ruler"
# Beside the AUROC, which every contrast has.
METRICS = ("balanced accuracy",)
# Endpoints that every ruler has, and names under which the benchmark lists something else.
_TAKEN = ("stage", "branch", "depth", "pseudotime", "clusters", "donor", "cost")
_KEYS = ("yes", "no", "metrics", "only_if")
_COLOR = re.compile(r"#[0-9A-F]{6}")


@dataclass(frozen=True)
class Contrast:
    """A binary endpoint: cells of some stages against cells of others.

    Attributes
    ----------
    name
        Name of the endpoint in every table.
    yes, no
        Stages of either side; no stage is on both.
    metrics
        Metrics that the benchmark gives beside the AUROC, of `METRICS`.
    only_if
        Stages. Where there are any, only the benchmark asks the endpoint, and only if the campaign has cells of one of them.
    """

    name: str
    yes: tuple[str, ...]
    no: tuple[str, ...]
    metrics: tuple[str, ...] = ()
    only_if: tuple[str, ...] = ()


def check_keys(where: str, given: Iterable[Any], known: Sequence[str]) -> None:
    """Refuse a key of a ruler file that means nothing.

    Parameters
    ----------
    where
        Start of the sentence: which part of the file it is.
    given
        Keys as they are written.
    known
        Keys that mean something there.

    Raises
    ------
    EvaluationError
        For the first key that is not known; near matches are listed.
    """
    for key in given:
        if key not in known:
            raise EvaluationError(f"{where}: {unknown_name('key', str(key), known)}")


def read_contrasts(raw: Any, stages: Sequence[str], branches: Sequence[str]) -> tuple[Contrast, ...]:
    """Binary endpoints of a ruler file, in its order.

    Parameters
    ----------
    raw
        By name: ``yes`` and ``no``, each a list of stages and branches, and optionally ``metrics`` and ``only_if``. A name
        that is both a stage and a branch is the branch; ``stage: NAME`` is the stage alone.
    stages, branches
        Stages of the ruler, and the branch of each.

    Raises
    ------
    EvaluationError
        If a name or key is unknown, or the sides of an endpoint overlap or one of them is empty.
    """
    if not isinstance(raw, Mapping):
        raise EvaluationError(f"Write `endpoints` as `name: {{yes: [...], no: [...]}}`; found {raw!r}.")
    found = []
    for name, entry in raw.items():
        where = f"Endpoint '{name}'"
        if name in _TAKEN:
            raise EvaluationError(f"{where} has a name that the workbench uses itself; choose another.")
        if not isinstance(entry, Mapping):
            raise EvaluationError(f"{where} has to be written as `{{yes: [...], no: [...]}}`; found {entry!r}.")
        # YAML reads a bare yes and no as true and false.
        entry = {{True: "yes", False: "no"}.get(key, key): value for key, value in entry.items()}
        check_keys(where, entry, _KEYS)
        yes, no, only_if = (_stages(where, entry.get(key), stages, branches) for key in ("yes", "no", "only_if"))
        for side, members in (("yes", yes), ("no", no)):
            if not members:
                raise EvaluationError(f"{where} has nothing on its side '{side}'; name stages or branches there.")
        if both := [stage for stage in yes if stage in no]:
            raise EvaluationError(f"{where} has '{both[0]}' on both sides; leave it to one of them.")
        metrics = tuple(listed(entry.get("metrics")))
        for metric in metrics:
            if metric not in METRICS:
                raise EvaluationError(f"{where}: {unknown_name('metric', str(metric), METRICS)}")
        found.append(Contrast(str(name), yes, no, metrics, only_if))
    return tuple(found)


def read_lineages(raw: Any, branches: Sequence[str]) -> tuple[str, ...]:
    """Branches that are followed as lineages.

    Parameters
    ----------
    raw
        Names of branches, or one of them; each counts once.
    branches
        Branches of the ruler, one of which each name must be.

    Raises
    ------
    EvaluationError
        If one is no branch; near matches are listed.
    """
    wanted = tuple(dict.fromkeys(listed(raw)))
    for name in wanted:
        if name not in branches:
            raise EvaluationError(
                f"Lineages are branches: {unknown_name('branch', str(name), dict.fromkeys(branches))}"
            )
    return wanted


def read_colors(raw: Any, branches: Sequence[str]) -> dict[str, str]:
    """Colours of branches, as ``#RRGGBB`` in capitals.

    Parameters
    ----------
    raw
        Branch -> colour; branches may be left out.
    branches
        Branches of the ruler, one of which each key must be.

    Raises
    ------
    EvaluationError
        If a branch is unknown, a colour is none, or two branches have the same one.
    """
    if not isinstance(raw, Mapping):
        raise EvaluationError(f'Write `colors` as `branch: "#RRGGBB"`; found {raw!r}.')
    owner: dict[str, str] = {}
    for branch, given in raw.items():
        if branch not in branches:
            raise EvaluationError(
                f"Colours are of branches: {unknown_name('branch', str(branch), dict.fromkeys(branches))}"
            )
        color = str(given).upper()
        if not _COLOR.fullmatch(color):
            raise EvaluationError(
                f"The colour of branch '{branch}' is {given!r}; write six hexadecimal digits in quotes, as \"#117733\"."
            )
        if color in owner:
            raise EvaluationError(f"The branches '{owner[color]}' and '{branch}' have one colour, {color}; change one.")
        owner[color] = branch
    return {branch: color for color, branch in owner.items()}


def listed(value: Any) -> list[Any]:
    """Several values, or one without brackets, or none.

    Parameters
    ----------
    value
        A list as YAML gives it, a single text or mapping, or None.
    """
    return [] if value is None else [value] if isinstance(value, str | Mapping) else list(value)


def _stages(where: str, raw: Any, stages: Sequence[str], branches: Sequence[str]) -> tuple[str, ...]:
    """Stages that names stand for, in the ruler's order."""
    found: set[str] = set()
    for one in listed(raw):
        alone = isinstance(one, Mapping) and tuple(one) == ("stage",)
        name = one["stage"] if alone else one
        if not alone and name in branches:
            found.update(stage for stage, branch in zip(stages, branches, strict=True) if branch == name)
        elif name in stages:
            found.add(name)
        else:
            kind, known = ("stage", [*stages]) if alone else ("stage or branch", [*dict.fromkeys((*stages, *branches))])
            raise EvaluationError(f"{where}: {unknown_name(kind, str(name), known)}")
    return tuple(stage for stage in stages if stage in found)
