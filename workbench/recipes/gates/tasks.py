"""The work of a gate run as tasks for the sweep engine: a panel through the gates, a head through the screen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from workbench.engine.config import absolute
from workbench.engine.sweep import Task
from workbench.errors import EvaluationError
from workbench.evidence.anchor_pool import Pool
from workbench.evidence.gate_spec import GATES, SPEC
from workbench.evidence.gates import Gate, evaluate, expected_to_fail, first_five
from workbench.evidence.ruler import load_ruler
from workbench.evidence.screen import gate_columns, rank_heads, score_head
from workbench.operators.adaptor import LETAdaptor
from workbench.operators.controls import gaussian
from workbench.operators.operator import head_name
from workbench.recipes.gates.panels import INTERNAL, TO_FAIL, ZERO_SHOT
from workbench.recipes.gates.store import read_matrix, read_panel
from workbench.settings import GatesConfig

MODEL = "configured feature map"
CONTROLS = ("identity (x itself)", "gaussian (random matrix)")
_FIELDS = tuple(Gate.__dataclass_fields__)


@dataclass(frozen=True)
class Place:
    """Where a task finds what it needs; small enough to send to any worker that shares the folder.

    Attributes
    ----------
    panels, operators
        Folders of these stages.
    config
        `GatesConfig` as JSON, paths absolute.
    """

    panels: str
    operators: str
    config: str

    @classmethod
    def of(cls, out: Path, config: GatesConfig) -> Place:
        """Of a run.

        Parameters
        ----------
        out, config
            Its folder and configuration.
        """
        stages = out.resolve() / "stages"
        settings = GatesConfig.model_validate(absolute(config))
        return cls(str(stages / "panels"), str(stages / "operators"), settings.model_dump_json())

    @property
    def settings(self) -> GatesConfig:
        """The configuration."""
        return GatesConfig.model_validate_json(self.config)

    def matrix(self, operator: str) -> np.ndarray:
        """Linear feature map of a head (``L0H1``), of the configuration, or of a control.

        Parameters
        ----------
        operator
            Its name.
        """
        folder = Path(self.operators)
        if operator not in CONTROLS:
            return read_matrix(folder, operator)
        configured = read_matrix(folder, MODEL)
        if operator == CONTROLS[0]:
            return np.eye(len(configured))
        return gaussian(configured, self.settings.seed)


def adaptor_of(config: GatesConfig) -> LETAdaptor:
    """Untrained adaptor with the configured settings.

    Parameters
    ----------
    config
        Configuration.
    """
    return LETAdaptor(**config.adaptor.parameters())


def gate_tasks(place: Place) -> list[Task]:
    """One task per panel and feature map.

    Parameters
    ----------
    place
        Of the run.
    """
    return [
        Task(f"{panel} | {operator}", (place, panel, operator))
        for panel in place.settings.panels
        for operator in (MODEL, *CONTROLS)
    ]


def gates_of(place: Place, panel: str, operator: str) -> pd.DataFrame:
    """Gates 1 to 6 of a panel (1 to 5 where it is expected to fail), one row each.

    Parameters
    ----------
    place, panel, operator
        Of the task.
    """
    config = place.settings
    ruler, adaptor, matrix = load_ruler(config.ruler), adaptor_of(config), place.matrix(operator)
    role = config.panels[panel].role

    def features(name: str) -> tuple[np.ndarray, Any]:
        anchors = read_panel(Path(place.panels), name).anchors
        return anchors.centroids @ matrix, anchors

    if role == ZERO_SHOT:
        internal = next(name for name, entry in config.panels.items() if entry.role == INTERNAL)
        pool = Pool.frozen(features(internal), features(panel))
    else:
        pool = Pool.of_panel(*features(panel))
    judge = first_five if role == TO_FAIL else evaluate
    refits = config.refits if operator == MODEL else 0
    gates = judge(pool, ruler, adaptor, seed=config.seed, refits=refits)
    return gate_rows(gates, panel, role, operator)


def gate_rows(gates: Sequence[Gate], panel: str, role: str, operator: str) -> pd.DataFrame:
    """Gates as rows, each with the hash of the spec.

    Parameters
    ----------
    gates, panel, role, operator
        What was judged.
    """
    rows = [{"panel": panel, "role": role, "operator": operator, **asdict(gate), "spec": SPEC.hash} for gate in gates]
    return pd.DataFrame(rows)


def with_gate_seven(rows: pd.DataFrame) -> pd.DataFrame:
    """Put the answer of the panels that are expected to fail under every other panel.

    Parameters
    ----------
    rows
        From `gates_of`, of all panels and feature maps.

    Returns
    -------
    DataFrame
        Panels in their order, gates in theirs.
    """
    parts = []
    for _, own in rows.groupby(["panel", "operator"], sort=False):
        parts.append(own)
        panel, role, operator = (str(own[column].iloc[0]) for column in ("panel", "role", "operator"))
        if role != TO_FAIL:
            doomed = rows[(rows["role"] == TO_FAIL) & (rows["operator"] == operator)]
            failing = {str(name): _gates(part) for name, part in doomed.groupby("panel", sort=False)}
            parts.append(gate_rows([expected_to_fail(failing)], panel, role, operator))
    return pd.concat(parts, ignore_index=True)


def _gates(rows: pd.DataFrame) -> list[Gate]:
    return [Gate(*values) for values in rows[list(_FIELDS)].itertuples(index=False)]


def unmet(table: pd.DataFrame, required: Sequence[str]) -> list[str]:
    """Required gates that did not pass, panel by panel; one that is not applicable has not passed.

    Parameters
    ----------
    table
        Gates of all panels.
    required
        Names of gates.
    """
    wanted = table[(table["role"] != TO_FAIL) & table["gate"].isin(required) & (table["status"] != "pass")]
    order = {gate: i for i, gate in enumerate(GATES)}
    found = sorted(wanted.itertuples(), key=lambda row: (str(row.panel), order[str(row.gate)]))
    return [f"{row.panel}: {row.gate} ({row.status})" for row in found]


def screen_tasks(place: Place, external: str, shape: Sequence[int]) -> list[Task]:
    """One task per head, and one per control.

    Parameters
    ----------
    place
        Of the run.
    external
        The panel that heads are judged on.
    shape
        Layers and heads.
    """
    names = [head_name(layer, head) for layer, head in np.ndindex(shape[0], shape[1])]
    return [Task(name, (place, external, name)) for name in (*names, *CONTROLS)]


def screen_of(place: Place, external: str, operator: str) -> pd.DataFrame:
    """One feature map through the screen; null draws as a list in ``null``.

    Parameters
    ----------
    place, external, operator
        Of the task.
    """
    config = place.settings
    folder = Path(place.panels)
    internal = next(name for name, entry in config.panels.items() if entry.role == INTERNAL)
    sides = read_panel(folder, internal), read_panel(folder, external)
    matrix, ruler, adaptor = place.matrix(operator), load_ruler(config.ruler), adaptor_of(config)
    try:
        row, null = score_head(matrix, *sides, ruler, adaptor, refits=config.head_refits, seed=config.seed)
        row |= gate_columns(matrix, sides[1], ruler, adaptor, seed=config.seed)
        status = "ok"
    except EvaluationError as error:
        row, null, status = {"residualised": np.nan}, np.zeros(0), f"not applicable: {error}"
    return pd.DataFrame([{"operator": operator, **row, "status": status, "spec": SPEC.hash, "null": null.tolist()}])


def screen_table(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Heads ranked, and the controls beside them.

    Parameters
    ----------
    rows
        From `screen_of`, of all heads and controls.
    """
    is_control = rows["operator"].isin(CONTROLS)
    heads = rows[~is_control].drop(columns="null")
    place = heads["operator"].str.extract(r"L(\d+)H(\d+)").astype(int)
    heads = heads.assign(layer=place[0], head=place[1]).drop(columns="operator")
    of_heads = np.concatenate([np.asarray(draws, dtype=float) for draws in rows.loc[~is_control, "null"]])
    table = rank_heads(heads, of_heads)
    first = ["rank", "layer", "head", "residualised", "low", "high", "null_mean", "null_high", "n_null", "p", "q"]
    table = table[first + [column for column in table if column not in first]]
    return table, rows[is_control].drop(columns="null").reset_index(drop=True)
