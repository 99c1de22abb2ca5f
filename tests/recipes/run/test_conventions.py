"""A run under the paper's convention: said in every table, figure, card and report, and no embedding of the model is read."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from fixtures_run import write

from workbench.engine.config import read_config
from workbench.errors import ArtifactError
from workbench.files import read_json
from workbench.operators.algorithm import Algorithm
from workbench.operators.convention import Convention
from workbench.operators.saved_operator import Operator
from workbench.operators.store import StoredOperators
from workbench.recipes.run.config import RunConfig
from workbench.recipes.run.context import RunContext
from workbench.recipes.run.recipe import EXTRACT, run

PAPER = Convention("paper", "sum", "key x query")
LITTLE = ("evaluation.holdouts=1", "evaluation.refits=1", "evaluation.permutations=2", "adaptor.tol=0.1")
SAID = "paper, sum over cells, key x query"


@pytest.fixture(scope="module")
def ran(cells, checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("paper")
    path = write(
        folder, checkpoint, cells, capture={"convention": "paper", "over_cells": "sum", "orientation": "key x query"}
    )
    return run(read_config(path, RunConfig, LITTLE), folder / "out", parts=(EXTRACT,)), path


def test_it_is_said_wherever_operators_appear(ran):
    out, _ = ran
    tables = {file.stem: pd.read_csv(file) for file in (out / "tables").glob("*.csv")}
    assert {name for name, table in tables.items() if "convention" not in table} == {"cells", "runtime"}
    assert all(set(table["convention"]) == {SAID} for table in tables.values() if "convention" in table and len(table))
    report = (out / "report.html").read_text()
    assert f"Convention of the operators: {SAID}" in report and "is not what scGPT was trained on" in report
    assert (
        f"Convention of the operator: {SAID}; comparable with no other" in (out / "algorithm" / "README.md").read_text()
    )
    assert Convention.read(Algorithm.from_pretrained(out / "algorithm").card["convention"]) == PAPER
    operator = next(out.rglob("operator.json")).parent
    assert Operator.load(operator).convention == PAPER == StoredOperators(out / "stages" / "operators").convention


def test_no_embedding_of_the_model_is_read_and_that_is_said(ran):
    out, _ = ran
    found = set(pd.read_csv(out / "tables" / "readouts.csv")["representation"])
    assert not [name for name in found if name.startswith("scGPT")] and "raw x (log-normalised panel)" in found
    skipped = {one["what"]: one["why"] for one in read_json(out / "metrics.json")["skipped"]}
    assert "for operators only" in skipped["Readouts of scGPT's own embedding"]


def test_a_folder_of_another_convention_is_refused(ran):
    out, path = ran
    context = RunContext(read_config(path, RunConfig, ("capture.over_cells=mean",)), out)
    with pytest.raises(ArtifactError, match="never mixed"):
        _ = context.operators
    own = RunContext(read_config(path, RunConfig), out).operators
    sums, _ = own.of_group(0, 0, 0)
    assert np.isfinite(sums).all()
