"""A planted world as files."""

from __future__ import annotations

from planted.test_planted_world import SMALL
from workbench.cells.datasets import load
from workbench.engine.config import load_cells, read_config
from workbench.engine.provenance import describe_model
from workbench.factors.gene_sets import load_gene_sets
from workbench.models import load_model
from workbench.planted.folder import write_world
from workbench.recipes.benchmark.config import BenchmarkConfig
from workbench.recipes.gates.config import GatesConfig
from workbench.recipes.run.config import RunConfig

MODEL = {"n_layers": 1, "n_heads": 2, "d_model": 32, "layer": 0, "head": 1}


def test_files_load_as_any_others_and_say_that_they_are_planted(tmp_path):
    config = read_config(write_world(tmp_path, 3, SMALL, **MODEL) / "gates.yaml", GatesConfig)
    assert (config.adaptor.layer, config.adaptor.head, config.seed) == (0, 1, 3)
    assert describe_model(load_model(config.checkpoint), config.checkpoint).startswith("planted-checkpoint-3 ")
    roles = {name: cohort.role for name, cohort in config.cohorts.items()}
    assert roles == {
        "internal": "internal", "external": "external", "zero_shot": "zero shot", "off_graph": "expected to fail",
    }  # fmt: skip
    donors = []
    for cohort in config.cohorts.values():
        cells = load(cohort.data.name)
        about = cells.uns["workbench"]
        assert "planted world, seed 3" in about["name"] and "planted, not real" in about["source"]
        donors += sorted(set(load_cells(cohort.data).obs["donor"]))
    assert len(donors) == len(set(donors)) == 11


def test_the_same_seed_writes_the_same_world(tmp_path):
    for name in ("a", "b"):
        write_world(tmp_path / name, 3, SMALL, **MODEL)
    one, other = (load(tmp_path / name / "external.h5ad") for name in ("a", "b"))
    assert (one.X != other.X).nnz == 0 and (one.obs_names == other.obs_names).all()
    first, second = (load_model(tmp_path / name / "planted-checkpoint-3").fingerprint() for name in ("a", "b"))
    assert first == second


def test_the_run_is_of_the_planted_head_and_knows_the_planted_programs(tmp_path):
    config = read_config(write_world(tmp_path, 3, SMALL, **MODEL) / "run.yaml", RunConfig)
    assert config.factors.head == config.compaction.head == "L0H1" and config.operator == "qk"
    cells, sets = load_cells(config.data), load_gene_sets(config.factors.gene_sets)
    assert cells.obs["donor"].nunique() == config.evaluation.folds == 6
    programs = {gene for term, genes in sets.sets.items() if term.startswith("program") for gene in genes}
    assert programs == {gene for gene in cells.var_names if gene.startswith("PLANTED")}
    assert sum(not term.startswith("program") for term in sets.sets) > 3


def test_the_benchmark_of_a_world_names_its_planted_head_and_its_donors(tmp_path):
    folder = write_world(tmp_path, 3, SMALL, **MODEL)
    config, run = read_config(folder / "benchmark.yaml", BenchmarkConfig), read_config(folder / "run.yaml", RunConfig)
    assert config.operator == "qk" and config.adaptor == run.adaptor
    assert config.data.model_dump(exclude={"embeddings"}) == run.data.model_dump()
    assert (folder / "benchmark.yaml").read_text().startswith("# Planted, not real")
