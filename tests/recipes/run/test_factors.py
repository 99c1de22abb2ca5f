"""``workbench extract`` and ``workbench factors`` on the same folder: tables, report, what is kept, what is said."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import yaml
from fixtures_run import N_GENES, write
from published import faults

from workbench.cli import main
from workbench.engine.config import read_config
from workbench.engine.tables import read_table, table_path, there
from workbench.errors import ConfigError, EvaluationError
from workbench.evidence.expected import expected_table, read_expected
from workbench.evidence.gate_spec import GATES, SPEC
from workbench.factors.compaction import FOLDED, REFERENCE
from workbench.files import read_json
from workbench.operators.store import StoredOperators
from workbench.recipes.run.config import RunConfig, RunGatesConfig
from workbench.recipes.run.context import ANCHOR_CONTROLS, BIASED, DRAWN, RunContext
from workbench.recipes.run.factors import TABLES
from workbench.recipes.run.gates import gates_stage
from workbench.recipes.run.recipe import run, stages
from workbench.recipes.run.splits import fold_pairs, head_of

EXPERIMENTS = Path(__file__).resolve().parents[3] / "experiments"


@pytest.fixture(scope="module")
def made(few_null_rulers, cells, checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("factors")
    names = [name for name in cells.var_names if " " not in name]
    (folder / "own.gmt").write_text(
        "first\tmade up\t" + "\t".join(names[:8]) + "\nsecond\t\t" + "\t".join(names[8:20]) + "\n"
    )
    figures = [
        {
            "claim": "size",
            "published": 17.5,
            "command": "run",
            "table": "compaction",
            "where": {"variant": "reference"},
            "column": "bytes",
        },
        {
            "claim": "head",
            "published": "L2H5",
            "command": "gates",
            "table": "screen",
            "column": "name",
            "needs": "a screen",
        },
        {
            "claim": "best pair",
            "published": 0.95,
            "command": "run",
            "table": "factor_subsets",
            "where": {"kind": "alone", "size": 2, "how": "mean", "endpoint": "stage", "metric": "macro-F1"},
            "column": "fraction",
            "best": True,
        },
        {
            "claim": "absent",
            "published": 2,
            "command": "run",
            "table": "heads",
            "where": {"layer": 99},
            "column": "spearman",
        },
        {
            "claim": "genes",
            "published": "A, B",
            "command": "run",
            "table": "factor_genes",
            "where": {"factor": ["f99", "f01"], "side": "read"},
            "column": ["nothing", "gene"],
            "first": 2,
        },
        {
            "claim": "p of the best",
            "published": 1,
            "command": "run",
            "table": "heads",
            "column": "p",
            "best": "spearman",
        },
    ]
    (folder / "figures.yaml").write_text(yaml.safe_dump({"source": "a paper", "figures": figures}))
    path = write(
        folder,
        checkpoint,
        cells,
        evaluation={"folds": 4, "holdouts": 2, "permutations": 3, "refits": 2, "head_refits": 1, "control_draws": 2},
        gates={"refits": 1},
        cell_heads={"epochs": 3, "hybrid": False},
        sensitivity={"ks": [2, 3], "alphas": [0.1], "betas": [0.3]},
        compaction={"splits": 3, "ranks": [8, 3], "n_factors": 3, "n_read": 6, "n_write": 6},
        factors={
            **{"n": 5, "top": 3, "n_genes": 8, "splits": 3, "null_draws": 3, "bootstraps": 4},
            **{"gene_sets": "own.gmt", "program_draws": 200},
        },
        expected="figures.yaml",
    )
    out = folder / "out"
    assert main(["extract", str(path), "--out", str(out)]) == 0
    after_first = {
        "stages": list(read_json(out / "manifest.json")["stages"]),
        "report": (out / "report.html").read_text(),
    }
    assert main(["factors", str(path), "--out", str(out)]) == 0
    return SimpleNamespace(path=path, out=out, first=after_first)


def table(made, name):
    return read_table(table_path(made.out, name))


def test_the_second_part_goes_on_where_the_first_stopped(made):
    extract = [
        "panel",
        "cells",
        "operators",
        "untrained",
        "drift",
        "heads",
        "readouts",
        "writing",
        "gates",
        "sensitivity",
        "algorithm",
        "explorer",
    ]
    assert made.first["stages"] == extract and "compaction" not in made.first["report"].lower().split("<nav")[0]
    stages = read_json(made.out / "manifest.json")["stages"]
    assert list(stages) == [*extract, "compaction", "factors"]
    assert [name for name, stage in stages.items() if not stage["kept"]] == ["compaction", "factors"]
    page = (made.out / "report.html").read_text()
    for name in (
        "compaction",
        "factor_drops",
        "factor_effects",
        "factor_subsets",
        "factor_genes",
        "sensitivity",
        "added",
    ):
        assert f'id="figure-{name}"' in page and (made.out / "figures" / f"{name}.json").is_file()
    assert all((made.out / "tables" / f"{name}.csv").is_file() for name in TABLES)


def test_gates_are_judged_beside_every_control_and_stand_on_the_card(made):
    gates, controls = table(made, "gates"), table(made, "gate_controls")
    assert gates["gate"].tolist() == list(GATES) and set(gates["operator"]) == {"drift"}
    assert (gates["spec"] == SPEC.hash).all() and gates["status"].iloc[-1] == "not applicable"
    wanted = {name: len(GATES) * (2 if name in DRAWN else 1) for name in ANCHOR_CONTROLS}
    assert controls.groupby("operator").size().to_dict() == wanted
    card = (made.out / "algorithm" / "README.md").read_text()
    section = card.split(f"## Gates (spec {SPEC.hash})")[1].split("##")[0]
    for row in gates.itertuples():
        assert f"| {row.gate} | {row.status}" in section
    assert 'id="figure-gates"' in (made.out / "report.html").read_text()


@pytest.mark.slow
def test_gates_of_chosen_heads_are_not_applicable(made, few_null_rulers, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(made.out, out)
    config = read_config(made.path, RunConfig, ["adaptor.feature_map=topk", "adaptor.top=2"])
    said = gates_stage(RunContext(config, out), RunGatesConfig(refits=1), tmp_path, {})
    own = read_table(table_path(out, "gates"))
    assert set(own["status"]) == {"not applicable"} and len(said["unmet"]) == len(GATES)
    assert own["note"].iloc[0] == BIASED


def test_the_cell_head_is_judged_beside_the_anchor_head(made):
    found = set(table(made, "readouts")["representation"])
    assert {"cell head", "latent (LET on drift)", "latent (LET on the same model before training)"} <= found


def test_folding_loses_nothing_and_weighs_least(made):
    rows = table(made, "compaction")
    folded = rows[rows["variant"] == FOLDED]
    assert (folded["difference"].abs() < 1e-12).all() and (folded["p"] == 1).all()
    assert folded["bytes"].iloc[0] < rows[rows["variant"] == REFERENCE]["bytes"].iloc[0] / 10
    assert set(rows["variant"]) == {
        REFERENCE,
        FOLDED,
        "single head",
        "rank 8",
        "rank 3",
        "hard sparse, 3 x (6 + 6)",
        "NMF, 3",
        "sparse PCA, 3",
    }
    assert rows["n_splits"].max() == 3


def test_factors_are_complete(made):
    factors, genes = table(made, "factors"), table(made, "factor_genes")
    assert set(factors["factor"]) == {f"f{i:02d}" for i in range(5)} and set(factors["how"]) == {"mean", "zero"}
    own = factors[factors["how"] == "mean"]
    assert own["place"].tolist() == [1, 2, 3, 4, 5] and own["impact"].is_monotonic_decreasing
    assert len(genes) == 5 * 2 * 8 and genes["share"].between(0, 1).all()
    subsets = table(made, "factor_subsets")
    assert len(subsets[(subsets["kind"] == "alone") & (subsets["how"] == "mean")]["subset"].unique()) == 7
    assert set(table(made, "programs")["term"]) == {"first", "second"}
    control = table(made, "programs_control")
    assert set(control["control"]) == {"factors of the cells' own gene correlation"} and len(control) == 2
    assert (factors["n_null"] == 3).all() and factors["moved"].between(0.2, 1).all() and factors["p"].ge(0.25).all()
    cautions = read_json(made.out / "metrics.json")["stages"]["factors"]["cautions"]
    assert any("3 relabellings give no p below 0.25" in text for text in cautions)


def test_published_figures_stand_beside_and_are_never_asserted(made):
    rows = table(made, "expected").set_index("claim")
    assert (
        float(rows.loc["size", "found"]) == 4 * (N_GENES - 2) * 2 * (N_GENES - 2)
        and float(rows.loc["size", "published"]) == 17.5
    )
    assert pd.isna(rows.loc["head", "found"]) and rows.loc["head", "needs"] == "a screen"
    assert rows.loc["head", "from"] == "not made in this run: screen.csv of workbench gates"
    genes, heads = table(made, "factor_genes").query("factor == 'f01' and side == 'read'"), table(made, "heads")
    assert rows.loc["genes", "found"] == ", ".join(genes["gene"].head(2))
    assert float(rows.loc["p of the best", "found"]) == heads.loc[heads["spearman"].idxmax(), "p"]
    assert rows.loc["absent", "from"] == "no such row in heads.csv"
    pairs = table(made, "factor_subsets").query("kind == 'alone' and size == 2 and how == 'mean'")
    pairs = pairs.query("endpoint == 'stage' and metric == 'macro-F1'")
    assert len(pairs) == 3 and float(rows.loc["best pair", "found"]) == pairs["fraction"].max()
    assert rows.loc["best pair", "n"] == 3 and pd.isna(rows.loc["best pair", "sd"]) and pd.isna(rows.loc["size", "sd"])


def test_splits_and_heads_are_chosen_by_training_cells(made):
    context = RunContext(read_config(made.path, RunConfig), made.out)
    pairs = fold_pairs(context, 4)
    assert len(set(pairs)) == 4 and all(len(set(pair)) == 2 for pair in pairs)
    assert pairs == fold_pairs(RunContext(context.config, made.out), 4)
    head = head_of(context, None, pairs[0])
    # Labels of the held-out cells have no part in the choice.
    changed = RunContext(context.config, made.out)
    obs = changed.cells.obs.copy()
    held = ~changed.cells.outside(pairs[0])
    obs.loc[held, "stage"] = np.random.default_rng(0).permutation(obs.loc[held, "stage"])
    changed.__dict__["cells"] = replace(changed.cells, obs=obs)
    assert head_of(changed, None, pairs[0]) == head
    with pytest.raises(EvaluationError, match="Unknown head 'L9H9'"):
        head_of(context, "L9H9")


def test_stability_is_over_the_groups_of_the_capture(made):
    table_of_factors, said = table(made, "factor_stability"), read_json(made.out / "metrics.json")
    assert set(table_of_factors["n_groups"]) == {10} and said["stages"]["factors"]["groups"] == 10
    assert any("10 groups of cells" in text for text in said["stages"]["factors"]["cautions"])
    source = StoredOperators(made.out / "stages" / "operators")
    parts = [source.of_group(group, 1, 1) for group in range(source.n_groups)]
    counts = sum(count for _, count in parts)
    assert np.array_equal(counts, source.counts)
    mean = sum(sums.astype(np.float64) for sums, _ in parts) / np.maximum(counts, 1)
    np.testing.assert_allclose(source.head(1, 1), mean, rtol=1e-6)


@pytest.mark.slow
def test_an_operator_of_the_checkpoint_has_no_stability_over_cells(made, tmp_path):
    config = read_config(made.path, RunConfig, ["operator=ov", "factors.n=3", "compaction.ranks=[2]"])
    run(config, tmp_path, parts=("factors",))
    skipped = {item["what"]: item["why"] for item in read_json(tmp_path / "metrics.json")["skipped"]}
    assert "comes from the checkpoint alone" in skipped["Stability of factors over cells"]
    assert "Compaction: NMF, 3" in skipped
    page = (tmp_path / "report.html").read_text()
    assert 'id="figure-factor_genes"' in page and 'id="figure-heads"' not in page


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("factors.n=99", "99 factors"),
        ("factors.head=L7H0", "Unknown head 'L7H0'"),
        ("factors.gene_sets=hematopoesis", "hematopoiesis"),
    ],
)
def test_what_cannot_be_is_said(made, override, said, capsys):
    assert main(["factors", str(made.path), "--out", str(made.out), "--set", override]) == 2
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_gene_sets_without_overlap_are_said_before_the_work(made, tmp_path, capsys):
    other = tmp_path / "mouse.gmt"
    other.write_text("one\t\tXyz1\tXyz2\tXyz3\n")
    assert main(["factors", str(made.path), "--out", str(made.out), "--set", f"factors.gene_sets={other}"]) == 2
    assert "gene symbols" in capsys.readouterr().err.splitlines()[-1]


def test_an_edited_file_of_gene_sets_is_read_again(made, tmp_path):
    own, found = tmp_path / "own.gmt", []
    text = (made.path.parent / "own.gmt").read_text()
    for content in (text, text, text.replace("second", "renamed")):
        own.write_text(content)
        context = RunContext(read_config(made.path, RunConfig, [f"factors.gene_sets={own}"]), tmp_path)
        found.append({stage.name: stage.inputs for stage in stages(context)}["factors"]["gene_sets"])
    assert found[0] == found[1] != found[2]


def test_a_configuration_without_either_section_is_said(made, capsys):
    more = ["--set", "compaction=null", "--set", "factors=null"]
    assert main(["factors", str(made.path), "--out", str(made.out), *more]) == 2
    assert "no section 'compaction' and no section 'factors'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("figures: 3", "holds no published figures"),
        ("source: a\nfigures: [{claim: x}]", "has a figure that is not of the form"),
        ("source: a\nfigures: [{claim: x, published: 1, command: run, table: t, elsewhere: y}]", "not of the form"),
        ("{", "cannot be read"),
        ("source: a\nsource: b\nfigures: []", "cannot be read .'source' twice"),
    ],
)
def test_published_figures_of_another_form(tmp_path, text, said):
    path = tmp_path / "f.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_expected(path)


def test_a_table_of_another_configuration_is_not_found_in_this_run(made):
    path = made.path.parent / "figures.yaml"
    everything, _ = expected_table(path, made.out, there(made.out))
    without, _ = expected_table(path, made.out, {"factor_subsets"})
    row = without.set_index("claim").loc["size"]
    assert np.isfinite(float(everything.set_index("claim").loc["size", "found"])) and pd.isna(row["found"])
    assert row["from"] == "not made in this run: compaction.csv of workbench run"
    expected_table(path, made.out, there(made.out))


def test_the_shipped_figures_can_be_read():
    source, figures = read_expected(read_config(EXPERIMENTS / "hematopoiesis.yaml", RunConfig).expected)
    assert "2603.10261" in source and len(figures) > 50
    read_config(EXPERIMENTS / "paper.yaml", RunConfig)


def test_every_figure_of_the_paper_is_looked_up_where_a_run_writes_it(made):
    assert faults("run", made.out) == []


def test_heads_of_the_adaptor_are_measured_on_every_fold_with_the_score_of_the_formula(made):
    rows = table(made, "adaptor_heads")
    assert set(rows["kind"]) == {"anchor", "cell"} and rows["n_folds"].max() == 4
    anchor = rows[rows["head"] == "anchor head"].set_index("measure")["value"]
    readout = table(made, "readouts").query("endpoint == 'CD4 against CD8' and metric == 'AUROC'")
    ours = readout[readout["representation"] == "latent (LET on drift)"]["value"].iloc[0]
    assert anchor["CD4 against CD8, all axes"] == pytest.approx(ours)
