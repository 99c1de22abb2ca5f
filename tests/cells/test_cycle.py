"""Phases by scanpy's scores where a ruler names their genes: planted cells, and cells whose labels are phases already."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from workbench.cells.datasets import load
from workbench.cells.placed import place_cells
from workbench.errors import EvaluationError
from workbench.evidence.ruler import load_ruler


def planted(ruler, seed=0):
    """Counts in which genes of a phase are four times as frequent in its cells."""
    rng = np.random.default_rng(seed)
    genes = [*ruler.phases["S"], *ruler.phases["G2M"], *(f"OTHER{i}" for i in range(300))]
    truth = np.repeat(["G1", "S", "G2M"], 30)
    mean = rng.uniform(0.5, 2, len(genes)) * np.ones((90, 1))
    for phase, own in ruler.phases.items():
        mean[np.ix_(truth == phase, np.isin(genes, own))] *= 4
        mean[np.ix_(truth == "G1", np.isin(genes, own))] *= 0.3
    cells = ad.AnnData(
        rng.poisson(mean).astype(np.float32),
        obs=pd.DataFrame({"cell_type": "T cell"}, index=[f"c{i}" for i in range(90)]),
    )
    cells.var_names = genes
    return cells, truth


def test_phases_are_scored_from_the_genes_of_the_file():
    ruler = load_ruler("cell_cycle")
    cells, truth = planted(ruler)
    obs, unknown = place_cells(load(cells, cell_type="cell_type", values="counts"), ruler, {})
    assert unknown == {} and (np.array(ruler.stages)[obs["stage"]] == truth).mean() > 0.95
    assert set(obs["cell_type"]) == {"T cell"}
    some, _ = place_cells(load(cells, cell_type="cell_type", values="counts"), ruler, {}, np.array([40, 5]))
    assert some["stage"].tolist() == obs["stage"].iloc[[40, 5]].tolist()
    np.testing.assert_allclose(ruler.distances * 9.5, [[0, 9.5, 8], [9.5, 0, 6.5], [8, 6.5, 0]])


def test_labels_that_are_phases_are_taken_as_they_are(pbmc68k):
    cells = pbmc68k.copy()
    cells.obs["cell_type"] = np.where(np.arange(len(cells)) % 2, "G2/M", "S")
    obs, _ = place_cells(cells, load_ruler("cell_cycle"), {})
    assert set(obs["stage"]) == {1, 2}


def test_too_few_measured_genes_are_refused(pbmc68k):
    with pytest.raises(
        EvaluationError, match="1 of the 43 genes of phase S are measured, and 10 are needed .* as data.cell_type"
    ):
        place_cells(pbmc68k, load_ruler("cell_cycle"), {})


def test_genes_of_other_phases_are_refused(tmp_path):
    (tmp_path / "own.yaml").write_text(
        "name: x\nstages:\n  G1: {from: [], branch: a}\n  S: {from: [G1], branch: b}\nphases: {S: [PCNA]}\n"
    )
    with pytest.raises(EvaluationError, match="names genes of S for the stages G1, S; it takes genes of S and of G2M"):
        load_ruler(tmp_path / "own.yaml")
