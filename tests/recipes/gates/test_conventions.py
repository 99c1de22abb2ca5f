"""Gates under the paper's convention: said in every table, figure and report, in what is printed, and never mixed with another."""

from __future__ import annotations

import pandas as pd
import pytest
from fixtures_gates import SMALL

from workbench.cli import main
from workbench.engine.config import read_config
from workbench.errors import ArtifactError
from workbench.operators.convention import Convention
from workbench.planted.folder import write_world
from workbench.recipes.gates.config import GatesConfig
from workbench.recipes.gates.context import GatesContext

QUICK = ["adaptor.steps=10", "adaptor.k=3", "refits=1", "head_refits=1", "control_draws=2", "operator=attention"]
PAPER = ["capture.convention=paper", "capture.over_cells=sum"]
SAID = "paper, sum over cells"


@pytest.fixture(scope="module", autouse=True)
def quick(few_null_rulers):
    """What is tested here is what is said, not the gate."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("planted"), 3, SMALL, n_layers=1, n_heads=2, d_model=32, layer=0, head=1)


def command(folder, out, *settings):
    given = [part for one in (*QUICK, *settings) for part in ("--set", one)]
    return main(["gates", str(folder / "gates.yaml"), "--out", str(out), *given])


@pytest.mark.slow
def test_it_is_said_in_every_table_figure_and_report_and_when_printed(folder, tmp_path, capsys):
    assert command(folder, tmp_path, *PAPER) in (0, 1)
    assert f"Convention of the operators: {SAID}." in capsys.readouterr().out
    tables = {file.stem: pd.read_csv(file) for file in (tmp_path / "tables").glob("*.csv")}
    assert {name for name, table in tables.items() if "convention" not in table} == {"cohorts", "runtime"}
    assert all(set(table["convention"]) == {SAID} for table in tables.values() if "convention" in table and len(table))
    report = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "is not what scGPT was trained on" in report and f"convention &#x27;{SAID}&#x27;" in report
    figures = [file for file in (tmp_path / "figures").glob("*.html") if file.stem != "runtime"]
    assert len(figures) > 4
    assert all(f"Convention of the operators: {SAID}" in file.read_text(encoding="utf-8") for file in figures)
    # The same folder under the default: what lies there is refused by whoever opens it, and made anew by the command.
    with pytest.raises(
        ArtifactError, match=f"of the convention '{SAID}', not of 'scgpt': operators of two conventions"
    ):
        _ = GatesContext(read_config(folder / "gates.yaml", GatesConfig, QUICK), tmp_path).operators
    assert command(folder, tmp_path) in (0, 1)
    again = {file.stem: pd.read_csv(file) for file in (tmp_path / "tables").glob("*.csv")}
    assert not [name for name, table in again.items() if "convention" in table]
    assert (
        Convention.read(None)
        == GatesContext(read_config(folder / "gates.yaml", GatesConfig, QUICK), tmp_path).operators.convention
    )
