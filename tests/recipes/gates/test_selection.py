"""What cohorts select, and that they never share a cell."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
from helpers import tiny_cells

from workbench.engine.config import load_cells
from workbench.errors import CellsError, EvaluationError
from workbench.recipes.gates.config import CohortConfig
from workbench.recipes.gates.selection import check_cohorts, select_cells
from workbench.settings import DataConfig


@pytest.fixture
def data(tmp_path):
    cells = tiny_cells(120)
    labels = np.array(["CD4 T cell", "B cell", "CD14+ Monocyte", "monocites"])
    cells.obs["label"] = labels[np.arange(120) % 4]
    cells.obs["person"] = np.array(["01", "02", "03"])[np.arange(120) // 4 % 3]
    path = tmp_path / "cells.h5ad"
    cells.write_h5ad(path)
    return DataConfig(name=str(path), cell_type="label", donor="person")


def cohort(data, name="a", **settings):
    return select_cells(name, CohortConfig(role="internal", **settings), load_cells(data), 0)


def test_a_cohort_selects_by_standard_columns(data):
    chosen = cohort(data, select={"donor": ["01", "03"], "cell_type": ["B cell"]})
    assert set(chosen.obs["donor"]) == {"01", "03"} and set(chosen.obs["cell_type"]) == {"B cell"}
    assert cohort(data).shape == (120, 40)


def test_parts_are_disjoint_complete_and_do_not_depend_on_order(data, tmp_path):
    parts = [set(cohort(data, part=(i, 3)).obs_names) for i in range(3)]
    assert sum(map(len, parts)) == 120 == len(set.union(*parts)) and min(map(len, parts)) > 20
    turned = ad.read_h5ad(data.name)[::-1].copy()
    turned.write_h5ad(tmp_path / "turned.h5ad")
    again = cohort(data.model_copy(update={"name": str(tmp_path / "turned.h5ad")}), part=(1, 3))
    assert set(again.obs_names) == parts[1]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"select": {"sex": ["m"]}}, "selects by 'sex'"),
        ({"select": {"donor": ["04"]}}, "nknown donor '04'"),
        ({"part": (3, 3)}, "part 3 of 3; parts are numbered from 0 to 2"),
        ({"select": {"donor": []}}, "selects none of 120 cells"),
    ],
)
def test_what_cannot_be_selected_is_said(data, settings, said):
    with pytest.raises(CellsError, match=said):
        cohort(data, **settings)


def test_overlap_of_cohorts_is_an_error(data):
    parts = {"a": cohort(data, part=(0, 2)), "b": cohort(data, part=(1, 2))}
    check_cohorts({"a": "internal", "b": "external"}, parts)
    with pytest.raises(EvaluationError, match=r"'a' and 'c' share \d+ cells \(such as cell"):
        check_cohorts({"a": "internal", "c": "external"}, {"a": parts["a"], "c": cohort(data)})


def test_one_cohort_is_internal(data):
    cells = cohort(data)
    with pytest.raises(EvaluationError, match="0 cohorts are internal"):
        check_cohorts({"a": "external"}, {"a": cells})
    with pytest.raises(EvaluationError, match=r"2 cohorts are internal \(a, b\)"):
        check_cohorts({"a": "internal", "b": "internal"}, {"a": cells, "b": cells})
