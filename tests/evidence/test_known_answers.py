"""Known answers on planted checkpoints: hits and misses by construction, and none asserted of any other."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from fixtures_dictionaries import random_dictionary
from helpers import genes, tiny_cells, tiny_model

from workbench.capture.pairs import PATTERNS, GenePairSink
from workbench.capture.record import capture
from workbench.cli import main
from workbench.engine.tables import table_path, write_table
from workbench.errors import ConfigError, HookError
from workbench.evidence import known_answers
from workbench.evidence.known_answers import (
    MET,
    NOT_ASKED,
    OTHER,
    SHOWN,
    check_answers,
    read_annotation,
    read_answers,
)
from workbench.evidence.known_cells import compared, first_component
from workbench.models.load import load_model, read_model
from workbench.models.scgpt.checkpoint import save_checkpoint
from workbench.models.scgpt.config import ModelConfig
from workbench.models.scgpt.hooked import HookedScGPT
from workbench.models.vocabulary import Vocabulary
from workbench.operators.operator import head_name

N = 400


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A checkpoint whose gene table says the chromosome, its annotation, and the facts that are true of it."""
    folder = tmp_path_factory.mktemp("planted")
    names = [*[f"G{i}" for i in range(N)], "A_ENSG01", "<pad>", "<cls>", "<eoc>"]
    vocabulary = Vocabulary({name: i for i, name in enumerate(names)})
    model = HookedScGPT(ModelConfig(n_tokens=len(names), d_model=32, n_layers=3, n_heads=4, d_mlp=16), vocabulary)
    place = np.arange(N) % 4 + 1
    with torch.no_grad():
        model.embed.gene.embedding.weight[torch.arange(N), torch.as_tensor(place)] += 4
    save_checkpoint(model, folder / "model")
    pd.DataFrame({"symbol": names[:N], "chromosome": [f"{p}q12" for p in place]}).to_csv(
        folder / "genes.csv", index=False
    )
    sums, shipped = read_model(folder / "model").report.sha256, read_answers()
    true = {
        "layers": 3,
        "heads": 4,
        "width": 32,
        "tokens": N + 4,
        "pad_id": N + 1,
        "cls_id": N + 2,
        "eoc_id": N + 3,
        "suffixed": 1,
    }
    true |= {
        "weights_sha256": next(iter(sums.values())),
        "vocabulary_sha256": sums["vocab.json"],
        "args_sha256": sums["args.json"],
    }
    answers = {
        name: {**answer, "expected": true.get(name, answer["expected"])} for name, answer in shipped.answers.items()
    }
    answers["chromosome"] = {**answers["chromosome"], "low": 0.9, "high": 1.0}
    known = replace(shipped, weights=true["weights_sha256"], vocabulary=true["vocabulary_sha256"], answers=answers)
    return folder, known


def status(checked):
    return dict(zip(checked.table["answer"], checked.table["status"], strict=True))


def test_what_is_true_by_construction_is_met_and_what_was_not_given_is_not_asked(planted):
    folder, known = planted
    checked = check_answers(folder / "model", annotation=folder / "genes.csv", answers=known)
    needs = [answer["what"] for answer in known.answers.values() if answer.get("needs") == "cells"]
    found = status(checked)
    dictionaries = [answer["what"] for answer in known.answers.values() if answer.get("needs") == "dictionaries"]
    assert checked.release and not checked.missed and len(needs) == 4 and len(dictionaries) == 2
    assert all(found.pop(name) == f"{NOT_ASKED}: give --dictionaries" for name in dictionaries)
    assert all(found[name] == f"{NOT_ASKED}: give --cells" for name in needs)
    assert {found[name] for name in found if name not in needs} == {MET}
    row = checked.table[checked.table["answer"].str.startswith("chromosome")].iloc[0]
    assert row["found"] > 0.95 and row["n"] == N and float(row["beside"].split(": ")[1]) < 0.45


def test_a_wrong_fact_is_missed(planted):
    folder, known = planted
    wrong = {**known.answers, "cls_id": {**known.answers["cls_id"], "expected": 7}}
    # The chromosomes of other genes: the table no longer says them.
    table = pd.read_csv(folder / "genes.csv")
    table["chromosome"] = np.random.default_rng(0).permutation(table["chromosome"])
    table.to_csv(folder / "dealt.csv", index=False)
    checked = check_answers(folder / "model", annotation=folder / "dealt.csv", answers=replace(known, answers=wrong))
    assert checked.missed == [known.answers["cls_id"]["what"], known.answers["chromosome"]["what"]]


def test_a_fine_tune_is_not_the_release_and_nothing_is_asserted(planted, tmp_path):
    folder, known = planted
    shutil.copytree(folder / "model", tmp_path / "tuned")
    state = torch.load(tmp_path / "tuned" / "best_model.pt")
    first = next(name for name in state if name.endswith("linear1.weight"))
    state[first] = state[first] + 1e-4
    torch.save(state, tmp_path / "tuned" / "best_model.pt")
    renamed = tmp_path / "renamed"
    shutil.copytree(folder / "model", renamed)
    ids = json.loads((renamed / "vocab.json").read_text())
    (renamed / "vocab.json").write_text(json.dumps({("OTHER" if name == "G3" else name): i for name, i in ids.items()}))
    for other in (tmp_path / "tuned", renamed):
        checked = check_answers(other, answers=known)
        assert checked.verdict == OTHER and not checked.missed
        assert {one.split(":")[0] for one in status(checked).values()} == {SHOWN, NOT_ASKED}


def test_pairs_of_the_model_itself_are_found_and_dealt_ones_are_missed():
    model, cells = tiny_model(seed=2), tiny_cells(30, seed=1)
    names = genes()
    sink = GenePairSink(names, model.vocabulary)
    capture(model, model.tokenizer(cells, panel=names), PATTERNS, sink, progress=False)
    sums, counts = sink.result().sums, sink.result().counts
    rows, columns = np.where(~np.eye(len(names), dtype=bool))
    part, n = sums[..., rows, columns], counts[rows, columns]
    flat = part.reshape(-1, part.shape[-1])
    best = [head_name(*divmod(int(i), 4)) for i in flat.argmax(0)]
    true = pd.DataFrame(
        {"source": np.array(names)[rows], "target": np.array(names)[columns], "mean": flat.mean(0), "head": best}
    )
    found = compared(part, n, true)
    assert found["pair_means"]["found"] == pytest.approx(1) and found["pair_best_head"]["found"] == 1
    assert found["pair_means"]["n"] == int((n > 0).sum())
    rng = np.random.default_rng(0)
    dealt = true.assign(
        mean=rng.permutation(true["mean"]), head=[head_name(int(rng.integers(3)), int(rng.integers(4))) for _ in best]
    )
    found = compared(part, n, dealt)
    assert abs(found["pair_means"]["found"]) < 0.3 and found["pair_best_head"]["found"] < 0.3
    # Divided by the counts in the publication: the other reading is the better one, and both are told.
    found = compared(part, n, true.assign(mean=true["mean"] / np.maximum(n, 1)))["pair_means"]
    assert found["found"] == pytest.approx(1) and "mean over cells 1.000" in found["beside"]


def test_cells_are_read_in_both_inputs(planted, monkeypatch):
    model, cells = tiny_model(), tiny_cells(30)
    shares = [first_component(model, model.tokenizer(cells, panel=panel)) for panel in (genes(), None)]
    x = []
    tokens = model.tokenizer(cells).tokens()
    stream = model(tokens, outputs=()).residual
    for row, keep in zip(stream, tokens.genes, strict=True):
        x.append(row[keep].mean(0).numpy())
    values = np.linalg.eigvalsh(np.cov(np.array(x).T.astype(float)))
    assert shares[1] == pytest.approx(values[-1] / values.sum(), rel=1e-4) and shares[0] != pytest.approx(shares[1])


def test_annotations_are_read_and_refused_in_a_sentence(tmp_path):
    file = tmp_path / "a.tsv"
    file.write_text("Gene\tChr\tx\nA\tchr3\t1\nB\t19q13.43\t1\nC\tX\t1\nD\t23\t1\nE\t7\t1\nE\t8\t1\nF\t7\t1\nF\t7\t2\n")
    assert read_annotation(file) == {"A": 3, "B": 19, "F": 7}
    file.write_text("one,two\n1,2\n")
    with pytest.raises(ConfigError, match="has the columns one, two"):
        read_annotation(file)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_annotation(tmp_path / "none.csv")


def test_the_command_exits_with_one_where_an_answer_is_missed(planted, monkeypatch, capsys):
    folder, known = planted
    wrong = replace(known, answers={**known.answers, "bins": {**known.answers["bins"], "expected": 50}})
    for answers, status_, word in ((known, 0, "the release."), (wrong, 1, "a miss means: other bins")):
        monkeypatch.setattr(known_answers, "read_answers", lambda answers=answers: answers)
        assert main(["known-answers", str(folder / "model")]) == status_
        said = capsys.readouterr().out
        assert word in said and "artefacts" in said
    monkeypatch.undo()
    assert main(["known-answers", str(folder / "model"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["verdict"] == OTHER and not told["missed"] and len(told["answers"]) == len(read_answers().answers)
    assert main(["known-answers", str(folder / "nowhere")]) == 2


def test_cells_come_as_atlases_have_them(tmp_path, capsys):
    """Symbols in a column and counts in raw: neither is where an h5ad has them by itself."""
    pairs = read_answers().pairs
    names = sorted({*pairs["source"][:40], *pairs["target"][:40]})
    model = HookedScGPT(
        ModelConfig(n_tokens=len(names) + 3, d_model=16, n_layers=2, n_heads=2, d_mlp=16), Vocabulary.of_genes(names)
    )
    save_checkpoint(model, tmp_path / "model")
    counts = tiny_cells(20, len(names), seed=3, share=0.9)
    var = pd.DataFrame({"feature_name": names}, index=[f"ENSG{i:011d}" for i in range(len(names))])
    counts = AnnData(counts.X, obs=counts.obs, var=var, uns=counts.uns)
    atlas = AnnData(counts.X.log1p(), obs=counts.obs, var=var, uns=counts.uns)
    atlas.raw = counts
    atlas.write_h5ad(tmp_path / "atlas.h5ad")
    asked = ["known-answers", str(tmp_path / "model"), "--cells", str(tmp_path / "atlas.h5ad")]
    assert main([*asked, "--layer", "raw", "--gene-column", "feature_name", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    found = {row["answer"]: row["n"] for row in told["answers"] if row["n"]}
    assert told["verdict"] == OTHER and max(found.values()) >= 40
    assert main(asked) == 2
    assert "gene column" in capsys.readouterr().err


def test_every_fact_that_ships_says_where_it_is_from():
    known = read_answers()
    assert len(known.pairs) == 1587 and len(set(known.pairs["source"]) | set(known.pairs["target"])) == 457
    assert known.pairs["head"].value_counts().head(2).to_dict() == {"L0H3": 173, "L10H2": 156}
    assert all(answer["source"] and answer["licence"] and answer["miss"] for answer in known.answers.values())
    assert any("random gene lists" in why for why in known.left_out.values())


@pytest.mark.shared_data("real_scgpt/vocab.json")
def test_the_vocabulary_of_the_release_has_the_facts(shared_data):
    from workbench.models.vocabulary import Vocabulary

    ids = Vocabulary.read(shared_data / "real_scgpt" / "vocab.json").ids
    known = read_answers().answers
    assert (
        len(ids) == known["tokens"]["expected"]
        and sum("_ENSG" in name for name in ids) == known["suffixed"]["expected"]
    )
    for name in ("pad", "cls", "eoc"):
        assert ids[f"<{name}>"] == known[f"{name}_id"]["expected"]


def test_dictionaries_of_the_published_size_are_compared_and_others_refused(planted, tmp_path):
    folder, known = planted
    model = load_model(folder / "model")
    hooks = [f"blocks.{i}.hook_resid_post" for i in range(3)]
    rows = {
        "hook": hooks,
        "source": "model",
        "seed": 0,
        "variance_explained": [0.9, 0.8, 0.85],
        "gene_id": 0.7,
        "l0": 32.0,
    }
    write_table(table_path(tmp_path, "dictionary_summary"), pd.DataFrame({**rows, "dead": [0.0, 0.1, 0.05]}))
    for hook in hooks:
        random_dictionary(model, hook, width=2048, k=32).save_pretrained(tmp_path / "dictionaries" / hook)
    table = check_answers(folder / "model", dictionaries=tmp_path, answers=known).table.set_index("answer")
    own = [table.loc[known.answers[name]["what"]] for name in ("dictionary_variance", "dictionary_alive")]
    assert [row["found"] for row in own] == pytest.approx([0.85, 0.95]) and {row["status"] for row in own} == {MET}
    assert own[0]["beside"] == "0.800 to 0.900 by layer; each gene's mean alone explains 0.700"
    random_dictionary(model, hooks[0], width=64, k=32).save_pretrained(tmp_path / "dictionaries" / hooks[0])
    with pytest.raises(ConfigError, match="has 64 features, 32 of them active, and the published ones have 2048"):
        check_answers(folder / "model", dictionaries=tmp_path, answers=known)
    with pytest.raises(ConfigError, match="holds no tables/dictionary_summary.csv"):
        check_answers(folder / "model", dictionaries=tmp_path / "none", answers=known)
    random_dictionary(tiny_model(seed=3), hooks[0], width=2048, k=32).save_pretrained(
        tmp_path / "dictionaries" / hooks[0]
    )
    with pytest.raises(HookError):
        check_answers(folder / "model", dictionaries=tmp_path, answers=known)
