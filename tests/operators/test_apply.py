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
from cells.test_scale import made_counts
from helpers import genes, tiny_cells
from transfer_world import algorithm as transfer_algorithm
from transfer_world import world

from workbench.cells.datasets import CellMapping, load
from workbench.cli import main
from workbench.errors import ArtifactError, CellsError, GeneMatchError, OutputError
from workbench.operators import apply
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
    sure = algorithm.readouts["stage"].probabilities(z).max(1) >= 0.5
    said = np.where(sure, algorithm.readouts["stage"].predict(z), "unassigned")
    assert found.obs["workbench_stage"].tolist() == said.tolist()
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
    done = apply_file(
        folder, tmp_path / "moved.h5ad", mapping=CellMapping("counts", "counts", "symbol"), progress=False
    )
    np.testing.assert_allclose(ad.read_h5ad(done.out).obsm[LATENT], make().transform(given), rtol=1e-5)


def test_an_output_is_never_overwritten(folder, cells):
    done = apply_file(folder, cells, progress=False)
    before = done.out.read_bytes()
    for out in (None, cells):
        with pytest.raises(OutputError, match="exists already and is not overwritten"):
            apply_file(folder, cells, out, progress=False)
    assert done.out.read_bytes() == before


def test_an_output_that_appears_meanwhile_is_not_overwritten_either(folder, cells, tmp_path, monkeypatch):
    out, own = tmp_path / "labels.h5ad", apply.predict

    def slowly(*args, **options):
        out.write_text("of another process")
        return own(*args, **options)

    monkeypatch.setattr(apply, "predict", slowly)
    with pytest.raises(OutputError, match="was written by another process meanwhile and is not overwritten"):
        apply_file(folder, cells, out, progress=False)
    assert out.read_text() == "of another process" and not list(tmp_path.glob(".*.part"))


def test_its_own_output_is_no_obstacle_to_a_second_algorithm(folder, cells, tmp_path):
    given = ad.read_h5ad(cells)
    given.obs["workbench_stage"] = "old"
    given.obs["workbench_notes"] = "mine"
    given.write_h5ad(tmp_path / "again.h5ad")
    done = apply_file(folder, tmp_path / "again.h5ad", progress=False)
    found = ad.read_h5ad(done.out)
    assert "old" not in set(found.obs["workbench_stage"]) and set(found.obs["workbench_notes"]) == {"mine"}
    assert "obs of the input has workbench_stage, in whose place stands" in done.fitness.notices[-1]
    assert list(found.uns["workbench"]["notices"])[-1] == done.fitness.notices[-1]


def test_what_is_wrong_leaves_no_file(folder, cells, tmp_path):
    with pytest.raises(CellsError, match="There is no file"):
        apply_file(folder, tmp_path / "absent.h5ad")
    few = ad.read_h5ad(cells)[:, genes()[:8]].copy()
    few.write_h5ad(tmp_path / "few.h5ad")
    with pytest.raises(GeneMatchError, match="measure 5 of the 30 panel genes, under the stated share of 50%"):
        apply_file(folder, tmp_path / "few.h5ad", progress=False)
    broken = ad.read_h5ad(cells)
    broken.X[31] = -broken.X[31]
    broken.write_h5ad(tmp_path / "broken.h5ad")
    with pytest.raises(CellsError, match="1 cells hold negative values .*cell31"):
        apply_file(folder, tmp_path / "broken.h5ad", block=4, progress=False)
    weights = folder / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(ArtifactError):
        apply_file(folder, cells, progress=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["algorithm", "broken.h5ad", "cells.h5ad", "few.h5ad"]


def test_the_command(folder, cells, capsys):
    assert main(["apply", str(folder), str(cells), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["n_cells"] == 50 and told["coverage"] == 1 and told["out"].endswith("cells.workbench.h5ad")
    assert main(["apply", str(folder), str(cells)]) == 2
    assert "OutputError: " in capsys.readouterr().err
    assert main(["apply", str(folder), str(cells), "--out", str(cells.with_name("new.h5ad"))]) == 0
    said = capsys.readouterr().out
    assert (
        "50 cells, 100% of the genes measured" in said
        and "Values: counts (" in said
        and "Genes: 30 of the algorithm's 30 are measured" in said
    )


def test_every_scale_that_can_be_known_gives_the_same_labels(folder, tmp_path):
    counts = made_counts(40)
    total = counts.sum(1, keepdims=True)
    cells = ad.AnnData(sp.csr_matrix(counts.astype(np.float32)), var=pd.DataFrame(index=genes(counts.shape[1])))
    cells.obs_names = [f"c{i}" for i in range(40)]
    forms = {
        "counts": counts,
        "cpm": counts / total * 1e6,
        "log2": np.log2(counts / total * 1e6 + 1),
        "log1p at median depth": np.log1p(counts / total * np.median(total)),
        "log10": np.log10(counts / total * 1e4 + 1),
    }
    expected = None
    for name, values in forms.items():
        cells.X = sp.csr_matrix(values.astype(np.float32))
        cells.write_h5ad(tmp_path / "x.h5ad")
        done = apply_file(folder, tmp_path / "x.h5ad", tmp_path / f"{name}.out.h5ad", progress=False)
        found = ad.read_h5ad(done.out)
        expected = found if expected is None else expected
        np.testing.assert_allclose(found.obsm[LATENT], expected.obsm[LATENT], rtol=1e-3, atol=1e-4, err_msg=name)
        assert (
            found.obs["workbench_stage"].astype(str).tolist() == expected.obs["workbench_stage"].astype(str).tolist()
        ), name
        assert found.uns["workbench"]["values"] == done.values
    # Cut to the algorithm's genes: the depth answers it, and without it nothing is guessed.
    cut = ad.AnnData(sp.csr_matrix(counts.astype(np.float32)), cells.obs.assign(nCount_RNA=total.ravel()), cells.var)
    cut = cut[:, genes(60)].copy()
    cut.write_h5ad(tmp_path / "cut.h5ad")
    done = apply_file(folder, tmp_path / "cut.h5ad", progress=False)
    np.testing.assert_allclose(ad.read_h5ad(done.out).obsm[LATENT], expected.obsm[LATENT], rtol=1e-3, atol=1e-4)
    del cut.obs["nCount_RNA"]
    cut.write_h5ad(tmp_path / "bare.h5ad")
    with pytest.raises(CellsError, match="counts .* on 60 genes"):
        apply_file(folder, tmp_path / "bare.h5ad", progress=False)


@pytest.mark.parametrize("form", ["log2, by columns", "entries twice", "a layer", "one gene in two columns"])
def test_a_file_and_memory_and_the_disk_give_the_same(folder, tmp_path, form):
    counts = made_counts(30).astype(np.float32)
    matrix, names, layer = sp.csr_matrix(counts), genes(counts.shape[1]), "X"
    expected = make().transform(load(ad.AnnData(matrix, var=pd.DataFrame(index=names))))
    if form == "log2, by columns":
        matrix = sp.csc_matrix(np.log2(counts / counts.sum(1, keepdims=True) * 3e4 + 1))
    elif form == "entries twice":
        twice = np.repeat(matrix.data / 2, 2), np.repeat(matrix.indices, 2), matrix.indptr * 2
        matrix = sp.csr_matrix(twice, matrix.shape)
    elif form == "one gene in two columns":
        matrix = sp.csr_matrix(np.c_[counts, counts[:, 5] // 2])
        names, half = [*names, names[5]], matrix[:, -1].toarray().ravel()
        matrix = sp.csr_matrix(np.c_[counts - np.eye(counts.shape[1])[5] * half[:, None], half].astype(np.float32))
    cells = ad.AnnData(matrix, var=pd.DataFrame(index=names))
    if form == "a layer":
        cells.layers["counts"], cells.X, layer = matrix, sp.csr_matrix(matrix.shape, dtype=np.float32), "counts"
    cells.write_h5ad(tmp_path / "x.h5ad")
    done = apply_file(folder, tmp_path / "x.h5ad", mapping=CellMapping(layer), progress=False)
    read = [load(tmp_path / "x.h5ad", layer=layer, backed=backed) for backed in (False, True)]
    for found in (ad.read_h5ad(done.out).obsm[LATENT], *map(make().transform, (*read, load(cells, layer=layer)))):
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_cells_without_any_of_the_genes_have_no_label_and_the_rest_goes_on(folder, cells, capsys):
    given = ad.read_h5ad(cells)
    counts = given.X.toarray()
    counts[31] = 0  # no count at all
    counts[32, 3:33] = 0  # no count of the algorithm's genes
    given.X = sp.csr_matrix(counts)
    given.write_h5ad(cells.with_name("bare.h5ad"))
    assert main(["apply", str(folder), str(cells.with_name("bare.h5ad"))]) == 0
    assert "2 cells express none of them and have no label" in capsys.readouterr().out
    found, whole = ad.read_h5ad(cells.with_name("bare.workbench.h5ad")), make().transform(ad.read_h5ad(cells))
    others = np.delete(np.arange(50), [31, 32])
    for column in ("stage", "CD4_against_CD8", "stage_probability", "pseudotime"):
        assert found.obs[f"workbench_{column}"].isna().to_numpy().nonzero()[0].tolist() == [31, 32], column
    assert np.isnan(found.obsm[LATENT][[31, 32]]).all() and np.isnan(found.obsm["workbench_stage"][[31, 32]]).all()
    np.testing.assert_allclose(found.obsm[LATENT][others], whole[others], rtol=1e-5)
    assert found.uns["workbench"]["unlabelled"] == 2
    np.testing.assert_array_equal(np.isnan(make().transform(given)).all(1).nonzero()[0], [31, 32])


def test_columns_of_one_gene_add_up_and_renamed_genes_are_found(folder, tmp_path):
    given = tiny_cells(30)
    known = Algorithm((*genes()[3:32], "JCHAIN"), make().matrix, make().offset, make().readouts, {})
    folder = known.save_pretrained(tmp_path / "renamed")
    split = given.X.toarray()
    half = np.floor(split[:, 5] / 2)
    both = np.column_stack([split, half])
    both[:, 5] -= half
    names = [*genes()[:32], "IGJ", *genes()[33:], "GENE5"]
    parts = ad.AnnData(sp.csr_matrix(both), given.obs, pd.DataFrame(index=names), uns=given.uns)
    whole = ad.AnnData(given.X, given.obs, pd.DataFrame(index=[*genes()[:32], "JCHAIN", *genes()[33:]]), uns=given.uns)
    np.testing.assert_allclose(known.transform(parts), known.transform(whole), rtol=1e-5)
    logged = ad.AnnData(np.log1p(both / both.sum(1, keepdims=True) * 1e4), given.obs, pd.DataFrame(index=names))
    logged.uns["workbench"] = {"values": "log1p:10000"}
    np.testing.assert_allclose(known.transform(logged), known.transform(whole), rtol=1e-4)
    whole.write_h5ad(tmp_path / "whole.h5ad")
    parts.write_h5ad(tmp_path / "parts.h5ad")
    one, other = (apply_file(folder, tmp_path / f"{name}.h5ad", progress=False) for name in ("parts", "whole"))
    np.testing.assert_allclose(ad.read_h5ad(one.out).obsm[LATENT], ad.read_h5ad(other.out).obsm[LATENT], rtol=1e-5)
    assert "1 of several columns, added up, 1 by a renamed symbol" in one.genes


def test_text_of_pandas_3_is_written_again(folder, cells):
    given = ad.read_h5ad(cells)
    given.obs.index = given.obs.index.astype("string")
    given.obs["words"] = pd.array(["a", "b"] * 25, dtype="string")
    with ad.settings.override(allow_write_nullable_strings=True):
        given.write_h5ad(cells.with_name("text.h5ad"))
    found = ad.read_h5ad(apply_file(folder, cells.with_name("text.h5ad"), progress=False).out)
    assert found.obs["words"].tolist() == ["a", "b"] * 25 and list(found.obs_names) == list(given.obs_names)


@pytest.mark.parametrize("share", [0, -1, 1.5, float("nan"), float("inf")])
def test_the_coverage_is_a_share(folder, cells, share):
    with pytest.raises(CellsError, match="The smallest coverage is"):
        apply_file(folder, cells, min_coverage=share, progress=False)


@pytest.mark.parametrize("flag", ["--layer", "--values", "--depth", "--gene-column"])
def test_an_empty_answer_is_none(folder, cells, capsys, flag):
    assert main(["apply", str(folder), str(cells), flag, ""]) == 2
    assert "''" in capsys.readouterr().err and not cells.with_name("cells.workbench.h5ad").exists()


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


def planted(tmp_path, **options):
    (tmp_path / "cells").mkdir()
    file = tmp_path / "cells" / "x.h5ad"
    world(200, 3, **options).write_h5ad(file)
    return str(transfer_algorithm().save_pretrained(tmp_path / "a")), str(file)


def test_the_console_says_how_the_cells_lie_and_what_they_are(tmp_path, capsys):
    folder, file = planted(tmp_path)
    assert main(["apply", folder, file, "--values", "counts", "--strict"]) == 0
    said = capsys.readouterr().out
    for part in (
        "Beside training: median library size",
        "standard deviations inside classes",
        "out of range",
        "stage: ",
        "Expected: balanced accuracy",
        "Beside plain expression: logistic regression on the same training cells gives",
    ):
        assert part in " ".join(said.split())
    assert "Not fit" not in said
    found = ad.read_h5ad(tmp_path / "cells" / "x.workbench.h5ad")
    about = found.uns["workbench"]
    assert about["fit"] and about["aligned"] and about["shift"].shape == (4,) and len(about["reasons"]) == 0
    assert found.obs["workbench_in_range"].mean() > 0.9 and (found.obs["workbench_distance"] > 0).all()
    same = found.obs["workbench_stage_by_expression"].astype(str) == pd.Series(
        np.array(about["classes"]["stage"])[found.obsm["workbench_stage"].argmax(1)], found.obs_names
    )
    assert same.mean() == about["agreement"] > about["usual_agreement"] - 0.05
    b_cells = found.obs["workbench_stage"] == "B"
    assert (found.obs.loc[b_cells, "workbench_T4_against_T8"] == "unassigned").all()


def test_strict_ends_with_3_where_the_algorithm_is_not_fit_and_the_file_is_written(tmp_path, capsys):
    folder, file = planted(tmp_path, library=40)
    command = ["apply", folder, file, "--values", "counts"]
    assert main([*command, "--out", str(tmp_path / "one.h5ad")]) == 0
    assert main([*command, "--out", str(tmp_path / "two.h5ad"), "--strict", "--json"]) == 3
    assert "Not fit for this file: Logistic regression on the expression" in " ".join(capsys.readouterr().out.split())
    assert len(ad.read_h5ad(tmp_path / "two.h5ad").uns["workbench"]["reasons"]) > 0


def test_json_holds_no_nan(tmp_path, capsys):
    folder, file = planted(tmp_path)
    assert main(["apply", folder, file, "--values", "counts", "--json", "--no-align"]) == 0
    told = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(name))
    assert (
        told["fit"] is True
        and told["fitness"]["shift"]["n_cells"] == 200
        and sum(told["labels"]["stage"].values()) == 200
    )
