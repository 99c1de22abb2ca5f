"""From tasks to tables, and panels on the disk."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import scipy.sparse as sp

from workbench.cells.anchors import Anchors
from workbench.evidence.gate_spec import GATES, NULL_RULER, RANDOM, SPEC
from workbench.evidence.gate_spec import TO_FAIL as GATE_SEVEN
from workbench.evidence.gates import Gate
from workbench.recipes.gates.panels import EXTERNAL, INTERNAL, TO_FAIL
from workbench.recipes.gates.store import read_panel, write_panel
from workbench.recipes.gates.tasks import CONTROLS, MODEL, gate_rows, screen_table, unmet, with_gate_seven


def rows(panel, role, statuses, operator=MODEL):
    gates = [Gate(name, status, 0.5, note="why") for name, status in zip(GATES, statuses, strict=False)]
    return gate_rows(gates, panel, role, operator)


def test_gate_seven_is_about_the_same_feature_map_and_stands_under_every_other_panel():
    good, bad = ["pass"] * 6, ["fail", *["pass"] * 4]
    table = with_gate_seven(
        pd.concat(
            [
                rows("in", INTERNAL, good),
                rows("in", INTERNAL, good, CONTROLS[0]),
                rows("out", EXTERNAL, good),
                rows("lost", TO_FAIL, bad),
                rows("lost", TO_FAIL, ["pass"] * 5, CONTROLS[0]),
            ]
        )
    )
    seven = table[table["gate"] == GATE_SEVEN].set_index(["panel", "operator"])["status"]
    assert seven.to_dict() == {("in", MODEL): "pass", ("in", CONTROLS[0]): "fail", ("out", MODEL): "pass"}
    assert (table["spec"] == SPEC.hash).all()
    first = table[(table["panel"] == "in") & (table["operator"] == MODEL)]
    assert first["gate"].tolist() == list(GATES)


def test_required_gates_that_did_not_pass():
    statuses = ["pass", "fail", "not applicable", "pass", "pass", "pass"]
    table = with_gate_seven(pd.concat([rows("in", INTERNAL, statuses), rows("lost", TO_FAIL, ["fail"] * 5)]))
    assert unmet(table, GATES) == ["in: random holdout (fail)", "in: donor holdout (not applicable)"]
    assert unmet(table, [NULL_RULER]) == [] and unmet(table, [RANDOM]) == ["in: random holdout (fail)"]


def test_heads_are_ranked_and_controls_stand_beside_them():
    def row(operator, value, null=(0.0, 0.1), status="ok"):
        return {"operator": operator, "residualised": value, "low": 0, "high": 1, "status": status, "null": list(null)}

    made = [row("L0H0", 0.2), row("L10H3", 0.9), row("L2H0", np.nan, (), "not applicable: why")]
    heads, controls = screen_table(pd.DataFrame([*made, *(row(name, 0.5, ()) for name in CONTROLS)]))
    assert list(zip(heads["layer"], heads["head"], strict=True)) == [(10, 3), (0, 0), (2, 0)]
    assert (heads["n_null"] == 4).all() and heads["p"].tolist()[:2] == [1 / 5, 1 / 5]
    assert heads["status"].iloc[2] == "not applicable: why" and controls["operator"].tolist() == list(CONTROLS)
    assert list(heads.columns[:4]) == ["rank", "layer", "head", "residualised"] and "null" not in controls


def measured(n_cells=30):
    rng = np.random.default_rng(0)
    expression = sp.random(n_cells, 6, 0.5, "csr", random_state=0, dtype=np.float32)
    table = pd.DataFrame(
        {"stage": [3, 1, 2], "donor": ["01", "NA", "1"], "cell_type": ["NA", "null", "B"], "weight": [1.0, 2.0, 0.5]}
    )
    names = [f"c{i:02d}" for i in range(n_cells)]
    cells = SimpleNamespace(shape=expression.shape, obs_names=names)
    anchors = Anchors(rng.random((3, 6)), np.array([3, 1, 2]), table)
    panel = SimpleNamespace(name="any: name / at all", cells=cells)
    return SimpleNamespace(panel=panel, anchors=anchors, expression=expression, stage=rng.integers(-1, 4, n_cells))


def test_a_panel_comes_back_as_it_went(tmp_path):
    made = measured()
    write_panel(tmp_path, made, seed=0)
    side = read_panel(tmp_path, made.panel.name)
    np.testing.assert_array_equal(side.anchors.centroids, made.anchors.centroids)
    pd.testing.assert_frame_equal(side.anchors.table, made.anchors.table)
    assert side.anchors.column("donor").tolist() == ["01", "NA", "1"] and (side.stage == made.stage).all()
    assert (side.expression != made.expression).nnz == 0
    assert side.anchors.weights.tolist() == [1.0, 2.0, 0.5]


def test_of_many_cells_a_sample_is_kept_that_goes_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr("workbench.recipes.gates.store._MOST_CELLS", 10)
    made = measured()
    write_panel(tmp_path / "a", made, seed=0)
    order = np.random.default_rng(1).permutation(30)
    names = [made.panel.cells.obs_names[i] for i in order]
    cells = SimpleNamespace(shape=(30, 6), obs_names=names)
    turned = replace_all(made, order, cells)
    write_panel(tmp_path / "b", turned, seed=0)
    one, other = (read_panel(tmp_path / name, made.panel.name) for name in "ab")
    assert one.expression.shape == (10, 6) == other.expression.shape
    # In the order of their names, whatever that of the file: draws go by place.
    assert (one.expression != other.expression).nnz == 0 and np.array_equal(one.stage, other.stage)


def test_a_panel_that_was_written_again_is_read_again(tmp_path):
    made = measured()
    write_panel(tmp_path, made, seed=0)
    first = read_panel(tmp_path, made.panel.name)
    assert read_panel(tmp_path, made.panel.name) is first
    made.anchors.centroids[0, 0] = 7.0
    write_panel(tmp_path, made, seed=0)
    assert read_panel(tmp_path, made.panel.name).anchors.centroids[0, 0] == 7.0


def replace_all(made, order, cells):
    panel = SimpleNamespace(name=made.panel.name, cells=cells)
    return SimpleNamespace(
        panel=panel,
        anchors=replace(made.anchors),
        expression=made.expression[order],
        stage=made.stage[order],
    )
