"""An algorithm on a file: the same numbers as in memory, nothing lost, nothing overwritten, no torch."""

from __future__ import annotations

import json
import subprocess
import sys

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from helpers import genes, tiny_cells

from workbench.cells.datasets import CellMapping
from workbench.cli import main
from workbench.errors import ArtifactError, CellsError, GeneMatchError, OutputError
from workbench.operators.algorithm import WEIGHTS, Algorithm
from workbench.operators.apply import LATENT, apply_file
from workbench.operators.readout_weights import Readout


def make():
    rng = np.random.default_rng(0)
    readouts = {
        "stage": Readout(rng.standard_normal((4, 3)), rng.standard_normal(3), ("B", "NK", "T")),
        "CD4 against CD8": Readout(rng.standard_normal((4, 1)), rng.standard_normal(1), ("False", "True")),
        "depth": Readout(rng.standard_normal((4, 1)), rng.standard_normal(1), ()),
    }
    return Algorithm(tuple(genes()[3:33]), rng.standard_normal((30, 4)), rng.standard_normal(4), readouts, {})


@pytest.fixture
def folder(tmp_path):
    return make().save_pretrained(tmp_path / "algorithm")


@pytest.fixture
def cells(tmp_path):
    made = tiny_cells(50)
    made.obs["n"] = np.arange(50) * 1.5
    made.obs["note"] = pd.Categorical(["a", "b"] * 25)
    made.write_h5ad(tmp_path / "cells.h5ad")
    return tmp_path / "cells.h5ad"


def test_the_file_holds_what_memory_gives(folder, cells):
    done = apply_file(folder, cells, block=7, progress=False)
    assert done.out == cells.with_name("cells.workbench.h5ad") and (done.n_cells, done.coverage) == (50, 1.0)
    found, algorithm, given = ad.read_h5ad(done.out), make(), ad.read_h5ad(cells)
    z = algorithm.transform(given)
    np.testing.assert_allclose(found.obsm[LATENT], z, rtol=1e-5)
    for name in ("stage", "CD4 against CD8"):
        readout, column = algorithm.readouts[name], "workbench_" + name.replace(" ", "_")
        chance = readout.probabilities(z)
        np.testing.assert_allclose(found.obsm[column], chance, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(found.obs[f"{column}_probability"], chance.max(1), rtol=1e-4)
    assert found.obs["workbench_stage"].tolist() == algorithm.readouts["stage"].predict(z).tolist()
    yes = algorithm.readouts["CD4 against CD8"].predict(z) == "True"
    assert (found.obs["workbench_CD4_against_CD8"] == np.where(yes, "CD4", "CD8")).all()
    np.testing.assert_allclose(found.obs["workbench_pseudotime"], algorithm.readouts["depth"].predict(z), rtol=1e-5)
    share = (given[:, list(algorithm.genes)].X > 0).mean(1)
    np.testing.assert_allclose(found.obs["workbench_genes_expressed"], np.asarray(share).ravel(), rtol=1e-6)
    assert found.uns["workbench"]["classes"]["stage"].tolist() == ["B", "NK", "T"]


def test_the_columns_of_the_input_are_kept_and_the_input_is_not_touched(folder, cells):
    before = cells.read_bytes()
    done = apply_file(folder, cells, progress=False)
    assert cells.read_bytes() == before
    found, given = ad.read_h5ad(done.out), ad.read_h5ad(cells)
    assert found.shape == (50, 0) and (found.obs_names == given.obs_names).all()
    pd.testing.assert_frame_equal(found.obs[list(given.obs)], given.obs)


def test_blocks_change_nothing(folder, cells, tmp_path):
    one, other = (apply_file(folder, cells, tmp_path / f"{n}.h5ad", block=n, progress=False).out for n in (3, 50))
    one, other = ad.read_h5ad(one), ad.read_h5ad(other)
    np.testing.assert_allclose(one.obsm[LATENT], other.obsm[LATENT], rtol=1e-6)
    pd.testing.assert_frame_equal(one.obs, other.obs)


def test_counts_in_a_layer_and_symbols_in_a_column(folder, cells, tmp_path):
    given = ad.read_h5ad(cells)
    moved = ad.AnnData(sp.csr_matrix(given.shape, dtype=np.float32), obs=given.obs, layers={"counts": given.X})
    moved.var["symbol"] = given.var_names.to_numpy()
    moved.var_names = [f"ENSG{i}" for i in range(given.shape[1])]
    moved.write_h5ad(tmp_path / "moved.h5ad")
    done = apply_file(folder, tmp_path / "moved.h5ad", mapping=CellMapping("counts", "symbol"), progress=False)
    np.testing.assert_allclose(ad.read_h5ad(done.out).obsm[LATENT], make().transform(given), rtol=1e-5)


def test_an_output_is_never_overwritten(folder, cells):
    done = apply_file(folder, cells, progress=False)
    before = done.out.read_bytes()
    for out in (None, cells):
        with pytest.raises(OutputError, match="exists already and is not overwritten"):
            apply_file(folder, cells, out, progress=False)
    assert done.out.read_bytes() == before


def test_its_own_output_is_no_obstacle_to_a_second_algorithm(folder, cells, tmp_path):
    given = ad.read_h5ad(cells)
    given.obs["workbench_stage"] = "old"
    given.write_h5ad(tmp_path / "again.h5ad")
    found = ad.read_h5ad(apply_file(folder, tmp_path / "again.h5ad", progress=False).out)
    assert "old" not in set(found.obs["workbench_stage"])


def test_what_is_wrong_leaves_no_file(folder, cells, tmp_path):
    with pytest.raises(CellsError, match="There is no file"):
        apply_file(folder, tmp_path / "absent.h5ad")
    few = ad.read_h5ad(cells)[:, genes()[:8]].copy()
    few.write_h5ad(tmp_path / "few.h5ad")
    with pytest.raises(GeneMatchError, match="measure 5 of the 30 panel genes, under the stated share of 50%"):
        apply_file(folder, tmp_path / "few.h5ad", progress=False)
    empty = ad.read_h5ad(cells)
    empty.X[31] = 0
    empty.write_h5ad(tmp_path / "empty.h5ad")
    with pytest.raises(CellsError, match="1 cells express no gene .*cell31"):
        apply_file(folder, tmp_path / "empty.h5ad", block=4, progress=False)
    weights = folder / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(ArtifactError):
        apply_file(folder, cells, progress=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["algorithm", "cells.h5ad", "empty.h5ad", "few.h5ad"]


def test_the_command(folder, cells, capsys):
    assert main(["apply", str(folder), str(cells), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["n_cells"] == 50 and told["coverage"] == 1 and told["out"].endswith("cells.workbench.h5ad")
    assert main(["apply", str(folder), str(cells)]) == 2
    assert "OutputError: " in capsys.readouterr().err
    assert main(["apply", str(folder), str(cells), "--out", str(cells.with_name("new.h5ad"))]) == 0
    assert "50 cells, 100% of the genes measured" in capsys.readouterr().out


def test_no_torch_is_needed(folder, cells, tmp_path):
    code = f"""
import sys
class Refuse:
    def find_spec(self, name, *rest):
        if name.split(".")[0] in ("torch", "scgpt", "transformer_lens", "sklearn", "scanpy"):
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
from workbench.cli import main
sys.exit(main(["apply", {str(folder)!r}, {str(cells)!r}, "--out", {str(tmp_path / "x.h5ad")!r}]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
