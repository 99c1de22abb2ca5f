"""What the explorer's data hold of a run and of a model, and what they say is missing."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from helpers import tiny_model

from explorer.conftest import EVIL, HEADS, LAYERS, READ, write_effects, write_run
from workbench.engine.folder import LAYOUT
from workbench.errors import ArtifactError, EvaluationError, OutputError
from workbench.evidence.ruler import build_ruler, load_ruler
from workbench.explorer.data import from_model, from_run, with_cells
from workbench.explorer.live import open_session
from workbench.explorer.maps import cell_map, label_groups, latent_map
from workbench.explorer.measures import ruler_measure
from workbench.factors.gene_sets import load_gene_sets
from workbench.files import write_json
from workbench.operators.store import StoredOperators
from workbench.operators.weight_operators import weight_operators


def test_a_run_is_shown_whole(data, run_folder):
    assert data.title == "planted" and data.shape == (LAYERS, HEADS) and data.kind == "attention"
    assert dict(data.facts)["model"] == "tiny"
    table = pd.read_csv(run_folder / "tables" / "heads.csv")
    ruler = data.measures[0]
    assert ruler["key"] == "ruler" and ruler["limits"] == [-1, 1]
    for row, score in zip(table.itertuples(), ruler["rows"], strict=True):
        assert score["value"] == pytest.approx(row.spearman, rel=1e-3) and score["q"] == row.q
    latent = pd.read_csv(run_folder / "tables" / "latent.csv")
    cells = data.maps[0]
    assert cells["n_total"] == len(cells["x"]) == len(latent)
    assert [cells["groups"][g]["label"] for g in cells["group"]] == latent["cell_type"].tolist()
    assert cells["x"] == pytest.approx(latent["umap_1"].tolist(), rel=1e-4)
    assert (
        {g["branch"]: g["light"] for g in cells["groups"]}["NK"]
        == load_ruler("hematopoiesis").colors["NK"]
        == "#88CCEE"
    )
    assert {measure["kind"] for measure in data.measures} == {"score", "effect", "norm"} and data.missing == ()


def test_branches_have_the_colors_and_the_order_of_the_ruler():
    names = [f"type {i}" for i in range(14)]
    stages = {name: {"from": names[:1] if i else [], "branch": name} for i, name in enumerate(names)}
    ruler = build_ruler("own", stages, {}, colors={names[5]: "#123456"})
    groups = label_groups({name: name for name in names[:8]}, ruler)
    assert [one["branch"] for one in groups] == [names[5], *names[:5], *names[6:8]] and groups[0]["light"] == "#123456"
    assert len({one["light"] for one in groups}) == 8 and {one["mark"] for one in groups} == {"circle"}
    every = label_groups({name: name for name in (*names, "not on the ruler")}, ruler)
    assert len({(one["light"], one["mark"]) for one in every}) == 15 and every[-1]["light"] == "#bbbbbb"
    assert sum(one["mark"] == "square" for one in every) == 1, "thirteen branches without a color of their own"


def test_the_explorer_of_a_run_whose_ruler_is_gone_has_colors(tmp_path):
    run = write_run(tmp_path / "run")
    (run / "resolved.yaml").write_text("name: planted\nruler: /nowhere/own.yaml\n")
    groups = from_run(run).maps[0]["groups"]
    assert len({one["light"] for one in groups}) == len({one["branch"] for one in groups})


def test_norms_and_pairs_are_of_the_stored_operators(data, run_folder):
    source = StoredOperators(run_folder / "stages" / "operators")
    for head in data.heads:
        matrix = source.head(head["layer"], head["head"])
        assert head["norm"] == pytest.approx(np.linalg.norm(matrix), rel=1e-3)
        for query, key, value, n in head["pairs"]["raw"]:
            assert query != key and value == pytest.approx(matrix[query, key], rel=1e-3)
            assert n == source.counts[query, key] >= 10


def test_effects_are_those_of_the_ablation(data, effects_folder):
    table = pd.read_csv(effects_folder / "tables" / "effects.csv")
    effects = [measure for measure in data.measures if measure["kind"] == "effect"]
    heads = table[table["kind"] == "head"]
    assert [(one["metric"], one["how"]) for one in effects] == list(
        dict.fromkeys(zip(heads["metric"], heads["how"], strict=True))
    )
    own = heads[heads["metric"] == effects[1]["metric"]].sort_values(["layer", "head"])
    for row, found in zip(own.itertuples(), effects[1]["rows"], strict=True):
        assert [found[c] for c in ("value", "low", "high")] == pytest.approx([row.effect, row.low, row.high], rel=1e-3)


def test_it_is_json_and_small(data):
    text = json.dumps(data.to_dict(), allow_nan=False)
    per_head = max(len(json.dumps(head)) for head in data.heads)
    cells, genes = json.dumps(data.maps[0]), 1200 * 12
    assert len(text) < 300_000
    assert 96 * per_head + genes + 4000 * len(cells) / len(data.maps[0]["x"]) < 2_000_000


def test_what_is_missing_is_said(tmp_path):
    found = from_run(write_run(tmp_path / "bare", scores=False, latent=False))
    said = dict(found.missing)
    assert "tables/heads.csv" in said["score"] and "tables/latent.csv" in said["cells"] and "ablate" in said["ablation"]
    assert [measure["kind"] for measure in found.measures] == ["norm"] and found.maps == ()


def test_cells_without_a_label_are_called_so(tmp_path):
    cells = pd.read_csv(write_run(tmp_path / "run") / "tables" / "latent.csv", keep_default_na=False)
    shown = latent_map(cells.assign(cell_type=["", *cells["cell_type"][1:]]))
    assert "no label" in {one["label"] for one in shown["groups"]} and "" not in {
        one["label"] for one in shown["groups"]
    }


def test_tables_of_other_operators_are_not_shown(tmp_path):
    run = write_run(tmp_path / "run")
    write_json(run / "workbench.json", {"layout": LAYOUT, "recipe": "run"})
    for name, below in (("operators", {}), ("heads", {"operators": "new"}), ("algorithm", {"operators": "old"})):
        write_json(run / "stages" / name / "done.json", {"key": "new" if name == "operators" else name, "after": below})
    found = from_run(run)
    assert [one["kind"] for one in found.measures] == ["score", "norm"] and found.maps == ()
    assert "of other operators than the run holds now" in dict(found.missing)["cells"]
    (run / "stages" / "heads" / "done.json").rename(run / "stages" / "heads" / "begun.json")
    assert "of other operators" in dict(from_run(run).missing)["score"]


def test_a_run_of_an_older_layout_is_said_to_be_one(tmp_path):
    run = write_run(tmp_path / "run")
    write_json(run / "stages" / "operators" / "done.json", {"key": "k", "inputs": []})
    with pytest.raises(OutputError, match="older layout"):
        from_run(run)


def test_a_label_called_na_is_a_label_on_the_map(tmp_path):
    shown = from_run(write_run(tmp_path / "run", label="NA")).maps[0]["groups"]
    assert "NA" in {one["label"] for one in shown}


def test_programs_are_of_the_collection_that_the_run_names(tmp_path):
    run = write_run(tmp_path / "run")
    (tmp_path / "own.gmt").write_text("mine\t\t" + "\t".join(sorted(load_gene_sets("hematopoiesis").sets[READ])) + "\n")
    (run / "resolved.yaml").write_text(f"name: planted\nfactors: {{gene_sets: {tmp_path / 'own.gmt'}}}\n")
    assert [one["term"] for one in from_run(run).programs["terms"]] == ["mine"]


def test_a_folder_without_operators_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match="holds no operators"):
        from_run(tmp_path)


def test_an_ablation_of_other_weights_is_refused(run_folder, tmp_path):
    with pytest.raises(ArtifactError, match="other weights"):
        from_run(run_folder, ablation=write_effects(tmp_path / "other", weights="b" * 32))
    with pytest.raises(ArtifactError, match="different models"):
        from_run(run_folder, ablation=write_effects(tmp_path / "deeper", layers=LAYERS + 1))
    with pytest.raises(ArtifactError, match=r"no tables/effects\.csv"):
        from_run(run_folder, ablation=tmp_path)


def test_a_head_without_a_row_is_a_gap(run_folder):
    table = pd.read_csv(run_folder / "tables" / "heads.csv").drop(index=2)
    rows = ruler_measure(table, (LAYERS, HEADS))["rows"]
    assert rows[2] is None and all(rows[i] for i in (0, 1, 3, 4, 5))
    assert (
        "without_sequencing"
        not in ruler_measure(table.drop(columns="without_sequencing", errors="ignore"), (LAYERS, HEADS))["rows"][0]
    )
    beside = ruler_measure(table.assign(without_sequencing=0.25), (LAYERS, HEADS))["rows"]
    assert beside[0]["without_sequencing"] == 0.25 and beside[0]["value"] == rows[0]["value"]
    with pytest.raises(ArtifactError, match="twice"):
        ruler_measure(pd.concat([table, table.head(1)]), (LAYERS, HEADS))


def test_more_cells_than_a_browser_draws_are_drawn_by_seed_and_said():
    ids, groups = [f"c{i}" for i in range(50)], label_groups({"a": "T", "b": "NK"})
    labels = ["a" if i % 2 else "b" for i in range(50)]
    xy = np.arange(100.0).reshape(50, 2)
    xy[7] = np.nan

    def drawn(order, seed):
        parts = [ids[i] for i in order], [labels[i] for i in order]
        return cell_map("m", "m", "", ("x", "y"), xy[order], *parts, groups, seed=seed, limit=20)

    one = drawn(np.arange(50), 0)
    assert len(one["x"]) == 20 and one["n_total"] == 50 and one["n_without_place"] == 1
    assert set(one["ids"]) == set(drawn(np.arange(50)[::-1], 0)["ids"]) != set(drawn(np.arange(50), 1)["ids"])
    for name, group, x in zip(one["ids"], one["group"], one["x"], strict=True):
        at = ids.index(name)
        assert groups[group]["label"] == labels[at] and x == xy[at, 0]


def test_a_latent_without_umap_is_drawn_by_its_first_coordinates():
    table = pd.DataFrame({"cell_id": ["a"], "cell_type": ["B"], "branch": ["B"], "z_1": [1.0], "z_2": [2.0]})
    assert latent_map(table)["axes"] == ["z 1", "z 2"]
    with pytest.raises(EvaluationError, match="lacks umap_1"):
        latent_map(table.drop(columns="z_2"))


def test_a_model_alone_shows_operators_of_its_weights(model):
    found = from_model(model)
    operators = weight_operators(model, model.vocabulary.genes, "qk")
    assert [measure["key"] for measure in found.measures] == ["norm"]
    for row, at in zip(found.measures[0]["rows"], np.ndindex(*found.shape), strict=True):
        assert row["value"] == pytest.approx(np.linalg.norm(operators.matrix(*at)), rel=1e-3)
    assert {what for what, _ in found.missing} == {"score", "ablation", "cells", "programs"}
    assert len(found.heads[0]["factors"]) == min(6, model.config.d_model // model.config.n_heads)
    assert found.heads[0]["pairs"]["raw"][0][3] is None


def test_cells_come_as_a_further_map(model, cells, data):
    found = from_model(model, cells)
    assert found.maps[0]["key"] == "embedding" and found.maps[0]["n_total"] == len(cells) and found.live is None
    other = open_session(tiny_model(n_layers=2), cells)
    with pytest.raises(ArtifactError, match="different models"):
        with_cells(data, other)


def test_a_vocabulary_too_large_to_show_asks_for_genes(model, monkeypatch):
    monkeypatch.setattr("workbench.explorer.data.MAX_PANEL", 5)
    with pytest.raises(EvaluationError, match="Name some as `genes`"):
        from_model(model)
    assert len(from_model(model, genes=["GENE1", "GENE2", "GENE3"]).genes) == 3


def test_the_label_that_is_markup_is_there_to_be_escaped(data):
    assert EVIL in [group["label"] for group in data.maps[0]["groups"]]
